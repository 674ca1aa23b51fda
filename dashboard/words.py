"""Domain → rows and sentences for people: what tables and headlines of the pages say. Pure.

`views` has the documents for programs. A row here is a plain dict with a table's columns; states
are a shape and a word, never a colour alone; times stay times: whoever draws them knows the zone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from services.domain import (
    ANY,
    Action,
    Answering,
    AuditEntry,
    Cause,
    Change,
    Difference,
    Drift,
    Endpoint,
    Finding,
    Intent,
    Mode,
    ModelVersion,
    Outcome,
    Phase,
    Plan,
    RegisteredModel,
    Registration,
    Release,
    Service,
    Signature,
    StepState,
    TensorSpec,
    Verdict,
    VersionRef,
    WayIn,
    after_failure,
)
from services.errors import one_line

if TYPE_CHECKING:
    from services.split import Split

Row = dict[str, Any]

PHASE_WORDS = {
    Phase.READY: "✓ ready",
    Phase.ROLLING_OUT: "◐ rolling out",
    Phase.FAILED: "× failed",
    Phase.STOPPED: "■ stopped",
    Phase.UNKNOWN: "? unknown",
}
OUTCOME_WORDS = {
    Outcome.OPEN: "◐ under way",
    Outcome.VERIFIED: "✓ verified",
    Outcome.SERVING: "○ serving, not verified",
    Outcome.UNCHANGED: "= unchanged",
    Outcome.FAILED: "× failed",
    Outcome.TIMEOUT: "× timed out",
    Outcome.STOPPED: "■ stopped",
    Outcome.DELETED: "■ deleted",
    Outcome.NOT_APPLIED: "× not applied",
}
VERDICT_WORDS = {
    Verdict.PASS: "✓ passed",
    Verdict.WARN: "! warning",
    Verdict.FAIL: "× failed",
    Verdict.SKIP: "– not checked",
}
STEP_WORDS = {
    StepState.PENDING: "○",
    StepState.RUNNING: "◐",
    StepState.DONE: "✓",
    StepState.FAILED: "×",
    StepState.SKIPPED: "–",
}
ACTION_WORDS = {
    Action.DEPLOY: "deploy",
    Action.ROLLBACK: "roll back",
    Action.CANARY: "change canary share",
    Action.PROMOTE: "promote canary",
    Action.ABORT: "abort canary",
    Action.STOP: "stop",
    Action.START: "start",
    Action.DELETE: "delete",
    Action.ADOPT: "adopt",
}
DONE_WORDS = {
    Action.DEPLOY: "deployed",
    Action.ROLLBACK: "rolled back to",
    Action.CANARY: "changed the canary share of",
    Action.PROMOTE: "promoted",
    Action.ABORT: "went back to",
    Action.STOP: "stopped",
    Action.START: "started",
    Action.DELETE: "deleted",
    Action.ADOPT: "adopted",
}


# ── Services ──────────────────────────────────────────────────────────────────────────────────


def phase_words(service: Service) -> str:
    """Shape and word of a service's phase; a ready one says whether it is verified."""
    if service.gone:
        return "× deleted"
    if service.phase is Phase.READY and service.asleep:
        return "☾ asleep"
    if service.phase is Phase.READY:
        return "✓ verified" if service.verified else "○ ready, not verified"
    return PHASE_WORDS[service.phase]


def answers_words(answering: Sequence[Answering]) -> str:
    """Which versions take traffic, as read back: `wine/3`, or `wine/2 90 %, wine/3 10 %`."""
    taking = [side for side in answering if side.percent]
    if len(taking) == 1 and taking[0].percent == 100:
        return version_words(taking[0].version)
    return ", ".join(f"{version_words(side.version)} {side.percent} %" for side in taking)


def way_in_words(way: Endpoint) -> str:
    """How a service is reached from here, for who wants to ask it himself; "" for its own URL."""
    if way.via is WayIn.INGRESS:
        host = f", Host {way.host}" if way.host else ""
        return f"via ingress {way.base_url}{host}"
    return {
        WayIn.SERVICE_PROXY: "via the API server's proxy: no ingress answers from here",
        WayIn.PORT_FORWARD: "via a port-forward: no ingress answers from here",
        WayIn.IN_CLUSTER: f"in this cluster at {way.base_url}",
    }.get(way.via, "")


def sides_words(sides: Sequence[Answering], way: Endpoint) -> str:
    """How one side of a canary is asked alone."""
    addressed = [side for side in sides if side.address]
    if not addressed:
        return "No side has an address of its own: requests go to the service's."
    host = urlsplit(addressed[0].address).netloc
    by = f"through the ingress {way.base_url}" if way.via is WayIn.INGRESS else "at its address"
    missing = "" if len(addressed) == len(sides) else " New pods bring the other side's."
    return f"One side alone is asked {by} with its Host, for example {host}.{missing}"


_PUT_BACK = {
    "package", "runtime", "service account", "timeout", "cpu", "memory", "minimum replicas",
    "maximum replicas",
}  # fmt: skip
"""Drifted fields that a roll-back to the present release writes again, where that sets them."""


def undoing_words(service: Service) -> str:
    """How drift of a service that Slipway made is undone or kept; "" where nothing is offered."""
    drift = [each for each in service.drift if each.field in _PUT_BACK or each.field[:4] == "env "]
    if service.release is None or not service.managed:
        return ""
    if undoable(service):
        return (
            f"To undo it, roll back to release {service.release}: that puts back what is recorded,"
            " taking over the fields that the plan names. To keep it, deploy with these values."
        )
    if drift:
        return "No release sets it: change it where it was set, or deploy with that value."
    if any(each.field.startswith("alias ") for each in service.drift):
        return "Move the alias back, or deploy what it points to."
    return ""


def undoable(service: Service) -> bool:
    """Whether a roll-back to its present release writes again what somebody changed."""
    return any(
        each.recorded and (each.field in _PUT_BACK or each.field.startswith("env "))
        for each in service.drift
    )


def version_words(version: VersionRef | None) -> str:
    """A version's reference, or that nobody knows it."""
    return one_line(version) if version else "unknown version"


def intent_words(intent: Intent) -> str:
    """What is wanted, in a few words: `wine/3`, or `wine/3 with 10 %` of a canary."""
    return f"{version_words(intent.version)}{intent.share_words}"


def wanted_words(service: Service) -> str:
    """What the service is wanted to serve."""
    return intent_words(service.wish) if service.wish else version_words(None)


def wanted_version(service: Service) -> VersionRef | None:
    """The version that the service is wanted to serve."""
    return service.wish.version if service.wish else None


def service_rows(
    services: Iterable[Service], aliases: Mapping[VersionRef, Sequence[str]]
) -> list[Row]:
    """One row per service, by name; what a narrow screen has to show stands first."""
    return [
        {
            "service": service.name,
            "state": [phase_words(service), *(["! drift"] if drifted(service) else [])],
            "answers": answers_words(service.answering) or "nothing",
            "wanted": wanted_words(service),
            "aliases": list(aliases.get(wanted_version(service) or VersionRef("", 0), ())),
            "since": service.since,
            "by": one_line(service.actor, 64),
            "release": service.release,
            "address": service.url or "",
        }
        for service in services
    ]


def share_rows(split: Split) -> list[Row]:
    """One row per version of a measured split."""
    from services.split import share_words

    return [
        {
            "version": version_words(share.version),
            "answered": share.answered,
            "share": share_words(share.ratio),
            "interval": f"{share_words(share.low)} to {share_words(share.high)}",
            "configured": share_words(share.configured_ratio or 0.0),
        }
        for share in split.shares
    ]


def drifted(service: Service) -> bool:
    """Whether record and reality of a service that is there disagree."""
    return bool(service.drift) and not service.gone


def drift_sentence(drift: Drift) -> str:
    """In what record and reality disagree, and whose change it was where that is known."""
    by = f", by {one_line(drift.by)}" if drift.by else ""
    recorded, seen = drift.recorded or "none", drift.seen or "none"
    return f"Drift in {drift.field}: recorded {recorded}, seen {seen}{by}."


def trouble(service: Service) -> str:
    """Why a service wants attention, as a sentence; "" when it does not."""
    if service.gone:
        return one_line(service.message)
    wanted, answers = version_words(wanted_version(service)), answers_words(service.answering)
    if service.phase is Phase.FAILED:
        said = one_line(service.message).rstrip(".")
        still = one_line(after_failure(service.answering, service.release, said))
        what = said if wanted in said else f"{wanted} failed{': ' + said if said else ''}"
        return f"{what}." if still.rstrip(".") in what else f"{what}. {still}"
    if service.drift:
        said = f"{answers} answers." if answers else "Nothing answers."
        return f"{said} {drift_sentence(service.drift[0])}"
    if service.phase is Phase.UNKNOWN:
        return one_line(service.message) or "Its state is not known."
    if service.phase is Phase.READY and not service.answering and not service.asleep:
        return "It is ready, and nothing answers."
    return ""


def overview_sentence(
    target: str, services: Sequence[Service] | None, *, last_seen: str = ""
) -> str:
    """The answer that the Overview's visitor came for; None: the target has not told yet.

    `last_seen`: of when that is, where the target does not answer now.
    """
    if last_seen and services is not None:
        return f"Last seen at {last_seen}: {overview_sentence(target, services)}"
    if services is None:
        return f"What runs on {target} is not known."
    if not services:
        return f"Nothing runs on {target} yet."
    count = f"{counted(len(services), 'service')} on {target}"
    wanting = [service for service in services if trouble(service)]
    rolling = [service for service in services if service.phase is Phase.ROLLING_OUT]
    if wanting:
        need = "1 needs you" if len(wanting) == 1 else f"{len(wanting)} need you"
        return f"{count}, {need}: {_listed(wanting)}."
    if rolling:
        return f"{count}, {len(rolling)} rolling out: {_listed(rolling)}."
    unverified = [s for s in services if s.phase is Phase.READY and not s.verified]
    stopped = [s for s in services if s.phase is Phase.STOPPED]
    if unverified:
        return f"{count}, {len(unverified)} not verified: {_listed(unverified)}."
    if stopped and len(stopped) == len(services):
        return f"{count}, stopped."
    if stopped:
        return f"{count}: {len(services) - len(stopped)} verified, {len(stopped)} stopped."
    return f"{count}, verified and answering." if len(services) == 1 else f"{count}, all verified."


def _listed(services: Sequence[Service], most: int = 3) -> str:
    names = ", ".join(service.name for service in services[:most])
    return names if len(services) <= most else f"{names} and {len(services) - most} more"


def service_sentence(service: Service) -> str:
    """The answer that a service's visitor came for."""
    said = trouble(service)
    if said:
        return said
    wanted, answers = version_words(wanted_version(service)), answers_words(service.answering)
    if service.phase is Phase.STOPPED:
        return f"Stopped. A start brings {wanted} back."
    if service.phase is Phase.ROLLING_OUT:
        return f"{wanted} is rolling out. {_until(service, answers)}"
    if service.asleep:
        return f"{wanted} is asleep: the first request wakes it."
    if service.intent and service.intent.canary_percent is not None:
        return f"A canary is running: {answers}."
    verified = "verified" if service.verified else "not verified"
    return f"{answers} answers, {verified}."


def _until(service: Service, answers: str) -> str:
    """What answers during a roll-out, and how long: only `local` tests before it switches."""
    taking = [side for side in service.answering if side.percent]
    if not taking:
        return "Nothing answers yet."
    if all(side.release == service.release for side in taking):
        return f"{answers} answers already, and is not verified yet."
    if any(side.release == service.release for side in taking):
        return f"{answers} answer."
    if service.intent is not None and service.intent.canary_percent is not None:
        return f"{answers} answers."
    until = "it is verified" if service.mode is Mode.LOCAL else "its pods are ready"
    return f"{answers} answers until {until}."


# ── The registry ──────────────────────────────────────────────────────────────────────────────


def model_rows(
    models: Iterable[RegisteredModel], serving: Mapping[str, Sequence[str]]
) -> list[Row]:
    """One row per registered model; `serving`: model → the services that answer with it."""
    return [
        {
            "model": one_line(model.name, 128),
            "versions": model.version_count,
            "aliases": [one_line(alias, 40) for alias in sorted(model.aliases)],
            "serves on": list(serving.get(model.name, ())),
        }
        for model in models
    ]


def matching_models(
    models: Sequence[RegisteredModel], search: str = "", alias: str = "", tag: str = ""
) -> tuple[RegisteredModel, ...]:
    """The models whose name or description holds `search`, with that alias, with that tag.

    `tag` is a key, or key=value.
    """
    key, _, value = tag.partition("=")
    wanted = search.strip().lower()
    return tuple(
        model
        for model in models
        if (not wanted or wanted in model.name.lower() or wanted in model.description.lower())
        and (not alias or alias in model.aliases)
        and (not tag or (key in model.tags and (not value or model.tags[key] == value)))
    )


def version_rows(
    versions: Iterable[ModelVersion], serving: Mapping[VersionRef, Sequence[str]]
) -> list[Row]:
    """One row per version: metrics are columns of their own, `metric NAME`."""
    rows: list[Row] = []
    for version in versions:
        row: Row = {
            "version": version.ref.number,
            "aliases": [one_line(alias, 40) for alias in version.aliases],
            "serves on": list(serving.get(version.ref, ())),
            "state": registration_words(version),
        }
        row |= {f"metric {one_line(name, 60)}": value for name, value in version.metrics.items()}
        row |= {
            "parameters": pairs_words(version.params),
            "tags": pairs_words(version.tags),
            "created": version.created_at,
            "author": one_line(version.author, 64),
            "source": one_line(version.source),
        }
        rows.append(row)
    return rows


def registration_words(version: ModelVersion) -> str:
    """Shape and word of a version's registration and of what is wrong with it."""
    if version.registration is Registration.PENDING:
        return "◐ pending"
    if version.registration is Registration.FAILED:
        return "× failed"
    return "! see problems" if version.problems else "registered"


def pairs_words(pairs: Mapping[str, object]) -> str:
    """`C=3, penalty=l2`, each part one line."""
    return ", ".join(f"{one_line(key, 60)}={one_line(value, 60)}" for key, value in pairs.items())


def matching_versions(
    versions: Sequence[ModelVersion], alias: str = "", tag: str = ""
) -> tuple[ModelVersion, ...]:
    """The versions with that alias and that tag (a key, or key=value)."""
    key, _, value = tag.partition("=")
    return tuple(
        version
        for version in versions
        if (not alias or alias in version.aliases)
        and (not tag or (key in version.tags and (not value or version.tags[key] == value)))
    )


def serving_by_version(
    by_target: Mapping[str, Sequence[Service]],
) -> dict[VersionRef, list[str]]:
    """Version → `target/service` for every service that one answers on."""
    found: dict[VersionRef, list[str]] = {}
    for target, services in by_target.items():
        for service in services:
            refs = {side.version for side in service.answering if side.version and side.percent}
            for ref in sorted(refs):
                found.setdefault(ref, []).append(f"{target}/{service.name}")
    return found


def aliases_by_version(models: Iterable[RegisteredModel]) -> dict[VersionRef, list[str]]:
    """Version → its aliases."""
    found: dict[VersionRef, list[str]] = {}
    for model in models:
        for alias, number in sorted(model.aliases.items()):
            found.setdefault(VersionRef(model.name, number), []).append(one_line(alias, 40))
    return found


def signature_rows(signature: Signature | None) -> list[Row]:
    """One row per input, parameter and output."""
    if signature is None:
        return []
    rows: list[Row] = []
    for part, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for place, spec in enumerate(specs):
            tensor = isinstance(spec, TensorSpec)
            rows.append(
                {
                    "part": part,
                    "name": one_line(spec.name) or f"(column {place})",
                    "type": one_line(spec.dtype)
                    if isinstance(spec, TensorSpec)
                    else spec.kind.value,
                    "shape": shape_words(spec.shape) if isinstance(spec, TensorSpec) else "",
                    "required": "yes" if tensor or getattr(spec, "required", True) else "no",
                }
            )
    rows.extend(
        {
            "part": "parameter",
            "name": one_line(param.name),
            "type": param.kind.value,
            "shape": shape_words(param.shape) if param.shape else "",
            "required": f"default {one_line(param.default_json, 60)}",
        }
        for param in signature.params
    )
    return rows


def shape_words(shape: Sequence[int]) -> str:
    """`any × 4`."""
    return " × ".join("any" if axis == ANY else str(axis) for axis in shape)


def example_words(example: str) -> str:
    """An example's JSON, indented; as it stands when it is none."""
    try:
        return json.dumps(json.loads(example), indent=1, ensure_ascii=False)
    except ValueError:
        return example


def difference_rows(differences: Iterable[Difference]) -> list[Row]:
    """One row per field in which two versions differ, breaking ones first."""
    return [
        {
            "field": one_line(each.field),
            "left": one_line(each.left) or "–",
            "right": one_line(each.right) or "–",
            "effect": f"× breaks callers: {one_line(each.why)}"
            if each.breaking
            else one_line(each.why),
        }
        for each in sorted(differences, key=lambda each: not each.breaking)
    ]


def requirement_changes(before: Sequence[str], after: Sequence[str]) -> list[Difference]:
    """The requirements that two versions do not share, by distribution."""
    changed: dict[str, list[str]] = {}
    for at, lines in enumerate((set(before) - set(after), set(after) - set(before))):
        for line in sorted(lines):
            changed.setdefault(line.split("==")[0].strip(), ["", ""])[at] = line
    return [
        Difference(f"requirement {name}", left, right)
        for name, (left, right) in sorted(changed.items())
    ]


def size_words(size_bytes: int) -> str:
    """`1.2 MB`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


# ── Plans, releases, audit ────────────────────────────────────────────────────────────────────


def plan_title(plan: Plan) -> str:
    """Verb and object: what a button that confirms the plan says."""
    after = one_line(plan.after.version) if plan.after and plan.after.version else plan.service
    if plan.action is Action.DEPLOY and plan.after and plan.after.canary_percent is not None:
        return f"Deploy {after} to {plan.after.canary_percent} % of {plan.service}"
    if plan.supersedes is not None and plan.after is not None:
        return (
            f"Cancel it, and stop {plan.service}"
            if plan.after.stopped
            else f"Cancel it, back to {after}"
        )
    return {
        Action.DEPLOY: f"Deploy {after}",
        Action.ROLLBACK: f"Roll back to release {plan.rolled_back_to}",
        Action.CANARY: f"Give the canary {plan.after.canary_percent if plan.after else ''} %",
        Action.PROMOTE: f"Promote {after}",
        Action.ABORT: f"Abort the canary, back to {after}",
        Action.STOP: f"Stop {plan.service}",
        Action.START: f"Start {plan.service}",
        Action.DELETE: f"Delete {plan.service}",
        Action.ADOPT: f"Adopt {plan.service}",
    }[plan.action]


def change_rows(changes: Iterable[Change]) -> list[Row]:
    """One row per field that a plan changes."""
    return [
        {
            "field": change.field,
            "now": one_line(change.before) or "–",
            # A share that goes away is all of the traffic.
            "after": one_line(change.after)
            or ("all of it" if change.field == "canary percent" else "–"),
        }
        for change in changes
    ]


def release_rows(releases: Iterable[Release], answering: Sequence[Answering]) -> list[Row]:
    """One row per release, newest first."""
    live = {side.release: side.percent for side in answering}
    newest_of: dict[int, int] = {}
    for release in releases:
        newest_of.setdefault(release.workload, release.number)
    return [
        {
            "release": release.number,
            "version": intent_words(release.intent),
            "action": ACTION_WORDS[release.action],
            "outcome": OUTCOME_WORDS[release.outcome] + (" (late)" if release.late else ""),
            "answers": f"{live[release.workload]} %"
            if release.workload in live and newest_of[release.workload] == release.number
            else "",
            "by": one_line(release.actor, 64),
            "reason": one_line(release.reason),
            "at": release.created_at,
            "took": took_words(release),
        }
        for release in releases
    ]


def took_words(release: Release) -> str:
    """How long the release took to settle."""
    if release.settled_at is None:
        return ""
    return duration_words((release.settled_at - release.created_at).total_seconds())


def duration_words(seconds: float) -> str:
    """`0.2 s`, `14 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def counted(count: int, noun: str) -> str:
    """`1 request`, `2,000 requests`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def latency_words(seconds: float | None) -> str:
    """`0.43 ms`, `13.6 ms`, `5.8 s`: what matters of a time, with its unit; "" for none."""
    if seconds is None:
        return ""
    return f"{seconds * 1000:.3g} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def milliseconds(seconds: float | None) -> float | None:
    """For tables and charts, to the microsecond: finer than any pixel, and half the bytes."""
    return None if seconds is None else round(seconds * 1000, 3)


def ago_words(seconds: float) -> str:
    """`just now`, `40 s ago`, `3 min ago`, `5 h ago`, `2 days ago`."""
    if seconds < 5:
        return "just now"
    if seconds < 90:
        return f"{seconds:.0f} s ago"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min ago"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.0f} h ago"
    return f"{seconds / 86400:.0f} days ago"


def audit_rows(entries: Iterable[AuditEntry]) -> list[Row]:
    """One row per audit entry."""
    return [
        {
            "at": entry.at,
            "by": one_line(entry.actor, 64),
            "action": ACTION_WORDS[entry.action],
            "service": one_line(entry.service),
            "target": one_line(entry.target),
            "from": one_line(entry.before) or "–",
            "to": one_line(entry.after) or "–",
            "outcome": OUTCOME_WORDS[entry.outcome],
            "reason": one_line(entry.reason),
            "detail": one_line(entry.detail),
            "release": entry.release,
            "origin": one_line(entry.origin),
        }
        for entry in entries
    ]


def audit_sentence(entry: AuditEntry) -> str:
    """`ana deployed wine/3 as wine on local`."""
    done = DONE_WORDS[entry.action]
    what = one_line(entry.after or entry.before) if entry.action is not Action.STOP else ""
    whom = entry.service if entry.action in {Action.STOP, Action.START, Action.DELETE} else what
    place = "" if whom == entry.service else f" on {entry.service}"
    return f"{one_line(entry.actor, 64)} {done} {whom}{place}"


def audit_csv(entries: Iterable[AuditEntry]) -> str:
    """The entries as CSV with a header, times in UTC, every cell literal."""
    rows = audit_rows(entries)
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else ["at"])
    writer.writeheader()
    for row in rows:
        writer.writerow({key: cell_words(value) for key, value in row.items()})
    return out.getvalue()


def cell_words(value: object) -> str:
    """A cell of a CSV file. Spreadsheets read a leading = + - @ as a formula: it is quoted away."""
    if value is None:
        return ""
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return f"'{text}" if text[:1] in "=+-@\t\r" and text != "–" and text[:1] else text


_PROTOCOLS = {"v2": "V2", "v1": "V1", "invocations": "/invocations"}


def protocol_words(protocol: str) -> str:
    """How a request is spoken, by the name that the protocol's own documentation uses."""
    return _PROTOCOLS.get(protocol, one_line(protocol, 32))


def request_words(protocol: str, rows: int) -> str:
    """What was sent: `V2, 2 rows`."""
    return f"{protocol_words(protocol)}, {counted(rows, 'row')}"


def no_lines(*, previous: bool) -> str:
    """What an empty log says of its container."""
    if previous:
        return "There is no log of a previous instance: none was restarted, or it wrote nothing."
    return "It wrote nothing."


# ── Checks ────────────────────────────────────────────────────────────────────────────────────


def findings_sentence(findings: Sequence[Finding]) -> str:
    """`7 checks passed, 1 warning`."""
    passed, warned, failed, skipped = (
        sum(finding.verdict is verdict for finding in findings)
        for verdict in (Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.SKIP)
    )
    parts = [
        f"{failed} failed" if failed else "",
        f"{warned} warning{'s' if warned > 1 else ''}" if warned else "",
        f"{passed} passed" if passed else "",
        f"{skipped} not checked" if skipped else "",
    ]
    return ", ".join(filter(None, parts)) or "nothing checked"


def health_sentence(
    findings: Sequence[Finding], checking: Sequence[str] = (), unchecked: Sequence[str] = ()
) -> str:
    """The answer that the Health page's visitor came for.

    `checking`: what did not answer yet; `unchecked`: what could not be checked at all.
    """
    if unchecked:
        return f"Could not be checked: {', '.join(unchecked)}."
    if not findings:
        return "Checking registry, target and store."
    failed = sum(finding.verdict is Verdict.FAIL for finding in findings)
    if failed:
        return f"{failed} of {len(findings)} checks failed."
    if checking:
        return f"Still checking: {', '.join(checking)}. Until now {findings_sentence(findings)}."
    return f"Everything that was checked works: {findings_sentence(findings)}."


def by_gravity(findings: Iterable[Finding]) -> list[Finding]:
    """Failed ones first, then warnings, skipped and passed ones."""
    order = [Verdict.FAIL, Verdict.WARN, Verdict.SKIP, Verdict.PASS]
    return sorted(findings, key=lambda finding: order.index(finding.verdict))


def cause_sentence(cause: Cause) -> str:
    """What failed, as one sentence."""
    return one_line(cause.what).rstrip(".") + "."
