"""From what a server wrote, and how it ended, to the cause in words: pure rules over text.

`RULES` is the whole knowledge: one entry per cause, the most concrete first. The codes E1 to E22
are those of `docs/errors.md` and mean the same on every target; L1 to L8 only happen to processes
that somebody watches. Callers hand in the log's last lines; whoever gathers them (the supervisor of
target `local`, the observation of a cluster) stays elsewhere.

To add a cause: write its rule beside its kin, put it into `RULES` above every rule that would also
fit its text, save a real log under `tests/samples`, and add its row to the table in the test.
"""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from services.domain import Cause
from services.errors import one_line

_LINES = 5000
"""Only the last lines are looked at: a server that crash-loops repeats itself."""
_LINE_CHARS = 2000
_EVIDENCE_LINES = 20

# Distributions whose import name differs; the list is what MLflow's flavours import.
_DISTRIBUTION = {
    "sklearn": "scikit-learn",
    "cv2": "opencv-python",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "bs4": "beautifulsoup4",
    "skimage": "scikit-image",
    "dateutil": "python-dateutil",
    "google.cloud.storage": "google-cloud-storage",
}


@dataclass(frozen=True)
class Seen:
    """What there is to judge by: the log, how the process ended, what the model requires."""

    lines: tuple[str, ...]
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    """Somebody who knows says so: the kernel's log, a container's state."""
    requirements: tuple[str, ...] = ()

    @property
    def killed_by(self) -> int | None:
        """The signal that ended it, given as such or as a shell's or container's 128 + n."""
        if self.signal is not None:
            return self.signal
        if self.exit_code is None:
            return None
        if self.exit_code < 0:
            return -self.exit_code
        return self.exit_code - 128 if 128 < self.exit_code <= 128 + 64 else None

    @cached_property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """MLflow's list of libraries that differ from the model's, one each."""
        found = (_MISMATCH.fullmatch(line.strip()) for line in self.lines)
        return tuple(dict.fromkeys(Mismatch(m[1], m[2], m[3]) for m in found if m))

    def requires(self, distribution: str) -> bool:
        """Whether the model's requirements list it, in whatever spelling."""
        wanted = _canonical(distribution)
        names = (re.match(r"[A-Za-z0-9._-]+", line) for line in self.requirements)
        return any(name and _canonical(name[0]) == wanted for name in names)


# mlflow/utils/requirements_utils.py, _MismatchedPackageInfo.__str__ (2.19 and 3.17):
#  - scikit-learn (current: 1.5.2, required: scikit-learn==1.9.1)
_MISMATCH = re.compile(r"- ([A-Za-z0-9._-]+) \(current: (\S+), required: (.+)\)")


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One library that the server has in another version than the model was made with."""

    package: str
    current: str
    """The installed version, or "uninstalled"."""
    required: str

    def __str__(self) -> str:
        wanted = self.required.removeprefix(self.package).removeprefix("==").strip()
        if self.current == "uninstalled":
            return f"{self.package} {wanted} is required, none is installed"
        return f"{self.package} {wanted} is required, {self.current} is installed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule's words."""

    what: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One cause: how it is recognised in one line, and how it is said.

    `says` may return None: on a second look it is not this cause.
    """

    code: str
    pattern: re.Pattern[str]
    says: Callable[[re.Match[str], Seen], Verdict | None]


def cause_of(
    lines: Sequence[str],
    *,
    where: str,
    exit_code: int | None = None,
    signal: int | None = None,
    requirements: Sequence[str] = (),
    out_of_memory: bool = False,
) -> Cause:
    """The first concrete cause that log and ending show; never raises, never empty.

    `lines`: the log, oldest first, without its line ends. `exit_code` None: it still runs, or
    nobody knows. `out_of_memory`: known from elsewhere (kernel log, container state).
    """
    seen = Seen(
        lines=tuple(str(line)[:_LINE_CHARS] for line in lines[-_LINES:]),
        exit_code=exit_code,
        signal=signal,
        out_of_memory=out_of_memory,
        requirements=tuple(requirements),
    )
    if out_of_memory:
        return _cause(_MEMORY, "L3", where, seen, ())
    for rule in RULES:
        for at, line in enumerate(seen.lines):
            match = rule.pattern.search(line)
            verdict = rule.says(match, seen) if match else None
            if verdict is not None:
                return _cause(verdict, rule.code, where, seen, _around(seen.lines, at))
    return _ending(where, seen)


def _cause(verdict: Verdict, code: str, where: str, seen: Seen, evidence: Sequence[str]) -> Cause:
    shown = [one_line(line) for line in evidence if line.strip()]
    return Cause(
        what=verdict.what,
        why=verdict.why,
        fix=verdict.fix,
        code=code,
        where=where,
        exit_code=seen.exit_code,
        evidence=tuple(shown[-_EVIDENCE_LINES:]),
    )


def _around(lines: Sequence[str], at: int) -> Sequence[str]:
    """The line that says it, the frames that led to it, and MLflow's list of differences."""
    differing = [line for line in lines if _MISMATCH.fullmatch(line.strip())][:10]
    # Frames of the traceback are pairs of lines, underlined by a third of carets.
    before = [line for line in lines[max(0, at - 9) : at] if line.strip(" ^~")]
    after = lines[at + 1 : at + 3] if lines[at].endswith(":") else ()
    return [*differing, *before, lines[at], *after]


# ── Memory ────────────────────────────────────────────────────────────────────────────────────

_MEMORY = Verdict(
    "The model server ran out of memory.",
    "",
    "Free memory or give it more (stop a service, raise the limit), or deploy a smaller model.",
)


def _memory(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(_MEMORY.what, one_line(f"It wrote: {match[0]}"), _MEMORY.fix)


# ── The model's libraries are not the server's ────────────────────────────────────────────────

_REBUILD = "Deploy it with its own libraries: an isolated environment, or `--package image`."


def _serialization_format(match: re.Match[str], seen: Seen) -> Verdict:
    mlflow = next((m.current for m in seen.mismatches if m.package == "mlflow"), None)
    there = f"MLflow {mlflow}" if mlflow else "The server's MLflow"
    return Verdict(
        f"The server cannot read a model that is saved as {match[1]}.",
        f"{there} does not know that format; the model was logged by a newer one.",
        f'Log it with `serialization_format="cloudpickle"`. Or: {_REBUILD}',
    )


def _numpy_generation(_match: re.Match[str], seen: Seen) -> Verdict:
    numpy = next((m for m in seen.mismatches if m.package == "numpy"), None)
    return Verdict(
        "The model was saved with numpy 2, and the server has numpy 1.",
        f"{numpy}." if numpy else "Its pickle asks for parts that numpy 1 does not have.",
        f"Log it with the numpy of the server. Or: {_REBUILD}",
    )


def _missing_module(match: re.Match[str], seen: Seen) -> Verdict:
    module = match["module"]
    package, _, part = module.partition(".")
    name = _DISTRIBUTION.get(module) or _DISTRIBUTION.get(package) or package
    if part:
        # `No module named 'a.b'` is only said when `a` itself was found.
        return _other_version(name, f"It has no module {module}.", seen)
    if seen.requires(name):
        return Verdict(
            f"The Python package {name} is missing where the model runs.",
            "The model's requirements list it, and the environment lacks it.",
            _REBUILD,
        )
    return Verdict(
        f"The Python package {name} is missing where the model runs.",
        f"The model imports {module}, and its requirements do not list it.",
        f'Log the model again with "{name}" among its `pip_requirements`, or its own modules in '
        "`code_paths`.",
    )


def _missing_name(match: re.Match[str], seen: Seen) -> Verdict:
    package = match["module"].partition(".")[0]
    name = _DISTRIBUTION.get(package, package)
    return _other_version(name, f"{match['module']} has no {match['name']}.", seen)


def _missing_attribute(match: re.Match[str], seen: Seen) -> Verdict:
    module, name = match["module"], match["name"]
    if module.startswith("__"):
        return Verdict(
            f"The model needs {name}, which was defined in the script that saved it.",
            f"Its pickle looks for {name} in {module}.",
            "Put the class into a module, pass it as `code_paths`, and log the model again.",
        )
    package = module.partition(".")[0]
    return _other_version(_DISTRIBUTION.get(package, package), f"{module} has no {name}.", seen)


def _pickled_sklearn(match: re.Match[str], seen: Seen) -> Verdict | None:
    if not any(_RAISED.match(line) for line in seen.lines):
        return None  # a warning alone: such models often work
    return Verdict(
        f"The model was saved with scikit-learn {match['saved']}, and the server has "
        f"{match['there']}.",
        _raised(seen),
        f"Log it with scikit-learn {match['there']}. Or: {_REBUILD}",
    )


def _tree_layout(_match: re.Match[str], seen: Seen) -> Verdict:
    return _other_version("scikit-learn", "Its trees are stored in another layout.", seen)


def _other_python(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        "The model was saved with another Python than the server runs.",
        one_line(f"Its pickle holds compiled code: {match[0]}"),
        f"Log it with the server's Python. Or: {_REBUILD}",
    )


def _untrusted(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        "The model's skops file holds types that nobody has declared as trusted.",
        one_line(f"They are {match['types']}."),
        one_line(f"If you trust them, log it again with `skops_trusted_types={match['types']}`."),
    )


def _system_library(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        f"The system library {match[1]} is missing where the model runs.",
        "A Python package of the model was built against it; pip does not install it.",
        "Install it with the system's package manager (libgomp.so.1 is in Debian's libgomp1).",
    )


def _libraries_differ(_match: re.Match[str], seen: Seen) -> Verdict | None:
    if not any(_RAISED.match(line) for line in seen.lines):
        return None
    return Verdict(
        "The model does not run with the server's libraries.",
        one_line(f"{_raised(seen)} {_differences(seen)}"),
        f"Log it with the server's versions. Or: {_REBUILD}",
    )


def _other_version(name: str, why: str, seen: Seen) -> Verdict:
    wanted = next((m for m in seen.mismatches if _canonical(m.package) == _canonical(name)), None)
    return Verdict(
        f"The model needs another version of {name} than the server has.",
        f"{wanted}. {why}" if wanted else why,
        f"Pin the version of {name} that the model was made with. Or: {_REBUILD}",
    )


def _differences(seen: Seen) -> str:
    shown = "; ".join(str(mismatch) for mismatch in seen.mismatches[:5])
    return f"{shown}." if shown else ""


# ── Files, ports, room ────────────────────────────────────────────────────────────────────────


def _no_mlmodel(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        "The model's files are incomplete: there is no MLmodel.",
        one_line(f"Looked for it at {match[1]}."),
        "Deploy the version again, so that its package is made anew; if that fails too, look "
        "whether the registry still has its files.",
    )


def _no_folder(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        "The model's files are gone.",
        one_line(f"There is nothing at {match[1]}."),
        "Deploy the version again, so that its package is made anew.",
    )


def _no_file(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        "A file is missing that the model needs.",
        one_line(f"There is no {match[1]}."),
        "Add it to the model as an artifact and log it again; if it was there, deploy the version "
        "again, so that its package is made anew.",
    )


def _forbidden_file(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        "The model server may not read or write a file.",
        one_line(f"Permission denied: {match[1]}."),
        "Give the account that runs Slipway access to it.",
    )


def _broken_mlmodel(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        "The model's MLmodel file cannot be read.",
        one_line(f"It is no YAML: {match[0]}"),
        "Log the model again; do not edit MLmodel by hand.",
    )


def _port_taken(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        f"Port {match['port']} is taken.",
        "Another process listens on it.",
        f"Start again, or see who has it: `lsof -i :{match['port']}`.",
    )


def _disk_full(_match: re.Match[str], _seen: Seen) -> Verdict:
    return Verdict(
        "The disk is full.",
        "The model server could not write a file.",
        "Free some room, then start again.",
    )


# ── Requests and what is left ─────────────────────────────────────────────────────────────────


def _schema(match: re.Match[str], _: Seen) -> Verdict:
    return Verdict(
        "The request does not fit the model's signature.",
        one_line(match[1]),
        "Start from the example (`slipway predict NAME --example`), or log the model with an "
        "input example that fits its signature.",
    )


_RAISED = re.compile(
    r"(?:ERROR:\s+)?(?P<kind>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|Fault|NotFound"
    r"|Invalid[A-Za-z]+))(?:: (?P<words>.+))?$"
)
"""A traceback's last line: the exception's name at the line's start."""

# What a server says while it is being shut down: never the cause of anything.
_SHUTDOWN = frozenset({"CancelledError", "SystemExit", "KeyboardInterrupt"})


def _exceptions(seen: Seen) -> list[re.Match[str]]:
    found = (_RAISED.match(line) for line in seen.lines)
    return [m for m in found if m and m["kind"].rpartition(".")[2] not in _SHUTDOWN]


def _raised(seen: Seen) -> str:
    """The first exception of the last traceback, as a sentence; "" without one."""
    raised = _exceptions(seen)
    return one_line(f"{raised[-1][0].removeprefix('ERROR:').strip()}.") if raised else ""


def _exception(match: re.Match[str], seen: Seen) -> Verdict | None:
    # Of exceptions that were raised while another was handled, the last one is what came out.
    raised = _exceptions(seen)
    if not raised or raised[-1][0] != match[0]:
        return None
    return Verdict(
        "The model raised an error.",
        one_line(match[0]),
        "Read the log's last traceback; it starts where the model's own code is called.",
    )


def _ending(where: str, seen: Seen) -> Cause:
    """What can be said from the exit alone."""
    last = seen.lines[-6:]
    number = seen.killed_by
    if number is not None:
        try:
            name = signals.Signals(number).name
        except ValueError:
            name = ""
        spoken = f"signal {number}" + (f" ({name})" if name else "")
        if number == signals.SIGKILL:
            return _cause(
                Verdict(
                    f"The model server was killed by {spoken}.",
                    "It left no word. Either somebody killed it, or the kernel did because memory "
                    "ran out.",
                    "Start it again; if it happens again, look for `Out of memory` in `dmesg`.",
                ),
                "L4",
                where,
                seen,
                last,
            )
        crashed = number in (signals.SIGSEGV, signals.SIGABRT, signals.SIGILL, signals.SIGBUS)
        why = (
            "A compiled library crashed; often one that was built for another numpy or another "
            "processor."
            if crashed
            else "Somebody, or the system, ended it from outside."
        )
        fix = _REBUILD if crashed else "Start it again."
        return _cause(
            Verdict(f"The model server was killed by {spoken}.", why, fix), "L4", where, seen, last
        )
    if seen.exit_code is None:
        words = Verdict(
            "The model server does not answer, and its log does not say why.",
            one_line(f"Its last line: {last[-1]}") if last else "Its log is empty.",
            "Look at the whole log (`slipway logs NAME`), then start it again.",
        )
    else:
        # Code 0 is no failure for whoever reads codes alone, a container's "Completed" among them.
        itself = "by itself " if seen.exit_code == 0 else ""
        words = Verdict(
            f"The model server ended {itself}with exit code {seen.exit_code}, and its log does not "
            "say why.",
            one_line(f"Its last line: {last[-1]}") if last else "Its log is empty.",
            "Look at the whole log (`slipway logs NAME`), then start it again.",
        )
    return _cause(words, "", where, seen, last)


# ── The table ─────────────────────────────────────────────────────────────────────────────────


def _rule(code: str, pattern: str, says: Callable[[re.Match[str], Seen], Verdict | None]) -> Rule:
    return Rule(code, re.compile(pattern), says)


RULES: tuple[Rule, ...] = (
    # memory first: what follows a failed allocation is noise
    _rule("L3", r"\b\w*MemoryError\b.*|std::bad_alloc|Cannot allocate memory", _memory),
    _rule("L3", r"Out of memory: Killed process.*|oom-kill:.*", _memory),
    # files: an MLmodel that is missing ends in exceptions that others would match too
    _rule("L1", r'Could not find an "MLmodel" configuration file at "([^"]+)"', _no_mlmodel),
    _rule("L1", r"Invalid URI specified for model \S+ \((.+)\)", _no_folder),
    _rule("L1", r'in "[^"]*MLmodel", line \d+, column \d+', _broken_mlmodel),
    # libraries: from the certain to the likely
    _rule("E1", r"Unrecognized serialization format: ([\w-]+)", _serialization_format),
    _rule("E2", r"No module named '?numpy\._core|is not a known BitGenerator", _numpy_generation),
    _rule(
        "E1",
        r"(?:ModuleNotFoundError|ImportError): No module named '?(?P<module>[\w.]+)",
        _missing_module,
    ),
    _rule(
        "E1",
        r"ImportError: cannot import name '?(?P<name>\w+)'? from (?:partially initialized module )?"
        r"'(?P<module>[\w.]+)'",
        _missing_name,
    ),
    _rule(
        "E1",
        r"AttributeError: Can't get attribute '(?P<name>[\w.]+)' on <module '(?P<module>[\w.]+)'",
        _missing_attribute,
    ),
    _rule("L5", r"(?:ImportError|OSError): (\S+\.so[.\d]*): cannot open shared", _system_library),
    _rule("L6", r"Untrusted types found in the file: (?P<types>\[[^\]]*\])", _untrusted),
    _rule("E1", r"node array from the pickle has an incompatible dtype", _tree_layout),
    _rule(
        "E1",
        r"unsupported pickle protocol: \d+|code\(\) argument \d+ must be .*|unknown opcode \d*"
        r"|bad marshal data.*",
        _other_python,
    ),
    # ports and room
    _rule("L2", r"bind on address \('[^']*', (?P<port>\d+)\).*in use", _port_taken),
    _rule("L2", r"[Ff]ailed to bind to address \S+?:(?P<port>\d+)\b", _port_taken),
    _rule("L7", r"\[Errno 28\]|No space left on device", _disk_full),
    # requests
    _rule("E15", r"\b(Failed to enforce schema.*|Model is missing inputs.*)", _schema),
    # any other exception, with the differences beside it where MLflow saw some
    _rule("L1", r"FileNotFoundError: \[Errno 2\] No such file or directory: '([^']+)'", _no_file),
    _rule("L8", r"PermissionError: \[Errno 13\] Permission denied: '([^']+)'", _forbidden_file),
    _rule(
        "E1",
        r"InconsistentVersionWarning: Trying to unpickle estimator \S+ from version "
        r"(?P<saved>\S+) when using version (?P<there>\S+?)\.? ",
        _pickled_sklearn,
    ),
    _rule("E1", r"Detected one or more mismatches between the model's dep", _libraries_differ),
    _rule("", _RAISED.pattern, _exception),
)
"""Every cause that is recognised in a log, the most concrete first: the first that fits wins."""


def _canonical(name: str) -> str:
    # Python packaging specification "Names and normalization".
    return re.sub(r"[-_.]+", "-", name).lower()
