"""One MLServer process: its folder, its ports, its log; started, asked, watched, stopped.

Knows nothing of traffic, wishes or releases' outcomes: the supervisor does. Written against
MLServer 1.7.1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from services import diagnosis
from services.domain import Cause, Intent, TestResult
from services.errors import one_line
from services.local.state import ProcessId, ProcessState, ServiceFolder, make_folder

_RUNNER = Path(__file__).with_name("runner.py")

# Below 32768 Linux gives no port to outgoing connections, macOS none below 49152: what is free
# here stays free until a server asks for it by number.
_MODEL_SERVER_PORTS = range(20_000, 32_000)

# A start takes seconds; 50 ms more until it is noticed are lost in them, and cost no CPU to speak
# of: the port refuses connections until the model is loaded.
_READY_EVERY_S = 0.05
_READY_ANSWER_S = 5.0
_INFERENCE_S = 60.0

# uvicorn finishes the requests under way; a model that hangs is killed.
_GRACE_S = 10.0

_LOG_LIMIT_BYTES = 4 * 1024 * 1024
_LINE_LIMIT = 4_000
_TAIL_LINES = 400

# What a program needs to run at all. Tokens and passwords of the registry, of clouds and of the
# dashboard stay behind: a model is foreign code.
_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "SSL_CERT_FILE",
)
_ADDED = {
    # MLflow reports its use to its makers unless told not to; a model server has nobody to ask.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


class Failed(Exception):
    """A process, or a whole roll-out, failed; `cause` says why. Never leaves this package."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.what)
        self.cause = cause


class CappedLog:
    """A log of at most twice the limit on disk: the older half ends in `.1`."""

    def __init__(self, path: Path, limit_bytes: int = _LOG_LIMIT_BYTES) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._file = path.open("ab")

    def write(self, line: str) -> None:
        """Add one line with the time before it."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._file.write(f"{at} {line}\n".encode())
        self._file.flush()
        if self._file.tell() > self._limit_bytes:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("ab")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class ModelServer:
    """One MLServer process that serves `intent` under the number `workload`.

    `changed` is called, in the event loop, whenever its state changes by itself.
    """

    def __init__(
        self,
        folder: ServiceFolder,
        workload: int,
        intent: Intent,
        changed: Callable[[ModelServer], None],
    ) -> None:
        self.workload = workload
        self.intent = intent
        self.state = ProcessState.STARTING
        self.process_id: ProcessId | None = None
        self.http_port: int | None = None
        self.cause: Cause | None = None
        """Why it ended, when nobody asked it to."""
        self.spoke = asyncio.Event()
        """Set by its first line of output, or its end."""
        self.ended = asyncio.Event()
        self._folder = folder
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._lifeline: int | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._watcher: asyncio.Task[None] | None = None

    @property
    def where(self) -> str:
        """How messages call it."""
        return f"MLServer of release {self.workload}"

    async def start(self, python: Path) -> None:
        """Start it with the given interpreter. Failed when that cannot be run."""
        run = self._folder.run_folder(self.workload)
        shutil.rmtree(run, ignore_errors=True)
        make_folder(run)
        http, grpc, metrics = free_ports(3)
        for name, content in run_files(self.intent, http, grpc, metrics).items():
            (run / name).write_text(content, encoding="utf-8")
        reading, self._lifeline = os.pipe()
        try:
            self._process = await asyncio.create_subprocess_exec(
                str(python),
                # Isolated: neither this package's folder nor PYTHONPATH may shadow a library.
                "-I",
                "-u",
                str(_RUNNER),
                str(reading),
                str(run),
                cwd=run,
                env=environment_of(self.intent, os.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(reading,),
                start_new_session=True,
                limit=_LINE_LIMIT * 16,
            )
        except OSError as error:
            self._let_go()
            self.state = ProcessState.ENDED
            self.ended.set()
            raise Failed(
                Cause(
                    f"{self.where} could not be started.",
                    why=one_line(error),
                    fix="Deploy again: the environment is made anew when its Python is gone.",
                    where=self.where,
                )
            ) from error
        finally:
            os.close(reading)
        self.http_port = http
        with contextlib.suppress(OSError):  # it may be dead already; the watcher says so
            self.process_id = ProcessId.of(self._process.pid)
        self._watcher = asyncio.create_task(self._watch(self._process))

    async def until_ready(self) -> None:
        """Wait until it says that the model is ready. Failed when it ends before."""
        import aiohttp

        name = self.intent.service
        url = f"http://127.0.0.1:{self.http_port}/v2/models/{name}/ready"
        timeout = aiohttp.ClientTimeout(total=_READY_ANSWER_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                if self.state is ProcessState.ENDED:
                    raise Failed(self.cause or Cause(f"{self.where} was stopped."))
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(_READY_EVERY_S)
        if self.state is ProcessState.STARTING:
            self.state = ProcessState.READY

    async def test(self) -> tuple[TestResult, str]:
        """One real inference from the version's input example; the result, and why in words."""
        import aiohttp

        if self.intent.example is None:
            return TestResult.COULD_NOT_MEASURE, "the version has no input example"
        url = f"http://127.0.0.1:{self.http_port}/invocations"
        headers = {"content-type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=_INFERENCE_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, data=self.intent.example.encode(), headers=headers) as answer,
            ):
                status, body = answer.status, await answer.content.read(65_536)
        except TimeoutError:
            return TestResult.COULD_NOT_MEASURE, f"no answer within {_INFERENCE_S:.0f} s"
        except aiohttp.ClientError as error:
            if self.state is ProcessState.ENDED and self.cause is not None:
                raise Failed(self.cause) from error
            return TestResult.COULD_NOT_MEASURE, one_line(error)
        if status == 200:
            return TestResult.PASS, ""
        text = one_line(body.decode(errors="replace"))
        return TestResult.FAIL, f"it answered {status}: {text}"

    async def stop(self) -> None:
        """End it and all that it started; returns when it is gone."""
        if self._process is None or self.state is ProcessState.ENDED:
            return
        self.state = ProcessState.STOPPING
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self.ended.wait(), _GRACE_S)
        except TimeoutError:
            _kill_group(self._process.pid)
            await self.ended.wait()

    def log_tail(self) -> list[str]:
        """The last lines that it wrote."""
        return list(self._tail)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        reader = asyncio.create_task(self._keep_log(process))
        code = await process.wait()
        # What the model left running has the pipe open and no owner any more.
        _kill_group(process.pid)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader, 2.0)
        self._let_go()
        if self.state is not ProcessState.STOPPING:
            self.cause = self._cause_of(code)
        self.state = ProcessState.ENDED
        self.spoke.set()
        self.ended.set()
        self._changed(self)

    def _cause_of(self, code: int) -> Cause:
        cause = diagnosis.cause_of(
            self.log_tail(),
            where=self.where,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            requirements=self.intent.requirements,
        )
        return replace(cause, where=cause.where or self.where)

    async def _keep_log(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        log = CappedLog(self._folder.workload_log(self.workload))
        rest = b""
        try:
            while chunk := await process.stdout.read(65_536):
                self.spoke.set()
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._note(log, line)
                if len(rest) > _LINE_LIMIT * 4:
                    self._note(log, rest)
                    rest = b""
            if rest:
                self._note(log, rest)
        finally:
            log.close()

    def _note(self, log: CappedLog, line: bytes) -> None:
        text = printable(line.decode(errors="replace"))
        self._tail.append(text)
        log.write(text)

    def _let_go(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def run_files(intent: Intent, http: int, grpc: int, metrics: int) -> Mapping[str, str]:
    """The two files that MLServer reads, by name."""
    number = intent.version.number if intent.version else 0
    settings = {
        # With `debug` it logs each request, and the log costs more than a small model.
        "debug": False,
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        # The model runs in the server's own process, as in KServe's runtime: nothing is orphaned.
        "parallel_workers": 0,
    }
    model = {
        "name": intent.service,
        "implementation": "mlserver_mlflow.MLflowRuntime",
        # V2 answers carry `version` as model_version: that is how a caller knows who answered.
        "parameters": {"uri": intent.package.uri, "version": str(number)},
    }
    return {
        "settings.json": json.dumps(settings, indent=2),
        "model-settings.json": json.dumps(model, indent=2),
    }


def environment_of(intent: Intent, own: Mapping[str, str]) -> dict[str, str]:
    """The environment variables of a model server, out of this process's own."""
    passed = {name: own[name] for name in _PASSED_ON if name in own}
    return {**passed, **_ADDED, **dict(intent.env)}


def printable(text: str) -> str:
    """Foreign text as one line of a log: indentation stays, escapes and controls do not."""
    cut = text.rstrip("\r\n").expandtabs(4)[:_LINE_LIMIT]
    return "".join(c if c.isprintable() else " " for c in cut).rstrip()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on, random, all different."""
    found: list[int] = []
    # 500 misses in a row mean that the range is full; the start then says so in its log.
    for _ in range(500):
        port = _MODEL_SERVER_PORTS[secrets.randbelow(len(_MODEL_SERVER_PORTS))]
        if port not in found and is_free(port):
            found.append(port)
        if len(found) == count:
            break
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with contextlib.suppress(OSError), listening_socket(port):
        return True
    return False


def listening_socket(port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1:`port`. OSError when it is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            # Connections of an earlier server that linger in TIME_WAIT are no reason to wait.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    return listener


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> bool:
    """Look until `condition` holds or the time is over; whether it held."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True
