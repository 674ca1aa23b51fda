"""The libraries that a model needs: is this interpreter enough, or does the model get its own?

`Environments.choose` compares and writes nothing; `make` builds with uv, once per content. What
comes from a model's files is read by `packaging` as requirements and nothing else: uv only ever
sees names and versions that were written anew from there, never a line of the model's own. Which
release uses which environment is the supervisor's knowledge, not this module's.

Written against uv 0.9 to 0.13 and packaging 24 to 26.
"""

from __future__ import annotations

import hashlib
import importlib.metadata as installed
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services.errors import ConfigError, Conflict, NotDeployable, NotFound, one_line
from services.ports import Report, no_report
from services.requirements import minor, plain, server_python

SERVERS = ("mlserver", "mlserver-mlflow")
"""What every environment has beside the model's libraries, in the versions of this one."""
_MODULES = ("mlserver", "mlserver_mlflow")

_FORMAT = "1"
"""Part of every digest: raise it when environments are made differently, and all are made anew."""

_BUILD_S = 1800.0
"""A build that takes longer is stopped: PyTorch over a slow line needs 10 minutes."""

_LINES_KEPT = 200
_LINES_REPORTED = 400
_DIGEST = re.compile(r"[0-9a-f]{32}")
_MARKER = "slipway.json"


@dataclass(frozen=True, slots=True)
class Environment:
    """An interpreter that a model can run in, or what it takes to get one."""

    python: Path
    """The interpreter; of an environment that is not `ready`, where it will be."""
    own: bool
    """True: it is Slipway's own environment, nothing has to be built."""
    digest: str
    """What identifies its content; also the folder's name. Own ones have a digest as well."""
    requirements: tuple[str, ...]
    """What is installed for the model, one requirement each, sorted, servers included."""
    reasons: tuple[str, ...]
    """Why Slipway's own environment does not do, one sentence each; empty for `own`."""
    ready: bool
    """True: `python` can be started now."""
    python_version: str = ""
    """Major and minor: "3.11"."""


class Environments:
    """The environments below one folder. Safe to use from several processes at once."""

    def __init__(self, root: Path, uv: Path | None = None) -> None:
        """Uses `uv` at that path, else the one beside this interpreter or on the PATH."""
        self._root = root
        self._uv = uv

    # ── Choosing ──────────────────────────────────────────────────────────────────────────────

    def choose(
        self,
        requirements: Sequence[str],
        python_version: str | None,
        formats: Sequence[str] = (),
    ) -> Environment:
        """Say which environment a model runs in; writes nothing.

        `requirements`: the lines of its requirements.txt. `python_version`: the Python that logged
        it, None when unknown. `formats`: the serialization formats of its flavours.

        NotDeployable for requirements that are no names with versions, and for a Python that
        MLServer does not run on.
        """
        here = minor(sys.version.split()[0])
        python = server_python(python_version)
        wanted = _needed(requirements, python, formats)
        reasons = tuple(_misfits(wanted, python, here))
        lines = _with_servers(wanted, python)
        digest = _digest(lines, python)
        if not reasons:
            own = Path(sys.executable)
            return Environment(own, True, digest, lines, (), True, python)
        folder = self._root / digest
        interpreter = _interpreter(folder)
        return Environment(
            interpreter, False, digest, lines, reasons, (folder / _MARKER).is_file(), python
        )

    # ── Building ──────────────────────────────────────────────────────────────────────────────

    def make(self, environment: Environment, report: Report = no_report) -> Environment:
        """Build the environment, or find it built; the result is `ready`.

        Of several builders at once one builds and the others wait for it. A build that was killed
        leaves nothing that a later one would take for whole. `report` gets uv's progress; what it
        raises ends the build. NotDeployable says why it cannot be built; ConfigError: no uv.
        """
        if environment.own:
            return environment
        folder = self._root / environment.digest
        done = Environment(
            _interpreter(folder),
            False,
            environment.digest,
            environment.requirements,
            environment.reasons,
            True,
            environment.python_version,
        )
        if (folder / _MARKER).is_file():
            return done
        uv = self._found_uv()
        with _room_errors(), self._locked(environment.digest, report):
            if (folder / _MARKER).is_file():
                return done
            self._sweep(environment.digest)
            # Built aside and renamed: a folder of the right name is whole. uv may outlive a killed
            # builder for a while; it then writes into a folder that nobody looks at any more.
            aside = Path(tempfile.mkdtemp(prefix=f".{environment.digest}-", dir=self._root))
            try:
                self._build(uv, environment, aside, report)
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        report("The model's environment is ready.", 1.0)
        return done

    def _build(self, uv: Path, environment: Environment, aside: Path, report: Report) -> None:
        python = environment.python_version
        report(f"Making an environment with Python {python}.", 0.0)
        # The base of this interpreter serves where it fits: no download for the usual case.
        base = Path(sys.base_prefix) / "bin" / f"python{python}"
        # uv reads the uv.toml or pyproject.toml of the folder it runs in or of one above it, which
        # would be Slipway's own: it runs where there is none.
        with tempfile.TemporaryDirectory(prefix="slipway-uv-") as quiet:
            wanted = Path(quiet) / "requirements.txt"
            wanted.write_text("".join(f"{line}\n" for line in environment.requirements), "utf-8")
            run = partial(_run, folder=Path(quiet), environment=environment, report=report)
            # Relocatable, because it is renamed when it is whole.
            made_with: list[str | Path] = ["--python", str(base) if base.exists() else python]
            run([uv, "venv", "--relocatable", "--allow-existing", *made_with, aside], _PYTHON_FAILS)
            into: list[str | Path] = ["--python", _interpreter(aside)]
            run([uv, "pip", "install", *into, "--requirements", wanted], _LIBRARIES_FAIL)
            report("Trying whether the model server can be imported.", 0.9)
            run([_interpreter(aside), "-I", "-c", f"import {', '.join(_MODULES)}"], _IMPORT_FAILS)
        made = {
            "format": _FORMAT,
            "python": python,
            "requirements": environment.requirements,
            "reasons": environment.reasons,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        (aside / _MARKER).write_text(json.dumps(made, indent=1), encoding="utf-8")

    def _found_uv(self) -> Path:
        beside = Path(sys.executable).with_name("uv")
        on_path = shutil.which("uv")
        candidates = [self._uv, beside, Path(on_path) if on_path else None]
        for candidate in candidates:
            if candidate is not None and candidate.is_file():
                return candidate.absolute()
        raise ConfigError(
            "The model's environment cannot be made.",
            why="uv was found neither beside Slipway's interpreter nor on the PATH.",
            fix="Install it with `pip install uv`, or run `make setup`.",
        )

    # ── Keeping house ─────────────────────────────────────────────────────────────────────────

    def unused(self, needed: Iterable[str]) -> tuple[str, ...]:
        """Digests of the environments that none of `needed` is: what `remove` may take."""
        keep = set(needed)
        if not self._root.is_dir():
            return ()
        names = (entry.name for entry in self._root.iterdir() if entry.is_dir())
        return tuple(sorted(n for n in names if _DIGEST.fullmatch(n) and n not in keep))

    def size_bytes(self, digest: str) -> int:
        """What an environment takes on the disk; files shared with uv's cache count in full."""
        files = (entry for entry in self._folder(digest).rglob("*") if not entry.is_symlink())
        return sum(entry.stat().st_size for entry in files if entry.is_file())

    def remove(self, digest: str) -> None:
        """Delete one environment; the next release that needs it has it built again. NotFound."""
        folder = self._folder(digest)
        with self._locked(digest):
            # Renamed first: a removal that is cut short never leaves half an environment in place.
            aside = self._root / f".{digest}-removed-{os.getpid()}"
            try:
                folder.rename(aside)
            except FileNotFoundError as error:
                raise NotFound(f"There is no environment {digest}.") from error
            shutil.rmtree(aside, ignore_errors=True)
            self._sweep(digest)

    def _folder(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise NotFound(f"{digest!r} is no environment's digest.")
        return self._root / digest

    def _sweep(self, digest: str) -> None:
        """Remove what builds and removals left that were killed. The lock is held."""
        for left in self._root.glob(f".{digest}-*"):
            shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _locked(self, digest: str, report: Report = no_report) -> Iterator[None]:
        """Hold the lock of one environment. Conflict when another build of it does not end."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The system lets go of it when its holder dies. The file stays: removing it would let two
        # builders hold two locks of the same name.
        lock = FileLock(self._root / f"{digest}.lock")
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                report("Waiting for another build of the same environment.", None)
                lock.acquire(timeout=_BUILD_S, poll_interval=0.25)
        except Timeout as error:
            raise Conflict(
                "The model's environment is still being made by somebody else.",
                why=f"It has taken more than {_BUILD_S:.0f} s.",
                fix="Try again when it is done.",
            ) from error
        try:
            yield
        finally:
            lock.release()


# ── What a model needs ────────────────────────────────────────────────────────────────────────


def formats_of(package: Path) -> tuple[str, ...]:
    """The serialization formats that the flavours of a package's MLmodel name."""
    try:
        content = yaml.safe_load((package / "MLmodel").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return ()  # MLServer will say what is wrong with it, with the file's name
    flavors = content.get("flavors") if isinstance(content, dict) else None
    settings = flavors.values() if isinstance(flavors, dict) else ()
    found = (flavor.get("serialization_format") for flavor in settings if isinstance(flavor, dict))
    return tuple(sorted({str(name) for name in found if name}))


def _needed(lines: Iterable[str], python: str, formats: Sequence[str]) -> tuple[Requirement, ...]:
    """The requirements that hold on this machine, without markers. NotDeployable."""
    found = [requirement for requirement in plain(lines) if _applies(requirement, python)]
    for wanted in found:
        wanted.marker = None
    # MLflow logs models as skops by default and does not add skops to a list that the user gave.
    if "skops" in formats and all(canonicalize_name(r.name) != "skops" for r in found):
        found.append(Requirement("skops"))
    return tuple(found)


def _applies(requirement: Requirement, python: str) -> bool:
    if requirement.marker is None:
        return True
    # What is not overridden is this machine's, as `packaging` finds it.
    other = {"python_version": python, "extra": ""}
    if python != minor(sys.version.split()[0]):
        other["python_full_version"] = f"{python}.0"
    return requirement.marker.evaluate(other)


def _misfits(wanted: Iterable[Requirement], python: str, here: str) -> Iterator[str]:
    """What Slipway's own environment lacks, one sentence each."""
    if python != here:
        yield f"Python {python} is required, Slipway runs on {here}."
    for server in SERVERS:
        if _installed(server) is None:
            yield f"{server} is not installed beside Slipway."
    for requirement in wanted:
        yield from _misfit(requirement)


def _misfit(requirement: Requirement) -> Iterator[str]:
    there = _installed(requirement.name)
    asked = f"{requirement.name} {_spoken(requirement)}".strip()
    if there is None:
        yield f"{asked} is required, none is installed."
        return
    if not requirement.specifier.contains(there, prereleases=True):
        yield f"{asked} is required, {there} is installed."
        return
    # An extra is a list of further requirements: name[extra] holds when these hold.
    for extra in requirement.extras:
        for line in installed.requires(requirement.name) or ():
            part = Requirement(line)
            if part.marker is None or part.marker.evaluate({"extra": ""}):
                continue
            if part.marker.evaluate({"extra": extra}):
                part.marker = None
                yield from _misfit(part)


def _spoken(requirement: Requirement) -> str:
    """The bare version of a pin; of a range, the range."""
    pins = [s.version for s in requirement.specifier if s.operator in ("==", "===")]
    return pins[0] if len(pins) == 1 == len(requirement.specifier) else str(requirement.specifier)


def _installed(name: str) -> str | None:
    try:
        return installed.version(name)
    except installed.PackageNotFoundError:
        return None


def _with_servers(wanted: Iterable[Requirement], python: str) -> tuple[str, ...]:
    """The model's requirements and MLServer's in the versions that Slipway was tested with."""
    lines = {str(requirement) for requirement in wanted}
    names = {canonicalize_name(requirement.name) for requirement in wanted}
    for server in SERVERS:
        version = _installed(server)
        lines.add(f"{server}=={version}" if version else server)
    mlflow = _installed("mlflow")
    if "mlflow" not in names and mlflow and python == minor(sys.version.split()[0]):
        # mlserver-mlflow imports private names of MLflow: a newer one than ours may lack them.
        lines.add(f"mlflow<={mlflow}")
    return tuple(sorted(lines))


def _digest(lines: Iterable[str], python: str) -> str:
    content = json.dumps([_FORMAT, sys.platform, os.uname().machine, python, *lines])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _interpreter(folder: Path) -> Path:
    return folder / "bin" / "python"


# ── Running uv ────────────────────────────────────────────────────────────────────────────────

# What an installer may need from its surroundings. All else stays here: packages that are built
# from source run their own code, and the registry's password is none of their business.
_PASSED_ON = re.compile(
    r"PATH|HOME|USER|LANG|LC_.+|TMPDIR|UV_.+|PIP_INDEX_URL|XDG_.+|SSL_CERT_.+|REQUESTS_CA_BUNDLE"
    r"|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY|CC|CXX|CFLAGS|LDFLAGS|NETRC"
)


def _run(
    command: Sequence[str | Path],
    fails: Failures,
    *,
    folder: Path,
    environment: Environment,
    report: Report,
) -> None:
    """Run one step of a build to its end; its lines go to `report`. NotDeployable."""
    surroundings = {key: value for key, value in os.environ.items() if _PASSED_ON.fullmatch(key)}
    kept: deque[str] = deque(maxlen=_LINES_KEPT)
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=surroundings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    late = threading.Timer(_BUILD_S, process.kill)
    late.start()
    try:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            kept.append(line)
            if number < _LINES_REPORTED and line.strip():
                report(one_line(line), None)
        code = process.wait()
    finally:
        late.cancel()
        if process.poll() is None:
            process.kill()
            process.wait()
    if code:
        raise _unbuildable(list(kept), code, fails, environment)


def _unbuildable(
    lines: Sequence[str], code: int, fails: Failures, environment: Environment
) -> NotDeployable:
    """A failed step in words. What uv writes is drawn for terminals: boxes, arrows, hints."""
    text = one_line(" ".join(line.strip(" \n│├╰─▶×") for line in lines), 4000)
    what = "The model's environment cannot be made. Nothing was changed."
    for pattern, why, fix in (*_EVERYWHERE, *fails):
        match = re.search(pattern, text, re.IGNORECASE)
        if match:
            words = one_line(match["words"], 400).removesuffix(".")
            return NotDeployable(what, why.format(words=words, env=environment), fix)
    last = next((line for line in reversed(lines) if line.strip()), "")
    if code == -signal.SIGKILL:
        last = f"The build was killed: it took over {_BUILD_S:.0f} s, or memory ran out."
    return NotDeployable(
        what,
        why=one_line(last, 300) or f"uv ended with exit code {code} without a word.",
        fix="Try the model's requirements by hand with `uv pip install`.",
    )


Failures = tuple[tuple[str, str, str], ...]
"""What a step's output means: pattern with `words`, why, fix. The first that fits wins."""

# Read in the output of uv 0.13.9 and in the sources of its crates uv-client and uv-python.
_EVERYWHERE: Failures = (
    (
        r"(?P<words>No space left on device)",
        "The disk is full.",
        "Free some room, or remove environments that no release needs.",
    ),
)
_NO_NETWORK = (
    r"(?P<words>dns error|error sending request|Failed to fetch|tcp connect|operation timed out|"
    r"network connectivity is disabled)"
)
_PYTHON_FAILS: Failures = (
    (
        r"(?P<words>.*)",
        "Python {env.python_version} is not on this machine and could not be fetched ({words}).",
        "Install that Python, or log the model again with the Python that Slipway runs on.",
    ),
)
_LIBRARIES_FAIL: Failures = (
    (
        _NO_NETWORK,
        "The package index did not answer ({words}).",
        "Check the network, the proxy variables and uv's index setting, then deploy again.",
    ),
    (
        r"No solution found when resolving dependencies:?\s*(?:cause:\s*)?(?P<words>.+)",
        "These libraries do not go together: {words}.",
        "Log the model again with requirements that fit each other and MLServer.",
    ),
    (
        r"Failed to build (?P<words>\S+)",
        "{words} has no ready-made wheel for this machine, and building it failed.",
        "Pin a version of it that has a wheel for this Python and processor.",
    ),
)
_IMPORT_FAILS: Failures = (
    (
        r"(?P<words>\b\w+(?:Error|Exception): .+)",
        "It was built, and the model server cannot be imported in it: {words}.",
        "Log the model again with newer versions of its libraries.",
    ),
)


@contextmanager
def _room_errors() -> Iterator[None]:
    """The one door for the file system's errors while building."""
    try:
        yield
    except OSError as error:
        raise NotDeployable(
            "The model's environment cannot be made. Nothing was changed.",
            why=one_line(f"{error.strerror}: {error.filename}"),
            fix="Give Slipway a folder that it may write, with room for about 1 GB.",
        ) from error
