"""Slipway under the Roles that it ships: enough for everything, and each missing verb is named.

The whole folder runs under the shipped Role (account.py). Here verbs are taken out of it, one after
the other, and what needs each is run as the command line runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dashboard.cli import main
from services import planning, preparing, rollout
from services.cluster import Cluster
from services.domain import Mode, Outcome, Phase, Progress, TestResult, Verdict, WayIn
from services.errors import Denied
from services.facilities import DELETING, OFFERING, RIGHTS, WATCHING, Facilities, Right
from services.gcs import GcsPackager
from services.gke import GkeCluster
from services.journal import ClusterJournal
from services.kserve import KServeOptions, KServeServing
from services.kubeconfig import Context
from services.kubepaths import Paths
from services.ports import Ops, Registry, Store
from tests import waiting
from tests.cluster.account import DELETE, FORWARD, Account, account, rules_of, without
from tests.cluster.conftest import ClusterOps, Voyage, intent_of
from tests.cluster.gate import CONTEXT as GATE
from tests.cluster.gate import standing
from tests.memory import MemoryRegistry

NOWHERE = KServeOptions(ingress="http://127.0.0.1:9")
"""No ingress answers: requests take the API server's proxy."""


@dataclass
class Stage:
    """A namespace with three services, and an account whose Role is changed."""

    ops: ClusterOps
    account: Account
    say: Callable[..., tuple[int, str]]
    """Runs one command: exit code, and all that it says on stderr."""

    live, asleep, split = "live", "asleep", "split"

    @property
    def namespace(self) -> str:
        return self.ops.namespace

    @property
    def fresh(self) -> ClusterOps:
        """The same as a front end that begins now, and remembers no answer."""
        cluster = self.account.cluster
        journal = ClusterJournal(cluster, self.namespace)
        serving = KServeServing(cluster, self.namespace, journal, NOWHERE)
        return replace(self.ops, serving=serving, journal=journal)

    def journey(self, service: str = live) -> Voyage:
        return Voyage(self.ops, service, Mode.STANDARD)


@dataclass
class _Reach:
    """What the command line connects to, with the one target."""

    reached: ClusterOps

    @property
    def registry(self) -> Registry:
        return self.reached.registry

    @property
    def store(self) -> Store:
        return self.reached.store

    def contexts(self) -> tuple[Context, ...]:
        return ()

    def gke_clusters(self, project: str) -> tuple[GkeCluster, ...]:
        return ()

    def ops(self, target: str | None = None, namespace: str | None = None) -> Ops:
        return self.reached


@pytest.fixture(scope="module")
def actor(
    admin: Cluster, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Account]:
    """An account of this module's own: its Role is changed."""
    with account(admin, namespace, tmp_path_factory.mktemp("actor")) as made:
        yield made


@pytest.fixture(scope="module")
def acting(  # noqa: PLR0917 (fixtures by name)
    actor: Account,
    namespace: str,
    bucket: str,
    emulator: str,
    versions: MemoryRegistry,
    tmp_path_factory: pytest.TempPathFactory,
) -> ClusterOps:
    """Slipway as that account."""
    mine = actor.cluster
    journal = ClusterJournal(mine, namespace)
    staging = tmp_path_factory.mktemp("staging")
    return ClusterOps(
        registry=versions,
        packager=GcsPackager(bucket, versions, staging, emulator=emulator),
        serving=KServeServing(mine, namespace, journal, NOWHERE),
        journal=journal,
        namespace=namespace,
        server=mine.host,
    )


@pytest.fixture(scope="module")
def served(acting: ClusterOps, admin: Cluster) -> Iterator[None]:
    """`live` with a pod; `asleep` and `split` (Knative) stopped, which start none."""
    Voyage(acting, Stage.live, Mode.STANDARD).begin(1)
    for name, mode in ((Stage.asleep, Mode.STANDARD), (Stage.split, Mode.KNATIVE)):
        stopped(acting, name, mode)
    assert Voyage(acting, Stage.live, Mode.STANDARD).follow().outcome is Outcome.VERIFIED
    yield
    for name in (Stage.live, Stage.asleep, Stage.split):
        admin.send("DELETE", Paths(acting.namespace).service(name), doing="clean up", accept=(404,))


def stopped(ops: ClusterOps, name: str, mode: Mode) -> None:
    """A service that was never started."""
    journey = Voyage(ops, name, mode)
    prepared = preparing.prepare_deploy(ops, "wine/1", name=name, wish=planning.Wish(mode=mode))
    assert prepared.plan.after is not None
    plan = replace(prepared.plan, after=replace(prepared.plan.after, stopped=True))
    rollout.apply(plan, ops, actor="tester", version=prepared.version)
    assert journey.follow().outcome is Outcome.STOPPED


@pytest.fixture
def stage(  # noqa: PLR0917 (fixtures by name)
    served: None,
    acting: ClusterOps,
    actor: Account,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Stage]:
    monkeypatch.chdir(tmp_path)
    rules = rules_of("Role", "slipway")

    def say(*words: str, ops: ClusterOps = acting) -> tuple[int, str]:
        capsys.readouterr()
        code = main(words, connect=lambda _settings: _Reach(ops), environ=environ(tmp_path))
        return code, capsys.readouterr().err

    yield Stage(acting, actor, say)
    actor.set_rules(acting.namespace, rules)


def environ(folder: Path) -> Mapping[str, str]:
    return {"SLIPWAY_STATE_DIR": str(folder / "state")}


# ── Enough ────────────────────────────────────────────────────────────────────────────────────


def test_the_shipped_role_is_enough_and_no_more_than_is_used(
    stage: Stage, account: Account
) -> None:
    checked = stage.ops.serving.check()
    assert [found for found in checked if found.verdict is Verdict.FAIL] == []
    granted = {
        (group, resource, verb)
        for rule in rules_of("Role", "slipway")
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    used = {
        (right.group, right.name, verb) for right in (*RIGHTS, *WATCHING) for verb in right.verbs
    }
    assert granted == used


def test_what_the_role_leaves_out_is_refused_with_the_part_that_grants_it(stage: Stage) -> None:
    code, said = stage.say("delete", stage.asleep, "--confirm", stage.asleep, "--yes")
    assert code == 4
    assert "may not delete inferenceservices" in said
    assert "slipway-delete of deploy/rbac.yaml" in said
    with stage.account.also(DELETE, stage.namespace):
        facilities = Facilities(stage.account.cluster, stage.namespace)
        assert facilities.missing_rights((DELETING,)) == []
    ((_, verbs),) = Facilities(stage.account.cluster, stage.namespace).missing_rights((OFFERING,))
    assert verbs == ["create", "patch"]


# ── Each verb taken away ──────────────────────────────────────────────────────────────────────

Attempt = Callable[[Stage], str]


def refused(*words: str) -> Attempt:
    """A command that has to end with exit code 4; gives what it said."""

    def attempt(stage: Stage) -> str:
        code, said = stage.say(*words, ops=stage.fresh)
        return said if code == 4 else f"exit {code}: {said}"

    return attempt


def deploy(number: int, name: str) -> Attempt:
    return refused("deploy", f"wine/{number}", "--name", name, "--mode", "Standard", "--yes")


def planned(stage: Stage) -> str:
    """What the checks of a plan say, which is not refused."""
    prepared = preparing.prepare_deploy(stage.fresh, "wine/2", name=stage.live)
    planning.refuse_if_blocked(prepared.plan, prepared.findings)
    return " ".join(f"{f.detail} {f.fix}" for f in prepared.findings if f.verdict is Verdict.SKIP)


def untested(stage: Stage) -> str:
    """What is said of a release that cannot be tested; it is not called failed."""
    result, why = rollout.try_inference(stage.fresh, stage.journey().releases[0])
    assert result is TestResult.COULD_NOT_MEASURE
    return f"{why} deploy/rbac.yaml"


def another_way(stage: Stage) -> str:
    """The way in that is left is taken, and says why."""
    journey = Voyage(stage.fresh, stage.live, Mode.STANDARD)
    assert journey.answer() == 1
    return f"{journey.ops.serving.endpoint(stage.live).why} deploy/rbac.yaml"


def still_answers(stage: Stage) -> str:
    """Nothing is missed; only the checks say it."""
    assert Voyage(stage.fresh, stage.live, Mode.STANDARD).answer() == 1
    return diagnosed(stage)


def diagnosed(stage: Stage) -> str:
    """What `slipway doctor` says of rights."""
    checked = Facilities(stage.ops.serving._cluster, stage.namespace).right_findings(RIGHTS)
    return " ".join(f"{found.detail} {found.fix}" for found in checked)


STATUS = refused("status", Stage.live)
STATUS_SPLIT = refused("status", Stage.split)
LIST = refused("status")
STOP = refused("stop", Stage.live, "--yes")
DEPLOY, CREATE = deploy(2, Stage.live), deploy(1, "another")

ATTEMPTS: dict[tuple[str, str], tuple[Attempt, ...]] = {
    ("inferenceservices", "get"): (STATUS,),
    ("inferenceservices", "list"): (LIST,),
    ("inferenceservices", "create"): (CREATE,),
    ("inferenceservices", "patch"): (DEPLOY, STOP),
    ("servingruntimes", "list"): (planned,),
    ("controllerrevisions", "get"): (DEPLOY,),
    ("controllerrevisions", "list"): (refused("history", Stage.live), STATUS),
    ("controllerrevisions", "create"): (STOP,),
    ("controllerrevisions", "patch"): (STOP,),
    ("leases", "get"): (DEPLOY,),
    ("leases", "create"): (CREATE,),
    ("leases", "update"): (STOP,),
    ("leases", "patch"): (STOP,),
    ("deployments", "get"): (STATUS,),
    ("deployments", "list"): (LIST,),
    ("services", "get"): (STATUS_SPLIT,),
    ("services", "list"): (LIST,),
    ("revisions", "list"): (STATUS_SPLIT,),
    ("pods", "list"): (STATUS,),
    ("pods/log", "get"): (
        refused("logs", Stage.live),
        refused("logs", Stage.live, "--follow"),
    ),
    ("pods/proxy", "get"): (untested,),
    ("pods/proxy", "create"): (untested,),
    ("services/proxy", "get"): (another_way,),
    ("services/proxy", "create"): (refused("predict", Stage.live, "--example"),),
    ("events", "list"): (refused("events", Stage.live),),
    ("serviceaccounts", "get"): (planned,),
    ("resourcequotas", "list"): (planned,),
    ("ingresses", "get"): (still_answers,),
}
"""(resource, verb) → what needs it, and tells that it is missing."""


def test_each_missing_verb_is_named_by_what_needs_it(stage: Stage) -> None:
    assert set(ATTEMPTS) == {(right.name, verb) for right in RIGHTS for verb in right.verbs}
    whole = rules_of("Role", "slipway")
    before = [len(stage.journey(name).releases) for name in (stage.live, stage.asleep)]
    for right in RIGHTS:
        for verb in right.verbs:
            less = without(whole, right.group, right.name, verb)
            stage.account.set_rules(stage.namespace, less)
            wait_until_missing(stage, right, verb)
            for attempt in ATTEMPTS[right.name, verb]:
                said = attempt(stage)
                assert names(said, right, verb), (verb, right.name, said)
                assert "deploy/rbac.yaml" in said, said
                assert "Traceback" not in said
    assert [len(stage.journey(name).releases) for name in (stage.live, stage.asleep)] == before


def names(said: str, right: Right, verb: str) -> bool:
    """Whether words name the right: ours, or the API server's where it refused a prediction."""
    ours, theirs = f"may not {verb} {right.name}", f'cannot {verb} resource "{right.name}"'
    return ours in said or theirs in said


def test_each_missing_watch_is_named(stage: Stage) -> None:
    whole = rules_of("Role", "slipway")
    facilities = Facilities(stage.ops.serving._cluster, stage.namespace)
    for right in WATCHING:
        less = without(whole, right.group, right.name, "watch")
        stage.account.set_rules(stage.namespace, less)
        wait_until_missing(stage, right, "watch")
        (found,) = facilities.right_findings(WATCHING, Verdict.WARN)
        assert f"may not watch {right.name}" in found.detail


def wait_until_missing(stage: Stage, right: Right, verb: str) -> None:
    """Wait until the API server's authorizer has heard of the change, and of the one before it."""
    facilities = Facilities(stage.ops.serving._cluster, stage.namespace)

    def missing() -> list[tuple[str, list[str]]]:
        return [(r.name, verbs) for r, verbs in facilities.missing_rights((*RIGHTS, *WATCHING))]

    only = [(right.name, [verb])]
    found = waiting.seen(missing, lambda names: names == only, within_s=20, every_s=0.02)
    assert found == only


# ── Taken away in the middle ──────────────────────────────────────────────────────────────────


def test_a_role_that_is_taken_away_in_the_middle_is_named_and_the_roll_out_settles_when_it_is_back(
    stage: Stage,
) -> None:
    journey = stage.journey(stage.asleep)
    number = begun(stage, "1")
    stage.account.unbind(stage.namespace)
    told: list[Progress] = []
    for progress in rollout.follow(stage.ops, stage.asleep, release=number, timeout_s=60):
        told.append(progress)
        if len(told) == 2:
            stage.account.bind(stage.namespace)
    unseen = [progress for progress in told if progress.phase is Phase.UNKNOWN]
    assert len(unseen) >= 2
    assert all("may not list controllerrevisions" in progress.message for progress in unseen)
    assert all("Role slipway of deploy/rbac.yaml" in progress.message for progress in unseen)
    assert told[-1].outcome is Outcome.STOPPED
    assert [(r.number, r.outcome) for r in journey.releases][:1] == [(number, Outcome.STOPPED)]


def test_an_operation_that_ends_without_its_role_ends_with_code_4_and_is_taken_up_later(
    stage: Stage, tmp_path: Path
) -> None:
    with standing(stage.account.cluster) as gate:
        gate.after(
            "PATCH",
            r"/inferenceservices/[^?]*[?](?!.*dryRun)",
            lambda: stage.account.unbind(stage.namespace),
        )
        file = gate.kubeconfig(tmp_path)
        through = Cluster(target="test", context=GATE, kubeconfig=file)
        journal = ClusterJournal(through, stage.namespace)
        serving = KServeServing(through, stage.namespace, journal)
        mine = replace(stage.ops, serving=serving, journal=journal)
        code, said = stage.say("stop", stage.live, "--yes", "--timeout", "3", ops=mine)
    stage.account.bind(stage.namespace)
    assert code == 4
    assert "may not list controllerrevisions" in said
    assert "Role slipway of deploy/rbac.yaml" in said
    assert "Traceback" not in said
    stage.account.until("list", "controllerrevisions", stage.namespace, allowed=True)
    journey = stage.journey()
    assert journey.releases[0].outcome is Outcome.OPEN
    assert journey.follow(60).outcome is Outcome.STOPPED


def begun(stage: Stage, turn: str) -> int:
    """An operation on the stopped service, applied and not looked at yet: its release."""
    current = preparing.require(stage.ops, stage.asleep)
    after = replace(intent_of(current), env=(("TURN", turn),))
    plan = planning.plan_deploy(current, after, target="test", namespace=stage.namespace)
    release = rollout.apply(plan, stage.ops, actor="tester")
    assert release is not None
    return release.number


# ── The last way in ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", [Mode.STANDARD, Mode.KNATIVE])
def test_without_ingress_and_proxy_a_port_is_forwarded(
    stage: Stage, voyage: Callable[[Mode], Voyage], mode: Mode
) -> None:
    journey = voyage(mode)
    journey.deploy(2)
    rules = rules_of("Role", "slipway")
    unproxied = [rule for rule in rules if "pods/proxy" not in rule["resources"]]
    stage.account.set_rules(stage.namespace, unproxied)
    mine = stage.account.cluster
    serving = KServeServing(mine, stage.namespace, stage.ops.journal, NOWHERE)
    gone = waiting.seen(
        lambda: not mine.may("create", "", "pods", stage.namespace, "proxy"),
        within_s=20,
        every_s=0.05,
    )
    assert gone
    with pytest.raises(Denied, match="slipway-forward"):
        serving.endpoint(journey.service)
    with stage.account.also(FORWARD, stage.namespace):
        serving = KServeServing(mine, stage.namespace, stage.ops.journal, NOWHERE)  # asks anew
        endpoint = serving.endpoint(journey.service)
        assert endpoint.via is WayIn.PORT_FORWARD
        assert "port-forward to pod" in endpoint.why
        through = Voyage(replace(stage.ops, serving=serving), journey.service, mode)
        assert [through.answer() for _ in range(5)] == [2] * 5
        assert stage.ops.predictor.ready(endpoint)
        release = stage.ops.journal.history(journey.service)[0]
        assert rollout.try_inference(through.ops, release) == (TestResult.PASS, "")
