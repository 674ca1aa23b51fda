"""What both front doors begin with: a service found, a plan made and checked against its target.

Asks the ports; writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from services import checks, lineage, planning
from services.domain import (
    Action,
    Answering,
    Finding,
    Intent,
    ModelVersion,
    OwnedField,
    Package,
    PackageKind,
    Phase,
    Plan,
    Prediction,
    Service,
    Verdict,
    VersionDetails,
    parse_ref,
)
from services.errors import (
    ConfigError,
    NotFound,
    NotOffered,
    SlipwayError,
)
from services.planning import Wish
from services.ports import Ops, Packager

URL_WITHIN_S = 5.0
"""KServe writes down where a new service is reached a moment after its pods are ready."""


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
    met: Intent | None = None
    """What most callers of the service meet now: beside a canary, its stable side."""


def prepare_deploy(ops: Ops, reference: str, *, name: str, wish: Wish = Wish()) -> Prepared:
    """Read the version, propose its package, plan, rehearse. Writes nothing that serves."""
    planning.refuse_bad_name(name)
    version = ops.registry.version(parse_ref(reference))
    details = ops.registry.details(version.ref)
    current = ops.serving.service(name)
    packager = _packager(ops, current, wish)
    package = packager.propose(version)
    intent = planning.intent_for(current, version, details, package, name=name, wish=wish)
    intent = ops.serving.default_intent(intent)
    plan = planning.plan_deploy(current, intent, target=ops.target, namespace=ops.namespace)
    met = _met_by_callers(ops, plan, current)
    rehearsal = ops.serving.rehearse(plan)
    findings = (
        *_version_findings(version, details),
        *_caller_findings(met, plan.after),
        *_package_findings(package),
        _still_there(packager, package, version)
        if plan.nothing_to_do
        else packager.outlook(version),
        *rehearsal.findings,
    )
    return Prepared(plan, findings, rehearsal.manifest, version, details, rehearsal.owned, met)


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
    planning.refuse_bad_name(name)
    version = ops.registry.version(parse_ref(reference))
    details = ops.registry.details(version.ref)
    current = ops.serving.service(name)
    ours = current is not None and not current.owner and bool(ops.journal.history(name))
    kept = current if ours else None
    packager = _packager(ops, kept, wish)
    package = packager.propose(version)
    intent = planning.intent_for(kept, version, details, package, name=name, wish=wish)
    intent = ops.serving.default_intent(intent)
    plan = planning.plan_render(current, intent, target=ops.target, namespace=ops.namespace)
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
    met = _met_by_callers(ops, plan)
    rehearsal = ops.serving.rehearse(plan)
    findings = (*_caller_findings(met, plan.after), *rehearsal.findings)
    if plan.after is not None and plan.action in {Action.ROLLBACK, Action.START, Action.ABORT}:
        findings = (_package_exists(ops, plan.after.package), *findings)
    return Prepared(plan, findings, rehearsal.manifest, owned=rehearsal.owned, met=met)


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
        left = lineage.remains(ops.target, ops.namespace, history)
        if left is not None and left.drift:
            what, _, why = left.message.partition("; ")
            back = lineage.way_back(history)
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
    left = (
        None if current else lineage.remains(ops.target, ops.namespace, ops.journal.history(name))
    )
    return current or left or require(ops, name)


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


def _met_by_callers(ops: Ops, plan: Plan, current: Service | None = None) -> Intent | None:
    """What most callers meet now: what is wanted, or the stable side of a canary."""
    if plan.before is None or plan.before.canary_percent is None:
        return plan.before
    current = current or ops.serving.service(plan.service)
    stable = lineage.beside(current.stable if current else None, ops.journal.history(plan.service))
    return stable.intent if stable else plan.before


def _caller_findings(before: Intent | None, after: Intent | None) -> tuple[Finding, ...]:
    """Whether callers of `before` could go on with `after`: one warning per breaking change."""
    from services.compare import signature_changes

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
