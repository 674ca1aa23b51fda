"""Plan, apply, settle, follow: the product's heart, the same for every target and both front doors.

* **plan** functions are pure: facts in, Plan out, nothing written; NotDeployable says which rule.
* **apply** does the writes of one plan, in this order: audit intent, package, release, the one
  write to the target. Each is idempotent under the plan's nonce.
* **settle** looks once, runs the test inference when one is due, and records what it found. It
  never depends on who began the operation, so a killed process leaves nothing half done.
* **follow** settles until there is nothing more to wait for.

Knows only the ports; no adapter, no clock of its own (`now` and `sleep` are arguments).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from services import checks
from services.domain import (
    TEST_STEP,
    Action,
    AliasRef,
    AliasTie,
    Answering,
    AuditEntry,
    Cause,
    Drift,
    Finding,
    Intent,
    Mode,
    ModelVersion,
    Observed,
    Outcome,
    OwnedField,
    Package,
    PackageKind,
    Phase,
    Plan,
    Prediction,
    Progress,
    RegisteredModel,
    Registration,
    Release,
    Resources,
    Scale,
    Service,
    StepState,
    TestResult,
    Verdict,
    VersionDetails,
    WayIn,
    after_failure,
    has_words,
    judged,
    never_applied,
    parse_ref,
    service_name_problem,
    spec_differences,
)
from services.errors import (
    ConfigError,
    Conflict,
    Denied,
    InferenceFailed,
    NotDeployable,
    NotFound,
    NothingToRollBackTo,
    NotOffered,
    RolloutFailed,
    RolloutTimeout,
    SlipwayError,
    Unreachable,
    one_line,
)
from services.ports import Ops, Packager, Report, no_report

DEADLINE_S = 600.0
"""Roll-outs that have not settled by then are recorded as `timeout` (KServe's own default)."""

UNAPPLIED_GRACE_S = 30.0
"""An open release that the target does not know after this time was never applied: its process
died between recording it and the write."""

ADDRESS_ASKED = 3
"""Requests that the new release has to answer at the service's address: gateways have replicas."""
ADDRESS_TIMEOUT_S = 10.0
ADDRESS_GRACE_S = 60.0
"""An ingress that has not followed the pods by then is told instead of waited for."""

URL_WITHIN_S = 5.0
"""KServe writes down where a new service is reached a moment after its pods are ready."""

WAKE_TIMEOUT_S = 5.0
"""A request that wakes a service is waited for so long: its pod is there by then, if not ready."""

UNDONE_WITHIN_S = 120.0
"""A failure that nobody undid by then is left as it is: people have looked at it since."""

REFUSED_EVERY_S = 2.0
"""How often a roll-out is looked at that we may not look at."""

ALIAS_MOVES_WITHIN_S = 10.0
"""A release is settled, and then its alias moved, which a slow registry takes a moment for."""

LATE_WATCH_S = 24 * 3600.0
"""For so long a `timeout` may still become a late success, and a failure of `NOT_STARTED_CODES`."""

NOT_STARTED_CODES = frozenset({"E4", "E5", "E6", "E8", "E9", "E10", "E11"})
"""Causes by which no server was started (docs/errors.md). Kubernetes tries on, so a node, an image,
a file or a right that comes later mends them."""

Now = Callable[[], datetime]
T = TypeVar("T")


def utc_now() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator chose beside the version; None leaves it as it is, or to the target."""

    mode: Mode | None = None
    runtime: str | None = None
    scale: Scale | None = None
    resources: Resources | None = None
    service_account: str | None = None
    timeout_s: int | None = None
    env: tuple[tuple[str, str], ...] | None = None
    labels: tuple[tuple[str, str], ...] | None = None
    patch: str | None = None
    port: int | None = None
    canary_percent: int | None = None
    package: PackageKind | None = None
    own_environment: bool | None = None
    """True: the version's libraries in an image of their own; False: those of a runtime."""


# ── Plan ──────────────────────────────────────────────────────────────────────────────────────


def intent_for(
    current: Service | None,
    version: ModelVersion,
    details: VersionDetails,
    package: Package,
    *,
    name: str,
    wish: Wish = Wish(),
) -> Intent:
    """The intent that serves `version`: the wish over what the service has over the defaults.

    NotDeployable for a name that cannot be, a version that is not registered, or a service that
    belongs to another registered model.
    """
    refuse_bad_name(name)
    if version.registration is not Registration.READY:
        said = f": {version.registration_message}" if version.registration_message else ""
        raise NotDeployable(
            f"{version.ref} cannot be deployed. Nothing was changed.",
            why=f"Its registration is {version.registration}{said}.",
            fix="Wait until it is ready, or register the model again.",
        )
    had = current.wish if current else None
    if had and had.version and had.version.model != version.ref.model:
        raise NotDeployable(
            f"{version.ref} cannot be deployed as {name}. Nothing was changed.",
            why=f"{name} serves the registered model {had.version.model}.",
            fix="Choose another service name, or delete that service first.",
        )
    # No mode chosen: LOCAL stands for it, and the target puts its own in (Serving.default_intent).
    kept = had or Intent(name, version.ref, package, wish.mode or Mode.LOCAL)
    return replace(
        kept,
        service=name,
        version=version.ref,
        package=package,
        mode=kept.mode,
        runtime=_chosen(wish.runtime, kept.runtime),
        scale=_chosen(wish.scale, kept.scale),
        resources=_chosen(wish.resources, kept.resources),
        service_account=_chosen(wish.service_account, kept.service_account),
        timeout_s=_chosen(wish.timeout_s, kept.timeout_s),
        env=_chosen(wish.env, kept.env),
        labels=_chosen(wish.labels, kept.labels),
        patch=_chosen(wish.patch, kept.patch),
        port=_chosen(wish.port, kept.port),
        canary_percent=wish.canary_percent,
        stopped=False,
        signature=details.signature,
        example=details.example,
        requirements=details.requirements,
        python_version=details.python_version,
    )


def refuse_bad_name(name: str) -> None:
    """NotDeployable for a name that no service can have: before anything of that name is read."""
    problem = service_name_problem(name)
    if problem:
        raise NotDeployable(
            f"{name!r} cannot name a service. Nothing was changed.",
            why=problem,
            fix="Choose another name, for example the model's in small letters and hyphens.",
        )


def _chosen(wished: T | None, kept: T) -> T:
    return kept if wished is None else wished


def plan_deploy(current: Service | None, intent: Intent, *, target: str, namespace: str) -> Plan:
    """Make `intent` live: all of the traffic, or `intent.canary_percent` of it. Changes nothing."""
    _must_be_ours(current)
    _no_canary_open(current, intent)
    if intent.canary_percent is not None:
        _percent_in_range(intent.canary_percent)
        if current is None or not current.answering:
            raise NotDeployable(
                f"{intent.service} cannot start with a canary. Nothing was changed.",
                why="A canary takes a share of the traffic from a version that answers; none does.",
                fix="Deploy without --canary-percent first.",
            )
    failed = current is not None and current.phase is Phase.FAILED
    stable = None
    if intent.canary_percent is not None and current is not None:
        stable = _answering_workload(current)
    plan = _plan(Action.DEPLOY, current, intent, stable=stable, retry=failed)
    return replace(plan, target=target, namespace=namespace)


def plan_render(current: Service | None, intent: Intent, *, target: str, namespace: str) -> Plan:
    """Make `intent` live by another tool (Argo CD, Flux, kubectl), which may own the service."""
    if intent.canary_percent is not None:
        _percent_in_range(intent.canary_percent)
    plan = _plan(Action.DEPLOY, current, intent)
    return replace(plan, target=target, namespace=namespace, for_others=True)


def plan_rollback(current: Service, history: Sequence[Release], to: int | None = None) -> Plan:
    """Return to release `to`, or to the newest verified one that is not wanted now.

    The plan carries that release's whole intent, so it needs no registry. NothingToRollBackTo,
    NotFound for an unknown number.
    """
    _must_be_ours(current)
    candidates = _returnable(history)
    if to is not None:
        chosen = next((release for release in candidates if release.number == to), None)
        if chosen is None:
            raise NotFound(
                f"{current.name} has no release {to} to return to.",
                why=f"There are: {', '.join(str(r.number) for r in candidates[:20]) or 'none'}.",
                fix=f"Look at `slipway history {current.name}`.",
            )
    else:
        chosen = _proven_other(current.intent, history)
        if chosen is None:
            earlier = max(len(candidates) - 1, 0)
            raise NothingToRollBackTo(
                f"{current.name} has no verified release to return to. Nothing was changed.",
                why=f"Of its {earlier} earlier releases none passed a test inference"
                " and differs from what is wanted now.",
                fix=f"Choose one by number (`slipway rollback {current.name} --to N`),"
                " or deploy another version.",
            )
    port = current.intent.port if current.intent else chosen.intent.port
    after = replace(chosen.intent, canary_percent=None, stopped=False, port=port)
    running = any(side.release == chosen.workload for side in current.answering)
    plan = _plan(
        Action.ROLLBACK,
        current,
        after,
        workload=chosen.workload if running else None,
        retry=current.phase is Phase.FAILED or bool(current.drift),
    )
    return replace(plan, rolled_back_from=current.release, rolled_back_to=chosen.number)


def _returnable(history: Sequence[Release]) -> list[Release]:
    return [r for r in history if not r.intent.stopped and r.action is not Action.DELETE]


def _proven_other(wanted: Intent | None, history: Sequence[Release]) -> Release | None:
    """What a roll-back returns to by itself: the newest verified release that is not wanted now."""
    essence = _essence(wanted)
    found = (r for r in _returnable(history) if r.verified and _essence(r.intent) != essence)
    return next(found, None)


def plan_canary(current: Service, history: Sequence[Release], percent: int) -> Plan:
    """Give the running canary another share. NotDeployable when there is none."""
    _must_be_ours(current)
    intent = _canary_of(current)
    _percent_in_range(percent)
    plan = _plan(
        Action.CANARY,
        current,
        replace(intent, canary_percent=percent),
        workload=_workload_of(current, history),
        stable=current.stable,
    )
    return replace(plan, alias=_alias_of(current, history))


def plan_promote(current: Service, history: Sequence[Release]) -> Plan:
    """Give the running canary all of the traffic. NotDeployable when there is none."""
    _must_be_ours(current)
    intent = _canary_of(current)
    if current.phase is not Phase.READY:
        raise NotDeployable(
            f"The canary of {current.name} cannot be promoted. Nothing was changed.",
            why=f"It is not ready: {current.message or current.phase}.",
            fix="Wait until it is verified, or abort it.",
        )
    plan = _plan(
        Action.PROMOTE,
        current,
        replace(intent, canary_percent=None),
        workload=_workload_of(current, history),
    )
    return replace(plan, alias=_alias_of(current, history))


def plan_abort(current: Service, history: Sequence[Release]) -> Plan:
    """Take a canary back, or a roll-out that is under way: what answers gets all of the traffic.

    A first roll-out, beside which nothing answers, is stopped. NotDeployable when there is neither.
    """
    _must_be_ours(current)
    begun = history[0] if history and history[0].outcome is Outcome.OPEN else None
    if begun is not None and begun.action is not Action.DELETE:
        return _plan_withdrawal(current, history, begun)
    _refuse_abort_of_what_ended(current, history)
    _canary_of(current)
    stable = _beside(current.stable, history)
    if stable is None:
        raise NothingToRollBackTo(
            f"{current.name} has no release beside the canary to return to. Nothing was changed.",
            fix=f"Deploy a version, or choose one (`slipway rollback {current.name} --to N`).",
        )
    after = replace(stable.intent, canary_percent=None, stopped=False)
    plan = _plan(Action.ABORT, current, after, workload=stable.workload)
    return replace(plan, rolled_back_from=current.release, rolled_back_to=stable.number)


def _refuse_abort_of_what_ended(current: Service, history: Sequence[Release]) -> None:
    """NotDeployable for a roll-out that failed or was late: whoever aborts it wants to go back."""
    newest = history[0] if history else None
    if newest is None or newest.intent.canary_percent is not None:
        return
    if newest.outcome not in {Outcome.FAILED, Outcome.TIMEOUT}:
        return
    name = current.name
    back = _proven_other(current.intent, history)
    raise NotDeployable(
        f"{name} has no canary and no roll-out under way to abort. Nothing was changed.",
        why=f"Its newest release {newest.number} ({newest.intent.version or 'an unknown version'})"
        f" has ended already, as {newest.outcome}.",
        fix=f"Go back to {back.intent.version}: `slipway rollback {name}`."
        if back
        else f"Deploy another version: `slipway deploy REF --name {name}`.",
    )


def _plan_withdrawal(current: Service, history: Sequence[Release], begun: Release) -> Plan:
    """Give up the open release: back to what answers, else to the newest verified one, else stop.

    What it started may take the traffic already while nobody has recorded it.
    """
    earlier = history[1:]
    proven = (r for r in earlier if r.verified and not r.intent.stopped)
    stable = _beside(_answering_workload(current), earlier) or next(proven, None)
    kept = stable.intent if stable else begun.intent
    after = replace(kept, canary_percent=None, stopped=stable is None, port=begun.intent.port)
    running = stable and any(side.release == stable.workload for side in current.answering)
    workload = stable.workload if stable and running else None
    plan = _plan(Action.ABORT, current, after, workload=workload, retry=True)
    return replace(
        plan,
        supersedes=begun.number,
        rolled_back_from=begun.number,
        rolled_back_to=stable.number if stable else None,
    )


def _beside(workload: int | None, history: Sequence[Release]) -> Release | None:
    """The newest release that gave this workload all of the traffic."""
    return next(
        (r for r in history if r.workload == workload and r.intent.canary_percent is None), None
    )


def plan_stop(current: Service) -> Plan:
    """Keep the service, its address and its history, but no pods or processes."""
    _must_be_ours(current)
    intent = _intent_of(current)
    after = replace(intent, stopped=True, canary_percent=None)
    return _plan(Action.STOP, current, after)


def plan_start(current: Service, history: Sequence[Release]) -> Plan:
    """Start a stopped, killed or failed service again.

    A wanted release that failed is not tried blindly: the newest verified one is started instead,
    where there is one.
    """
    _must_be_ours(current)
    intent = _intent_of(current)
    mine = next((r for r in history if _essence(r.intent) == _essence(intent) and r.settled), None)
    if mine is not None and mine.outcome is Outcome.FAILED:
        proven = next((r for r in history if r.verified and not r.intent.stopped), None)
        intent = proven.intent if proven else intent
    after = replace(intent, stopped=False, canary_percent=None, port=_intent_of(current).port)
    retry = current.phase is not Phase.READY
    return _plan(Action.START, current, after, retry=retry)


def plan_adopt(current: Service) -> Plan:
    """Take a service that others made into the history as it is; nothing on it is written.

    From then on it can be deployed to, and its present state can be returned to.
    """
    if current.owner:
        raise NotDeployable(
            f"{current.name} cannot be adopted. Nothing was changed.",
            why=f"It belongs to {current.owner}.",
        )
    if current.managed:
        recorded = f"Its present state is release {current.release}. " if current.release else ""
        raise NotDeployable(
            f"{current.name} need not be adopted. Nothing was changed.",
            why=f"{recorded}Slipway manages it already.",
            fix=f"Deploy to it; `slipway history {current.name}` shows what it had.",
        )
    # Before and after are equal on purpose: the release is what is new.
    return _plan(Action.ADOPT, current, _intent_of(current), retry=True)


def with_alias(plan: Plan, alias: str) -> Plan:
    """The plan that also moves the registry's `alias` to its version once that is verified.

    A canary's alias moves when it is promoted.
    """
    return replace(plan, alias=alias) if plan.after and plan.after.version else plan


def with_rollback(plan: Plan) -> Plan:
    """The plan that is undone by itself when it fails: once, to the newest verified release.

    Only a failure is undone: neither what could not be measured nor what is merely late. Whoever
    settles the failed release begins the roll-back, so it needs no process that stays.
    """
    return replace(plan, rollback_on_failure=plan.after is not None)


def tied_alias(history: Sequence[Release]) -> str:
    """The alias that last moved with a release of the service; "" when none ever did."""
    return next((release.alias for release in history if release.alias), "")


def plan_delete(current: Service) -> Plan:
    """Remove the service; its history stays."""
    _must_be_ours(current)
    return _plan(Action.DELETE, current, None)


def _plan(
    action: Action,
    current: Service | None,
    after: Intent | None,
    *,
    workload: int | None = None,
    stable: int | None = None,
    retry: bool = False,
) -> Plan:
    before = current.intent if current else None
    name = after.service if after else (current.name if current else "")
    return Plan(
        action=action,
        service=name,
        target=current.target if current else "",
        namespace=current.namespace if current else "",
        before=before,
        after=after,
        based_on=current.object_version or None if current else None,
        changes=spec_differences(before, after),
        nonce=secrets.token_hex(12),
        workload=workload,
        stable=stable,
        retry=retry,
    )


def _must_be_ours(current: Service | None) -> None:
    if current is None:
        return
    if current.owner:
        raise NotDeployable(
            f"{current.name} belongs to {current.owner}. Nothing was changed.",
            why="It would put back whatever Slipway changes.",
            fix=f"Render the manifests for it: `slipway render REF --name {current.name}`.",
        )
    if not current.managed:
        raise NotDeployable(
            f"{current.name} was not made by Slipway. Nothing was changed.",
            why="Its present state is in no release, so nothing could bring it back.",
            fix=f"Adopt it first (`slipway adopt {current.name}`, or on Endpoints): its present"
            " state becomes release 1.",
        )


def _no_canary_open(current: Service | None, intent: Intent) -> None:
    wanted = current.intent if current else None
    if current is None or wanted is None or wanted.canary_percent is None:
        return
    if wanted.version != intent.version:
        raise NotDeployable(
            f"{current.name} has a canary running. Nothing was changed.",
            why=f"{wanted.version} takes {wanted.canary_percent} % of its traffic.",
            fix="Promote or abort it first, on the Endpoints page or by command:"
            f" `slipway promote {current.name}`, `slipway abort {current.name}`.",
        )


def _intent_of(current: Service) -> Intent:
    """What it should be, by record: a plan that went on from somebody's edits would adopt them."""
    if current.wish is None or current.gone:
        raise NotDeployable(
            f"What {current.name} should be is not known. Nothing was changed.",
            fix="Deploy a version to it.",
        )
    return current.wish


def _canary_of(current: Service) -> Intent:
    intent = _intent_of(current)
    if intent.canary_percent is None:
        raise NotDeployable(
            f"{current.name} has no canary. Nothing was changed.",
            why=f"All of its traffic is meant for {intent.version}.",
            fix=f"Start one: `slipway deploy REF --name {current.name} --canary-percent 10`.",
        )
    return intent


def _percent_in_range(percent: int) -> None:
    if not 0 <= percent <= 99:
        raise NotDeployable(
            f"A canary cannot take {percent} %. Nothing was changed.",
            why="A canary's share is a whole number from 0 to 99.",
            fix="For all of the traffic, promote it.",
        )


def _essence(intent: Intent | None) -> Intent | None:
    """An intent without what does not make it another thing to serve: address, share, stop."""
    if intent is None:
        return None
    return replace(intent, canary_percent=None, stopped=False, port=None)


def _alias_of(current: Service, history: Sequence[Release]) -> str:
    return next((r.alias for r in history if r.number == current.release), "")


def _workload_of(current: Service, history: Sequence[Release]) -> int | None:
    return next((r.workload for r in history if r.number == current.release), current.release)


def _answering_workload(current: Service) -> int | None:
    most = max(current.answering, key=lambda side: side.percent, default=None)
    return most.release if most else None


# ── Apply ─────────────────────────────────────────────────────────────────────────────────────


def blocking(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings that forbid a plan."""
    return tuple(finding for finding in findings if finding.verdict is Verdict.FAIL)


def refuse_if_blocked(plan: Plan, findings: Sequence[Finding]) -> None:
    """NotDeployable when a check failed, naming the first; Denied when that is a missing right.

    What could not be made either is refused as making it would have ended: Unreachable, NotFound.
    Conflict where all that is in its way is that others own what it sets: it would work otherwise.
    """
    failed = blocking(findings)
    owned = [f for f in failed if f.name == checks.DRY_RUN and f.refusal is Conflict]
    others = [finding for finding in failed if finding not in owned]
    if owned and not others:
        raise Conflict(
            f"{_subject(plan)} sets fields of {plan.service} that others own. Nothing was changed.",
            why=owned[0].detail,
            fix=owned[0].fix,
        )
    if others:
        first = others[0]
        by_name = Denied if first.name == checks.PERMISSION else NotDeployable
        kind = first.refusal or by_name
        raise kind(
            f"{_subject(plan)} would not work on {plan.target}. Nothing was changed.",
            why=f"{first.name}: {first.detail}",
            fix=first.fix,
        )


def apply(
    plan: Plan,
    ops: Ops,
    *,
    actor: str,
    origin: str = "",
    reason: str = "",
    version: ModelVersion | None = None,
    report: Report = no_report,
    now: Now = utc_now,
) -> Release | None:
    """Carry out one plan, up to and including its one write; None when there is nothing to do.

    Give `version` when the plan deploys one whose package may have to be made. The same plan again
    is the same operation: it gives the same release and writes nothing twice. Conflict, Denied,
    Unreachable and NotDeployable say what was not done.
    """
    if plan.nothing_to_do:
        return None
    if plan.for_others:
        raise NotDeployable(
            f"The manifest of {plan.service} is for another tool to apply. Nothing was changed."
        )
    if plan.takes:
        taken = one_line(f"took over {', '.join(map(str, plan.takes))}", 512)
        reason = f"{reason}; {taken}" if reason else taken
    audit_id = ops.store.intend(_entry(plan, actor, origin, reason, now()))
    try:
        if version is not None and plan.after is not None:
            wanted = plan.after.package
            own = bool(wanted.environment)
            made = ops.packaging(wanted.kind, own_environment=own).make(version, report)
            if made != wanted:
                raise Conflict(
                    f"The files of {version.ref} changed since the plan was made."
                    " Nothing was changed.",
                    why="Their digest is another one.",
                    fix="Look at the new plan and confirm it again.",
                )
            # Equal, but it now says which image came out: recorded with the release.
            plan = replace(plan, after=replace(plan.after, package=made))
            report(f"The package of {version.ref} is made.", 1.0)  # the last place to cancel it
        if plan.supersedes is not None:
            _withdraw(ops, plan, actor)
        release = ops.journal.begin(plan, actor, reason)
    except SlipwayError as error:
        ops.store.outcome(audit_id, Outcome.NOT_APPLIED, str(error))
        raise
    if release.outcome is not Outcome.OPEN:
        return release  # the nonce was applied and settled already
    try:
        ops.serving.apply(plan, release)
    except (Conflict, Denied, NotDeployable, NotFound) as error:
        cause = Cause(error.what, error.why, error.fix)
        with suppress(Denied, Unreachable):  # then a later look finds that it was never applied
            ops.journal.close(release, Outcome.NOT_APPLIED, cause)
        ops.store.outcome(audit_id, Outcome.NOT_APPLIED, str(error), release.number)
        raise
    return release


def _withdraw(ops: Ops, plan: Plan, actor: str) -> None:
    """Close the open release that `plan` gives up, which frees the service. Conflict when it ended.

    A replayed plan finds it closed and its own release begun.
    """
    history = ops.journal.history(plan.service)
    if any(release.operation == plan.nonce for release in history):
        return
    begun = next((release for release in history if release.number == plan.supersedes), None)
    if begun is None or begun.outcome is not Outcome.OPEN:
        raise Conflict(
            f"Release {plan.supersedes} of {plan.service} ended meanwhile. Nothing was changed.",
            fix="Look at the new state; roll back if it is not what you want.",
        )
    cause = Cause(
        f"It was cancelled by {one_line(actor, 64)} before it was done", fix="Deploy it again."
    )
    _note_outcome(ops, ops.journal.close(begun, Outcome.FAILED, cause))


def _entry(plan: Plan, actor: str, origin: str, reason: str, at: datetime) -> AuditEntry:
    def text(intent: Intent | None) -> str:
        return str(intent.version or intent.package.uri) if intent else ""

    return AuditEntry(
        id=None,
        at=at,
        actor=actor,
        action=plan.action,
        target=plan.target,
        namespace=plan.namespace,
        service=plan.service,
        before=text(plan.before),
        after=text(plan.after),
        reason=reason,
        nonce=plan.nonce,
        origin=origin,
    )


def _subject(plan: Plan) -> str:
    if plan.after is not None and plan.after.version is not None:
        return str(plan.after.version)
    return plan.service


# ── Settle ────────────────────────────────────────────────────────────────────────────────────


def progress_of(seen: Observed) -> Progress:
    """Say how far a roll-out has come, from plain facts. READY for exactly one combination."""

    def progress(phase: Phase, message: str, cause: Cause | None = None) -> Progress:
        return Progress(
            phase,
            message,
            steps=seen.steps,
            cause=cause,
            answering=seen.answering,
            release=seen.wanted_release,
        )

    if not seen.exists:
        return progress(Phase.UNKNOWN, "there is no such service")
    if seen.stopped:
        return progress(Phase.STOPPED, seen.message or "stopped")
    if seen.failure is not None:
        return progress(Phase.FAILED, seen.failure.what, seen.failure)
    if not seen.caught_up:
        return progress(Phase.ROLLING_OUT, seen.message or "the target has not acted on it yet")
    if not seen.desired == seen.updated == seen.total == seen.available:
        counted = f"{seen.available} of {seen.desired} ready"
        return progress(Phase.ROLLING_OUT, seen.message or counted)
    if seen.asleep:
        return progress(Phase.READY, "asleep: the first request wakes it")
    if not seen.model_ready:
        return progress(Phase.ROLLING_OUT, seen.message or "the model is loading")
    if not seen.traffic_as_wanted:
        return progress(Phase.ROLLING_OUT, seen.message or "the traffic is not as wanted yet")
    return progress(Phase.READY, seen.message or "what is wanted serves")


def settle(ops: Ops, name: str, *, written: int | None = None, now: Now = utc_now) -> Progress:
    """Look once, test when due, record what is found. Idempotent; safe from any front end.

    `written`: the release that an earlier look saw on the target (`Progress.written`). A service
    that is gone was then deleted; otherwise its write may be still to come.
    A failure that is to be undone by itself begins its roll-back here.
    """
    history = ops.journal.history(name)
    progress = _settled(ops, name, history, written, now)
    undone = _undone_release(history)
    return progress if undone is None else replace(progress, undoes=undone.cause or _UNKNOWN)


def _settled(
    ops: Ops, name: str, history: Sequence[Release], written: int | None, now: Now
) -> Progress:
    release = _unsettled(history, now())
    seen = ops.serving.observe(name)
    progress = progress_of(seen)
    if release is None or _stays_failed(release, seen, progress):
        return _with_last_outcome(ops, name, progress, now())
    if release.action is Action.DELETE:
        outcome = Outcome.OPEN if seen.exists else Outcome.DELETED
        return _recorded(ops, release, replace(progress, release=release.number), outcome)
    if seen.wanted_release is None or seen.wanted_release < release.number:
        if release.number == written and not seen.exists:
            return _deleted_meanwhile(ops, release, history, progress)
        return _perhaps_unapplied(ops, release, progress, now(), there=seen.exists)
    progress = replace(progress, written=True)
    if progress.phase is Phase.READY and seen.asleep:
        seen = _woken(ops, release, seen)
        progress = replace(progress_of(seen), written=True)
    if progress.phase is Phase.FAILED:
        failed = _recorded(ops, release, progress, Outcome.FAILED, progress.cause)
        return _undone(ops, release, failed)
    if progress.phase is Phase.STOPPED:
        return _recorded(ops, release, progress, Outcome.STOPPED)
    if progress.phase is Phase.READY:
        return _undone(ops, release, _tested(ops, release, seen, progress, now))
    if now() - release.created_at > timedelta(seconds=DEADLINE_S):
        cause = Cause(
            f"{name} was not ready after {DEADLINE_S:.0f} s; it may still become ready.",
            why=f"{progress.message}.",
            fix=f"Watch it on Endpoints, or `slipway status {name}`.",
        )
        return _recorded(ops, release, replace(progress, cause=cause), Outcome.TIMEOUT, cause)
    return replace(progress, release=release.number)


def _stays_failed(release: Release, seen: Observed, progress: Progress) -> bool:
    """Whether a release is recorded as failed, and does not serve after all as it was wanted."""
    ready = progress.phase is Phase.READY and not seen.asleep
    came_up = ready and seen.wanted_release == release.number and not seen.drift
    return release.outcome is Outcome.FAILED and not came_up


def follow(
    ops: Ops,
    name: str,
    *,
    release: int | None = None,
    timeout_s: float = DEADLINE_S,
    every_s: float = 0.25,
    now: Now = utc_now,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Progress]:
    """Settle until nothing more is expected, giving each look.

    `release` is the one that is followed: when another one took its place, its own record says how
    it ended. Ends normally when the operation ended well; RolloutFailed and RolloutTimeout
    otherwise. A failure that is undone by itself is followed to the end of its roll-back. A target
    that does not answer for a while, or does not let us look, is looked at again until the time is
    over: what was begun goes on there, and a right that was taken away may come back.
    """
    end = now() + timedelta(seconds=timeout_s)
    away = refused_at = ""
    written: int | None = None
    with ops.following(name):
        while True:
            wait_s = every_s
            try:
                looked = settle(ops, name, written=written, now=now)
                written = looked.release if looked.written else written
                progress = _of_release(ops, name, release, looked)
                away = refused_at = ""
            except Unreachable as error:
                if now() >= end:
                    raise
                away = away or f"{error.what} It has been away since {now():%H:%M:%S} UTC"
                progress = Progress(Phase.UNKNOWN, away)
            except Denied as error:
                if now() >= end:
                    raise
                refused_at = refused_at or f"{now():%H:%M:%S} UTC"
                told = f"{error} Until then it is not followed (since {refused_at})"
                progress = Progress(Phase.UNKNOWN, told)
                wait_s = max(every_s, REFUSED_EVERY_S)
            yield progress
            if progress.settled:
                break
            if now() >= end:
                raise RolloutTimeout(
                    f"{name} was not ready after {timeout_s:.0f} s; it may still become ready.",
                    why=f"{progress.message}.",
                    fix=f"Watch it on Endpoints, or `slipway status {name}`.",
                )
            sleep(wait_s)
    _raise_unless_well(ops, name, progress)


def _raise_unless_well(ops: Ops, name: str, progress: Progress) -> None:
    """The error for an operation that is settled and did not end well."""
    if progress.undoes is not None:
        raise undone_failed(name, progress, progress.undoes)
    if progress.outcome is Outcome.TIMEOUT:
        cause = progress.cause or Cause(f"{name} did not settle in time.")
        raise RolloutTimeout(cause.what, cause.why, cause.fix)
    if progress.outcome in {Outcome.FAILED, Outcome.NOT_APPLIED}:
        raise rollout_failed(name, progress, _way_back_of(ops, name, progress))


def _way_back_of(ops: Ops, name: str, failed: Progress) -> str:
    """How to return from a deploy that failed and is still wanted, in words; "" where nothing is.

    The old pods may answer beside it: until somebody goes back they are not what is wanted.
    """
    try:
        history = ops.journal.history(name)
    except (Unreachable, Denied):
        return ""  # what failed is told without it
    newest = history[0] if history else None
    if newest is None or newest.number != failed.release or newest.action is not Action.DEPLOY:
        return ""
    if newest.outcome is not Outcome.FAILED:
        return ""
    if newest.intent.canary_percent is not None:
        return f"Or take the canary back: `slipway abort {name}`."
    back = _proven_other(newest.intent, history)
    return f"Or go back to {back.intent.version}: `slipway rollback {name}`." if back else ""


def _of_release(ops: Ops, name: str, number: int | None, progress: Progress) -> Progress:
    """How release `number` stands, when what was seen is about a later one than its own undoing.

    Of a roll-back that is followed itself: how that stands, without what it undoes.
    """
    if number is not None and number == progress.release:
        return replace(progress, undoes=None)
    if number is None or progress.release is None or progress.release <= number:
        return progress
    if progress.undoes is not None:
        return progress
    mine = next((r for r in ops.journal.history(name) if r.number == number), None)
    if mine is None or mine.outcome is Outcome.OPEN:
        return progress
    phase = Phase.FAILED if mine.outcome is Outcome.FAILED else progress.phase
    return replace(
        progress, phase=phase, outcome=mine.outcome, cause=mine.cause, release=number, steps=()
    )


def rollout_failed(name: str, progress: Progress, back: str = "") -> RolloutFailed:
    """The error for a failed operation: what failed, what still answers, and the way `back`."""
    cause = progress.cause or Cause(progress.message)
    what = cause.what.rstrip(".")
    answers = after_failure(progress.answering, progress.release, what)
    fix = cause.fix
    if back and not any(f"`slipway {verb} {name}" in fix for verb in ("rollback", "abort")):
        fix = f"{fix.rstrip('.')}. {back}" if fix else back
    return RolloutFailed(f"{name}: {what}. {answers}".rstrip(), cause.why, fix)


_UNKNOWN = Cause("it failed")
_UNDOES = "undo-"
"""An automatic roll-back's nonce begins so and names the operation that it undoes: whoever begins
it, and however often, it is one operation."""
AUTOMATIC = "automatic roll-back"
"""Origin of such a roll-back in the audit."""


def _undone_release(history: Sequence[Release]) -> Release | None:
    """The failed release that the newest one undoes by itself; None when it is no such thing."""
    newest = history[0] if history else None
    if newest is None or not newest.operation.startswith(_UNDOES):
        return None
    failed = newest.operation.removeprefix(_UNDOES)
    return next((release for release in history if release.operation == failed), None)


def _undone(ops: Ops, release: Release, failed: Progress) -> Progress:
    """Begin the roll-back of a release that failed and asked for it; how far things are then.

    At most once a release, and never for a roll-back that was begun here: what fails after that is
    a person's to decide. When it cannot begin, nothing is written and the failure says why.
    """
    if failed.outcome is not Outcome.FAILED or not release.rollback_on_failure:
        return failed
    cause = failed.cause or _UNKNOWN
    try:
        begun = _begin_undoing(ops, release, cause)
    except SlipwayError as error:
        why = f"{cause.why} It was not rolled back: {error.what} {error.why}".strip()
        told = replace(cause, why=why)
        return replace(failed, cause=told, message=f"{failed.message}; it was not rolled back")
    return Progress(
        Phase.ROLLING_OUT,
        f"release {release.number} failed; returning to release {begun.rolled_back_to}",
        answering=failed.answering,
        release=begun.number,
        undoes=cause,
    )


def _begin_undoing(ops: Ops, release: Release, cause: Cause) -> Release:
    """Apply the roll-back of a failed release. Whatever forbids it is raised."""
    history = ops.journal.history(release.service)
    nonce = f"{_UNDOES}{release.operation}"
    known = next((found for found in history if found.operation == nonce), None)
    if known is not None:
        return known  # another front end was a moment earlier
    current = require(ops, release.service)
    made = (
        plan_rollback(current, history)
        if release.intent.canary_percent is None
        else plan_abort(current, history)
    )
    prepared = prepare(ops, replace(made, nonce=nonce))
    refuse_if_blocked(prepared.plan, prepared.findings)
    reason = f"Release {release.number} failed: {cause.what}"
    begun = apply(prepared.plan, ops, actor=release.actor, origin=AUTOMATIC, reason=reason)
    if begun is None:
        raise NothingToRollBackTo(f"{release.service} is wanted to be so already.")
    return begun


def undone_failed(name: str, progress: Progress, cause: Cause) -> RolloutFailed:
    """The error for a failed operation that was rolled back by itself: both causes."""
    what = f"{name}: {cause.what.rstrip('.')}."
    if progress.outcome in {Outcome.VERIFIED, Outcome.SERVING}:
        still = ", ".join(str(side.version) for side in progress.answering if side.percent)
        back = f"It was rolled back by release {progress.release}: {still} answers."
        return RolloutFailed(f"{what} {back}", cause.why, cause.fix)
    second = progress.cause or Cause(progress.message)
    return RolloutFailed(
        f"{what} Its roll-back, release {progress.release}, ended as {progress.outcome}.",
        f"{cause.why} The roll-back: {second.what} {second.why}".strip(),
        second.fix or cause.fix,
    )


def _unsettled(history: Sequence[Release], at: datetime) -> Release | None:
    newest = history[0] if history else None
    if newest is None:
        return None
    if newest.outcome is Outcome.OPEN:
        return newest
    watched = at - newest.created_at < timedelta(seconds=LATE_WATCH_S)
    late = newest.outcome is Outcome.TIMEOUT or _never_started(newest)
    return newest if late and watched else None


def _never_started(release: Release) -> bool:
    """Whether it failed because its pods could not start: what they lacked may come later."""
    code = release.cause.code if release.cause else ""
    return release.outcome is Outcome.FAILED and code in NOT_STARTED_CODES


def _with_last_outcome(ops: Ops, name: str, progress: Progress, at: datetime) -> Progress:
    history = ops.journal.history(name)
    last = history[0] if history else None
    if last is None:
        return progress
    _note_outcome(ops, last)
    cause = progress.cause or last.cause
    found = replace(progress, outcome=last.outcome, cause=cause, release=last.number)
    # Recorded by another process (on `local` by the supervisor): whoever looks next undoes it.
    recent = last.settled_at and at - last.settled_at < timedelta(seconds=UNDONE_WITHIN_S)
    return _undone(ops, last, found) if recent else found


def _deleted_meanwhile(
    ops: Ops, release: Release, history: Sequence[Release], progress: Progress
) -> Progress:
    """Record a release whose service somebody deleted after its write was seen.

    A person did that on purpose: it is not undone by itself.
    """
    back = way_back(history[1:])
    cause = Cause(
        f"Somebody deleted it while release {release.number} was rolling out",
        fix=f"Bring it back: `slipway rollback {release.service} --to {back}`."
        if back
        else f"Bring it back: `slipway deploy REF --name {release.service}`.",
    )
    failed = replace(progress, phase=Phase.FAILED, message=cause.what, cause=cause)
    return _recorded(ops, release, failed, Outcome.FAILED, cause)


def _perhaps_unapplied(
    ops: Ops, release: Release, progress: Progress, at: datetime, *, there: bool
) -> Progress:
    if at - release.created_at < timedelta(seconds=UNAPPLIED_GRACE_S):
        waiting = replace(progress, phase=Phase.ROLLING_OUT, message="being applied")
        return replace(waiting, release=release.number, cause=None)
    cause = never_applied(release, there=there)
    return _recorded(ops, release, replace(progress, cause=cause), Outcome.NOT_APPLIED, cause)


def _woken(ops: Ops, release: Release, seen: Observed) -> Observed:
    """What is seen after a request to a service that fell asleep before anybody tested it.

    The request starts a pod; its answer proves nothing, because the test goes to the release's own
    pods once they are up. A canary may sleep beside what answers, so it is not woken.
    """
    from services.bench import request_for_example

    intent = release.intent
    if intent.example is None or intent.canary_percent is not None:
        return seen
    try:
        endpoint = ops.serving.endpoint(release.service)
        request = request_for_example(
            intent.signature,
            intent.example,
            model_name=endpoint.model_name,
            protocol=intent.package.protocol,
        )
        ops.predictor.infer(endpoint, request, WAKE_TIMEOUT_S)
    except (InferenceFailed, Unreachable, Denied, NotFound):
        pass  # whether a pod came of it is what is looked at
    return ops.serving.observe(release.service)


def _tested(ops: Ops, release: Release, seen: Observed, progress: Progress, now: Now) -> Progress:
    result, detail = (
        (seen.test, seen.test_detail)
        if seen.test is not TestResult.NOT_RUN
        else try_inference(ops, release)
    )
    if result is TestResult.PASS:
        behind = "" if seen.test is TestResult.PASS else address_behind(ops, release)
        at = now()
        if not behind:
            passed = _with_test(progress, StepState.DONE, at)
            return _recorded(ops, release, passed, Outcome.VERIFIED)
        if at - _ready_since(seen, release) < timedelta(seconds=ADDRESS_GRACE_S):
            waiting = replace(progress, phase=Phase.ROLLING_OUT, release=release.number)
            return replace(waiting, message=f"its pods passed the test; {behind}")
        result, detail = TestResult.COULD_NOT_MEASURE, f"its pods passed the test, but {behind}"
    if result is TestResult.FAIL:
        cause = _test_failure(ops, release, progress.answering, detail)
        failed = replace(progress, phase=Phase.FAILED, message=cause.what, cause=cause)
        failed = _with_test(failed, StepState.FAILED, now(), detail)
        return _recorded(ops, release, failed, Outcome.FAILED, cause)
    if seen.asleep:
        detail = f"it is asleep and was not woken: {detail}"
    unmeasured = replace(progress, message=f"ready, not verified: {detail}")
    unmeasured = _with_test(unmeasured, StepState.SKIPPED, None, detail)
    return _recorded(ops, release, unmeasured, Outcome.SERVING, Cause("Not verified", why=detail))


def _test_failure(ops: Ops, release: Release, answering: Sequence[Answering], detail: str) -> Cause:
    """Why a release whose test inference failed is a failure, with the way back where it answers.

    Standard mode gives it the traffic as soon as its pods are ready, before any test.
    """
    name = release.service
    look = "Send the example on the Predict page, and look at the log."
    mine = next((s for s in answering if s.release == release.workload and s.percent), None)
    if mine is None:
        what = f"{release.intent.version} loaded, but its test inference failed"
        return Cause(what, why=detail, fix=look)
    back = ""
    if release.intent.canary_percent is not None:
        back = f"Take it back: `slipway abort {name}`. "
    elif _proven_other(release.intent, ops.journal.history(name)):
        back = f"Return to what answered before: `slipway rollback {name}`. "
    what = f"{has_words(mine)} and fails the test request"
    return Cause(what, why=detail, fix=f"{back}{look}")


def _with_test(
    progress: Progress, state: StepState, at: datetime | None, detail: str = ""
) -> Progress:
    """The progress with the test inference's step as it ended; where the target told it, as is."""
    steps = tuple(
        judged(step, state, at, detail)
        if step.name == TEST_STEP and step.state is StepState.RUNNING
        else step
        for step in progress.steps
    )
    return replace(progress, steps=steps)


def try_inference(ops: Ops, release: Release) -> tuple[TestResult, str]:
    """One request from the release's example to exactly its pods; the result and why, in words."""
    from services.bench import request_for_example

    intent = release.intent
    if intent.example is None:
        if intent.version is not None:
            return TestResult.COULD_NOT_MEASURE, "the version has no input example"
        unknown = (
            "which version it serves is not known, so there is no input example to test it with"
        )
        return TestResult.COULD_NOT_MEASURE, unknown
    try:
        endpoint = ops.serving.endpoint(release.service, release.workload)
        request = request_for_example(
            intent.signature,
            intent.example,
            model_name=endpoint.model_name,
            protocol=intent.package.protocol,
        )
        answer = ops.predictor.infer(endpoint, request)
    except InferenceFailed as error:
        return TestResult.FAIL, f"{error.what} {error.why}".strip()
    except (Unreachable, Denied, NotFound) as error:
        return TestResult.COULD_NOT_MEASURE, f"{error.what} {error.why}".strip()
    named = answer.version
    if intent.version is not None and named is not None and named.number != intent.version.number:
        return TestResult.FAIL, f"Its pods answer as {named}."
    return TestResult.PASS, ""


def address_behind(ops: Ops, release: Release) -> str:
    """What the service's own address does that is not this release, in words; "" when nothing.

    An ingress follows the pods a moment later: until then callers get the version before, or an
    error. Where there is no ingress, or no way to it from here, nothing is said against the
    release; nor where a canary shares the address, or the server does not name its version.
    """
    from services.bench import request_for_example

    intent = release.intent
    if intent.example is None or intent.version is None or intent.canary_percent is not None:
        return ""
    try:
        endpoint = ops.serving.endpoint(release.service)
    except (Unreachable, Denied, NotFound):
        return ""
    if endpoint.via not in {WayIn.INGRESS, WayIn.IN_CLUSTER}:
        return ""
    request = request_for_example(intent.signature, intent.example, model_name=endpoint.model_name)
    try:
        for _ in range(ADDRESS_ASKED):
            answer = ops.predictor.infer(endpoint, request, ADDRESS_TIMEOUT_S)
            if answer.version is not None and answer.version.number != intent.version.number:
                return f"its address still answers with {answer.version}"
    except (InferenceFailed, Unreachable) as error:
        return f"its address does not answer yet: {error.what} {error.why}".strip()
    except Denied:
        return ""  # from here it cannot be told
    return ""


def _ready_since(seen: Observed, release: Release) -> datetime:
    """When the last step of the roll-out ended, as far as is known."""
    ends = [
        step.started_at + timedelta(seconds=step.took_s)
        for step in seen.steps
        if step.started_at is not None and step.took_s is not None
    ]
    return max([*ends, release.created_at])


def _recorded(
    ops: Ops,
    release: Release,
    progress: Progress,
    outcome: Outcome,
    cause: Cause | None = None,
) -> Progress:
    if outcome is Outcome.OPEN:
        return progress
    late = release.outcome in {Outcome.TIMEOUT, Outcome.FAILED} and outcome is not Outcome.TIMEOUT
    fails_anew = outcome is Outcome.FAILED and cause != release.cause
    if release.outcome is not outcome or fails_anew:
        release = ops.journal.close(release, outcome, cause, late=late)
        _note_outcome(ops, release)
        if release.verified and release.alias and release.intent.canary_percent is None:
            progress = replace(progress, message=_alias_moved(ops, release, progress.message))
    return replace(
        progress,
        outcome=release.outcome,
        cause=progress.cause or release.cause,
        release=release.number,
    )


def _alias_moved(ops: Ops, release: Release, message: str) -> str:
    """Move the release's alias; a registry that does not answer takes nothing from the release.

    What was missed shows as drift (`alias_drift`).
    """
    version = release.intent.version
    if version is None:
        return message
    alias = AliasRef(version.model, release.alias)
    try:
        ops.registry.set_alias(alias, version.number)
    except SlipwayError as error:
        return f"{message}; {alias} was not moved: {error.what}"
    return f"{message}; {alias} points to {version} now"


def alias_tie(history: Sequence[Release]) -> AliasTie | None:
    """The alias that moved with a release of the service, and what serves; None where none did.

    `history` is newest first. What other aliases mean is not ours to know.
    """
    alias = tied_alias(history)
    whole = (r for r in history if r.verified and r.intent.canary_percent is None)
    serves = next(whole, None)
    if not alias or serves is None or serves.intent.version is None:
        return None
    return AliasTie(alias, serves.intent.version, serves.settled_at)


def alias_drift(
    tie: AliasTie | None, models: Sequence[RegisteredModel], read_at: datetime | None = None
) -> tuple[Drift, ...]:
    """Where a tied alias points to another version than the one that serves.

    `read_at`: when `models` were read, where that was not just now. Of a list from before the
    release moved its alias nothing is said.
    """
    if tie is None:
        return ()
    moved_by = tie.since + timedelta(seconds=ALIAS_MOVES_WITHIN_S) if tie.since else None
    if read_at is not None and moved_by is not None and read_at < moved_by:
        return ()
    model = next((found for found in models if found.name == tie.version.model), None)
    if model is None or model.aliases.get(tie.alias) == tie.version.number:
        return ()
    number = model.aliases.get(tie.alias)
    seen = f"{tie.version.model}/{number}" if number is not None else "no version"
    return (Drift(f"alias {tie.alias}", str(tie.version), seen),)


def with_past(
    services: Sequence[Service],
    past: Mapping[str, Sequence[Release]],
    *,
    target: str,
    namespace: str,
) -> tuple[Service, ...]:
    """The services of a target with what their histories say, by name.

    Those that somebody deleted behind Slipway's back stand among them as `gone`. Read `past` after
    `services`: a delete of ours is recorded before it is done.
    """
    there = {service.name for service in services}
    found = [replace(each, tied=alias_tie(past.get(each.name, ()))) for each in services]
    left = (remains(target, namespace, past[name]) for name in past if name not in there)
    found.extend(each for each in left if each is not None and each.drift)
    return tuple(sorted(found, key=lambda service: service.name))


def remains(target: str, namespace: str, history: Sequence[Release]) -> Service | None:
    """What is left of a service that is gone, to be returned to (`plan_rollback`).

    None when there never was one, or when it is just being made or deleted.
    """
    last = next((r for r in history if r.outcome is not Outcome.NOT_APPLIED), None)
    if last is None or last.outcome is Outcome.OPEN:
        return None
    ours = last.action is Action.DELETE
    version = str(last.intent.version or "an unknown version")
    how = "by Slipway" if ours else "outside Slipway"
    was = "deleted it" if ours else f"was {version}, {last.outcome}"
    return Service(
        name=last.service,
        target=target,
        namespace=namespace,
        mode=last.intent.mode,
        managed=True,
        object_version="",
        intent=None,
        recorded=last.intent,
        release=last.number,
        phase=Phase.UNKNOWN,
        message=f"{last.service} was deleted {how}; its last release {last.number} {was}.",
        since=last.settled_at,
        actor=last.actor if ours else "",
        drift=() if ours else (Drift("service", version, "deleted"),),
    )


def _note_outcome(ops: Ops, release: Release) -> None:
    entry = ops.store.open_entry(release.operation) if release.operation else None
    if entry is not None and entry.id is not None and entry.outcome is not release.outcome:
        detail = release.cause.what if release.cause else ""
        ops.store.outcome(entry.id, release.outcome, detail, release.number, late=release.late)


# ── Journeys that both front doors begin with ─────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with everything that is shown before it is confirmed."""

    plan: Plan
    findings: tuple[Finding, ...]
    manifest: str
    version: ModelVersion | None = None
    details: VersionDetails | None = None
    owned: tuple[OwnedField, ...] = ()
    """What the plan sets of what others own; see `taking_over`."""


def prepare_deploy(ops: Ops, reference: str, *, name: str, wish: Wish = Wish()) -> Prepared:
    """Read the version, propose its package, plan, rehearse. Writes nothing that serves."""
    refuse_bad_name(name)
    version = ops.registry.version(parse_ref(reference))
    details = ops.registry.details(version.ref)
    current = ops.serving.service(name)
    packager = _packager(ops, current, wish)
    package = packager.propose(version)
    intent = intent_for(current, version, details, package, name=name, wish=wish)
    intent = ops.serving.default_intent(intent)
    plan = plan_deploy(current, intent, target=ops.target, namespace=ops.namespace)
    rehearsal = ops.serving.rehearse(plan)
    findings = (
        *_version_findings(version, details),
        *_caller_findings(plan),
        *_package_findings(package),
        _still_there(packager, package, version)
        if plan.nothing_to_do
        else packager.outlook(version),
        *rehearsal.findings,
    )
    return Prepared(plan, findings, rehearsal.manifest, version, details, rehearsal.owned)


def taking_over(ops: Ops, prepared: Prepared, managers: Collection[str]) -> Prepared:
    """The same with the consent to take over, from these managers, what the plan sets of theirs.

    Rehearsed again. The consent is for the fields that they own now: for no other, and from nobody
    else. As it was where they own nothing that it sets.
    """
    takes = tuple(field for field in prepared.owned if field.manager in managers)
    if not takes:
        return prepared
    plan = replace(prepared.plan, takes=takes)
    rehearsal = ops.serving.rehearse(plan)
    judged = {checks.DRY_RUN, checks.OWNERSHIP}
    findings = (
        *(finding for finding in prepared.findings if finding.name not in judged),
        *(finding for finding in rehearsal.findings if finding.name in judged),
    )
    return replace(prepared, plan=plan, findings=findings, owned=rehearsal.owned)


def _packager(ops: Ops, current: Service | None, wish: Wish) -> Packager:
    """What was wished for, else as the service has it, else the target's own way."""
    had = current.wish if current is not None else None
    kind, own = wish.package, wish.own_environment
    if had is not None and had.version is not None:  # what others made says nothing of our ways
        kind = kind or had.package.kind
        own = bool(had.package.environment) if own is None else own
    return ops.packaging(kind, own_environment=bool(own) and kind is not PackageKind.IMAGE)


def _package_findings(package: Package) -> tuple[Finding, ...]:
    """Who builds what has to be built; nothing to say of files alone."""
    return (Finding("image", Verdict.PASS, package.made_by),) if package.made_by else ()


def _still_there(packager: Packager, package: Package, version: ModelVersion) -> Finding:
    """Of a package that is in use: nothing is made of it, so it only warns."""
    found = packager.exists(package)
    if found.verdict is not Verdict.FAIL:
        return found
    make = "image" if package.kind is PackageKind.IMAGE else "publish"
    return replace(found, verdict=Verdict.WARN, fix=f"slipway {make} {version.ref}")


def _package_exists(ops: Ops, package: Package) -> Finding:
    """Whether what an earlier release loads is still there."""
    try:
        packager = ops.packaging(package.kind, own_environment=bool(package.environment))
    except (ConfigError, NotOffered) as error:
        return Finding(checks.PACKAGE, Verdict.SKIP, f"{error.what} {error.why}".strip(), error.fix)
    return packager.exists(package)


def prepare_render(ops: Ops, reference: str, *, name: str, wish: Wish = Wish()) -> Prepared:
    """As `prepare_deploy`, for a manifest that another tool applies. Writes nothing.

    What a service of others has now is not kept: only what is asked for is in its manifest, so that
    the same request gives the same text, without what webhooks filled in.
    """
    refuse_bad_name(name)
    version = ops.registry.version(parse_ref(reference))
    details = ops.registry.details(version.ref)
    current = ops.serving.service(name)
    ours = current is not None and not current.owner and bool(ops.journal.history(name))
    kept = current if ours else None
    packager = _packager(ops, kept, wish)
    package = packager.propose(version)
    intent = intent_for(kept, version, details, package, name=name, wish=wish)
    intent = ops.serving.default_intent(intent)
    plan = plan_render(current, intent, target=ops.target, namespace=ops.namespace)
    rehearsal = ops.serving.rehearse(plan)
    there = packager.exists(package)
    make = "image" if package.kind is PackageKind.IMAGE else "publish"
    if there.verdict is Verdict.FAIL:
        there = replace(
            there,
            verdict=Verdict.WARN,
            detail=f"{package.uri} is not there yet: no pod could load it.",
            fix=f"slipway {make} {version.ref}",
        )
    findings = (there, *_version_findings(version, details), *rehearsal.findings)
    return Prepared(plan, findings, rehearsal.manifest, version, details)


def prepare(ops: Ops, plan: Plan) -> Prepared:
    """A plan without a version to read (roll-back, canary, stop, …), rehearsed."""
    rehearsal = ops.serving.rehearse(plan)
    findings = (*_caller_findings(plan), *rehearsal.findings)
    if plan.after is not None and plan.action in {Action.ROLLBACK, Action.START, Action.ABORT}:
        findings = (_package_exists(ops, plan.after.package), *findings)
    return Prepared(plan, findings, rehearsal.manifest, owned=rehearsal.owned)


def checked(ops: Ops) -> tuple[Finding, ...]:
    """Every check of a target: its services' place, then its packages'."""
    try:
        packages = ops.packager.check()
    except ConfigError as error:  # which settings there are is known before any place is asked
        packages = (Finding("packages", Verdict.FAIL, f"{error.what} {error.why}", error.fix),)
    return (*ops.serving.check(), *packages)


def with_url(ops: Ops, name: str, *, sleep: Callable[[float], None] = time.sleep) -> Service | None:
    """The service as it is; one that is ready gets a moment until its URL is known, too."""
    every_s = 0.25
    for _ in range(round(URL_WITHIN_S / every_s)):
        found = ops.serving.service(name)
        if found is None or found.url or found.phase is not Phase.READY:
            return found
        sleep(every_s)
    return ops.serving.service(name)


def require(ops: Ops, name: str) -> Service:
    """The service of that name. NotFound names those that there are, or how it comes back."""
    current = ops.serving.service(name)
    if current is None:
        history = ops.journal.history(name)
        left = remains(ops.target, ops.namespace, history)
        if left is not None and left.drift:
            what, _, why = left.message.partition("; ")
            back = way_back(history)
            fix = (
                f"slipway rollback {name} --to {back}"
                if back
                else f"slipway deploy REF --name {name}"
            )
            raise NotFound(
                f"{what}.", why=why[:1].upper() + why[1:], fix=f"Bring it back: `{fix}`."
            )
        names = ", ".join(service.name for service in ops.serving.services()[:20])
        raise NotFound(
            f"There is no service {name!r} on {ops.target}.",
            why=f"There are: {names}." if names else "There is none at all yet.",
            fix=f"Deploy one: `slipway deploy REF --name {name}`.",
        )
    return current


def require_or_remains(ops: Ops, name: str) -> Service:
    """The service of that name, or what is left of it: enough to return to. NotFound."""
    current = ops.serving.service(name)
    left = None if current else remains(ops.target, ops.namespace, ops.journal.history(name))
    return current or left or require(ops, name)


def way_back(history: Sequence[Release]) -> int | None:
    """Number of the release that a service which is gone returns to: the newest verified one."""
    applied = [r for r in _returnable(history) if r.outcome is not Outcome.NOT_APPLIED]
    proven = next((r for r in applied if r.verified), None) or next(iter(applied), None)
    return proven.number if proven else None


def as_answering(
    current: Service, history: Sequence[Release], workload: int | None = None
) -> Service:
    """The service with the intent of the release that answers: what a request has to fit.

    After a failed roll-out that is not the one that is wanted. `workload` chooses a side; None is
    the one with the most traffic. As it is, where nothing answers or no record says what.
    """
    side = _answering_workload(current) if workload is None else workload
    wanted = next((r for r in history if r.number == current.release), None)
    if side is None or (wanted is not None and wanted.workload == side):
        return current
    found = next(
        (r for r in history if r.workload == side and r.outcome is not Outcome.NOT_APPLIED), None
    )
    if found is None:
        return current
    return replace(current, intent=found.intent, recorded=found.intent, release=found.number)


def with_signature(ops: Ops, current: Service) -> Service:
    """The service with what its server says that it takes, where no record says it.

    That is a service of others, or one whose version nobody knows.
    """
    intent = current.intent
    if intent is None or intent.signature is not None or not current.answering or current.asleep:
        return current
    try:
        told = ops.predictor.signature(ops.serving.endpoint(current.name))
    except SlipwayError:
        return current  # whoever sends a request is told why there is no way to it
    return current if told is None else replace(current, intent=replace(intent, signature=told))


def with_release(prediction: Prediction, answering: Sequence[Answering]) -> Prediction:
    """The answer with the release that gave it, where exactly one can have: an ingress names none.

    Nothing is guessed where two releases serve its version, or nobody knows a side's version.
    """
    if prediction.release is not None or prediction.version is None:
        return prediction
    taking = [side for side in answering if side.percent]
    able = [side for side in taking if side.version in {prediction.version, None}]
    if len(able) != 1 or able[0].version is None:
        return prediction
    return replace(prediction, release=able[0].release)


def _caller_findings(plan: Plan) -> tuple[Finding, ...]:
    """Whether callers of what is wanted now could go on: one warning per breaking change."""
    from services.compare import signature_changes

    before, after = plan.before, plan.after
    if before is None or after is None or before.version == after.version:
        return ()
    breaking = [c for c in signature_changes(before.signature, after.signature) if c.breaking]
    if not breaking:
        return (Finding("callers", Verdict.PASS, f"requests for {before.version} still fit."),)
    return tuple(
        Finding(
            "callers",
            Verdict.WARN,
            f"{change.field} changes from {change.left or 'absent'}"
            f" to {change.right or 'absent'}. {change.why}".strip(),
            "Tell the callers first, or deploy it as another service.",
        )
        for change in breaking
    )


def _version_findings(version: ModelVersion, details: VersionDetails) -> tuple[Finding, ...]:
    found = [
        Finding("registered version", Verdict.WARN, problem)
        for problem in (*version.problems, *details.problems)
    ]
    if details.signature is None:
        found.append(
            Finding(
                "signature",
                Verdict.WARN,
                f"{version.ref} has none: requests cannot be checked before they are sent.",
                "Log the model with a signature.",
            )
        )
    if details.example is None:
        found.append(
            Finding(
                "input example",
                Verdict.WARN,
                f"{version.ref} has none: it can become ready, but it cannot be verified.",
                "Log the model with an input example.",
            )
        )
    return tuple(found)
