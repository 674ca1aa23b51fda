"""The load tools that are measured beside each other: ours and its peers, by one interface.

A `Tool` knows how to find itself and how to run one burst (closed loop) or one steady rate, and
turns its own output into an `Outcome`. A peer that is not installed is named by `missing`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PATH = "/v2/models/bench/infer"
SERVER_CPU, CLIENT_CPU = 0, 1


def body_file(folder: Path) -> Path:
    """500 bytes of V2 JSON."""
    numbers = ",".join(["0.12345678"] * 38)
    body = f'{{"inputs":[{{"name":"x","shape":[1,38],"datatype":"FP64","data":[{numbers}]' + "}]}"
    file = folder / "body.json"
    file.write_text(body)
    return file


@dataclass(frozen=True)
class Outcome:
    """What a tool said about one run. Times in seconds, None where it says none."""

    rate: float
    p50_s: float | None = None
    p99_s: float | None = None
    p99_9_s: float | None = None
    cpu_us: float | None = None
    """CPU microseconds per request, user and system, of the tool's process and its children."""
    peak_bytes: int | None = None
    client_limited: bool = False
    extra: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """One run as asked for."""

    url: str
    body: Path
    connections: int
    duration_s: float
    rate: float | None = None
    page_port: int | None = None
    """Where the tool shows its own live page; None: it shows none."""
    pinned: bool = True
    """To the client's core."""

    @property
    def address(self) -> str:
        return self.url + PATH


@dataclass(frozen=True)
class Tool:
    """A load tool; `spans` says in words what it times."""

    name: str
    program: str
    spans: str
    burst: Callable[[Job], Outcome] | None = None
    steady: Callable[[Job], Outcome] | None = None

    @property
    def installed(self) -> bool:
        return bool(shutil.which(self.program))


def timed(
    command: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    pinned: bool = True,
    environment: Mapping[str, str] | None = None,
) -> tuple[str, float, int]:
    """Run on the client's core: (standard output, CPU seconds, peak resident bytes)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        process = subprocess.Popen(
            [*(_pinned(CLIENT_CPU) if pinned else []), *command],
            stdin=given,
            stdout=out,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
                "NO_COLOR": "1",
                **(environment or {}),
            },
        )
        until = time.monotonic() + timeout_s
        peak = 0
        while True:
            peak = max(peak, _peak_bytes(process.pid))
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                process.kill()
                os.wait4(process.pid, 0)
                raise TimeoutError(f"{command[0]} took longer than {timeout_s:.0f} s")
            time.sleep(0.05)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
    # k6 and hey leave with other codes when a request failed; their output says enough.
    if process.returncode and not text:
        raise RuntimeError(f"{command[0]} ended with code {process.returncode}")
    return text, usage.ru_utime + usage.ru_stime, peak


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all of its threads, in steps of 10 ms."""
    # proc(5): utime and stime are fields 14 and 15; the name before them may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_bytes(pid: int) -> int:
    """The most that was resident so far; 0 when it is gone.

    Not getrusage's: that begins with what this process had when it forked.
    """
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _pinned(cpu: int) -> list[str]:
    if shutil.which("taskset") and len(os.sched_getaffinity(0)) > 1:
        return ["taskset", "-c", str(cpu)]
    return []


# ── Servers ───────────────────────────────────────────────────────────────────────────────────


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def quick_server() -> Iterator[str]:
    """The server that answers at once, faster than any tool that asks it; gives its address."""
    with _server_in_c() or _server_in_python("null_server") as url:
        yield url


@contextmanager
def truth_server() -> Iterator[str]:
    """The server with a script (`begin`) and a log (`log_of`); without a script, a quick one."""
    with _server_in_c("--stamps") or _server_in_python("truth_server") as url:
        yield url


def _server_in_c(*options: str) -> AbstractContextManager[str] | None:
    """server.c, compiled; None where there is no C compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return _compiled_and_serving(compiler, options) if compiler else None


@contextmanager
def _compiled_and_serving(compiler: str, options: Sequence[str]) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/server"
        command = [compiler, "-O2", "-o", program, str(HERE / "server.c"), "-lm"]
        subprocess.run(command, check=True, timeout=120)
        with _serving([program, *options]) as url:
            yield url


def _server_in_python(module: str) -> AbstractContextManager[str]:
    """Its stand-in, which is some tools' limit, and delays what it logs."""
    return _serving([sys.executable, str(HERE / f"{module}.py")])


def server_note() -> str:
    """Which server answers here."""
    if any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "The server is server.c: it can answer more than any of these tools can ask."
    return "No C compiler here: the server is Python's, and limits the fastest tools itself."


@contextmanager
def _serving(command: Sequence[str]) -> Iterator[str]:
    process = subprocess.Popen(
        [*_pinned(SERVER_CPU), *command],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"},
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def mlserver(folder: Path) -> Iterator[tuple[str, int]]:
    """A real MLServer on the server's core with a scikit-learn model named `bench`.

    Gives its address and its process's id.
    """
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MODEL, str(folder / "model")],
        capture_output=True,
        cwd=folder,
        check=False,
        timeout=180,
    )
    if made.returncode:
        raise RuntimeError(made.stderr.decode()[-500:])
    model = {
        "name": "bench",
        "implementation": "mlserver_mlflow.MLflowRuntime",
        "parameters": {"uri": str(folder / "model")},
    }
    ports = {f"{kind}_port": free_port() for kind in ("http", "grpc", "metrics")}
    (folder / "model-settings.json").write_text(json.dumps(model))
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*_pinned(SERVER_CPU), Path(sys.executable).parent / "mlserver", "start", "."],
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        url = f"http://127.0.0.1:{ports['http_port']}"
        wait_for(f"{url}/v2/models/bench/ready", 120)
        yield url, process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_MODEL = """
import sys
import mlflow, numpy
from sklearn.linear_model import LogisticRegression
rows = numpy.random.default_rng(1).random((200, 38))
model = LogisticRegression(max_iter=500).fit(rows, rows[:, 0] > 0.5)
signature = mlflow.models.infer_signature(rows, model.predict(rows))
mlflow.sklearn.save_model(
    model, sys.argv[1], signature=signature, serialization_format="cloudpickle"
)
"""


def wait_for(url: str, within_s: float) -> None:
    """Until `url` answers well; TimeoutError."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with suppress(OSError):
            _opener().open(url, timeout=2).close()
            return
        time.sleep(0.2)
    raise TimeoutError(f"{url} did not answer within {within_s:.0f} s")


def way_s(url: str, body: Path) -> float:
    """What the way to the truth server and back takes, in seconds: no tool can see less.

    By a client that does nothing but wait on one socket, on the client's core; the median over what
    the server's log says of the same requests.
    """
    begin(url, kind="constant", median_s=0.005)
    told = subprocess.run(
        [*_pinned(CLIENT_CPU), sys.executable, "-c", _BARE_CLIENT, url, PATH, str(body)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    logged = sorted(answered - arrived for arrived, answered in log_of(url))
    return (float(told) - logged[len(logged) // 2]) / 1e9


_BARE_CLIENT = """
import socket, sys, time
url, path, file = sys.argv[1:]
body = open(file, "rb").read()
head = f"POST {path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
request = head.encode() + body
with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as there:
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    took = []
    for _ in range(600):
        began = time.perf_counter_ns()
        there.sendall(request)
        there.recv(65536)
        took.append(time.perf_counter_ns() - began)
print(sorted(took)[300])
"""


def standstills(duration_s: float) -> tuple[list[tuple[float, float]], float]:
    """When this machine did not run at all what wanted to run, and the share of it stolen.

    A process on each of the two cores does nothing but read the clock; where it could not for more
    than 50 µs, something else had its core: the host, an interrupt, another process. As (beginning,
    seconds), by beginning. Stolen: what the host took, of both cores' time (0 to 1).
    """
    before = _stolen_s()
    watching = [
        subprocess.Popen(
            [*_pinned(cpu), sys.executable, "-c", _WATCH_CLOCK, str(duration_s)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for cpu in (SERVER_CPU, CLIENT_CPU)
    ]
    told = [json.loads(process.communicate(timeout=duration_s + 30)[0]) for process in watching]
    stolen = (_stolen_s() - before) / (len(told) * duration_s)
    return sorted((at / 1e9, took / 1e9) for gaps in told for at, took in gaps), stolen


_WATCH_CLOCK = """
import gc, json, sys, time
clock = time.perf_counter_ns
gc.disable()
found = []
last = clock()
end = last + int(float(sys.argv[1]) * 1e9)
while last < end:
    now = clock()
    if now - last > 50_000:
        found.append((last, now - last))
    last = now
print(json.dumps(found))
"""


def _stolen_s() -> float:
    # proc(5): the eighth figure of the line "cpu" is steal.
    with Path("/proc/stat").open() as stat:
        return int(stat.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


def begin(url: str, **script: object) -> None:
    """Start the truth server's script over."""
    asked = urllib.request.Request(f"{url}/-/begin", json.dumps(script).encode(), method="POST")
    _opener().open(asked, timeout=10).read()


def log_of(url: str) -> list[tuple[int, int]]:
    """What the truth server did: (arrival, answer) in ns, by arrival.

    Of server.c the arrival is the kernel's stamp, of the Python server the moment of its reading.
    """
    numbers = array("q")
    numbers.frombytes(_opener().open(f"{url}/-/log", timeout=60).read())
    return sorted(zip(numbers[::2], numbers[1::2], strict=True))


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


# ── Reading what tools say ────────────────────────────────────────────────────────────────────


def quantile(ascending: Sequence[float], per_mille: int) -> float | None:
    """Nearest rank."""
    if not ascending:
        return None
    return ascending[max(1, -(-len(ascending) * per_mille // 1000)) - 1]


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no {pattern!r} in what it printed: {text[-200:]!r}")
    return match[1]


def _from_times(times: list[float], rate: float, cpu_s: float, peak: int) -> Outcome:
    times.sort()
    return Outcome(
        rate,
        quantile(times, 500),
        quantile(times, 990),
        quantile(times, 999),
        cpu_s / len(times) * 1e6 if times else None,
        peak,
    )


def _ours(job: Job, *, extra: Sequence[str] = ()) -> Outcome:
    command = [sys.executable, str(HERE / "ours.py"), job.url, PATH, str(job.body)]
    command += ["--concurrency", str(job.connections), "--duration", str(job.duration_s), *extra]
    if job.rate:
        command += ["--rate", str(job.rate)]
    text, cpu_s, peak = timed(command, timeout_s=job.duration_s + 60, pinned=job.pinned)
    told = json.loads(text)
    if told["errors"]:
        raise RuntimeError(f"ours: {told['verdict']}")
    response = told["response"]
    return Outcome(
        told["rate"],
        response["p50"],
        response["p99"],
        response["p99_9"],
        cpu_s / told["ok"] * 1e6,
        peak,
        told["client_limited"],
        told,
    )


_WRK_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept-Encoding"] = "identity"
local f = io.open("{body}"); wrk.body = f:read("*all"); f:close()
done = function(summary, latency, requests)
  io.write(string.format("@@ %d %d %f %f %f\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""


def _wrk(job: Job) -> Outcome:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_WRK_SCRIPT.replace("{body}", str(job.body)))
        script.flush()
        text, cpu_s, peak = timed(
            [
                *("wrk", "-t1", f"-c{job.connections}", f"-d{job.duration_s:.0f}s"),
                *("-s", script.name, job.address),
            ],
            timeout_s=job.duration_s + 30,
        )
    found = re.search(r"@@ (\d+) (\d+) (\S+) (\S+) (\S+)", text)
    assert found, text
    n, us = int(found[1]), int(found[2])
    p50, p99, p99_9 = (float(found[at]) / 1e6 for at in (3, 4, 5))
    return Outcome(n / us * 1e6, p50, p99, p99_9, cpu_s / n * 1e6, peak)


def _hey(job: Job) -> Outcome:
    command = ["hey", "-z", f"{job.duration_s:.0f}s", "-c", str(job.connections), "-m", "POST"]
    command += ["-D", str(job.body), "-T", "application/json", "-H", "Accept-Encoding: identity"]
    if job.rate:
        command += ["-q", str(job.rate / job.connections)]
    text, cpu_s, peak = timed([*command, "-o", "csv", job.address], timeout_s=job.duration_s + 60)
    rows = list(csv.DictReader(io.StringIO(text)))
    span = max(float(row["offset"]) for row in rows)
    return _from_times([float(row["response-time"]) for row in rows], len(rows) / span, cpu_s, peak)


def _ab(job: Job) -> Outcome:
    text, cpu_s, peak = timed(
        [
            *("ab", "-k", "-q", "-c", str(job.connections), "-t", f"{job.duration_s:.0f}"),
            *("-n", "3000000", "-p", str(job.body), "-T", "application/json", job.address),
        ],
        timeout_s=job.duration_s + 60,
    )
    n = int(_found(r"Complete requests:\s+(\d+)", text))
    rate = float(_found(r"Requests per second:\s+(\S+)", text))
    return Outcome(rate, cpu_us=cpu_s / n * 1e6, peak_bytes=peak)


def _h2load(job: Job) -> Outcome:
    text, cpu_s, peak = timed(
        [
            *("h2load", "--h1", "-t1", f"-c{job.connections}", "-D", f"{job.duration_s:.0f}"),
            *("-d", str(job.body), "-H", "content-type: application/json", job.address),
        ],
        timeout_s=job.duration_s + 60,
    )
    n = int(_found(r"requests: (\d+) total", text))
    rate = float(_found(r"finished in \S+, (\S+) req/s", text))
    return Outcome(rate, cpu_us=cpu_s / n * 1e6, peak_bytes=peak)


def _oha(job: Job) -> Outcome:
    command = ["oha", "--no-tui", "--output-format", "json", "-z", f"{job.duration_s:.0f}s"]
    command += ["-c", str(job.connections), "-m", "POST", "-D", str(job.body)]
    command += ["-T", "application/json", "--disable-compression"]
    if job.rate:
        command += ["-q", f"{job.rate:.0f}", "--latency-correction"]
    text, cpu_s, peak = timed([*command, job.address], timeout_s=job.duration_s + 60)
    told = json.loads(text)
    at, summary = told["latencyPercentiles"], told["summary"]
    n = summary["requestsPerSec"] * summary["total"]
    return Outcome(
        summary["requestsPerSec"], at["p50"], at["p99"], at["p99.9"], cpu_s / n * 1e6, peak
    )


def _vegeta(job: Job) -> Outcome:
    target = f"POST {job.address}\nContent-Type: application/json\n@{job.body}\n"
    rate = f"{job.rate:.0f}/1s" if job.rate else "0"
    with tempfile.NamedTemporaryFile() as results:
        command = ["vegeta", "attack", f"-rate={rate}", f"-duration={job.duration_s:.0f}s"]
        command += [f"-workers={job.connections}", "-http2=false"]
        if not job.rate:
            command.append(f"-max-workers={job.connections}")
        command.append(f"-output={results.name}")
        _, cpu_s, peak = timed(command, timeout_s=job.duration_s + 60, stdin=target.encode())
        text = subprocess.run(
            ["vegeta", "encode", "--to", "csv", results.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    rows = [line.split(",", 3) for line in text.splitlines()]
    times = [int(row[2]) / 1e9 for row in rows]
    sent = [int(row[0]) / 1e9 for row in rows]
    return _from_times(times, len(rows) / (max(sent) - min(sent)), cpu_s, peak)


_K6_SCRIPT = """
import http from 'k6/http';
const body = open('{body}');
const headers = {{ 'Content-Type': 'application/json', 'Accept-Encoding': 'identity' }};
export const options = {{
  discardResponseBodies: true,
  summaryTrendStats: ['med', 'p(99)', 'p(99.9)'],
  scenarios: {{ one: {scenario} }},
}};
export default function () {{ http.post('{address}', body, {{ headers }}); }}
"""


def _k6(job: Job) -> Outcome:
    seconds = f"{job.duration_s:.0f}s"
    scenario: dict[str, object] = {"duration": seconds, "gracefulStop": "5s"}
    if job.rate:
        scenario |= {"executor": "constant-arrival-rate", "rate": round(job.rate), "timeUnit": "1s"}
        scenario |= {"preAllocatedVUs": job.connections, "maxVUs": job.connections}
    else:
        scenario |= {"executor": "constant-vus", "vus": job.connections}
    with tempfile.TemporaryDirectory() as folder:
        script, summary = Path(folder) / "script.js", Path(folder) / "summary.json"
        script.write_text(
            _K6_SCRIPT.format(body=job.body, address=job.address, scenario=json.dumps(scenario))
        )
        command = ["k6", "run", "--quiet", "--no-usage-report", "--summary-export", str(summary)]
        page = {"K6_WEB_DASHBOARD": "true", "K6_WEB_DASHBOARD_PORT": str(job.page_port)}
        _, cpu_s, peak = timed(
            [*command, str(script)],
            timeout_s=job.duration_s + 90,
            pinned=job.pinned,
            environment=page if job.page_port else None,
        )
        told = json.loads(summary.read_text())["metrics"]
    took, requests = told["http_req_duration"], told["http_reqs"]
    return Outcome(
        requests["rate"],
        took["med"] / 1e3,
        took["p(99)"] / 1e3,
        took["p(99.9)"] / 1e3,
        cpu_s / requests["count"] * 1e6,
        peak,
    )


def _autocannon(job: Job) -> Outcome:
    command = ["autocannon", "-j", "-n", "-c", str(job.connections), "-d", f"{job.duration_s:.0f}"]
    command += ["-m", "POST", "-i", str(job.body), "-H", "Content-Type=application/json"]
    if job.rate:
        command += ["-R", f"{job.rate:.0f}"]
    text, cpu_s, peak = timed([*command, job.address], timeout_s=job.duration_s + 60)
    told = json.loads(text)
    took = told["latency"]
    return Outcome(
        told["requests"]["total"] / told["duration"],
        took["p50"] / 1e3,
        took["p99"] / 1e3,
        took["p99_9"] / 1e3,
        cpu_s / told["requests"]["total"] * 1e6,
        peak,
    )


_LOCUST_FILE = """
from locust import FastHttpUser, constant, constant_throughput, task
class Bench(FastHttpUser):
    wait_time = {wait}
    body = open('{body}', 'rb').read()
    @task
    def post(self):
        self.client.post('{path}', data=self.body, headers={{'Content-Type': 'application/json'}})
"""


def _locust(job: Job) -> Outcome:
    wait = f"constant_throughput({job.rate / job.connections})" if job.rate else "constant(0)"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "file.py"
        file.write_text(_LOCUST_FILE.format(wait=wait, body=job.body, path=PATH))
        page = ["--autostart", "--autoquit", "0", "--web-port", str(job.page_port)]
        command = ["locust", "-f", str(file), "-H", job.url, "--only-summary"]
        command += page if job.page_port else ["--headless"]
        command += ["-u", str(job.connections), "-r", str(job.connections)]
        command += ["-t", f"{job.duration_s:.0f}s", "--csv", f"{folder}/out"]
        _, cpu_s, peak = timed(command, timeout_s=job.duration_s + 60, pinned=job.pinned)
        with Path(f"{folder}/out_stats.csv").open() as out:
            row = next((row for row in csv.DictReader(out) if row["Name"] == PATH), None)
    if row is None:
        raise ValueError("no request in its table")
    n = int(row["Request Count"])
    return Outcome(
        float(row["Requests/s"]),
        float(row["50%"]) / 1e3,
        float(row["99%"]) / 1e3,
        float(row["99.9%"]) / 1e3,
        cpu_s / n * 1e6,
        peak,
    )


def _client(name: str) -> Callable[[Job], Outcome]:
    def burst(job: Job) -> Outcome:
        command = [sys.executable, str(HERE / "clients.py"), name, job.address, str(job.body)]
        command += ["--connections", str(job.connections), "--duration", str(job.duration_s)]
        text, cpu_s, peak = timed(command, timeout_s=job.duration_s + 60)
        told = json.loads(text)
        return Outcome(told["rate"], cpu_us=cpu_s / told["requests"] * 1e6, peak_bytes=peak)

    return burst


OURS = Tool("slipway", sys.executable, "intended send → whole answer", _ours, _ours)
PEERS = (
    Tool("wrk", "wrk", "send → answer; closed loop", _wrk),
    Tool("h2load", "h2load", "send → answer; closed loop", _h2load),
    Tool("ab", "ab", "send → answer; closed loop", _ab),
    Tool("hey", "hey", "send → answer, by worker; a ticker per worker", _hey, _hey),
    Tool("oha", "oha", "ticker woke → answer (--latency-correction)", _oha, _oha),
    Tool("vegeta", "vegeta", "send → answer; as many workers as it takes", _vegeta, _vegeta),
    Tool("k6", "k6", "send → answer without connecting (http_req_duration)", _k6, _k6),
    Tool(
        "autocannon",
        "autocannon",
        "send → answer, later corrected",
        _autocannon,
        _autocannon,
    ),
    Tool("locust", "locust", "send → answer (FastHttpUser)", _locust, _locust),
    Tool("aiohttp + uvloop", sys.executable, "rate only", _client("aiohttp")),
    Tool("requests + threads", sys.executable, "rate only", _client("requests")),
)
NOT_INSTALLABLE = {
    "fortio": "one of its modules cannot be fetched from the Go module proxy",
    "wrk2": "source only; the truth server takes its place",
    "perf_analyzer": "asks for Triton's own /config and cannot drive MLServer",
}


def missing() -> list[str]:
    """The peers that this machine does not have."""
    return [tool.name for tool in PEERS if not tool.installed]
