"""Before anything is written: facts of a cluster and an intent → findings with fixes. Pure.

Three kinds of rules: names that KServe chokes on, fields that a deployment mode ignores, and the
library check: whether the server that will load a model has the libraries that the model was saved
with. Callers gather the facts (kserve.py) and decide with planning.blocking.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING

from services.domain import (
    Finding,
    Intent,
    Mode,
    PackageKind,
    Resources,
    Verdict,
    service_name_problem,
)
from services.errors import one_line

if TYPE_CHECKING:
    from packaging.version import Version

MLFLOW_FORMAT = "mlflow"
PROTOCOL = "v2"
CREDENTIALS = "storage credentials"
"""Name of the finding that says as whom the pods read the bucket: a plan says it in any case."""

PACKAGE = "package"
"""Name of the finding that says whether the package is there or will be made: a plan says it in any
case."""

PASSED_OVER = "runtime passed over"
"""Name of the finding that says why another runtime than KServe's own choice was taken."""

DRY_RUN, OWNERSHIP = "dry run", "ownership"
"""Names of the findings that change when fields of others are taken over."""

PERMISSION = "permission"
"""Name of the findings that say which right is missing; what they forbid ends in Denied."""

COMPARED = ("mlflow", "scikit-learn", "numpy", "pandas", "xgboost", "lightgbm", "skops")
"""Libraries whose difference has been seen to break loading; the others are left alone."""

# SeldonIO/MLServer, poetry.lock at the tags 1.5.0 and 1.7.1. A tag is no proof of what an image
# holds, so this table only ever warns.
KNOWN_IMAGES: Mapping[str, Mapping[str, str]] = {
    "seldonio/mlserver:1.5.0": {
        "python": "3.10",
        "mlflow": "2.10.2",
        "scikit-learn": "1.4.1",
        "numpy": "1.26.4",
        "pandas": "2.2.1",
        "xgboost": "2.0.3",
        "lightgbm": "4.3.0",
    },
    "seldonio/mlserver:1.7.1": {
        "python": "3.10",
        "mlflow": "2.19.0",
        "scikit-learn": "1.5.2",
        "numpy": "1.26.4",
        "pandas": "2.2.3",
        "xgboost": "2.1.2",
        "lightgbm": "4.6.0",
    },
}


@dataclass(frozen=True, slots=True)
class Format:
    """One model format that a runtime says it supports."""

    name: str
    version: str | None = None
    auto_select: bool = False
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Runtime:
    """A ServingRuntime or ClusterServingRuntime, as far as choosing one needs."""

    name: str
    image: str
    formats: tuple[Format, ...] = ()
    protocols: tuple[str, ...] = ()
    disabled: bool = False
    reported: Mapping[str, str] = field(default_factory=dict)
    """Library → version as a running server of this image says: certain."""
    environment: bool = False
    """An image of one set of requirements: used where a package names it, never chosen."""
    requests: Resources = field(default_factory=Resources)
    """What its server's container asks of a node when the intent says nothing."""

    @property
    def takes_mlflow(self) -> bool:
        """Whether it can serve an MLflow model over V2."""
        formats = any(format_.name == MLFLOW_FORMAT for format_ in self.formats)
        return formats and not self.disabled and PROTOCOL in self.protocols

    @property
    def libraries(self) -> Mapping[str, str]:
        """Library → version: from the table of images, then from what a server reported."""
        known = KNOWN_IMAGES.get(_image_key(self.image), {})
        return {**known, **self.reported}


@dataclass(frozen=True, slots=True)
class Room:
    """What a node can still promise to pods: CPU in cores, memory in bytes.

    `counted` is False when its pods were not looked at: then it is what the node has in all.
    """

    node: str
    cpu: Decimal
    memory: Decimal
    counted: bool = True

    def __str__(self) -> str:
        return f"{_cores(self.cpu)} and {_gibibytes(self.memory)}"


def _cores(cpu: Decimal) -> str:
    return f"{cpu.normalize():f} CPU" if cpu >= 1 else f"{int(cpu * 1000)}m CPU"


def _gibibytes(memory: Decimal) -> str:
    gibi = memory / 2**30
    return f"{gibi:.1f} Gi" if gibi >= 1 else f"{int(memory / 2**20)} Mi"


def room_finding(cpu: Decimal, memory: Decimal, rooms: Sequence[Room]) -> Finding:
    """Whether a pod that asks so much (cores, bytes) finds a node; only warns.

    A cluster that grows by itself (GKE's autoscaler) may add the node that is missing.
    """
    asked = f"{_cores(cpu)} and {_gibibytes(memory)}"
    if any(room.cpu >= cpu and room.memory >= memory for room in rooms):
        return Finding("room", Verdict.PASS, f"A node has room for a pod that asks {asked}.")
    freest = max(rooms, key=lambda room: (room.memory, room.cpu))
    had = "has left" if freest.counted else "has in all"
    return Finding(
        "room",
        Verdict.WARN,
        f"A pod asks {asked}; {one_line(freest.node, 60)}, the freest node, {had} {freest}."
        " Until a node has room, the pod stays Pending and what serves goes on serving.",
        "Ask for less with --cpu and --memory, stop another service, or add a node.",
    )


def _image_key(image: str) -> str:
    name = image.partition("@")[0]
    return name.removeprefix("docker.io/").removeprefix("index.docker.io/")


class Fit(StrEnum):
    """How a model and a runtime's libraries go together."""

    FITS = "fits"
    UNKNOWN = "not known"
    MAY_FAIL = "may fail"
    WILL_FAIL = "will fail"


_ORDER = (Fit.FITS, Fit.UNKNOWN, Fit.MAY_FAIL, Fit.WILL_FAIL)


@dataclass(frozen=True, slots=True)
class LibraryVerdict:
    """What the library check found for one runtime; `certain` = a running server said so."""

    fit: Fit
    why: str
    certain: bool = False


def library_verdict(
    runtime: Runtime, requirements: Sequence[str], python_version: str | None = None
) -> LibraryVerdict:
    """Compare a model's pinned requirements with what a runtime carries."""
    wanted = pinned(requirements)
    if not wanted:
        return LibraryVerdict(Fit.UNKNOWN, "the version pins no library that is compared")
    has = runtime.libraries
    certain = bool(runtime.reported)
    source = "a running server of it reports" if certain else "by its image's tag it has"
    server_mlflow, model_mlflow = _version(has.get("mlflow")), wanted.get("mlflow")
    if "skops" in wanted and server_mlflow is not None and server_mlflow.major < 3:
        # MLflow 3.17.2 → 2.19.0, seen: "Unrecognized serialization format: skops" (E1).
        return LibraryVerdict(
            Fit.WILL_FAIL,
            f"it is saved as skops; {source} MLflow {server_mlflow}, which reads pickle and"
            " cloudpickle only",
            "mlflow" in runtime.reported,
        )
    declared = {f.version for f in runtime.formats if f.name == MLFLOW_FORMAT and f.version}
    major = str(model_mlflow.major) if model_mlflow else None
    differing = [
        f"{name} {version} → {has[name]}"
        for name, version in wanted.items()
        if name in has and _breaks(name, version, _version(has[name]))
    ]
    if differing:
        return LibraryVerdict(Fit.MAY_FAIL, f"{source} others: {', '.join(differing)}")
    if major is not None and declared and major not in declared:
        listed = " and ".join(sorted(declared))
        return LibraryVerdict(
            Fit.MAY_FAIL, f"the runtime lists models of MLflow {listed}, this is one of {major}"
        )
    if major is not None and major in declared:
        return LibraryVerdict(Fit.FITS, f"the runtime lists models of MLflow {major}")
    if python_version and has.get("python") and has:
        return LibraryVerdict(Fit.FITS, f"{source} versions that agree")
    return LibraryVerdict(Fit.UNKNOWN, "nothing is known of its image's libraries")


def _breaks(name: str, wanted: Version, has: Version | None) -> bool:
    if has is None or name == "skops":
        return False
    if name == "scikit-learn":
        # scikit-learn promises nothing between versions; patch releases have kept their pickles.
        return wanted.release[:2] != has.release[:2]
    return wanted.major != has.major


def pinned(requirements: Sequence[str]) -> dict[str, Version]:
    """The compared libraries that a version pins exactly; `skops` in any form says how it is saved.

    Lines that are no requirement (options, local paths) are passed over.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import Version

    found: dict[str, Version] = {}
    for line in requirements:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        exact = next((s.version for s in requirement.specifier if s.operator == "=="), None)
        version = _version(exact)
        if name in COMPARED and version is not None:
            found[name] = version
        elif name == "skops":
            found[name] = Version("0")
    return found


def _version(text: str | None) -> Version | None:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text) if text else None
    except InvalidVersion:
        return None


def default_runtime(runtimes: Sequence[Runtime]) -> Runtime | None:
    """The one that KServe would take by itself: auto-selecting, highest priority, first by name."""

    def priority(runtime: Runtime) -> int:
        return max(
            (f.priority for f in runtime.formats if f.name == MLFLOW_FORMAT and f.auto_select),
            default=-1,
        )

    able = [runtime for runtime in runtimes if runtime.takes_mlflow and priority(runtime) >= 0]
    return min(able, key=lambda runtime: (-priority(runtime), runtime.name), default=None)


def choose_runtime(
    runtimes: Sequence[Runtime], requirements: Sequence[str], python_version: str | None = None
) -> Runtime | None:
    """The runtime whose libraries fit best; KServe's own choice where nothing speaks against it."""
    own = default_runtime(runtimes)

    def badness(runtime: Runtime) -> tuple[int, bool, str]:
        verdict = library_verdict(runtime, requirements, python_version)
        return (_ORDER.index(verdict.fit), runtime is not own, runtime.name)

    able = (r for r in runtimes if r.takes_mlflow and not r.environment)
    return min(able, key=badness, default=None)


def library_finding(intent: Intent, runtimes: Sequence[Runtime]) -> Finding:
    """The library check of one intent, against the runtime that it names or KServe would take."""
    name = "libraries"
    if intent.package.kind is PackageKind.IMAGE or intent.package.environment:
        return Finding(name, Verdict.PASS, "The image brings the version's own.")
    if intent.runtime is None:
        chosen = default_runtime(runtimes)
    else:
        chosen = next((r for r in runtimes if r.name == intent.runtime), None)
    if chosen is None:
        return Finding(name, Verdict.SKIP, "The runtime is not known.")
    verdict = library_verdict(chosen, intent.requirements, intent.python_version)
    others = [
        r.name
        for r in runtimes
        if r is not chosen
        and r.takes_mlflow
        and not r.environment
        and library_verdict(r, intent.requirements, intent.python_version).fit is Fit.FITS
    ]
    fix = (
        f"Choose the runtime {others[0]} (--runtime {others[0]})."
        if others
        else "Deploy it with its own libraries: --environment own (one image for all versions with"
        " these requirements) or --package image. Or log the model with the runtime's versions and"
        ' serialization_format="cloudpickle".'
    )
    detail = one_line(f"{chosen.name}: {verdict.fit}; {verdict.why}.", 512)
    if verdict.fit is Fit.FITS:
        return Finding(name, Verdict.PASS, detail)
    if verdict.fit is Fit.UNKNOWN:
        return Finding(name, Verdict.SKIP, detail)
    blocks = verdict.fit is Fit.WILL_FAIL and verdict.certain
    return Finding(name, Verdict.FAIL if blocks else Verdict.WARN, detail, fix)


def passed_over(intent: Intent, runtimes: Sequence[Runtime]) -> tuple[Finding, ...]:
    """Why KServe's own choice is not the runtime, where the libraries speak against it."""
    own = default_runtime(runtimes)
    named = next((r for r in runtimes if r.name == intent.runtime), None)
    if own is None or named is None or named is own or intent.package.environment:
        return ()
    verdict = library_verdict(own, intent.requirements, intent.python_version)
    if verdict.fit in {Fit.FITS, Fit.UNKNOWN}:
        return ()
    detail = f"{own.name}, which KServe would take by itself, {verdict.fit}: {verdict.why}."
    return (Finding(PASSED_OVER, Verdict.PASS, one_line(detail, 512)),)


# ── Runtime, names, fields ────────────────────────────────────────────────────────────────────


def runtime_finding(intent: Intent, runtimes: Sequence[Runtime]) -> Finding:
    """Whether the runtime exists and takes MLflow models over V2."""
    name = "runtime"
    if intent.package.kind is PackageKind.IMAGE:
        return Finding(name, Verdict.PASS, "The image is its own server.")
    if intent.package.environment:
        detail = f"{intent.runtime}, made for this environment by the deploy."
        return Finding(name, Verdict.PASS, one_line(detail))
    able = sorted(runtime.name for runtime in runtimes if runtime.takes_mlflow)
    there = f"There are: {', '.join(able)}." if able else "There is none at all."
    if intent.runtime is None:
        if default_runtime(runtimes) is None:
            return Finding(
                name,
                Verdict.FAIL,
                f"No runtime takes MLflow models over V2 by itself. {there}",
                "Name one (--runtime NAME), or install KServe's cluster runtimes.",
            )
        return Finding(name, Verdict.PASS, "KServe chooses it.")
    found = next((runtime for runtime in runtimes if runtime.name == intent.runtime), None)
    if found is None or not found.takes_mlflow:
        why = "does not exist" if found is None else "does not take MLflow models over V2"
        return Finding(
            name,
            Verdict.FAIL,
            f"The runtime {one_line(intent.runtime)} {why}. {there}",
            f"Choose another: --runtime {able[0]}." if able else "Install KServe's runtimes.",
        )
    return Finding(name, Verdict.PASS, f"{found.name}, image {one_line(found.image)}.")


MAX_LABEL = 63
"""RFC 1035: one label of a host name."""


def name_finding(name: str, namespace: str, mode: Mode) -> Finding:
    """Whether KServe can live with the name in that namespace."""
    check = "name"
    problem = service_name_problem(name)
    if problem:
        return Finding(check, Verdict.FAIL, problem, "Choose another name.")
    # KServe's Standard host label is <name>-predictor-<namespace>; past 63 characters its
    # reconcile fails late (kserve/kserve#4807). Knative's hosts have the namespace as a label of
    # its own: <name>-predictor has to fit, and the revision's pods add -NNNNN-deployment to it.
    label = f"{name}-predictor-{namespace}" if mode is Mode.STANDARD else f"{name}-predictor-00001"
    if len(label) > MAX_LABEL:
        over = len(label) - MAX_LABEL
        return Finding(
            check,
            Verdict.FAIL,
            f"The host label {label} has {len(label)} characters; {MAX_LABEL} are the most.",
            f"Take a name that is {over} character{'' if over == 1 else 's'} shorter.",
        )
    return Finding(check, Verdict.PASS, f"{label} fits a host label.")


def field_findings(intent: Intent) -> tuple[Finding, ...]:
    """Fields that the mode would ignore or that cannot go together."""
    found = []
    scale, standard = intent.scale, intent.mode is Mode.STANDARD
    low, high = scale.min_replicas, scale.max_replicas
    if low is not None and high not in {None, 0} and high is not None and low > high:
        found.append(
            Finding("replicas", Verdict.FAIL, f"The minimum {low} is above the maximum {high}.")
        )
    if standard and low == 0:
        found.append(
            Finding(
                "replicas",
                Verdict.WARN,
                "Standard mode keeps at least one pod; a minimum of 0 is ignored.",
                "Use --mode Knative for scale to zero.",
            )
        )
    allowed = {"cpu", "memory"} if standard else {"concurrency", "rps", "cpu", "memory"}
    if scale.metric is not None and scale.metric not in allowed:
        found.append(
            Finding(
                "scaling",
                Verdict.FAIL,
                f"{intent.mode} mode does not scale by {one_line(scale.metric)}.",
                f"Choose one of: {', '.join(sorted(allowed))}.",
            )
        )
    if standard and intent.timeout_s is not None:
        found.append(
            Finding(
                "timeout",
                Verdict.WARN,
                "In Standard mode the timeout only holds on Gateway API routes; an Ingress ignores"
                " it.",
                "Set the ingress's own timeout.",
            )
        )
    return tuple(found)
