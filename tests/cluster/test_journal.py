"""The journal's contract, kept beside real InferenceServices; and what only a cluster can show."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.cluster import Cluster
from services.domain import Outcome, Plan
from services.errors import Conflict
from services.journal import SERVICE_LABEL, ClusterJournal
from services.ports import Journal
from tests.contract import test_journal as contract
from tests.contract.test_journal import plan_for

# The contract's tests, on this journal.
globals().update({k: v for k, v in vars(contract).items() if k.startswith("test_")})


def _emptied(admin: Cluster, namespace: str) -> None:
    for path in (
        f"/apis/apps/v1/namespaces/{namespace}/controllerrevisions",
        f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
    ):
        admin.send("DELETE", path, doing="clean up", query={"labelSelector": SERVICE_LABEL})


@pytest.fixture
def journal(admin: Cluster, cluster: Cluster, namespace: str) -> Journal:
    """The cluster's journal, empty."""
    _emptied(admin, namespace)
    return ClusterJournal(cluster, namespace)


@pytest.fixture
def another(cluster: Cluster, namespace: str) -> ClusterJournal:
    """Another front end with a lock that lapses soon."""
    return ClusterJournal(cluster, namespace, lease_duration_s=4)


def test_a_killed_front_end_frees_the_service_within_its_locks_life(
    journal: Journal, another: ClusterJournal
) -> None:
    killed = another.begin(plan_for("killed"), "ana", "")
    another._renewals.pop("killed").set()  # its process ends here: nobody renews any more
    with pytest.raises(Conflict, match="ana"):
        journal.begin(plan_for("too-early"), "bob", "")
    time.sleep(2.5)
    began = time.monotonic()
    release = another.begin(plan_for("later"), "bob", "")
    assert time.monotonic() - began < 10
    assert release.number == killed.number + 1
    assert [r.outcome for r in journal.history("wine")] == [Outcome.OPEN, Outcome.NOT_APPLIED]


def test_a_living_front_end_keeps_its_lock(another: ClusterJournal, journal: Journal) -> None:
    another.begin(plan_for("long"), "ana", "")
    time.sleep(6)
    with pytest.raises(Conflict):
        journal.begin(plan_for("other"), "bob", "")


def test_of_two_front_ends_one_wins_each_round_without_gap_or_twin(
    cluster: Cluster, namespace: str, journal: Journal
) -> None:
    # Over four services, because each round reads the whole history of its own.
    rounds, services = 200, ("ash", "elm", "fir", "oak")
    for turn in range(rounds):
        service = services[turn % len(services)]
        barrier = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            pressed = [
                pool.submit(
                    _press,
                    ClusterJournal(cluster, namespace),
                    plan_for(f"{who}-{turn}", service),
                    barrier,
                )
                for who in ("ana", "bob")
            ]
        assert sorted(done.result() for done in pressed) == ["lost", "won"]
    each = rounds // len(services)
    for service in services:
        assert [r.number for r in journal.history(service)] == list(range(each, 0, -1))


def _press(journal: Journal, plan: Plan, barrier: threading.Barrier) -> str:
    barrier.wait()
    try:
        release = journal.begin(plan, plan.nonce, "")
    except Conflict:
        barrier.wait()
        return "lost"
    barrier.wait()  # the other one has pressed too
    journal.close(release, Outcome.VERIFIED)
    return "won"
