"""What each operation would do: facts in, Plan out, nothing asked and nothing written.

The rules of every operation stand here; NotDeployable says which one forbids it. Pages, command
line and `preparing` call it; `rollout` carries a plan out.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from services import checks, lineage
from services.domain import (
    Action,
    Finding,
    Intent,
    Mode,
    ModelVersion,
    Outcome,
    Package,
    PackageKind,
    Phase,
    Plan,
    Registration,
    Release,
    Resources,
    Scale,
    Service,
    Verdict,
    VersionDetails,
    service_name_problem,
    spec_differences,
)
from services.errors import (
    Conflict,
    Denied,
    NotDeployable,
    NotFound,
    NothingToRollBackTo,
)

T = TypeVar("T")


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
        stable = lineage.answering_workload(current)
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
    candidates = lineage.returnable(history)
    if to is not None:
        chosen = next((release for release in candidates if release.number == to), None)
        if chosen is None:
            raise NotFound(
                f"{current.name} has no release {to} to return to.",
                why=f"There are: {', '.join(str(r.number) for r in candidates[:20]) or 'none'}.",
                fix=f"Look at `slipway history {current.name}`.",
            )
    else:
        chosen = proven_other(current.intent, history)
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


def proven_other(wanted: Intent | None, history: Sequence[Release]) -> Release | None:
    """What a roll-back returns to by itself: the newest verified release that is not wanted now."""
    essence = _essence(wanted)
    found = (r for r in lineage.returnable(history) if r.verified and _essence(r.intent) != essence)
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
    stable = lineage.beside(current.stable, history)
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
    back = proven_other(current.intent, history)
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
    stable = lineage.beside(lineage.answering_workload(current), earlier) or next(proven, None)
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


def _subject(plan: Plan) -> str:
    if plan.after is not None and plan.after.version is not None:
        return str(plan.after.version)
    return plan.service
