"""The verb watch: deploy what an alias points to, whenever it moves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from dashboard import views
from dashboard.commands.operate import carried_out
from dashboard.commands.session import Answer, Session
from services import rollout
from services.domain import Action, AliasRef, ModelVersion, Outcome
from services.errors import ConfigError, SlipwayError


def watch(session: Session) -> Answer:
    """Deploy what the alias points to, once or for ever; a line for each decision."""
    args = session.args
    if args.once:
        decision, error = _decision(session)
        return Answer(decision, [_decision_line(decision)], error)
    while True:
        decision, error = _decision(session)
        if error is not None and error.exit_code == ConfigError.exit_code:
            raise error  # waiting does not mend it
        if args.json:
            session.terminal.stdout.write(json.dumps(views.plain(decision)) + "\n")
            session.terminal.stdout.flush()
        else:
            session.terminal.result([_decision_line(decision)])
        if error is not None:
            session.terminal.error(error)
        time.sleep(args.interval)


def _decision(session: Session) -> tuple[dict[str, Any], SlipwayError | None]:
    """One look at the alias: deploy what it points to, unless that is so or was tried in vain."""
    args = session.args
    decision: dict[str, Any] = {
        "time": views.time_text(rollout.utc_now()),
        "model": args.model,
        "alias": args.alias,
        "service": args.name,
        "version": None,
        "action": "none",
        "outcome": Outcome.UNCHANGED.value,
    }
    try:
        version = session.ops.registry.version(AliasRef(args.model, args.alias))
        decision["version"] = version.ref.number
        failed = _tried_in_vain(session, version)
        if failed is not None:
            decision |= {"action": "skip", "outcome": failed.value}
            return decision, None
        prepared = rollout.prepare_deploy(session.ops, str(version.ref), name=args.name)
        if prepared.plan.nothing_to_do:
            return decision, None
        decision["action"] = Action.DEPLOY.value
        session.args.reason = args.reason or f"{version.ref.model}@{args.alias} moved"
        answer = carried_out(session, prepared)
    except SlipwayError as error:
        decision["outcome"] = error.kind
        return decision, error
    decision["outcome"] = answer.document["outcome"]
    decision["release"] = answer.document["release"]
    return decision, answer.error


def _tried_in_vain(session: Session, version: ModelVersion) -> Outcome | None:
    """The outcome of the newest release when it is this version's and it failed."""
    newest = next(iter(session.ops.journal.history(session.args.name)), None)
    if newest is None or newest.intent.version != version.ref:
        return None
    return newest.outcome if newest.outcome is Outcome.FAILED else None


def _decision_line(decision: Mapping[str, Any]) -> str:
    return (
        f"{decision['time']} {decision['model']}@{decision['alias']}"
        f" → {decision['version']}: {decision['action']}, {decision['outcome']}"
    )
