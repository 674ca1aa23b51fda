"""Domain values to display rows: what tables, the command line's JSON and the pages show.

Pure: no I/O, no clock, no Streamlit. The TypedDicts are the JSON of `docs/cli.md`: a field may be
added, but none renamed or removed without a line in the CHANGELOG. Times are ISO 8601 in UTC,
durations seconds (`_s`), ratios 0 to 1, percentages end in `_percent` (or are called `percent`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from services.domain import (
    Answering,
    AuditEntry,
    Cause,
    ColumnSpec,
    Difference,
    Drift,
    FileEntry,
    Finding,
    Intent,
    Json,
    LoadSummary,
    LogLine,
    ModelVersion,
    Objective,
    Output,
    Package,
    ParamSpec,
    Percentiles,
    Plan,
    Prediction,
    RegisteredModel,
    Release,
    Service,
    Signature,
    Step,
    TensorSpec,
    Tick,
    Verdict,
    VersionDetails,
    VersionRef,
)
from services.errors import SignatureMismatch, SlipwayError, one_line

if TYPE_CHECKING:
    from services import difference
    from services.gke import GkeCluster
    from services.kubeconfig import Context
    from services.settings import TargetSettings
    from services.split import Split

# ── Rows ──────────────────────────────────────────────────────────────────────────────────────


class ErrorRow(TypedDict):
    """An error in its parts; `problems` where it has several reasons."""

    kind: str
    what: str
    why: str
    fix: str
    problems: NotRequired[list[dict[str, str | int | None]]]


class ServingRow(TypedDict):
    """One service that serves a version."""

    target: str
    service: str
    version: int


class ModelRow(TypedDict):
    """One registered model in a list."""

    name: str
    description: str
    versions: int | None
    latest_version: int | None
    aliases: dict[str, int]
    tags: dict[str, str]
    updated_at: str | None
    serving: list[ServingRow]


class VersionRow(TypedDict):
    """One version in a list."""

    version: int
    aliases: list[str]
    created_at: str | None
    run_id: str | None
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]
    source: str
    registration: str
    problems: list[str]
    serving: list[ServingRow]


class FieldRow(TypedDict):
    """One input, output or parameter of a signature. `shape` is null for a scalar column."""

    name: str
    type: str
    shape: list[int] | None
    required: NotRequired[bool]
    default: NotRequired[Json]


class SignatureDocument(TypedDict):
    """A signature."""

    inputs: list[FieldRow]
    outputs: list[FieldRow]
    params: list[FieldRow]


class FileRow(TypedDict):
    """One file of a version."""

    path: str
    bytes: int


class VersionDocument(TypedDict):
    """One version with what its files say."""

    model: str
    version: int
    aliases: list[str]
    signature: SignatureDocument | None
    input_example: Json
    requirements: list[str]
    metrics: dict[str, float]
    params: dict[str, str]
    serving: list[ServingRow]
    tags: dict[str, str]
    description: str
    source: str
    created_at: str | None
    run_id: str | None
    run_url: str | None
    author: str
    python_version: str | None
    mlflow_version: str | None
    flavors: dict[str, dict[str, str]]
    files: list[FileRow]
    problems: list[str]


class DifferenceRow(TypedDict):
    """One difference between two versions."""

    field: str
    left: str
    right: str
    breaking: bool
    why: str


class ClusterRow(TypedDict):
    """One GKE cluster of a project."""

    name: str
    location: str
    status: str
    version: str
    endpoint: str
    """public, private, or dns for one that only a kubeconfig reaches."""
    target: str | None
    """The target that names it."""


class TargetRow(TypedDict):
    """One configured target."""

    name: str
    kind: str
    namespace: str
    mode: str | None
    protected: bool
    default: bool
    reachable: bool
    why: str


class CheckRow(TypedDict):
    """One check; `outcome` is passed, warning, failed or skipped."""

    name: str
    outcome: str
    detail: str
    fix: str


class PackageRow(TypedDict):
    """What a server loads."""

    kind: str
    uri: str
    digest: str


class IntentDocument(TypedDict):
    """What a service should be."""

    model: str | None
    version: int | None
    package: PackageRow
    mode: str
    runtime: str | None
    min_replicas: int | None
    max_replicas: int | None
    cpu: str | None
    memory: str | None
    service_account: str | None
    timeout_s: int | None
    env: dict[str, str]
    labels: dict[str, str]
    patch: str
    port: int | None
    canary_percent: int | None
    stopped: bool


class ChangeRow(TypedDict):
    """One field that a plan changes."""

    field: str
    before: str
    after: str


class PlanDocument(TypedDict):
    """What a plan would do."""

    action: str
    service: str
    target: str
    namespace: str
    before: IntentDocument | None
    after: IntentDocument | None
    diff: list[ChangeRow]
    manifest: str
    preflight: list[CheckRow]
    nothing_to_do: bool


class ShareRow(TypedDict):
    """One version's measured share of the answers, with its 95 % interval."""

    model: str | None
    version: int | None
    answered: int
    ratio: float | None
    low: float
    high: float
    configured_percent: int


class SplitDocument(TypedDict):
    """What `predict --requests` measured."""

    requests: int
    failed: dict[str, int]
    split: list[ShareRow]
    verdict: str


class TrafficRow(TypedDict):
    """One version's share of the traffic, as read back."""

    model: str | None
    version: int | None
    release: int | None
    percent: int
    address: str | None
    """URL of this side alone; null where it has none."""


class StepRow(TypedDict):
    """One step of a roll-out."""

    name: str
    took_s: float | None
    state: str
    detail: str


class CauseDocument(TypedDict):
    """Why something failed."""

    code: str
    what: str
    why: str
    fix: str
    where: str
    exit_code: int | None
    evidence: list[str]


class PreviousRow(TypedDict):
    """What was wanted before an operation."""

    release: int | None
    version: int | None


class UndoneDocument(TypedDict):
    """How an automatic roll-back came out."""

    release: int | None
    outcome: str
    cause: CauseDocument | None


class OperationDocument(TypedDict):
    """How an operation came out."""

    action: str
    service: str
    target: str
    namespace: str
    model: str | None
    version: int | None
    release: int | None
    outcome: str
    url: str | None
    steps: list[StepRow]
    took_s: float
    previous: PreviousRow
    cause: CauseDocument | None
    traffic: list[TrafficRow]
    rolled_back_from: NotRequired[int | None]
    rolled_back_to: NotRequired[int | None]
    undone: NotRequired[UndoneDocument]
    """The roll-back that followed a failure by itself (`--rollback-on-failure`)."""


class DriftRow(TypedDict):
    """One disagreement of record, wish and reality."""

    field: str
    recorded: str
    seen: str
    by: str


class ServiceRow(TypedDict):
    """One service."""

    name: str
    namespace: str
    target: str
    mode: str
    managed: bool
    model: str | None
    version: int | None
    release: int | None
    phase: str
    verified: bool
    traffic: list[TrafficRow]
    url: str | None
    message: str
    drift: list[DriftRow]
    canary_percent: int | None
    since: str | None
    actor: str
    owner: str


class DeletedRow(TypedDict):
    """A service that somebody deleted behind Slipway's back, by its last release."""

    name: str
    release: int | None
    model: str | None
    version: int | None
    message: str


class ReleaseRow(TypedDict):
    """One release."""

    number: int
    action: str
    model: str | None
    version: int | None
    canary_percent: int | None
    actor: str
    reason: str
    created_at: str | None
    settled_at: str | None
    outcome: str
    verified: bool
    late: bool
    live: bool
    rolled_back_from: int | None
    rolled_back_to: int | None
    cause: CauseDocument | None


class EntryRow(TypedDict):
    """One line of a log or of events."""

    time: str | None
    source: str
    text: str
    warning: bool


class OutputRow(TypedDict):
    """One output of a prediction."""

    name: str
    datatype: str
    shape: list[int]
    values: list[Json]


class AnsweredBy(TypedDict):
    """Who answered, by evidence; null where the answer does not say."""

    model: str | None
    version: int | None
    release: int | None


class TimingRow(TypedDict):
    """One request's time by part."""

    connect_s: float
    wait_s: float
    read_s: float


class PredictionDocument(TypedDict):
    """One answer."""

    outputs: list[OutputRow]
    latency_s: float
    timing: TimingRow
    http_status: int
    answered_by: AnsweredBy
    protocol: str
    url: str
    via: str
    cold_start: bool
    cut: bool


class PercentilesRow(TypedDict):
    """Seconds; null where too few samples back the figure."""

    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99_9: float | None
    max: float | None
    mean: float | None


class LoadFigures(TypedDict):
    """What came out of a load test."""

    requests: int
    ok: int
    errors: dict[str, int]
    duration_s: float
    rate: float
    target_rate: float | None
    latency_s: PercentilesRow
    service_time_s: PercentilesRow
    client_limited: bool
    objective_met: bool | None
    verdict: str


class ObjectiveRow(TypedDict):
    """What a service's users were promised; null where nothing was."""

    p99_s: float | None
    error_ratio: float | None


class LoadDocument(LoadFigures):
    """One finished load test, with who answered and its seconds."""

    by_release: dict[str, int]
    by_version: dict[str, int]
    changeovers: list[ChangeoverRow]
    versions_compared: list[VersionComparisonRow]


class ComparisonFigures(TypedDict):
    """How the answers of one differ from another's."""

    p50: TimeDifferenceRow | None
    p99: TimeDifferenceRow | None
    verdict: str
    warnings: list[str]


class VersionComparisonRow(ComparisonFigures):
    """A version that answered in a load test against the one with the most answers."""

    answered_by: str
    against: str


class TimeDifferenceRow(TypedDict):
    """How one percentile differs: `ratio` is 1.2 for 20 percent slower, `low` to `high` 95 %."""

    against_s: float
    answered_s: float
    ratio: float
    low: float
    high: float


class ChangeoverRow(TypedDict):
    """A version that began to answer during a load test; seconds since its measured start."""

    answered_by: str
    from_s: float
    both_until_s: float | None
    beside: list[str]
    alone: bool
    from_at: str | None


class AskedRow(TypedDict):
    """What was asked of a stored load test; None where it was not kept or does not apply."""

    mode: str | None
    rate: float | None
    concurrency: int | None
    duration_s: float | None
    max_requests: int | None
    warm_up_s: float | None
    release: int | None
    protocol: str | None
    rows: int | None
    bodies: int | None
    via: str | None


class RunRow(LoadFigures):
    """A stored load test for JSON: whose it is, what was asked, what came out."""

    run: int | None
    label: str
    actor: str
    created_at: str | None
    target: str
    namespace: str
    service: str
    release: int | None
    version: str
    answered_by: dict[str, int]
    asked: AskedRow
    objective: ObjectiveRow
    cold_start_s: float | None


class RunComparisonRow(ComparisonFigures):
    """A stored load test against an earlier one."""

    run: int | None
    against: int | None


class PackageDocument(TypedDict):
    """A package that was made, or found made."""

    uri: str
    digest: str
    files: int
    bytes: int | None
    reused: bool


class AuditRow(TypedDict):
    """One entry of the audit log."""

    at: str | None
    actor: str
    action: str
    target: str
    namespace: str
    service: str
    before: str
    after: str
    release: int | None
    outcome: str
    reason: str
    detail: str
    origin: str
    settled_at: str | None


# ── Small things ──────────────────────────────────────────────────────────────────────────────


def time_text(at: datetime | None) -> str | None:
    """ISO 8601 in UTC with milliseconds: 2026-05-04T12:30:15.250Z."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age_text(at: datetime | None, now: datetime) -> str:
    """How long ago, roughly: "12 s", "5 min", "3 h", "9 d"; "" when unknown."""
    if at is None:
        return ""
    seconds = max((now - at).total_seconds(), 0.0)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def seconds_text(seconds: float | None) -> str:
    """A duration for people: "850 µs", "12.3 ms", "4.2 s", "1 min 40 s"; "–" when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def step_text(took_s: float | None) -> str:
    """How long a step took, for people; "" when unknown.

    A cluster stamps whole seconds: two stamps alike say "within a second", not "in no time".
    """
    return "" if took_s is None else seconds_text(took_s) if took_s else "< 1 s"


def size_text(size_bytes: int | None) -> str:
    """A size for people: "312 B", "4.2 kB", "1.3 MB"; "–" when unknown."""
    if size_bytes is None:
        return "–"
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def plain(value: Json) -> Json:
    """A value that JSON can say: NaN and infinities become null, tuples lists, keys text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, datetime):
        return time_text(value)
    return value


def error_document(error: SlipwayError) -> dict[str, ErrorRow]:
    """The JSON of an error."""
    return {"error": error_row(error)}


def error_row(error: SlipwayError) -> ErrorRow:
    """An error in its parts."""
    row: ErrorRow = {
        "kind": error.kind,
        "what": error.what,
        "why": error.why,
        "fix": error.fix,
    }
    if isinstance(error, SignatureMismatch) and error.problems:
        row["problems"] = [dict(problem) for problem in error.problems]
    return row


# ── Registry ──────────────────────────────────────────────────────────────────────────────────


def serving_rows(services: Iterable[Service]) -> list[tuple[VersionRef, ServingRow]]:
    """Every version that takes traffic now, with where."""
    return [
        (
            side.version,
            {
                "target": service.target,
                "service": service.name,
                "version": side.version.number,
            },
        )
        for service in services
        for side in service.answering
        if side.version is not None and side.percent > 0
    ]


def _serving(ref: VersionRef, serving: Sequence[tuple[VersionRef, ServingRow]]) -> list[ServingRow]:
    return [row for version, row in serving if version == ref]


def model_row(
    model: RegisteredModel, serving: Sequence[tuple[VersionRef, ServingRow]] = ()
) -> ModelRow:
    """A registered model and where its versions serve."""
    return {
        "name": model.name,
        "description": model.description,
        "versions": model.version_count,
        "latest_version": model.latest_number,
        "aliases": dict(sorted(model.aliases.items())),
        "tags": dict(model.tags),
        "updated_at": time_text(model.updated_at),
        "serving": [row for version, row in serving if version.model == model.name],
    }


def version_row(
    version: ModelVersion, serving: Sequence[tuple[VersionRef, ServingRow]] = ()
) -> VersionRow:
    """A version as lists show it."""
    return {
        "version": version.ref.number,
        "aliases": list(version.aliases),
        "created_at": time_text(version.created_at),
        "run_id": version.run_id,
        "metrics": dict(version.metrics),
        "params": dict(version.params),
        "tags": dict(version.tags),
        "source": version.source,
        "registration": version.registration.value,
        "problems": list(version.problems),
        "serving": _serving(version.ref, serving),
    }


def version_document(
    version: ModelVersion,
    details: VersionDetails,
    serving: Sequence[tuple[VersionRef, ServingRow]] = (),
) -> VersionDocument:
    """A version with what its files say."""
    return {
        "model": version.ref.model,
        "version": version.ref.number,
        "aliases": list(version.aliases),
        "signature": signature_document(details.signature),
        "input_example": json_or_text(details.example),
        "requirements": list(details.requirements),
        "metrics": dict(version.metrics),
        "params": dict(version.params),
        "serving": _serving(version.ref, serving),
        "tags": dict(version.tags),
        "description": version.description,
        "source": version.source,
        "created_at": time_text(version.created_at),
        "run_id": version.run_id,
        "run_url": version.run_url,
        "author": version.author,
        "python_version": details.python_version,
        "mlflow_version": details.mlflow_version,
        "flavors": {name: dict(found) for name, found in details.flavors.items()},
        "files": [file_row(file) for file in details.files],
        "problems": [*version.problems, *details.problems],
    }


def json_or_text(text: str | None) -> Json:
    """The value of a JSON text; the text itself when it is no JSON."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def file_row(file: FileEntry) -> FileRow:
    """One file of a version."""
    return {"path": file.path, "bytes": file.size_bytes}


def signature_document(signature: Signature | None) -> SignatureDocument | None:
    """A signature's fields; None when there is none."""
    if signature is None:
        return None
    return {
        "inputs": [field_row(spec) for spec in signature.inputs],
        "outputs": [field_row(spec) for spec in signature.outputs],
        "params": [param_row(spec) for spec in signature.params],
    }


def field_row(spec: ColumnSpec | TensorSpec) -> FieldRow:
    """One input or output."""
    if isinstance(spec, TensorSpec):
        return {"name": spec.name, "type": spec.dtype, "shape": list(spec.shape)}
    return {
        "name": spec.name,
        "type": column_type_text(spec),
        "shape": None,
        "required": spec.required,
    }


def column_type_text(spec: ColumnSpec) -> str:
    """A column's type in MLflow's words; nested types as their JSON."""
    return f"{spec.kind.value} {spec.spec_json}".strip() if spec.spec_json else spec.kind.value


def param_row(spec: ParamSpec) -> FieldRow:
    """One inference parameter."""
    return {
        "name": spec.name,
        "type": spec.kind.value,
        "shape": None if spec.shape is None else list(spec.shape),
        "default": json_or_text(spec.default_json),
    }


def difference_row(difference: Difference) -> DifferenceRow:
    """One difference between two versions."""
    return {
        "field": difference.field,
        "left": difference.left,
        "right": difference.right,
        "breaking": difference.breaking,
        "why": difference.why,
    }


# ── Targets and checks ────────────────────────────────────────────────────────────────────────

OUTCOME_WORDS = {
    Verdict.PASS: "passed",
    Verdict.WARN: "warning",
    Verdict.FAIL: "failed",
    Verdict.SKIP: "skipped",
}


def check_row(finding: Finding) -> CheckRow:
    """One check."""
    return {
        "name": finding.name,
        "outcome": OUTCOME_WORDS[finding.verdict],
        "detail": finding.detail,
        "fix": finding.fix,
    }


# ── Plans and operations ──────────────────────────────────────────────────────────────────────


def intent_document(intent: Intent | None) -> IntentDocument | None:
    """An intent without what only the test inference needs; None when there is none."""
    if intent is None:
        return None
    return {
        "model": model_of(intent.version),
        "version": number_of(intent.version),
        "package": package_row(intent.package),
        "mode": intent.mode.value,
        "runtime": intent.runtime,
        "min_replicas": intent.scale.min_replicas,
        "max_replicas": intent.scale.max_replicas,
        "cpu": intent.resources.cpu,
        "memory": intent.resources.memory,
        "service_account": intent.service_account,
        "timeout_s": intent.timeout_s,
        "env": dict(intent.env),
        "labels": dict(intent.labels),
        "patch": intent.patch,
        "port": intent.port,
        "canary_percent": intent.canary_percent,
        "stopped": intent.stopped,
    }


def model_of(version: VersionRef | None) -> str | None:
    """The registered model's name, or None."""
    return None if version is None else version.model


def number_of(version: VersionRef | None) -> int | None:
    """The version's number, or None."""
    return None if version is None else version.number


def package_row(package: Package) -> PackageRow:
    """What a server loads."""
    return {"kind": package.kind.value, "uri": package.uri, "digest": package.digest}


def package_document(package: Package, *, files: int, reused: bool) -> PackageDocument:
    """A package that was made, or found made."""
    return {
        "uri": package.uri,
        "digest": package.digest,
        "files": files,
        "bytes": package.size_bytes,
        "reused": reused,
    }


def plan_document(plan: Plan, findings: Iterable[Finding], manifest: str) -> PlanDocument:
    """What a plan would do, with what was found about it."""
    return {
        "action": plan.action.value,
        "service": plan.service,
        "target": plan.target,
        "namespace": plan.namespace,
        "before": intent_document(plan.before),
        "after": intent_document(plan.after),
        "diff": change_rows(plan),
        "manifest": manifest,
        "preflight": [check_row(finding) for finding in findings],
        "nothing_to_do": plan.nothing_to_do,
    }


def change_rows(plan: Plan) -> list[ChangeRow]:
    """The fields that a plan changes."""
    return [
        {"field": change.field, "before": change.before, "after": change.after}
        for change in plan.changes
    ]


def step_row(step: Step) -> StepRow:
    """One step of a roll-out."""
    return {
        "name": step.name,
        "took_s": None if step.took_s is None else round(step.took_s, 3),
        "state": step.state.value,
        "detail": step.detail,
    }


def cause_document(cause: Cause | None) -> CauseDocument | None:
    """Why something failed; None when nothing did."""
    if cause is None:
        return None
    return {
        "code": cause.code,
        "what": cause.what,
        "why": cause.why,
        "fix": cause.fix,
        "where": cause.where,
        "exit_code": cause.exit_code,
        "evidence": list(cause.evidence),
    }


def where_text(where: str, exit_code: int | None) -> str:
    """Pod and container, or the process, and the code that it ended with, as far as known.

    Code 0 is told, too: a model server that ends has failed, whatever it says.
    """
    ended = "" if exit_code is None else f"exit code {exit_code}"
    return ", ".join(part for part in (one_line(where), ended) if part)


def traffic_rows(answering: Iterable[Answering]) -> list[TrafficRow]:
    """Who takes which share, as read back."""
    return [
        {
            "model": model_of(side.version),
            "version": number_of(side.version),
            "release": side.release,
            "percent": side.percent,
            "address": side.address or None,
        }
        for side in answering
    ]


def split_document(split: Split) -> SplitDocument:
    """A measured split; a share that nothing was seen of has no ratio."""
    return {
        "requests": split.requests,
        "failed": dict(split.failed),
        "split": [
            {
                "model": model_of(share.version),
                "version": number_of(share.version),
                "answered": share.answered,
                "ratio": None if math.isnan(share.ratio) else share.ratio,
                "low": share.low,
                "high": share.high,
                "configured_percent": round((share.configured_ratio or 0.0) * 100),
            }
            for share in split.shares
        ],
        "verdict": split.verdict,
    }


def target_lines(context: Context) -> str:
    """The lines of slipway.toml that name a context of the kubeconfig as a target."""
    return _target_table(
        context.name, kind="kubernetes", context=context.name, namespace=context.namespace
    )


def gke_target_lines(cluster: GkeCluster) -> str:
    """The lines of slipway.toml that name a cluster of GKE as a target."""
    if not cluster.endpoint:
        context = f"gke_{cluster.project}_{cluster.location}_{cluster.name}"
        lines = _target_table(cluster.name, kind="kubernetes", context=context, namespace="default")
        return f"# it has a DNS name only, so first: {cluster.get_credentials}\n{lines}"
    return _target_table(
        cluster.name,
        kind="gke",
        project=cluster.project,
        location=cluster.location,
        cluster=cluster.name,
        namespace="default",
    )


def _target_table(name: str, **settings: str) -> str:
    key = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "cluster"
    return "\n".join(
        [
            f"[targets.{key}]",
            # A JSON string is a TOML basic string.
            *(f"{setting} = {json.dumps(value)}" for setting, value in settings.items()),
            '# bucket = "gs://BUCKET/ROOT"  where versions are published',
        ]
    )


def cluster_row(cluster: GkeCluster, targets: Mapping[str, TargetSettings]) -> ClusterRow:
    """A GKE cluster, and the target that names it."""
    here = (cluster.project, cluster.location, cluster.name)
    named = (n for n, t in targets.items() if (t.project, t.location, t.cluster) == here)
    reached = "private" if cluster.private else "public"
    return {
        "name": cluster.name,
        "location": cluster.location,
        "status": cluster.status,
        "version": cluster.version,
        "endpoint": reached if cluster.endpoint else "dns",
        "target": next(named, None),
    }


# ── Services ──────────────────────────────────────────────────────────────────────────────────


def service_row(service: Service) -> ServiceRow:
    """A service: what is wanted, what answers, how far."""
    wanted = service.wish.version if service.wish else None
    return {
        "name": service.name,
        "namespace": service.namespace,
        "target": service.target,
        "mode": service.mode.value,
        "managed": service.managed,
        "model": model_of(wanted),
        "version": number_of(wanted),
        "release": service.release,
        "phase": service.phase.value,
        "verified": service.verified,
        "traffic": traffic_rows(service.answering),
        "url": service.url,
        "message": service.message,
        "drift": [drift_row(drift) for drift in service.drift],
        "canary_percent": service.intent.canary_percent if service.intent else None,
        "since": time_text(service.since),
        "actor": service.actor,
        "owner": service.owner,
    }


def deleted_row(service: Service) -> DeletedRow:
    """A service that somebody deleted behind Slipway's back."""
    wanted = service.wish.version if service.wish else None
    return {
        "name": service.name,
        "release": service.release,
        "model": model_of(wanted),
        "version": number_of(wanted),
        "message": service.message,
    }


def drift_row(drift: Drift) -> DriftRow:
    """One disagreement of record, wish and reality."""
    return {
        "field": drift.field,
        "recorded": drift.recorded,
        "seen": drift.seen,
        "by": drift.by,
    }


def release_rows(history: Sequence[Release], service: Service | None) -> list[ReleaseRow]:
    """A service's releases, newest first, with those that take traffic now marked."""
    waiting = {
        side.release
        for side in (service.answering if service else ())
        if side.percent > 0 and side.release is not None
    }
    rows: list[ReleaseRow] = []
    for release in history:
        # Releases that only moved traffic share a workload: the newest of them is the live one.
        live = release.workload in waiting and release.settled
        waiting -= {release.workload} if live else set()
        rows.append(release_row(release, live=live))
    return rows


def release_row(release: Release, *, live: bool) -> ReleaseRow:
    """One release."""
    return {
        "number": release.number,
        "action": release.action.value,
        "model": model_of(release.intent.version),
        "version": number_of(release.intent.version),
        "canary_percent": release.intent.canary_percent,
        "actor": release.actor,
        "reason": release.reason,
        "created_at": time_text(release.created_at),
        "settled_at": time_text(release.settled_at),
        "outcome": release.outcome.value,
        "verified": release.verified,
        "late": release.late,
        "live": live,
        "rolled_back_from": release.rolled_back_from,
        "rolled_back_to": release.rolled_back_to,
        "cause": cause_document(release.cause),
    }


def entry_row(line: LogLine) -> EntryRow:
    """One line of a log or of events, without control characters."""
    return {
        "time": time_text(line.time),
        "source": one_line(line.source),
        "text": one_line(line.text, 4_096),
        "warning": line.warning,
    }


def audit_row(entry: AuditEntry) -> AuditRow:
    """One entry of the audit log."""
    return {
        "at": time_text(entry.at),
        "actor": entry.actor,
        "action": entry.action.value,
        "target": entry.target,
        "namespace": entry.namespace,
        "service": entry.service,
        "before": entry.before,
        "after": entry.after,
        "release": entry.release,
        "outcome": entry.outcome.value,
        "reason": entry.reason,
        "detail": entry.detail,
        "origin": entry.origin,
        "settled_at": time_text(entry.settled_at),
    }


# ── Predictions ───────────────────────────────────────────────────────────────────────────────


def prediction_document(prediction: Prediction, *, cold: bool = False) -> PredictionDocument:
    """One answer, who gave it and how long it took; `cold` when the service was asleep."""
    timing = prediction.timing
    return {
        "outputs": [output_row(output) for output in prediction.outputs],
        "latency_s": timing.total_s,
        "timing": {
            "connect_s": timing.connect_s,
            "wait_s": timing.wait_s,
            "read_s": timing.read_s,
        },
        "http_status": prediction.http_status,
        "answered_by": {
            "model": model_of(prediction.version),
            "version": number_of(prediction.version),
            "release": prediction.release,
        },
        "protocol": prediction.protocol.value,
        "url": prediction.url,
        "via": prediction.via.value,
        "cold_start": cold,
        "cut": prediction.cut,
    }


def output_row(output: Output) -> OutputRow:
    """One output."""
    return {
        "name": output.name,
        "datatype": output.datatype,
        "shape": list(output.shape),
        "values": list(output.values),
    }


def load_figures(summary: LoadSummary) -> LoadFigures:
    """What came out of a load test, without who answered."""
    return {
        "requests": summary.requests,
        "ok": summary.ok,
        "errors": dict(summary.errors),
        "duration_s": summary.duration_s,
        "rate": summary.rate,
        "target_rate": summary.target_rate,
        "latency_s": percentiles_row(summary.response),
        "service_time_s": percentiles_row(summary.service),
        "client_limited": summary.client_limited,
        "objective_met": summary.objective_met,
        "verdict": summary.verdict,
    }


def objective_row(objective: Objective) -> ObjectiveRow:
    """What a service's users were promised."""
    return {"p99_s": objective.p99_s, "error_ratio": objective.error_ratio}


def load_document(
    summary: LoadSummary,
    ticks: Sequence[Tick] = (),
    compared: Sequence[difference.VersionComparison] = (),
) -> LoadDocument:
    """One finished load test, with its seconds and its versions against each other."""
    from services import changeover

    began_at = summary.began_at
    return {
        **load_figures(summary),
        "by_release": {str(release): count for release, count in summary.by_release.items()},
        "by_version": dict(summary.by_version),
        "changeovers": [
            {
                "answered_by": found.who,
                "from_s": round(found.from_s, 3),
                "both_until_s": None
                if found.both_until_s is None
                else round(found.both_until_s, 3),
                "beside": list(found.beside),
                "alone": found.alone,
                "from_at": time_text(began_at and began_at + timedelta(seconds=found.from_s)),
            }
            for found in changeover.changeovers(ticks)
        ],
        "versions_compared": [
            {
                "answered_by": one.after,
                "against": one.before,
                **comparison_figures(one.found),
            }
            for one in compared
        ],
    }


def comparison_figures(found: difference.Comparison) -> ComparisonFigures:
    """How the answers of one differ from another's."""
    return {
        "p50": _time_difference_row(found.p50),
        "p99": _time_difference_row(found.p99),
        "verdict": found.verdict,
        "warnings": list(found.warnings),
    }


def _time_difference_row(found: difference.Difference | None) -> TimeDifferenceRow | None:
    if found is None:
        return None
    return {
        "against_s": found.before_s,
        "answered_s": found.after_s,
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
    }


def percentiles_row(found: Percentiles) -> PercentilesRow:
    """Percentiles in seconds."""
    return {
        "p50": found.p50,
        "p90": found.p90,
        "p95": found.p95,
        "p99": found.p99,
        "p99_9": found.p99_9,
        "max": found.max,
        "mean": found.mean,
    }


def document_text(document: Any) -> str:  # noqa: ANN401 — any of the rows above
    """A document as JSON text: ASCII only, so that no terminal or log can misread it."""
    return json.dumps(plain(document), indent=2, allow_nan=False)
