"""The verb watch: deploy what an alias points to, whenever it moves."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dashboard import views
from dashboard.commands.operate import carried_out
from dashboard.commands.session import Answer, Session, log
from services import planning, preparing, rollout, watching
from services.domain import Action, AliasRef, ModelVersion, Outcome, VersionRef
from services.errors import ConfigError, Conflict, SlipwayError

NOTHING = "none"


@dataclass
class Watcher:
    """One alias and one service, looked at again and again."""

    session: Session
    seen: dict[VersionRef, datetime] = field(default_factory=dict)
    """When the alias was last seen at each version."""
    failures: int = 0
    """Looks in a row that ended in an error."""

    def __post_init__(self) -> None:
        self._given_reason = self.session.args.reason

    def look(self) -> tuple[dict[str, Any], SlipwayError | None]:
        """One look, one decision. ConfigError for what waiting does not mend."""
        args = self.session.args
        decision: dict[str, Any] = {
            "time": views.time_text(rollout.utc_now()),
            "model": args.model,
            "alias": args.alias,
            "service": args.name,
            "version": None,
            "action": NOTHING,
            "outcome": Outcome.UNCHANGED.value,
            "why": "",
        }
        try:
            version = self.session.ops.registry.version(AliasRef(args.model, args.alias))
            decision["version"] = version.ref.number
            self.seen[version.ref] = rollout.utc_now()
            error = self._pursue(version, decision)
        except ConfigError:
            raise
        except SlipwayError as failure:
            error = failure
        self._count(decision, error)
        return decision, error

    def _pursue(self, version: ModelVersion, decision: dict[str, Any]) -> SlipwayError | None:
        """Do what is to be done about the version, and note it in the decision."""
        session, name = self.session, self.session.args.name
        ops = session.ops
        history = ops.journal.history(name)
        if history and history[0].outcome is Outcome.OPEN:
            # Whoever began it may be gone: a look settles what has become of it.
            rollout.settle(ops, name)
            history = ops.journal.history(name)
        judged = watching.judged(version.ref, ops.serving.service(name), history, self.seen)
        if judged.choice is not watching.Choice.DEPLOY:
            decision |= {"action": judged.choice.value, "why": judged.why}
            decision["outcome"] = history[0].outcome.value
            return None
        prepared = preparing.prepare_deploy(ops, str(version.ref), name=name)
        if prepared.plan.nothing_to_do:
            return None
        decision["action"] = Action.DEPLOY.value
        alias = f"{version.ref.model}@{session.args.alias}"
        session.args.reason = self._given_reason or f"{alias} points to {version.ref}"
        try:
            answer = carried_out(session, prepared)
        except (
            ConfigError
        ) as unconfirmed:  # a warning of this version's: the next one may have none
            return unconfirmed
        decision |= {key: answer.document[key] for key in ("outcome", "release", "took_s")}
        return answer.error

    def _count(self, decision: dict[str, Any], error: SlipwayError | None) -> None:
        if error is None or decision["outcome"] != Outcome.UNCHANGED.value:
            self.failures = 0  # a roll-out that failed is a result; it is not tried again
        elif isinstance(error, Conflict):
            decision |= {"action": watching.Choice.WAIT.value}
        else:
            self.failures += 1
        if error is not None:
            if decision["outcome"] == Outcome.UNCHANGED.value:
                decision["outcome"] = error.kind
            decision["why"] = f"{error.what} {error.why}".strip()


def watch(session: Session) -> Answer:
    """Deploy what the alias points to, once or for ever; a line for each decision."""
    args = session.args
    planning.refuse_bad_name(args.name)
    if session.ops.protected and args.confirm is None:
        raise ConfigError(
            f"The target {session.ops.target} is protected: nobody is there to confirm a deploy.",
            fix=f"Say --confirm {args.name} when watching is meant.",
        )
    watcher = Watcher(session)
    if args.once:
        decision, error = watcher.look()
        return Answer(decision, [_decision_line(decision)], error)
    # In a pod both streams are one log, which a reader of JSON lines must be able to read.
    session.terminal.quiet = args.json
    try:
        while True:
            decision, error = watcher.look()
            wait_s = watching.wait_s(args.interval, watcher.failures)
            if watcher.failures:
                decision["next_look_s"] = wait_s
            log.info("%s", _decision_line(decision))
            if args.json:
                session.terminal.stdout.write(json.dumps(views.plain(decision)) + "\n")
                session.terminal.stdout.flush()
            else:
                session.terminal.result([_decision_line(decision)])
            if error is not None:
                session.terminal.error(error)
            time.sleep(wait_s)
    finally:
        session.terminal.quiet = False


def _decision_line(decision: Mapping[str, Any]) -> str:
    line = (
        f"{decision['time']} {decision['model']}@{decision['alias']}"
        f" → {decision['version']}: {decision['action']}, {decision['outcome']}"
    )
    if decision["why"]:
        line += f": {decision['why'].rstrip('.')}"
    if "next_look_s" in decision:
        line += f"; looks again in {views.seconds_text(decision['next_look_s'])}"
    return line
