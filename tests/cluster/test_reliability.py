"""Faults, killed processes and rivals: one write, one record, and both say what the cluster does.

The API server's faults are made at a gate before it (gate.py), so the tier runs on any cluster and
disturbs nobody else. What needs no pods is shown on a stopped service, which starts none.
"""

from __future__ import annotations

import json
import re
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from services import inferenceservice as objects
from services import kubeobject, planning, preparing, records, rollout
from services.cluster import MERGE_PATCH, Cluster
from services.domain import (
    Action,
    Intent,
    Json,
    Mode,
    Outcome,
    Package,
    PackageKind,
    Phase,
    Plan,
    Resources,
    Scale,
    Service,
    Verdict,
    VersionRef,
)
from services.errors import Conflict, Denied, SlipwayError
from services.gcs import GcsPackager
from services.journal import ClusterJournal
from services.kserve import KServeServing
from services.kubepaths import Paths
from services.planning import Wish
from services.store import SqlStore
from tests import waiting
from tests.cluster.account import Account, scratch
from tests.cluster.conftest import ClusterOps, Voyage, intent_of
from tests.cluster.gate import CONTEXT, Gate, cut, refuse, standing
from tests.memory import MemoryRegistry

ROOT = Path(__file__).parents[2]
ROUNDS = 50
LEASE_S = 4
"""Short, so that a killed process is replaced within the test's patience."""

ISVC = r"/inferenceservices/[^/]+(\?|$)"
RELEASES = r"/controllerrevisions(\?|$)"


# ── What the tests stand on ───────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def place(admin: Cluster, account: Account) -> Iterator[str]:
    """A namespace of this module's own."""
    with scratch(admin) as name:
        account.may_work_in(name)
        yield name


@pytest.fixture(scope="module")
def standing_gate(cluster: Cluster) -> Iterator[Gate]:
    with standing(cluster) as made:
        yield made


@pytest.fixture
def gate(standing_gate: Gate) -> Iterator[Gate]:
    """The door between Slipway and the API server, without any fault yet."""
    standing_gate.calm()
    yield standing_gate
    standing_gate.calm()


@dataclass
class Front:
    """A front end of this process: its ops, and `admin`, who looks and edits behind its back."""

    ops: ClusterOps
    admin: Cluster
    service: str

    @property
    def journey(self) -> Voyage:
        return Voyage(self.ops, self.service, Mode.STANDARD)

    @property
    def live(self) -> Json:
        found = self.admin.get(self.path, doing="read the service")
        assert found is not None
        return found

    @property
    def path(self) -> str:
        return Paths(self.ops.namespace).service(self.service)

    def edit(self, body: Json, manager: str = "kubectl-edit") -> None:
        self.admin.send(
            "PATCH",
            self.path,
            doing="edit as kubectl does",
            query={"fieldManager": manager},
            body=body,
            content_type=MERGE_PATCH,
        )

    def replica_sets(self) -> set[str]:
        found = self.admin.items(
            f"/apis/apps/v1/namespaces/{self.ops.namespace}/replicasets",
            doing="list ReplicaSets",
            selector=f"{kubeobject.SERVICE_LABEL}={self.service}",
        )
        return {item["metadata"]["uid"] for item in found}

    def pods(self) -> set[str]:
        found = self.admin.items(
            f"/api/v1/namespaces/{self.ops.namespace}/pods",
            doing="list pods",
            selector=f"{kubeobject.SERVICE_LABEL}={self.service}",
        )
        return {p["metadata"]["uid"] for p in found if not p["metadata"].get("deletionTimestamp")}

    def plan(self, intent: Intent) -> Plan:
        current = self.ops.serving.service(self.service)
        return planning.plan_deploy(current, intent, target="test", namespace=self.ops.namespace)

    def apply(self, intent: Intent) -> None:
        rollout.apply(self.plan(intent), self.ops, actor="rival")

    def other_version(self) -> int:
        """The one of the two versions that is not wanted now."""
        version = intent_of(self.journey.current).version
        assert version is not None
        return 3 - version.number


@pytest.fixture(scope="module")
def make_front(  # noqa: PLR0917 (fixtures by name)
    admin: Cluster,
    place: str,
    bucket: str,
    emulator: str,
    versions: MemoryRegistry,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Cluster, str], Front]:
    def make(cluster: Cluster, service: str) -> Front:
        journal = ClusterJournal(cluster, place, lease_duration_s=LEASE_S)
        staging = tmp_path_factory.mktemp("staging")
        ops = ClusterOps(
            registry=versions,
            packager=GcsPackager(bucket, versions, staging, emulator=emulator),
            serving=KServeServing(cluster, place, journal),
            journal=journal,
            namespace=place,
            server=cluster.host,
        )
        return Front(ops, admin, service)

    return make


@pytest.fixture(scope="module")
def serves(make_front: Callable[[Cluster, str], Front], cluster: Cluster) -> Front:
    """One service with a verified first release, shared: each test deploys the other version."""
    front = make_front(cluster, "wine")
    assert front.journey.deploy(1).outcome is Outcome.VERIFIED
    return front


@pytest.fixture
def gated(
    make_front: Callable[[Cluster, str], Front],
    serves: Front,
    gate: Gate,
    tmp_path: Path,
) -> Front:
    """The shared service, seen through the gate; `live` and edits go straight to the cluster."""
    through = Cluster(target="test", context=CONTEXT, kubeconfig=gate.kubeconfig(tmp_path))
    return make_front(through, serves.service)


@pytest.fixture
def asleep(
    make_front: Callable[[Cluster, str], Front], cluster: Cluster, admin: Cluster
) -> Iterator[Front]:
    """A stopped service: everything is written and recorded, no pod starts."""
    front = make_front(cluster, f"idle-{secrets.token_hex(2)}")
    front.apply(idle(front.service, 1))
    assert front.journey.follow(60).outcome is Outcome.STOPPED
    yield front
    admin.send("DELETE", front.path, doing="clean up", accept=(404,))


def idle(service: str, number: int, turn: int = 0) -> Intent:
    """An intent that starts no pods; each turn's is another one."""
    return Intent(
        service,
        VersionRef("wine", number),
        Package(PackageKind.GCS, f"gs://nobody/wine/{number}", f"{number}" * 64),
        Mode.STANDARD,
        env=(("TURN", str(turn)),),
        stopped=True,
    )


class Process:
    """An operator in a process of its own (operator.py)."""

    def __init__(
        self, folder: Path, kubeconfig: Path, context: str, namespace: str, actor: str
    ) -> None:
        config = folder / f"{actor}.json"
        config.write_text(
            json.dumps(
                {
                    "actor": actor,
                    "kubeconfig": str(kubeconfig),
                    "context": context,
                    "namespace": namespace,
                    "store": f"sqlite:///{folder / 'audit.db'}",
                    "lease_s": LEASE_S,
                    "staging": str(folder),
                }
            )
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.operator", str(config)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def say(self, **command: Json) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Json:
        """Its next answer; None when it is dead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def plan(self, intent: Intent) -> Json:
        self.say(do="plan", intent=json.loads(records.dump(intent)))
        return self.hear()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def start(gate: Gate, place: str, tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """Start operators as processes; they reach the cluster through the gate."""
    kubeconfig = gate.kubeconfig(tmp_path)
    begun: list[Process] = []

    def begin(actor: str) -> Process:
        begun.append(Process(tmp_path, kubeconfig, CONTEXT, place, actor))
        return begun[-1]

    yield begin
    for process in begun:
        process.end()


# ── One write ─────────────────────────────────────────────────────────────────────────────────


def test_a_deploy_is_one_patch_one_generation_and_one_replica_set(gated: Front, gate: Gate) -> None:
    generation, before = gated.live["metadata"]["generation"], gated.replica_sets()
    assert gated.journey.deploy(gated.other_version()).outcome is Outcome.VERIFIED
    for _ in range(3):  # what is recorded and looked at later is bookkeeping
        rollout.settle(gated.ops, gated.service)
    assert [seen.method for seen in gate.taken(ISVC)] == ["PATCH"]
    assert gated.live["metadata"]["generation"] == generation + 1
    assert len(gated.replica_sets() - before) == 1


def test_deploying_what_is_live_writes_nothing_and_keeps_the_pods(gated: Front, gate: Gate) -> None:
    live, pods = 3 - gated.other_version(), gated.pods()
    prepared = preparing.prepare_deploy(gated.ops, f"wine/{live}", name=gated.service)
    assert prepared.plan.nothing_to_do
    assert rollout.apply(prepared.plan, gated.ops, actor="ana") is None
    assert gate.writes("inferenceservices|controllerrevisions|leases") == []
    assert gated.pods() == pods


# ── A cluster that goes away ──────────────────────────────────────────────────────────────────


def test_a_patch_whose_answer_is_lost_with_the_api_server_is_written_once_and_verified(
    gated: Front, gate: Gate
) -> None:
    generation = gated.live["metadata"]["generation"]

    def restart() -> None:
        gate.close_for(6)
        cut()

    gate.after("PATCH", ISVC + r".*fieldValidation=Strict$", restart)
    prepared = preparing.prepare_deploy(gated.ops, f"wine/{gated.other_version()}", name="wine")
    rollout.apply(prepared.plan, gated.ops, actor="ana", version=prepared.version)
    assert gated.journey.follow().outcome is Outcome.VERIFIED
    assert len(gate.writes(ISVC)) == 1
    assert gated.live["metadata"]["generation"] == generation + 1
    assert [r.outcome for r in gated.journey.releases[:1]] == [Outcome.VERIFIED]


def test_while_the_api_server_is_away_the_follower_says_since_when(
    asleep: Front,
    make_front: Callable[[Cluster, str], Front],
    gate: Gate,
    tmp_path: Path,
) -> None:
    through = Cluster(target="test", context=CONTEXT, kubeconfig=gate.kubeconfig(tmp_path))
    front = make_front(through, asleep.service)
    front.apply(idle(asleep.service, 2))
    gate.close_for(3)
    told = list(rollout.follow(front.ops, front.service, timeout_s=60, every_s=0.5))
    assert told[-1].outcome is Outcome.STOPPED
    away = [progress.message for progress in told if "did not answer" in progress.message]
    assert away
    assert all(re.search(r"since \d\d:\d\d:\d\d UTC", message) for message in away)
    assert len(set(away)) == 1


def test_a_frozen_api_server_delays_a_deploy_and_doubles_nothing(
    asleep: Front,
    make_front: Callable[[Cluster, str], Front],
    gate: Gate,
    tmp_path: Path,
) -> None:
    through = Cluster(target="test", context=CONTEXT, kubeconfig=gate.kubeconfig(tmp_path))
    front = make_front(through, asleep.service)
    gate.before("PATCH", ISVC, lambda: gate.freeze_for(4))
    front.apply(idle(asleep.service, 2))
    assert front.journey.follow(60).outcome is Outcome.STOPPED
    assert len(gate.taken(ISVC)) == 1
    assert len(gate.writes(RELEASES)) == 1


# ── Two operators ─────────────────────────────────────────────────────────────────────────────


def test_of_two_operators_who_press_at_once_one_wins_and_the_other_is_told_who(
    start: Callable[[str], Process],
    make_front: Callable[[Cluster, str], Front],
    cluster: Cluster,
    admin: Cluster,
) -> None:
    front = make_front(cluster, f"race-{secrets.token_hex(2)}")
    operators = {1: start("ana"), 2: start("bob")}
    names = {1: "ana", 2: "bob"}
    for operator in operators.values():
        assert operator.hear() == {"ready": True}
    for turn in range(1, ROUNDS + 1):
        for number, operator in operators.items():
            assert operator.plan(idle(front.service, number, turn)) == {"nothing_to_do": False}
        at = time.monotonic() + 0.05
        for operator in operators.values():
            operator.say(do="apply", at=at)
        answers = {number: operator.hear() for number, operator in operators.items()}
        (winner,) = [number for number, answer in answers.items() if "release" in answer]
        loser = 3 - winner
        assert answers[winner] == {"release": turn}
        assert answers[loser]["error"] == "Conflict"
        assert names[winner] in answers[loser]["why"]
        assert f"wine/{winner}" in answers[loser]["why"]

        live = front.live
        assert kubeobject.workload_of(live) == turn
        assert kubeobject.version_of(live) == VersionRef("wine", winner)
        assert live["spec"]["predictor"]["model"]["storageUri"] == f"gs://nobody/wine/{winner}"
        assert live["metadata"]["generation"] == turn
        operators[winner].say(do="follow", service=front.service)
        assert operators[winner].hear() == {"outcome": "stopped"}
    assert [r.number for r in front.journey.releases] == list(range(ROUNDS, 0, -1))
    admin.send("DELETE", front.path, doing="clean up")


# ── A killed process ──────────────────────────────────────────────────────────────────────────

KILLED_AT = {
    "planned": ("", "", "", None),
    "intent-in-the-audit-log": ("before", "GET", RELEASES, None),
    "locked": ("after", "(POST|PUT)", r"/leases", None),
    "release-recorded": ("after", "POST", RELEASES, Outcome.NOT_APPLIED),
    "written": ("after", "PATCH", ISVC, Outcome.STOPPED),
    "followed": ("before", "GET", r"/pods\?", Outcome.STOPPED),
}


@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_process_killed_at_any_moment_leaves_no_lock_and_no_lie(
    asleep: Front, start: Callable[[str], Process], gate: Gate, tmp_path: Path, moment: str
) -> None:
    when, method, pattern, outcome = KILLED_AT[moment]
    ana = start("ana")
    ana.hear()
    ana.plan(idle(asleep.service, 2))
    if moment == "planned":
        ana.kill()
    else:

        def kill() -> None:
            ana.kill()
            cut()

        for verb in re.findall(r"\w+", method):
            (gate.before if when == "before" else gate.after)(verb, pattern, kill)
        ana.say(do="apply", at=0)
        if moment == "followed":
            assert ana.hear() == {"release": 2}
            ana.say(do="follow", service=asleep.service)
        assert ana.hear() is None

    rollout.settle(asleep.ops, asleep.service)  # any front end may look; it must not lie either
    wanted = idle(asleep.service, 1, turn=7)
    taken = waiting.seen(lambda: accepted(asleep, wanted), within_s=3 * LEASE_S, every_s=0.3)
    assert taken, "the lock outlived its holder"
    assert asleep.journey.follow(60).outcome is Outcome.STOPPED

    newest, *earlier = asleep.journey.releases
    assert newest.intent == wanted
    assert kubeobject.workload_of(asleep.live) == newest.number
    assert objects.live_intent(asleep.live).env[0] == ("TURN", "7")
    assert all(release.settled for release in earlier)
    if outcome is not None:
        assert earlier[0].outcome is outcome
    audit = SqlStore(f"sqlite:///{tmp_path / 'audit.db'}").entries()
    assert len(audit) == (0 if moment == "planned" else 1)


def accepted(front: Front, intent: Intent) -> bool:
    try:
        front.apply(intent)
    except Conflict as refused:
        if "ana" not in refused.why:
            raise
        return False
    return True


def test_another_front_end_finishes_what_a_killed_process_began(
    serves: Front, start: Callable[[str], Process], gate: Gate
) -> None:
    prepared = preparing.prepare_deploy(
        serves.ops, f"wine/{serves.other_version()}", name=serves.service
    )
    assert prepared.version is not None
    assert prepared.plan.after is not None
    serves.ops.packager.make(prepared.version)
    ana = start("ana")
    ana.hear()
    ana.plan(prepared.plan.after)
    gate.after("PATCH", ISVC, ana.kill)
    ana.say(do="apply", at=0)
    assert ana.hear() is None
    assert serves.journey.follow().outcome is Outcome.VERIFIED
    newest = serves.journey.releases[0]
    assert (newest.actor, newest.outcome) == ("ana", Outcome.VERIFIED)
    live = 3 - serves.other_version()
    assert serves.journey.settled_answer(live) == live


# ── Roll-back ─────────────────────────────────────────────────────────────────────────────────


def test_a_roll_back_restores_the_whole_intent_and_lists_what_others_own(serves: Front) -> None:
    journey = serves.journey
    first, number = intent_of(journey.current), journey.current.release
    changed = Wish(
        resources=Resources("200m", "1500Mi"),
        env=(("GREETING", "hello"),),
        scale=Scale(1, 2),
        timeout_s=55,
    )
    prepared = preparing.prepare_deploy(
        serves.ops, f"wine/{serves.other_version()}", name="wine", wish=changed
    )
    rollout.apply(prepared.plan, serves.ops, actor="ana", version=prepared.version)
    assert journey.follow().outcome is Outcome.VERIFIED
    serves.edit({"spec": {"predictor": {"terminationGracePeriodSeconds": 41}}})

    plan = planning.plan_rollback(journey.current, journey.releases, number)
    (told,) = [
        finding
        for finding in preparing.prepare(serves.ops, plan).findings
        if "terminationGracePeriodSeconds" in finding.detail
    ]
    assert told.verdict is Verdict.WARN
    assert "kubectl-edit" in told.detail
    rollout.apply(plan, serves.ops, actor="ana", reason="worse recall")
    assert journey.follow().outcome is Outcome.VERIFIED

    predictor = serves.live["spec"]["predictor"]
    assert predictor["terminationGracePeriodSeconds"] == 41
    assert "GREETING" not in json.dumps(predictor)
    assert not {"maxReplicas", "timeout"} & set(predictor)
    newest = journey.releases[0]
    assert (newest.intent, newest.action) == (first, Action.ROLLBACK)
    assert (newest.rolled_back_to, newest.reason) == (number, "worse recall")
    assert journey.current.drift == ()


def test_a_runtime_whose_image_changed_is_told_before_a_roll_back(
    asleep: Front,
    make_front: Callable[[Cluster, str], Front],
    cluster: Cluster,
    admin: Cluster,
) -> None:
    runtimes = f"/apis/serving.kserve.io/v1alpha1/namespaces/{asleep.ops.namespace}/servingruntimes"
    container = {"name": "kserve-container", "image": "registry.invalid/server:1"}
    spec = {
        "containers": [container],
        "protocolVersions": ["v2"],
        "supportedModelFormats": [{"name": "mlflow", "version": "1"}],
    }
    body = {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": "mine"},
        "spec": spec,
    }
    admin.send("POST", runtimes, doing="make a runtime", body=body)
    wish = replace(idle(asleep.service, 2), runtime="mine", requirements=("nothing-known==1",))
    asleep.apply(asleep.ops.serving.default_intent(wish))
    asleep.journey.follow(60)
    asleep.apply(idle(asleep.service, 1, turn=2))
    asleep.journey.follow(60)
    admin.send(
        "PATCH",
        f"{runtimes}/mine",
        doing="edit the runtime",
        body={"spec": {"containers": [{**container, "image": "registry.invalid/server:2"}]}},
        content_type=MERGE_PATCH,
    )
    later = make_front(cluster, asleep.service)
    plan = planning.plan_start(later.journey.current, later.journey.releases)
    plan = replace(plan, after=later.journey.releases[1].intent)
    findings = preparing.prepare(later.ops, plan).findings
    (told,) = [finding for finding in findings if finding.name == "runtime image"]
    assert "registry.invalid/server:1" in told.detail
    assert "registry.invalid/server:2" in told.detail


# ── Drift ─────────────────────────────────────────────────────────────────────────────────────


def becomes(front: Front, phase: Phase) -> Service:
    """The service once it is in that phase, or as it is after a minute."""
    return waiting.seen(
        lambda: front.journey.current, lambda service: service.phase is phase, within_s=60
    )


def test_pods_taken_away_outside_are_told_and_the_named_fix_brings_them_back(serves: Front) -> None:
    scale = (
        f"/apis/apps/v1/namespaces/{serves.ops.namespace}/deployments/"
        f"{kubeobject.predictor_name(serves.service)}/scale"
    )
    serves.admin.send(
        "PATCH",
        scale,
        doing="scale as kubectl does",
        body={"spec": {"replicas": 0}},
        content_type=MERGE_PATCH,
    )
    assert becomes(serves, Phase.FAILED).message.startswith("ScaledToZero")
    assert [(drift.field, drift.seen) for drift in serves.journey.current.drift] == [
        ("replicas", "0")
    ]
    seen = serves.ops.serving.observe(serves.service)
    assert seen.failure is not None
    assert f"slipway stop {serves.service}" in seen.failure.fix
    assert serves.journey.plan(lambda now, _: planning.plan_stop(now)).outcome is Outcome.STOPPED
    assert serves.journey.plan(planning.plan_start).outcome is Outcome.VERIFIED
    live = 3 - serves.other_version()
    assert serves.journey.settled_answer(live) == live


# ── Credentials and rights ────────────────────────────────────────────────────────────────────


def test_credentials_that_end_in_mid_operation_are_named_and_the_operation_is_taken_up_again(
    asleep: Front,
    make_front: Callable[[Cluster, str], Front],
    gate: Gate,
    tmp_path: Path,
) -> None:
    through = Cluster(target="test", context=CONTEXT, kubeconfig=gate.kubeconfig(tmp_path))
    front = make_front(through, asleep.service)
    front.apply(idle(asleep.service, 2))
    gate.before("", "", refuse(401, "Unauthorized"), times=1_000)
    with pytest.raises(Denied) as refused:
        list(rollout.follow(front.ops, front.service, timeout_s=3))
    assert "not valid any more" in refused.value.why
    assert "Log in again" in refused.value.fix
    with pytest.raises(Denied):
        front.apply(idle(asleep.service, 1, turn=3))
    gate.calm()
    assert front.journey.follow(60).outcome is Outcome.STOPPED
    assert [release.number for release in front.journey.releases] == [2, 1]


def test_what_cannot_be_tested_from_here_serves_and_is_not_called_failed(
    gated: Front, gate: Gate
) -> None:
    gate.before("", r"/proxy/", refuse(403, "pods is forbidden: no pods/proxy"), times=1_000)
    gate.before("", r"/portforward", refuse(403, "no pods/portforward"), times=1_000)
    progress = gated.journey.deploy(gated.other_version())
    assert progress.outcome is Outcome.SERVING
    assert progress.cause is not None
    assert progress.cause.why
    assert len(gate.writes(ISVC)) == 1


def test_without_a_row_in_the_audit_log_nothing_is_written(
    asleep: Front,
    make_front: Callable[[Cluster, str], Front],
    gate: Gate,
    tmp_path: Path,
) -> None:
    through = Cluster(target="test", context=CONTEXT, kubeconfig=gate.kubeconfig(tmp_path))
    front = make_front(through, asleep.service)
    file = tmp_path / "audit.db"
    store = SqlStore(f"sqlite:///{file}")
    assert store.entries() == []
    with sqlite3.connect(file) as other:
        other.execute(
            "CREATE TRIGGER full BEFORE INSERT ON slipway_audit BEGIN SELECT RAISE(FAIL, 'x'); END"
        )
    with pytest.raises(SlipwayError):
        rollout.apply(
            front.plan(idle(asleep.service, 2)), replace(front.ops, store=store), actor="ana"
        )
    assert gate.writes("") == []


# ── GitOps ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("tool", "mark"),
    [
        ("Argo CD", {"annotations": {"argocd.argoproj.io/tracking-id": "shop:x/y:z"}}),
        ("Flux", {"labels": {"kustomize.toolkit.fluxcd.io/name": "shop"}}),
        ("Helm", {"annotations": {"meta.helm.sh/release-name": "shop"}}),
    ],
)
def test_a_service_of_a_gitops_tool_is_refused_and_render_is_offered(
    asleep: Front, tool: str, mark: Json
) -> None:
    asleep.edit({"metadata": mark}, manager="somebody")
    version = objects.object_version(asleep.live)  # the status is KServe's to change
    with pytest.raises(SlipwayError) as refused:
        asleep.apply(idle(asleep.service, 2))
    assert refused.value.exit_code == 7
    assert tool in refused.value.what
    assert "slipway render" in refused.value.fix
    assert objects.object_version(asleep.live) == version
