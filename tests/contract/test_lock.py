"""Who may take a lock over, and when: the Lease, against a scripted API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services import journal as journals
from services.cluster import Cluster
from services.errors import Conflict
from services.journal import ClusterJournal
from tests.apiserver import LEASES, ApiServer, api_server, kubeconfig
from tests.contract.test_journal import plan_for

LOCK = "slipway.wine"


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with api_server() as server:
        yield server


@pytest.fixture
def journal(api: ApiServer, tmp_path: Path) -> ClusterJournal:
    cluster = Cluster(target="stub", context="stub", kubeconfig=kubeconfig(tmp_path, api.url))
    return ClusterJournal(cluster, "models")


def left_behind(api: ApiServer, journal: ClusterJournal, *, ago_s: float, wall_s: float) -> None:
    """A lock whose process was killed `ago_s` ago; its own clock said `wall_s` ago."""
    journal._acquire(plan_for("killed"), "ana")  # nobody renews it
    lock = api.object(LEASES, LOCK)
    assert lock is not None
    now = datetime.now(UTC)
    stamp = (now - timedelta(seconds=wall_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    lock["spec"] |= {"renewTime": stamp, "acquireTime": stamp}
    written = (now - timedelta(seconds=ago_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    api.stamps = False
    lock["metadata"]["managedFields"] = [{"manager": "slipway", "time": written}]
    api.put(LEASES, lock)


def test_a_lock_that_was_not_renewed_for_its_life_is_taken_at_once(
    api: ApiServer, journal: ClusterJournal
) -> None:
    left_behind(api, journal, ago_s=33, wall_s=33)
    began = time.monotonic()
    assert journal.begin(plan_for("next"), "bob", "").number == 1
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("wall_s", [-3600, 3600])
def test_a_clock_that_is_wrong_neither_frees_nor_keeps_a_lock(
    api: ApiServer, journal: ClusterJournal, wall_s: float
) -> None:
    left_behind(api, journal, ago_s=5, wall_s=wall_s)
    with pytest.raises(Conflict, match="ana"):
        journal.begin(plan_for("next"), "bob", "")


def test_a_lock_near_its_end_is_waited_for(
    api: ApiServer, journal: ClusterJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "CLOCK_GRACE_S", 0.0)
    left_behind(api, journal, ago_s=28, wall_s=28)
    assert journal.begin(plan_for("next"), "bob", "").actor == "bob"


def test_without_the_servers_times_a_lock_has_to_be_seen_unchanged(
    api: ApiServer, tmp_path: Path
) -> None:
    cluster = Cluster(target="stub", context="stub", kubeconfig=kubeconfig(tmp_path, api.url))
    journal = ClusterJournal(cluster, "models", lease_duration_s=2)
    left_behind(api, journal, ago_s=60, wall_s=60)
    lock = api.object(LEASES, LOCK)
    assert lock is not None
    del lock["metadata"]["managedFields"]
    api.put(LEASES, lock)
    began = time.monotonic()
    journal.begin(plan_for("next"), "bob", "")
    assert time.monotonic() - began >= 2
