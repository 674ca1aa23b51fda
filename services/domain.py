"""The vocabulary: frozen dataclasses and the pure rules on them.

Nothing here touches a file, a socket or a clock, and no other library than the standard one is
imported. `docs/glossary.md` explains the words for people; the types here are their one meaning.
Times are aware datetimes in UTC, durations are seconds (`_s`), sizes bytes, `_percent` is 0 to 100,
`_ratio` is 0 to 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from services.errors import NotFound, SlipwayError

CONFIDENCE = 0.95
"""How often an interval that Slipway states holds the truth."""

ANY = -1
"""The length of an axis that may have any length, as MLflow writes it."""

Json = Any
"""A value as a JSON parser gives it. Only at the wire: adapters turn it into types."""


# ── References ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, order=True)
class VersionRef:
    """One immutable numbered entry of a registered model: `wine/3`."""

    model: str
    number: int

    def __str__(self) -> str:
        return f"{self.model}/{self.number}"


@dataclass(frozen=True, slots=True)
class AliasRef:
    """A movable pointer to one version: `wine@champion`. A wish, no proof of serving.

    The alias `latest` means the highest number; MLflow reserves the word.
    """

    model: str
    alias: str

    def __str__(self) -> str:
        return f"{self.model}@{self.alias}"


LATEST = "latest"

# A model's name may hold "@": the last one parts name and alias. MLflow forbids "/" and ":" in it.
_REF = re.compile(
    r"(?:models:/)?(?P<model>[^/:]+?)(?:/(?P<number>[0-9]{1,9})|@(?P<alias>[\w.-]+)|/(?P<word>latest))"
)


def parse_ref(text: str) -> VersionRef | AliasRef:
    """Read `wine/3`, `wine@champion`, `wine@latest`, `models:/wine/3`. NotFound otherwise."""
    match = _REF.fullmatch(text)
    if match is None:
        raise NotFound(
            f"{text!r} names no model version.",
            fix="Write NAME/NUMBER or NAME@ALIAS, for example wine/3 or wine@champion.",
        )
    if match["number"]:
        return VersionRef(match["model"], int(match["number"]))
    return AliasRef(match["model"], match["alias"] or LATEST)


# ── The registry ──────────────────────────────────────────────────────────────────────────────


class Registration(StrEnum):
    """How far the registry has come with a version, after MLflow's ModelVersionStatus."""

    READY = "ready"
    PENDING = "pending"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A name under which versions are kept."""

    name: str
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)
    """Alias → version number, complete: read from the registered models, never from versions."""
    latest_number: int | None = None
    """The highest version number; None when there is no version or it was not asked for."""
    version_count: int | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version as lists show it: what the registry and its run say, without reading any file."""

    ref: VersionRef
    source: str
    """Where the registry says that the files are; user-controlled text, never used as a path."""
    aliases: tuple[str, ...] = ()
    registration: Registration = Registration.READY
    registration_message: str = ""
    run_id: str | None = None
    run_url: str | None = None
    """Address of the run in MLflow's own UI; None for registries without one."""
    model_id: str | None = None
    author: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    problems: tuple[str, ...] = ()
    """What is wrong with it, in sentences: pending, failed, run deleted, source gone."""


def newest(versions: Iterable[ModelVersion]) -> ModelVersion | None:
    """The version with the highest number, or None."""
    return max(versions, key=lambda version: version.ref.number, default=None)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version, by its path below the version's folder."""

    path: str
    size_bytes: int


class ValueKind(StrEnum):
    """The type of a column, parameter or element, in MLflow's names."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    LONG = "long"
    FLOAT = "float"
    DOUBLE = "double"
    STRING = "string"
    BINARY = "binary"
    DATETIME = "datetime"
    ARRAY = "array"
    OBJECT = "object"
    MAP = "map"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """One column of a column-based signature. A nameless single column has the name ""."""

    name: str
    kind: ValueKind
    required: bool = True
    spec_json: str = ""
    """MLflow's own JSON of an array, object or map type; "" for scalars."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a tensor-based signature; `shape` with ANY for free axes."""

    name: str
    dtype: str
    """numpy's name: float32, int64, str, …"""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One inference parameter; `shape` is None for a scalar, (ANY,) for a list."""

    name: str
    kind: ValueKind
    default_json: str
    """The default value as JSON text (mutable values would not be hashable)."""
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a version takes and gives. Inputs are all columns or all tensors, never mixed."""

    inputs: tuple[ColumnSpec | TensorSpec, ...] = ()
    outputs: tuple[ColumnSpec | TensorSpec, ...] = ()
    params: tuple[ParamSpec, ...] = ()

    @property
    def is_tensor(self) -> bool:
        """True for a tensor-based signature."""
        return bool(self.inputs) and isinstance(self.inputs[0], TensorSpec)


@dataclass(frozen=True, slots=True)
class VersionDetails:
    """What the files of one version say: read for one selected version, never for a list."""

    ref: VersionRef
    signature: Signature | None
    example: str | None
    """The input example as the JSON text of an /invocations body; None when there is none."""
    requirements: tuple[str, ...]
    python_version: str | None
    mlflow_version: str | None
    flavors: Mapping[str, Mapping[str, str]]
    """Flavour → its plain settings as text, for example sklearn → serialization_format → skops."""
    files: tuple[FileEntry, ...]
    problems: tuple[str, ...] = ()


# ── Comparing ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two things differ; "" stands for absent."""

    field: str
    left: str
    right: str
    breaking: bool = False
    """True when callers of the left one would fail, or be misread, against the right one."""
    why: str = ""


# ── Targets ───────────────────────────────────────────────────────────────────────────────────


class TargetKind(StrEnum):
    """What a target is reached by."""

    LOCAL = "local"
    KUBERNETES = "kubernetes"
    GKE = "gke"


class Mode(StrEnum):
    """KServe's deployment mode, in the names it has from v0.16; `local` has a mode of its own."""

    STANDARD = "Standard"
    KNATIVE = "Knative"
    LOCAL = "Local"


class Protocol(StrEnum):
    """How a request is written."""

    V2 = "v2"
    V1 = "v1"
    INVOCATIONS = "invocations"


class PackageKind(StrEnum):
    """What the server loads: a folder of this machine, a bucket's prefix, or an image."""

    FOLDER = "folder"
    GCS = "gcs"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Package:
    """What a server loads. `uri` is an absolute folder, a gs:// prefix or an image reference."""

    kind: PackageKind
    uri: str
    digest: str = ""
    """sha256 of what went in, hex: known before it is made."""
    size_bytes: int | None = None
    environment: str = ""
    """The image that brings the libraries where the files come from a bucket; "" = the runtime's
    own."""
    protocol: Protocol = Protocol.V2
    """What its server speaks; all but MLflow's own scoring server speak V2."""
    image_digest: str = field(default="", compare=False)
    """sha256:… of the built image (the package's, or the environment's); "" when none was built, or
    not by us. What came out, not what is wished: a second build may give another one."""
    made_by: str = field(default="", compare=False)
    """Who builds it and how it arrives, in a sentence; "" where nothing is built."""


# ── Intents, releases, plans ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas; None leaves the target's default."""

    min_replicas: int | None = None
    max_replicas: int | None = None
    metric: str | None = None
    value: int | None = None


@dataclass(frozen=True, slots=True)
class Resources:
    """Kubernetes quantities as text ("500m", "1Gi"); None leaves the runtime's own."""

    cpu: str | None = None
    memory: str | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """What a service should be. No status, no time: two equal intents are the same wish."""

    service: str
    version: VersionRef | None
    """None for an adopted service whose version nobody knows."""
    package: Package
    mode: Mode
    runtime: str | None = None
    scale: Scale = Scale()
    resources: Resources = Resources()
    service_account: str | None = None
    timeout_s: int | None = None
    env: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    patch: str = ""
    """YAML merged into the manifest for what is not modelled here; "" for none."""
    port: int | None = None
    """`local`: the port of the service's stable address; None = chosen once, then kept."""
    canary_percent: int | None = None
    """Share of the traffic for this intent's version while it is a canary; None = all."""
    stopped: bool = False
    signature: Signature | None = None
    example: str | None = None
    """The test inference: JSON text of an /invocations body; None when the version has none."""
    requirements: tuple[str, ...] = ()
    python_version: str | None = None
    runtime_image: str = field(default="", compare=False)
    """The runtime's image when this was planned: what happened, not what is wished. No roll-back
    restores it, so it is compared and told. "" where the package is the image, or unknown."""

    @property
    def share_words(self) -> str:
        """What stands behind a canary's version: ` with 10 %`; "" for all of the traffic."""
        return "" if self.canary_percent is None else f" with {self.canary_percent} %"


class Action(StrEnum):
    """What an operation does."""

    DEPLOY = "deploy"
    ROLLBACK = "rollback"
    CANARY = "canary"
    PROMOTE = "promote"
    ABORT = "abort"
    STOP = "stop"
    START = "start"
    DELETE = "delete"
    ADOPT = "adopt"


class Outcome(StrEnum):
    """How an operation ended; OPEN while it has not."""

    OPEN = "open"
    VERIFIED = "verified"
    SERVING = "serving"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    TIMEOUT = "timeout"
    STOPPED = "stopped"
    DELETED = "deleted"
    NOT_APPLIED = "not-applied"


_SUCCESSES = frozenset({Outcome.VERIFIED, Outcome.SERVING})
_BECOMES_LATE = {Outcome.TIMEOUT: _SUCCESSES, Outcome.FAILED: _SUCCESSES | {Outcome.FAILED}}


def may_follow(known: Outcome, new: Outcome, *, late: bool) -> bool:
    """Whether an outcome may take the place of the recorded one: the first stands, but for `late`.

    A release that was too late, or whose pods could not start, may come up after all. A failure may
    also give way to a later one: it came up, and its test inference failed.
    """
    return known is Outcome.OPEN or (late and new in _BECOMES_LATE.get(known, frozenset()))


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something failed, in words for an operator. `code`: E1–E22, a `local` one, or ""."""

    what: str
    why: str = ""
    fix: str = ""
    code: str = ""
    where: str = ""
    """Pod and container, or the local process."""
    exit_code: int | None = None
    evidence: tuple[str, ...] = ()
    """The log lines or events that say so: foreign text, one printable line each."""


@dataclass(frozen=True, slots=True)
class Release:
    """The record of one applied intent. Never edited but for outcome, cause and settled_at."""

    number: int
    service: str
    action: Action
    intent: Intent
    actor: str
    reason: str
    created_at: datetime
    operation: str = ""
    """The plan's nonce: the idempotency key of the operation that made it."""
    workload: int = 0
    """Number of the release that started the pods (or process) of this intent. A change of traffic
    alone starts none, so it keeps the earlier number; otherwise it equals `number`."""
    outcome: Outcome = Outcome.OPEN
    cause: Cause | None = None
    settled_at: datetime | None = None
    late: bool = False
    """True when it succeeded only after it was recorded as too late, or as failed."""
    alias: str = ""
    """The registry's alias that moves to its version once it is verified; "" for none."""
    rollback_on_failure: bool = False
    """True when its failure is to be undone by itself, once; a roll-back's own failure never is."""
    rolled_back_from: int | None = None
    rolled_back_to: int | None = None

    @property
    def verified(self) -> bool:
        """True when the new pods served and a test inference passed on them."""
        return self.outcome is Outcome.VERIFIED

    @property
    def settled(self) -> bool:
        """True when its outcome is known."""
        return self.outcome is not Outcome.OPEN


def never_applied(release: Release, *, there: bool) -> Cause:
    """Why a release is closed whose write nobody saw. `there`: whether its service exists."""
    died = "the process that began it ended before the write"
    return Cause(
        f"Release {release.number} of {release.service} was never applied.",
        why=f"{died[0].upper()}{died[1:]}."
        if there
        else f"There is no {release.service}: {died}, or somebody deleted it since.",
        fix="Deploy it again.",
    )


@dataclass(frozen=True, slots=True)
class Change:
    """One field that a plan changes; "" stands for absent."""

    field: str
    before: str
    after: str


class Verdict(StrEnum):
    """How a check came out."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, how it came out, why, and what to do about it."""

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""
    refusal: type[SlipwayError] | None = None
    """What a plan that fails by it is refused with; None: by what kind of check it is."""


@dataclass(frozen=True, slots=True)
class OwnedField:
    """A field that a plan sets and that another manager of the object owns."""

    field: str
    manager: str

    def __str__(self) -> str:
        return f"{self.field} ({self.manager})"


@dataclass(frozen=True, slots=True)
class Plan:
    """Before, after, and the state that it was made from. Pure: making one writes nothing."""

    action: Action
    service: str
    target: str
    namespace: str
    before: Intent | None
    """What the service is wanted to be now; None when there is no service."""
    after: Intent | None
    """What it is to be; None deletes it."""
    based_on: str | None
    """Version of the object that was looked at; None = there was none, and there must be none."""
    changes: tuple[Change, ...]
    nonce: str
    """Made once per plan: the same plan applied twice is one operation."""
    workload: int | None = None
    """Release whose pods or process serve `after`; None when the plan starts new ones."""
    stable: int | None = None
    """While `after` is a canary: the workload (release number) that keeps the rest."""
    rolled_back_from: int | None = None
    rolled_back_to: int | None = None
    retry: bool = False
    """True when the same intent is to be applied again, because it failed or its process died."""
    alias: str = ""
    """The registry's alias to move once the version is verified; "" leaves all where they are."""
    rollback_on_failure: bool = False
    """True when a failure is to be undone by itself: see planning.with_rollback."""
    supersedes: int | None = None
    """Number of the open release that is given up for this one; None waits for no other."""
    for_others: bool = False
    """True when its manifest is for another tool to apply: who owns the service does not matter."""
    takes: tuple[OwnedField, ...] = ()
    """The fields of others that it takes over by consent. Any other one ends in a conflict."""

    @property
    def nothing_to_do(self) -> bool:
        """True when what is wanted is wanted already."""
        return self.before is not None and self.before == self.after and not self.retry


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a target says of a plan without writing anything."""

    manifest: str
    """The exact text that apply sends or stores (YAML or JSON)."""
    findings: tuple[Finding, ...] = ()
    owned: tuple[OwnedField, ...] = ()
    """What the plan sets of what others own: blocked by a finding, unless `Plan.takes` has it."""


# ── What is ───────────────────────────────────────────────────────────────────────────────────


class Phase(StrEnum):
    """How far a roll-out has come."""

    READY = "ready"
    ROLLING_OUT = "rolling-out"
    FAILED = "failed"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answering:
    """One release that takes traffic now, as read back from the target."""

    version: VersionRef | None
    release: int | None
    """The workload: the number of the release that started these pods or this process."""
    percent: int
    replicas: int = 1
    address: str = ""
    """URL of this side alone; "" where it has none."""


def has_words(side: Answering) -> str:
    """What share of the traffic one release has."""
    return f"{side.version or 'an unknown version'} has {side.percent} % of the traffic"


def after_failure(answering: Sequence[Answering], failed: int | None, what: str = "") -> str:
    """What answers after release `failed` did, as a sentence; "" where `what` says it already.

    Of the failed release itself it is never said that it "still" answers.
    """
    taking = [side for side in answering if side.percent]
    if not taking:
        return "Nothing answers."
    if any(has_words(side) in what for side in taking):
        return ""
    others = [side for side in taking if side.release != failed]
    if not others:
        return f"{has_words(taking[0])}."
    split = len(taking) > 1
    still = ", ".join(f"{s.version}{f' {s.percent} %' if split else ''}" for s in others)
    mine = next((side for side in taking if side.release == failed), None)
    return f"{still} still answers{f'; {has_words(mine)}' if mine else ''}."


class StepState(StrEnum):
    """State of one step of a roll-out."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a roll-out with its times; `detail` is its progress in words."""

    name: str
    state: StepState
    started_at: datetime | None = None
    took_s: float | None = None
    detail: str = ""


TEST_STEP = "verified"
"""Name of the step that is the test inference, on every target."""


def judged(step: Step, state: StepState, at: datetime | None, detail: str = "") -> Step:
    """The step as it ended at `at`; None = it took no time that is known."""
    if step.started_at is None or at is None:
        return replace(step, state=state, detail=detail)
    took = max(0.0, (at - step.started_at).total_seconds())
    return replace(step, state=state, took_s=took, detail=detail)


class TestResult(StrEnum):
    """The four results of a test inference. Only FAIL says anything against the release."""

    __test__ = False

    PASS = "pass"
    FAIL = "fail"
    COULD_NOT_MEASURE = "could-not-measure"
    NOT_RUN = "not-run"


@dataclass(frozen=True, slots=True)
class Drift:
    """One fact in which record, wish and reality disagree."""

    field: str
    recorded: str
    seen: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What one look at a service saw: plain facts of the wanted release, no verdict."""

    service: str
    seen_at: datetime
    exists: bool = True
    wanted_release: int | None = None
    wanted_version: VersionRef | None = None
    caught_up: bool = False
    """The target has acted on the wanted release (not on an earlier one)."""
    desired: int = 0
    updated: int = 0
    """Pods or processes of the wanted release."""
    total: int = 0
    available: int = 0
    model_ready: bool | None = None
    """What the model server of the wanted release says; None = not asked or no answer."""
    traffic_as_wanted: bool = False
    stopped: bool = False
    asleep: bool = False
    failure: Cause | None = None
    """On the wanted release only; what an earlier one left behind never gets here."""
    test: TestResult = TestResult.NOT_RUN
    """The target's own test inference on the wanted release, where it makes one (`local` does)."""
    test_detail: str = ""
    answering: tuple[Answering, ...] = ()
    steps: tuple[Step, ...] = ()
    drift: tuple[Drift, ...] = ()
    message: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is, for the browser and the terminal alike."""

    phase: Phase
    message: str
    outcome: Outcome = Outcome.OPEN
    steps: tuple[Step, ...] = ()
    cause: Cause | None = None
    answering: tuple[Answering, ...] = ()
    release: int | None = None
    written: bool = False
    """The target was seen to carry the release: its write is done."""
    undoes: Cause | None = None
    """While the release is an automatic roll-back, and after: why the one before it failed."""

    @property
    def settled(self) -> bool:
        """True when nothing more is expected to happen."""
        return self.outcome is not Outcome.OPEN


@dataclass(frozen=True, slots=True)
class AliasTie:
    """The registry's alias that last moved with a release of a service, and what serves since."""

    alias: str
    version: VersionRef
    since: datetime | None = None
    """When the release that serves was settled, which moves the alias a moment later."""


@dataclass(frozen=True, slots=True)
class Service:
    """A named thing on a target that answers predictions, as a list shows it."""

    name: str
    target: str
    namespace: str
    mode: Mode
    managed: bool
    """False for services that others made: listed and testable, changed only after `adopt`."""
    object_version: str
    """What a plan is based on: changes whenever the wanted state changes. "" of one that is gone,
    of which only the history is left."""
    intent: Intent | None
    """What it is told to be now: what its release recorded, with what somebody else made of that.
    Plans start from here (`before`) and never go there (`wish`)."""
    release: int | None
    phase: Phase
    message: str = ""
    answering: tuple[Answering, ...] = ()
    stable: int | None = None
    """While a canary runs: the workload (release number) that keeps the rest of the traffic."""
    url: str | None = None
    since: datetime | None = None
    """When the release that answers began to."""
    actor: str = ""
    verified: bool = False
    drift: tuple[Drift, ...] = ()
    owner: str = ""
    """The tool that owns it when it is GitOps (Argo CD, Flux, Helm); "" otherwise."""
    asleep: bool = False
    leaving: bool = False
    """A pod of it is on its way out, and may still answer."""
    recorded: Intent | None = None
    """What its release recorded, without anybody's edits; None when no release is known."""
    tied: AliasTie | None = None
    """Read with the history only (lineage.with_past); None where no alias ever moved with it."""

    @property
    def gone(self) -> bool:
        """True when there is no such service any more, only its history."""
        return not self.object_version

    @property
    def speaks(self) -> Protocol:
        """The protocol of its model server, for who chose none."""
        return self.intent.package.protocol if self.intent else Protocol.V2

    @property
    def wish(self) -> Intent | None:
        """What it should be by record: what a plan goes on from, so that it adopts no edit."""
        return self.recorded or self.intent


@dataclass(frozen=True, slots=True)
class Applied:
    """What the one write gave back."""

    release: int
    object_version: str


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a log or event; `source` is pod/container, or the local process."""

    time: datetime | None
    source: str
    text: str
    warning: bool = False


# ── Predictions ───────────────────────────────────────────────────────────────────────────────


class WayIn(StrEnum):
    """How an endpoint is reached."""

    LOOPBACK = "loopback"
    IN_CLUSTER = "in-cluster"
    INGRESS = "ingress"
    SERVICE_PROXY = "service-proxy"
    PORT_FORWARD = "port-forward"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a service's requests go. Only a target makes one: it is never built from typed text."""

    base_url: str
    """scheme://host:port, with a path for the API server's proxy; no trailing slash."""
    model_name: str
    """What the V2 path calls the model."""
    via: WayIn
    why: str = ""
    """Why this way in was taken, in a sentence."""
    host: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """Sent along; secrets among them are masked wherever they are shown."""
    ca_file: str | None = None
    release: int | None = None
    """Set when the endpoint reaches exactly one release."""
    registered_model: str = ""
    """Whose versions it serves: servers know only the service's name. "" when nobody knows."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One request, encoded: the body is built once, before any clock runs."""

    protocol: Protocol
    path: str
    body: bytes
    content_type: str = "application/json"
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """One request's time by part, seconds; connect is 0 on a kept-alive connection."""

    connect_s: float
    wait_s: float
    read_s: float

    @property
    def total_s(self) -> float:
        """From the first byte that we tried to send to the last that we read."""
        return self.connect_s + self.wait_s + self.read_s


@dataclass(frozen=True, slots=True)
class Output:
    """One output, rows first. Read by position: servers rename outputs."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer."""

    outputs: tuple[Output, ...]
    http_status: int
    timing: Timing
    url: str
    via: WayIn
    protocol: Protocol
    raw: bytes
    """The decoded body, cut at the predictor's limit."""
    cut: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    version: VersionRef | None = None
    release: int | None = None


class LoadMode(StrEnum):
    """How a load test paces itself."""

    STEADY_RATE = "steady-rate"
    BURST = "burst"


@dataclass(frozen=True, slots=True)
class Objective:
    """What a service's users were promised; None = no promise."""

    p99_s: float | None = None
    error_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """One load test as asked for. Bounded always: by duration, by count, and by errors."""

    endpoint: Endpoint
    requests: tuple[InferRequest, ...]
    """Prepared bodies, sent in rotation."""
    mode: LoadMode
    duration_s: float
    rate: float | None = None
    """Requests per second (steady rate)."""
    concurrency: int = 1
    """Connections (burst); the most connections (steady rate)."""
    max_requests: int = 1_000_000
    max_errors: int = 1_000
    all_failing_s: float | None = 5.0
    """Nothing but failures for so long end it, too: at a low rate `max_errors` is far away."""
    warm_up_s: float = 0.0
    timeout_s: float = 10.0
    objective: Objective = Objective()


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed request. Seconds on one monotonic clock, from the start of the run."""

    intended_s: float
    sent_s: float
    done_s: float
    error: str | None = None
    """Kind of failure: refused, reset, timeout, http-4xx, http-5xx, wrong-body, …"""
    release: int | None = None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds; None where the tail holds fewer than 10 samples (or there is no sample at all)."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float | None
    mean: float | None


@dataclass(frozen=True, slots=True)
class Trailing:
    """One percentile over the last `over_s` seconds: no more of them than its tail needs."""

    value_s: float
    over_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """One second of a running load test. The last tick of a run is marked `final`."""

    at_s: float
    ok: int
    errors: Mapping[str, int]
    rate: float
    response: Percentiles
    service: Percentiles
    by_release: Mapping[int, int] = field(default_factory=dict)
    final: bool = False
    warm_up: bool = False
    """Not measured yet: `at_s` is negative, and nothing of it reaches the summary."""
    by_version: Mapping[str, int] = field(default_factory=dict)
    """Answers by the version that the server named, as text; empty when it names none."""
    histogram: tuple[tuple[float, int], ...] = ()
    """Response times of the run so far, as a summary has them. Only the newest tick is kept so."""
    so_far: Percentiles | None = None
    """Response times of the run so far. Only the newest tick is kept so."""
    trailing: Mapping[str, Trailing] = field(default_factory=dict)
    """Response times by percentile (p50, p95, p99), each over as many seconds before this one as
    hold ten samples behind it; one that the run so far is too short for is not in it."""


STOPPED_BY_HAND = "stopped by hand"


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """One finished load test."""

    requests: int
    ok: int
    errors: Mapping[str, int]
    duration_s: float
    rate: float
    target_rate: float | None
    response: Percentiles
    """From the intended send: what a user of a loaded service waits."""
    service: Percentiles
    """From the actual send: what the server took."""
    lateness_p99_s: float | None
    client_limited: bool
    verdict: str
    """In words: whether the objective was met, what failed, and what was the limit."""
    by_release: Mapping[int, int] = field(default_factory=dict)
    objective_met: bool | None = None
    histogram: tuple[tuple[float, int], ...] = ()
    """(upper bound in seconds, count) of response times, ascending, at most 200 bars."""
    by_version: Mapping[str, int] = field(default_factory=dict)
    """Answers by the version that the server named, as text; empty when it names none."""
    response_by_release: Mapping[int, Percentiles] = field(default_factory=dict)
    response_by_version: Mapping[str, Percentiles] = field(default_factory=dict)
    cpu_ratio: float | None = None
    """Share of one core that the load engine used; None for samples timed elsewhere."""
    waited: int = 0
    """Requests that found every connection busy. Their waiting is part of the response time."""
    resent: int = 0
    """Requests sent again because the server had hung up a kept connection before reading them."""
    stopped: str = ""
    """Why it ended before its time, in words; "" when it ran to its end."""
    response_blocks: str = ""
    """Response times by block of time, as `latency` keeps them to compare runs. Not for people."""
    began_at: datetime | None = None
    """When its second 0 was; None for runs of earlier Slipways and for samples timed elsewhere."""
    response_blocks_by_version: Mapping[str, str] = field(default_factory=dict)
    """As `response_blocks`, of the same blocks of time, where several versions answered: at most
    five, as the answers name them (`wine/2`, `2`; `release 7` where they name releases alone).
    Empty where one did, and for runs of earlier Slipways."""

    @property
    def gave_up(self) -> bool:
        """Whether failures ended it before its time."""
        return self.stopped not in {"", STOPPED_BY_HAND}


# ── Audit ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One intended write and how it came out: who, what, when, why."""

    id: int | None
    at: datetime
    actor: str
    action: Action
    target: str
    namespace: str
    service: str
    before: str
    after: str
    """Version references or "" (before and after), as text."""
    reason: str
    nonce: str
    release: int | None = None
    outcome: Outcome = Outcome.OPEN
    detail: str = ""
    settled_at: datetime | None = None
    origin: str = ""
    """browser, terminal, or the address of a CI run."""


# ── Rules ─────────────────────────────────────────────────────────────────────────────────────

# RFC 1035 label, as KServe's webhook checks it (KServe v0.20.0,
# pkg/apis/serving/v1beta1/inference_service_validation.go). fullmatch: Python's $ takes "prod\n".
_SERVICE_NAME = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
MAX_SERVICE_NAME = 52
"""On `local`; a cluster's own limit depends on the namespace and is checked there."""


def service_name_problem(name: str) -> str:
    """Why `name` cannot name a service on any target, as a sentence; "" when it can."""
    if not name:
        return "A service needs a name."
    if len(name) > MAX_SERVICE_NAME:
        return f"The name has {len(name)} characters; {MAX_SERVICE_NAME} are the most."
    if _SERVICE_NAME.fullmatch(name) is None:
        return (
            "A service's name has small letters, digits and hyphens, starts with a letter and ends"
            " with a letter or digit."
        )
    return ""


def may_name_a_service(name: str) -> bool:
    """Whether any service can be called so; those that others made may have longer names."""
    return _SERVICE_NAME.fullmatch(name) is not None


def proposed_service_name(model: str) -> str:
    """A valid service name near `model`: letters and digits kept, the rest as single hyphens."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"model-{slug}".rstrip("-")
    return slug[:MAX_SERVICE_NAME].rstrip("-")


def spec_differences(before: Intent | None, after: Intent | None) -> tuple[Change, ...]:
    """The fields in which two intents differ, as text, in a stable order."""
    return tuple(
        Change(name, left, right)
        for name, left, right in zip(
            _INTENT_FIELDS, _intent_texts(before), _intent_texts(after), strict=True
        )
        if left != right
    )


_INTENT_FIELDS = (
    "version",
    "package",
    "digest",
    "mode",
    "runtime",
    "replicas",
    "resources",
    "service account",
    "timeout",
    "environment",
    "labels",
    "patch",
    "port",
    "canary percent",
    "stopped",
)


def _intent_texts(intent: Intent | None) -> Sequence[str]:
    if intent is None:
        return [""] * len(_INTENT_FIELDS)
    scale = intent.scale
    bounds = (
        "" if scale.min_replicas is None else f"at least {scale.min_replicas}",
        "" if scale.max_replicas is None else f"at most {scale.max_replicas}",
        f"by {scale.metric}" if scale.metric else "",
        "" if scale.value is None else f"target {scale.value}",
    )
    replicas = ", ".join(bound for bound in bounds if bound)
    sizes = (
        f"{intent.resources.cpu} CPU" if intent.resources.cpu else "",
        f"{intent.resources.memory} of memory" if intent.resources.memory else "",
    )
    resources = ", ".join(size for size in sizes if size)
    return [
        _text(intent.version),
        intent.package.uri,
        intent.package.digest[:12],
        intent.mode,
        _text(intent.runtime),
        replicas,
        resources,
        _text(intent.service_account),
        "" if intent.timeout_s is None else f"{intent.timeout_s} s",
        ", ".join(f"{key}={value}" for key, value in intent.env),
        ", ".join(f"{key}={value}" for key, value in intent.labels),
        intent.patch,
        _text(intent.port),
        "" if intent.canary_percent is None else f"{intent.canary_percent} %",
        "yes" if intent.stopped else "",
    ]


def _text(value: object) -> str:
    return "" if value is None else str(value)
