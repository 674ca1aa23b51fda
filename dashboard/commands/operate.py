"""Verbs that change what serves, from plan and deploy to stop and delete.

All of them do the same: plan, show, ask, apply, follow, say how it ended (`carried_out`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from dashboard import views, words
from dashboard.commands.look import service_lines
from dashboard.commands.session import (
    DEFAULT_TIMEOUT_S,
    OK,
    Answer,
    Interrupted,
    Session,
    traffic_text,
)
from dashboard.terminal import pairs, write_outputs, write_summary
from services import lineage, planning, preparing, rollout
from services.checks import CREDENTIALS, OWNERSHIP, PACKAGE, PASSED_OVER
from services.domain import (
    Action,
    AliasRef,
    Answering,
    Finding,
    Mode,
    Outcome,
    PackageKind,
    Phase,
    Plan,
    Progress,
    Release,
    Resources,
    Scale,
    Service,
    TargetKind,
    Verdict,
)
from services.errors import (
    ConfigError,
    Denied,
    NotOffered,
    RolloutFailed,
    RolloutTimeout,
    SlipwayError,
    Unreachable,
    one_line,
)
from services.planning import Wish
from services.preparing import Prepared

_DETAIL = 1_000
"""Characters of a finding that are shown: a plugin's or a webhook's words end with what matters."""


def plan(session: Session) -> Answer:
    """What a deploy would do; changes nothing. Exit 7 when a check forbids it."""
    args = session.args
    _refuse_what_is_ignored(session)
    prepared = preparing.prepare_deploy(
        session.ops, args.ref, name=args.name, wish=wish_of(args, session.terminal.stdin)
    )
    prepared = _taking_over(session, prepared)
    document = views.plan_document(prepared.plan, prepared.findings, prepared.manifest)
    blocked = bool(planning.blocking(prepared.findings))
    lines = [*_plan_lines(session, prepared), "", *prepared.manifest.rstrip().splitlines()]
    return Answer(document, lines, exit_code=7 if blocked else OK)


def deploy(session: Session) -> Answer:
    """Make a version live, or a canary."""
    args = session.args
    _refuse_what_is_ignored(session)
    prepared = preparing.prepare_deploy(
        session.ops, args.ref, name=args.name, wish=wish_of(args, session.terminal.stdin)
    )
    if args.rollback_on_failure:
        prepared = replace(prepared, plan=planning.with_rollback(prepared.plan))
    return carried_out(session, prepared, set_alias=args.set_alias)


def canary(session: Session) -> Answer:
    """Change the canary's share."""
    current, history = _service_and_history(session)
    plan = planning.plan_canary(current, history, session.args.percent)
    return carried_out(session, preparing.prepare(session.ops, plan))


def promote(session: Session) -> Answer:
    """Give the canary all of the traffic."""
    current, history = _service_and_history(session)
    return carried_out(
        session, preparing.prepare(session.ops, planning.plan_promote(current, history))
    )


def abort(session: Session) -> Answer:
    """Take the canary back."""
    current, history = _service_and_history(session)
    return carried_out(
        session, preparing.prepare(session.ops, planning.plan_abort(current, history))
    )


def rollback(session: Session) -> Answer:
    """Apply an earlier release's intent as a new release; a service that is gone comes back."""
    name = session.args.name
    current = preparing.require_or_remains(session.ops, name)
    history = session.ops.journal.history(name)
    plan = planning.plan_rollback(current, history, session.args.to)
    tied = lineage.tied_alias(history)
    if tied and not session.args.set_alias:
        session.terminal.say(f"The alias {tied} stays where it is; --set-alias {tied} moves it.")
    prepared = preparing.prepare(session.ops, plan)
    return carried_out(session, prepared, set_alias=session.args.set_alias)


def adopt(session: Session) -> Answer:
    """Record the present state of a service that others made; nothing on it is written."""
    current, _ = _service_and_history(session)
    prepared = preparing.prepare(session.ops, planning.plan_adopt(current))
    return _status_after(session, carried_out(session, prepared))


def stop(session: Session) -> Answer:
    """Keep the service, but no processes or pods."""
    current, _ = _service_and_history(session)
    prepared = preparing.prepare(session.ops, planning.plan_stop(current))
    return _status_after(session, carried_out(session, prepared))


def start(session: Session) -> Answer:
    """Start a stopped, killed or failed service."""
    current, history = _service_and_history(session)
    prepared = preparing.prepare(session.ops, planning.plan_start(current, history))
    return _status_after(session, carried_out(session, prepared))


def delete(session: Session) -> Answer:
    """Remove a service; its history stays."""
    current, _ = _service_and_history(session)
    prepared = preparing.prepare(session.ops, planning.plan_delete(current))
    return _status_after(session, carried_out(session, prepared))


def _taking_over(session: Session, prepared: Prepared) -> Prepared:
    managers = getattr(session.args, "take_over", None)
    return preparing.taking_over(session.ops, prepared, managers) if managers else prepared


def _status_after(session: Session, answer: Answer) -> Answer:
    """The service as it is after an operation, in the form of `status`."""
    document = dict(answer.document)
    try:
        service = session.ops.serving.service(document["service"])
    except (Unreachable, Denied) as error:
        return replace(answer, error=answer.error or error)
    rows = [views.service_row(service)] if service else []
    lines = service_lines(rows) if rows else [f"{document['service']} is gone."]
    return Answer({"services": rows, **document}, lines, answer.error, answer.exit_code)


def _service_and_history(session: Session) -> tuple[Service, Sequence[Release]]:
    name = session.args.name
    current = preparing.require(session.ops, name)
    return current, session.ops.journal.history(name)


def wish_of(args: argparse.Namespace, stdin: TextIO | None = None) -> Wish:
    """What the options ask for; None where they say nothing. ConfigError for an unreadable patch.

    `stdin` is where `--patch -` is read from.
    """
    scaled = args.min_replicas is not None or args.max_replicas is not None
    sized = args.cpu is not None or args.memory is not None
    return Wish(
        mode=Mode(args.mode) if args.mode else None,
        scale=Scale(args.min_replicas, args.max_replicas) if scaled else None,
        resources=Resources(args.cpu, args.memory) if sized else None,
        runtime=args.runtime,
        service_account=args.service_account,
        timeout_s=args.request_timeout,
        env=tuple(args.env) if args.env else None,
        labels=tuple(args.label) if args.label else None,
        patch=None if args.patch is None else _patch_text(args.patch, stdin),
        port=args.port,
        canary_percent=args.canary_percent,
        package=PackageKind(args.package) if args.package else None,
        own_environment=None if args.environment is None else args.environment == "own",
    )


def _patch_text(source: str, stdin: TextIO | None) -> str:
    try:
        if source == "-":
            return stdin.read() if stdin is not None else ""
        return Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The patch {one_line(source)!r} cannot be read.",
            why=f"{one_line(error)}.",
            fix="Give a YAML file, or - for standard input.",
        ) from error


def _refuse_what_is_ignored(session: Session) -> None:
    """NotOffered for what this machine would ignore: an option without effect is a lie."""
    if session.ops.kind is not TargetKind.LOCAL:
        return
    args = session.args
    given = {
        "--package": args.package,
        "--environment": args.environment,
        "--mode": args.mode,
        "--min-replicas": args.min_replicas,
        "--max-replicas": args.max_replicas,
        "--cpu": args.cpu,
        "--memory": args.memory,
        "--runtime": args.runtime,
        "--service-account": args.service_account,
        "--request-timeout": args.request_timeout,
        "--env": args.env,
        "--label": args.label,
        "--patch": args.patch,
    }
    for option, value in given.items():
        if value is not None:
            raise NotOffered(
                f"The target {session.ops.target} does not take {option}. Nothing was changed.",
                why="It runs one process per release on this machine.",
                fix=f"Leave {option} out, or choose a cluster with --target.",
            )


def carried_out(session: Session, prepared: Prepared, *, set_alias: str | None = None) -> Answer:
    """Show the plan, ask, apply it, follow it: the same for every verb that writes."""
    prepared = _taking_over(session, prepared)
    plan, terminal, ops = prepared.plan, session.terminal, session.ops
    if set_alias is not None:
        plan = planning.with_alias(plan, set_alias)
    started = time.monotonic()
    for line in _plan_lines(session, replace(prepared, plan=plan)):
        terminal.say(line)
    before = ops.serving.service(plan.service)
    planning.refuse_if_blocked(plan, prepared.findings)
    if plan.nothing_to_do:
        return _already_so(session, plan, before, started=started, set_alias=set_alias)
    _confirm(session, plan, prepared.findings)
    session.begun = plan.service
    release = rollout.apply(
        plan,
        ops,
        actor=session.surroundings.actor,
        origin=session.surroundings.origin,
        reason=getattr(session.args, "reason", None) or "",
        version=prepared.version,
        report=terminal.report(),
    )
    number = release.number if release else None
    terminal.say(f"Release {number} of {plan.service} was begun.")
    return _followed(session, plan, number, before, started=started, set_alias=set_alias)


def _already_so(
    session: Session,
    plan: Plan,
    before: Service | None,
    *,
    started: float,
    set_alias: str | None,
) -> Answer:
    """Nothing is to be begun: how it serves, or how the release ends that is still on its way.

    That is a command given again after its first run was killed: it must not say that all is well.
    """
    terminal, ops = session.terminal, session.ops
    history = ops.journal.history(plan.service)
    newest = history[0] if history else None
    # What was recorded but is not written yet is another operation, not what is wanted already.
    if before and newest and newest.outcome is Outcome.OPEN and newest.number == before.release:
        terminal.say(
            f"{plan.service} is wanted so already: {one_line(newest.actor, 64)} began release"
            f" {newest.number}, which has not ended. Nothing new was begun."
        )
        if plan.rollback_on_failure and not newest.rollback_on_failure:
            terminal.warn("It was begun without --rollback-on-failure: a failure is not undone.")
        if plan.action is newest.action:
            plan = replace(
                plan,
                rolled_back_from=newest.rolled_back_from,
                rolled_back_to=newest.rolled_back_to,
            )
        found = _as_found(before, history[1:])
        return _followed(session, plan, newest.number, found, started=started, set_alias=set_alias)
    terminal.say(f"{plan.service} is already so. Nothing was changed.")
    progress = Progress(
        before.phase if before else rollout.settle(ops, plan.service).phase,
        "already so",
        Outcome.UNCHANGED,
        release=before.release if before else None,
    )
    document = _operation(session, plan, progress, before, started)
    verified = before is not None and before.verified
    return _finished(session, plan, document, set_alias=set_alias if verified else None)


def _as_found(current: Service, earlier: Sequence[Release]) -> Service | None:
    """The service as the open release found it: what the JSON calls `previous`."""
    last = next((r for r in earlier if r.outcome is not Outcome.NOT_APPLIED), None)
    if last is None or last.action is Action.DELETE:
        return None
    return replace(current, release=last.number, intent=last.intent)


def _followed(
    session: Session,
    plan: Plan,
    number: int | None,
    before: Service | None,
    *,
    started: float,
    set_alias: str | None,
) -> Answer:
    """Follow release `number` and say how it ended; with --no-wait, that it is open."""
    terminal, ops = session.terminal, session.ops
    session.begun = plan.service
    progress = Progress(Phase.ROLLING_OUT, "begun", release=number)
    if not getattr(session.args, "wait", True):
        document = _operation(session, plan, progress, before, started)
        return _finished(session, plan, document)
    error: SlipwayError | None = None
    try:
        with terminal.following() as show:
            for progress in rollout.follow(
                ops,
                plan.service,
                release=number,
                timeout_s=getattr(session.args, "timeout", DEFAULT_TIMEOUT_S),
            ):
                show(progress)
    except (RolloutFailed, RolloutTimeout) as failure:
        error = failure
    except SlipwayError as lost:
        error = _goes_on(plan.service, number, lost)
        progress = Progress(Phase.UNKNOWN, lost.what, release=number)
    session.begun = ""
    if isinstance(error, RolloutTimeout) and not progress.settled:
        progress = replace(progress, outcome=Outcome.TIMEOUT)
    document = _operation(session, plan, progress, before, started)
    if progress.undoes is not None:
        document["release"] = number
    return _finished(session, plan, document, error=error, set_alias=set_alias)


def _goes_on(name: str, number: int | None, lost: SlipwayError) -> SlipwayError:
    """What ended the following, told with what goes on without it, as an interruption is."""
    return type(lost)(
        f"{lost.what} Release {number} of {name} that was begun goes on.",
        why=lost.why,
        fix=f"See how it ends: `slipway status {name}`. {lost.fix}".rstrip(),
    )


def _finished(
    session: Session,
    plan: Plan,
    document: views.OperationDocument,
    *,
    error: SlipwayError | None = None,
    set_alias: str | None = None,
) -> Answer:
    """Say how an operation ended, move the alias where that was asked for, tell the workflow."""
    terminal = session.terminal
    outcome = Outcome(document["outcome"])
    if outcome is Outcome.SERVING:
        cause = document["cause"]
        why = f" ({cause['why'] or cause['what']})" if cause else ""
        terminal.warn(f"{plan.service} is ready, but no test inference could verify it{why}.")
    if outcome is Outcome.FAILED and document["cause"]:
        where = views.where_text(document["cause"]["where"], document["cause"]["exit_code"])
        if where:
            terminal.say(f"  in {where}:")
        for line in document["cause"]["evidence"][-5:]:
            terminal.say(f"  | {line}")
    result: dict[str, Any] = dict(document)
    if set_alias is not None and document["version"] is not None and error is None:
        error, result["alias"] = _moved_alias(session, plan, outcome, set_alias)
    _tell_workflow(session, plan, document)
    return Answer(result, _operation_lines(document), error)


def _moved_alias(
    session: Session, plan: Plan, outcome: Outcome, alias: str
) -> tuple[SlipwayError | None, str | None]:
    """Point the alias at the version, now that it is verified; say so when it is not moved."""
    version = plan.after.version if plan.after else None
    if plan.after is not None and plan.after.canary_percent is not None:
        session.terminal.say(f"The alias {alias} moves when the canary is promoted.")
        return None, None
    if version is None or outcome not in (Outcome.VERIFIED, Outcome.UNCHANGED):
        session.terminal.warn(f"The alias {alias} was not moved: the release is not verified.")
        return None, None
    try:
        session.ops.registry.set_alias(AliasRef(version.model, alias), version.number)
    except SlipwayError as error:
        return error, None
    session.terminal.say(f"The alias {version.model}@{alias} points to {version} now.")
    return None, alias


def _operation(
    session: Session,
    plan: Plan,
    progress: Progress,
    before: Service | None,
    started: float,
) -> views.OperationDocument:
    version = plan.after.version if plan.after else None
    url, answering = _read_back(session, plan.service, progress)
    undone = progress.undoes
    wanted = before.intent.version if before and before.intent else None
    document: views.OperationDocument = {
        "action": plan.action.value,
        "service": plan.service,
        "target": plan.target,
        "namespace": plan.namespace,
        "model": views.model_of(version),
        "version": views.number_of(version),
        "release": progress.release,
        "outcome": (Outcome.FAILED if undone else progress.outcome).value,
        "url": url,
        "steps": [views.step_row(step) for step in progress.steps],
        "took_s": round(time.monotonic() - started, 3),
        "previous": {
            "release": before.release if before else None,
            "version": views.number_of(wanted),
        },
        "cause": views.cause_document(undone or progress.cause),
        "traffic": views.traffic_rows(answering),
    }
    if plan.action is Action.ROLLBACK:
        document["rolled_back_from"] = plan.rolled_back_from
        document["rolled_back_to"] = plan.rolled_back_to
    if undone:
        document["undone"] = {
            "release": progress.release,
            "outcome": progress.outcome.value,
            "cause": views.cause_document(progress.cause),
        }
    return document


def _read_back(
    session: Session, name: str, progress: Progress
) -> tuple[str | None, Sequence[Answering]]:
    """Where the service is reached and who answers. What is not read takes nothing from an outcome.

    Who answers is then as it was seen last.
    """
    try:
        now = preparing.with_url(session.ops, name)
    except (Unreachable, Denied) as error:
        session.terminal.say(f"Where {name} is reached is not known: {error.what}")
        return None, progress.answering
    return (now.url, now.answering) if now else (None, ())


def _operation_lines(document: views.OperationDocument) -> Iterator[str]:
    subject = (
        f"{document['model']}/{document['version']}"
        if document["version"] is not None
        else document["service"]
    )
    yield from pairs(
        {
            "outcome": document["outcome"],
            "service": f"{document['service']} on {document['target']}",
            "version": subject,
            "release": document["release"],
            "traffic": traffic_text(document["traffic"]),
            "url": document["url"],
            "took": views.seconds_text(document["took_s"]),
        }
    )


def _tell_workflow(session: Session, plan: Plan, document: views.OperationDocument) -> None:
    """$GITHUB_OUTPUT and $GITHUB_STEP_SUMMARY, where a workflow gave them."""
    outputs = {
        "release": document["release"],
        "version": document["version"],
        "url": document["url"],
        "outcome": document["outcome"],
    }
    surroundings = session.surroundings
    summary = {
        "Outcome": document["outcome"],
        "Service": document["service"],
        "Target": document["target"],
        "Namespace": document["namespace"],
        "Registered model": document["model"],
        **{name.capitalize(): value for name, value in outputs.items() if name != "outcome"},
        "Before": document["previous"]["version"],
        "Traffic": traffic_text(document["traffic"]),
        "Took": views.seconds_text(document["took_s"]),
        "Cause": document["cause"]["what"] if document["cause"] else None,
    }
    try:
        if surroundings.output_file is not None:
            write_outputs(surroundings.output_file, outputs)
        if surroundings.summary_file is not None:
            title = f"Slipway: {plan.action.value} {plan.service}"
            write_summary(surroundings.summary_file, title, summary)
    except OSError as error:
        session.terminal.warn(f"The workflow's files were not written: {one_line(error)}.")


def _plan_lines(session: Session, prepared: Prepared) -> Iterator[str]:
    plan = prepared.plan
    place = f"{plan.target} ({session.ops.server})"
    namespace = f", namespace {plan.namespace}" if plan.namespace else ""
    protected = ", protected" if session.ops.protected else ""
    yield f"{plan.action.value} {plan.service} on {place}{namespace}{protected}"
    if plan.alias and plan.after and plan.after.version:
        yield f"  alias {plan.alias}: moves to {plan.after.version} once it is verified"
    if plan.rollback_on_failure:
        yield "  if it fails: back to the newest verified release, once, by itself"
    for change in plan.changes:
        yield f"  {change.field}: {_or_none(change.before)} → {_or_none(change.after)}"
    for finding in prepared.findings:
        if finding.verdict in (Verdict.WARN, Verdict.FAIL, Verdict.SKIP):
            skipped = finding.verdict is Verdict.SKIP
            word = "not checked" if skipped else views.OUTCOME_WORDS[finding.verdict]
            yield f"  {word}: {one_line(finding.name)}: {one_line(finding.detail, _DETAIL)}"
            if finding.fix:
                said, *commands = finding.fix.splitlines()
                yield f"    → {one_line(said)}"
                yield from (f"      {one_line(line, 1_000)}" for line in commands)
        elif finding.name in (CREDENTIALS, PACKAGE, PASSED_OVER):
            yield f"  {finding.name}: {one_line(finding.detail, _DETAIL)}"
    if prepared.findings:
        yield f"  checks: {words.findings_sentence(prepared.findings)}"


def _or_none(text: str) -> str:
    return one_line(text, 120) or "(none)"


def _confirm(session: Session, plan: Plan, findings: Sequence[Finding]) -> None:
    """Have a write confirmed as its weight asks for; raises when it is not."""
    args, terminal = session.args, session.terminal
    deletes = plan.action is Action.DELETE
    if args.confirm is not None and args.confirm != plan.service:
        raise ConfigError(
            "The confirmation names another service. Nothing was changed.",
            why=f"--confirm says {one_line(args.confirm)!r}, the service is {plan.service!r}.",
        )
    if session.ops.protected or deletes:
        if args.confirm is not None or (args.yes and not session.ops.protected):
            return
        if not terminal.interactive:
            raise _unconfirmed(plan, session.ops.protected)
        if terminal.ask(f"Type {plan.service} to confirm:") != plan.service:
            raise _declined(plan)
        return
    if args.yes or args.confirm is not None:
        return
    if terminal.interactive:
        if terminal.ask("Go ahead? [y/N]").lower() not in ("y", "yes"):
            raise _declined(plan)
        return
    agreed = {OWNERSHIP} if plan.takes else set()  # --take-over has said so
    warnings = [f for f in findings if f.verdict is Verdict.WARN and f.name not in agreed]
    if warnings:
        raise ConfigError(
            f"To {plan.action.value} {plan.service} needs a confirmation. Nothing was changed.",
            why=f"{warnings[0].name}: {warnings[0].detail}",
            fix="Say --yes when that is meant.",
        )


def _unconfirmed(plan: Plan, protected: bool) -> ConfigError:
    why = f"The target {plan.target} is protected." if protected else "It removes the service."
    return ConfigError(
        f"To {plan.action.value} {plan.service} needs a confirmation. Nothing was changed.",
        why=f"{why} There is no terminal to ask on.",
        fix=f"Say --confirm {plan.service} when that is meant.",
    )


def _declined(plan: Plan) -> Interrupted:
    return Interrupted(f"{plan.service} was left as it is. Nothing was changed.")
