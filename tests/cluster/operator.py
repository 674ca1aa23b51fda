"""An operator in a process of its own: what tests run two of, and kill.

Reads one JSON command a line on stdin and answers each with one JSON line. `plan` looks and plans a
deploy of the given intent, `apply` carries the plan out at a given moment, `follow` settles it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from services import planning, records, rollout
from services.cluster import Cluster
from services.domain import Intent, Json, Outcome, Plan
from services.errors import SlipwayError
from services.gcs import GcsPackager
from services.journal import ClusterJournal
from services.kserve import KServeServing
from services.store import SqlStore
from tests.cluster.conftest import ClusterOps
from tests.memory import MemoryRegistry


class Operator:
    """One front end on a cluster; its audit log is a file that others read."""

    def __init__(self, config: Json) -> None:
        """`config`: actor, kubeconfig, context, namespace, store, lease_s, staging."""
        cluster = Cluster(
            target="test", context=config["context"], kubeconfig=Path(config["kubeconfig"])
        )
        journal = ClusterJournal(cluster, config["namespace"], lease_duration_s=config["lease_s"])
        registry = MemoryRegistry()
        self.actor = config["actor"]
        self.ops = ClusterOps(
            registry=registry,
            packager=GcsPackager("gs://unused/models", registry, Path(config["staging"])),
            serving=KServeServing(cluster, config["namespace"], journal),
            journal=journal,
            namespace=config["namespace"],
            server="",
            store=SqlStore(config["store"]),
        )
        self.plan: Plan | None = None

    def answer(self, command: Json) -> Json:
        """Do what a line says."""
        match command["do"]:
            case "plan":
                intent = records.load(Intent, json.dumps(command["intent"]))
                current = self.ops.serving.service(intent.service)
                self.plan = planning.plan_deploy(
                    current, intent, target="test", namespace=self.ops.namespace
                )
                return {"nothing_to_do": self.plan.nothing_to_do}
            case "apply":
                time.sleep(max(0.0, command["at"] - time.monotonic()))
                assert self.plan is not None
                release = rollout.apply(self.plan, self.ops, actor=self.actor)
                return {"release": release.number if release else None}
            case _:
                outcome = Outcome.OPEN
                for progress in rollout.follow(self.ops, command["service"], timeout_s=200):
                    outcome = progress.outcome
                return {"outcome": outcome.value}


def say(answer: Json) -> None:
    """Answer with one line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Answer until stdin ends."""
    operator = Operator(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    say({"ready": True})
    for line in sys.stdin:
        try:
            answer = operator.answer(json.loads(line))
        except SlipwayError as error:
            answer = {"error": error.kind, "what": error.what, "why": error.why, "fix": error.fix}
        say(answer)


if __name__ == "__main__":
    main()
