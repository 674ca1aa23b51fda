"""Apply, settle, follow: the product's heart, the same for every target and both front doors.

What is applied is a plan of `planning`, checked by `preparing`.

* **apply** does the writes of one plan, in this order: audit intent, package, release, the one
  write to the target. Each is idempotent under the plan's nonce.
* **settle** looks once, runs the test inference when one is due, and records what it found. It
  never depends on who began the operation, so a killed process leaves nothing half done.
* **follow** settles until there is nothing more to wait for.

Knows only the ports; no adapter, no clock of its own (`now` and `sleep` are arguments).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from services import lineage, planning, preparing
from services.domain import (
    TEST_STEP,
    Action,
    AliasRef,
    Answering,
    AuditEntry,
    Cause,
    Intent,
    ModelVersion,
    Observed,
    Outcome,
    Phase,
    Plan,
    Progress,
    Release,
    StepState,
    TestResult,
    WayIn,
    after_failure,
    has_words,
    judged,
    never_applied,
)
from services.errors import (
    Conflict,
    Denied,
    InferenceFailed,
    NotDeployable,
    NotFound,
    NothingToRollBackTo,
    RolloutFailed,
    RolloutTimeout,
    SlipwayError,
    Unreachable,
    one_line,
)
from services.ports import Ops, Report, no_report

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

WAKE_TIMEOUT_S = 5.0
"""A request that wakes a service is waited for so long: its pod is there by then, if not ready."""

UNDONE_WITHIN_S = 120.0
"""A failure that nobody undid by then is left as it is: people have looked at it since."""

REFUSED_EVERY_S = 2.0
"""How often a roll-out is looked at that we may not look at."""

LATE_WATCH_S = 24 * 3600.0
"""For so long a `timeout` may still become a late success, and a failure of `NOT_STARTED_CODES`."""

NOT_STARTED_CODES = frozenset({"E4", "E5", "E6", "E8", "E9", "E10", "E11"})
"""Causes by which no server was started (docs/errors.md). Kubernetes tries on, so a node, an image,
a file or a right that comes later mends them."""

Now = Callable[[], datetime]


def utc_now() -> datetime:
    """The time, aware."""
    return datetime.now(UTC)


# ── Apply ─────────────────────────────────────────────────────────────────────────────────────


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
        if intent is None:
            return ""
        return f"{intent.version or intent.package.uri}{intent.share_words}"

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
    back = planning.proven_other(newest.intent, history)
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
    current = preparing.require(ops, release.service)
    made = (
        planning.plan_rollback(current, history)
        if release.intent.canary_percent is None
        else planning.plan_abort(current, history)
    )
    prepared = preparing.prepare(ops, replace(made, nonce=nonce))
    planning.refuse_if_blocked(prepared.plan, prepared.findings)
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
    back = lineage.way_back(history[1:])
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
    elif planning.proven_other(release.intent, ops.journal.history(name)):
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


def _note_outcome(ops: Ops, release: Release) -> None:
    entry = ops.store.open_entry(release.operation) if release.operation else None
    if entry is not None and entry.id is not None and entry.outcome is not release.outcome:
        detail = release.cause.what if release.cause else ""
        ops.store.outcome(entry.id, release.outcome, detail, release.number, late=release.late)
