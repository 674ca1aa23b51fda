"""Copies that watches keep current, against a scripted API server with its faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services import watched
from services.cluster import MERGE_PATCH, Cluster
from services.domain import Json
from services.errors import Denied, Unreachable
from services.watched import Direct, Scope, Watched
from tests.apiserver import DEPLOYMENTS, EVENTS, PODS, SERVING, ApiServer, api_server, kubeconfig

SOON_S = 10
"""A backstop; what is waited for takes milliseconds."""


def service(name: str, turn: int = 0) -> Json:
    return {"metadata": {"name": name, "labels": {}}, "spec": {"turn": turn}}


def pod(name: str, of: str) -> Json:
    return {"metadata": {"name": name, "labels": {"of": of}}}


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with api_server(bookmark_s=0.2) as server:
        server.documents["/version"] = {"gitVersion": "v1.34.4"}
        yield server


@pytest.fixture
def cluster(api: ApiServer, tmp_path: Path) -> Cluster:
    return Cluster(target="stub", context="stub", kubeconfig=kubeconfig(tmp_path, api.url))


@pytest.fixture
def reads(cluster: Cluster) -> Iterator[Watched]:
    found = Watched(cluster, {SERVING: Scope(), PODS: Scope("of")})
    yield found
    found.close()


def turns(reads: Watched) -> dict[str, int]:
    return {s["metadata"]["name"]: s["spec"]["turn"] for s in reads.items(SERVING, doing="x")}


def soon(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + SOON_S
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def watching(api: ApiServer, reads: Watched) -> None:
    """Read once and wait for the watch."""
    turns(reads)
    assert soon(lambda: api.watching == 1)


def test_a_change_is_read_without_another_list(api: ApiServer, reads: Watched) -> None:
    api.put(SERVING, service("a"))
    watching(api, reads)
    api.put(SERVING, service("a", 1))
    api.put(SERVING, service("b"))
    assert soon(lambda: turns(reads) == {"a": 1, "b": 0})
    api.remove(SERVING, "a")
    assert soon(lambda: turns(reads) == {"b": 0})
    assert api.asked_for("GET", "inferenceservices", limit="500") == 1


def test_an_end_does_not_wait_for_another_try(
    api: ApiServer, reads: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "_RETRY_S", 3600.0)
    watching(api, reads)
    reads.items(PODS, doing="x", selector="of=a")
    assert soon(lambda: api.watching == 2)
    reads.close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("watch ")]


def test_many_readers_share_one_list_and_one_watch(api: ApiServer, reads: Watched) -> None:
    api.put(SERVING, service("a"))
    readers = [threading.Thread(target=turns, args=(reads,)) for _ in range(20)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert soon(lambda: api.watching == 1)
    assert api.asked_for("GET", "inferenceservices", limit="500") == 1
    assert api.asked_for("GET", "inferenceservices", watch="true") == 1


def test_a_label_that_every_object_must_have_is_asked_of_the_server(
    api: ApiServer, reads: Watched
) -> None:
    api.put(PODS, pod("p1", "a"))
    api.put(PODS, pod("p2", "b"))
    api.put(PODS, {"metadata": {"name": "p3"}})
    found = reads.items(PODS, doing="x", selector="of=a")
    assert [p["metadata"]["name"] for p in found] == ["p1"]
    assert soon(lambda: api.asked_for("GET", "pods", watch="true", labelSelector="of") == 1)


def test_one_object_is_read_from_the_copy(api: ApiServer, reads: Watched) -> None:
    api.put(SERVING, service("a"))
    watching(api, reads)
    assert reads.get(f"{SERVING}/a", doing="x") is not None
    assert reads.get(f"{SERVING}/none", doing="x") is None
    assert api.asked_for("GET", "/a") == 0


def test_what_is_not_watched_is_read_directly(api: ApiServer, reads: Watched) -> None:
    api.put(EVENTS, service("e"))
    assert len(reads.items(EVENTS, doing="x")) == 1
    assert reads.get(f"{EVENTS}/e", doing="x") is not None
    assert api.watching == 0


def test_a_kind_that_does_not_exist_is_an_empty_list(cluster: Cluster) -> None:
    path = "/apis/serving.knative.dev/v1/namespaces/models/nothings"
    reads = Watched(cluster, {path: Scope()})
    assert reads.items(path, doing="x") == []
    assert reads.watching == 0
    reads.close()


def test_a_history_that_was_compacted_is_listed_anew(api: ApiServer, reads: Watched) -> None:
    api.put(SERVING, service("a"))
    watching(api, reads)
    api.refuse = lambda _m, _p, query: 503 if query.get("watch") else None
    api.cut()
    assert soon(lambda: api.watching == 0)
    api.put(SERVING, service("a", 7))
    api.remove(SERVING, "gone")
    api.compact()
    api.refuse = lambda *_: None
    assert soon(lambda: turns(reads) == {"a": 7})
    assert api.asked_for("GET", "inferenceservices", limit="500") >= 2


def test_a_watch_that_is_cut_goes_on_where_it_was(api: ApiServer, reads: Watched) -> None:
    api.put(SERVING, service("a"))
    watching(api, reads)
    api.cut()
    api.put(SERVING, service("a", 1))
    assert soon(lambda: turns(reads) == {"a": 1})
    assert api.asked_for("GET", "inferenceservices", limit="500") == 1


def test_a_window_that_ends_is_opened_anew(
    api: ApiServer, reads: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "WINDOW_S", 1)
    api.put(SERVING, service("a"))
    watching(api, reads)
    assert soon(lambda: api.asked_for("GET", "inferenceservices", watch="true") >= 3)
    api.put(SERVING, service("a", 1))
    assert soon(lambda: turns(reads) == {"a": 1})
    assert api.asked_for("GET", "inferenceservices", limit="500") == 1


def test_a_restarted_server_is_watched_again(
    api: ApiServer, reads: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "PROOF_S", 0.0)  # every read wants proof
    api.put(SERVING, service("a"))
    watching(api, reads)
    api.refuse = lambda *_: 503
    api.cut()
    assert soon(lambda: api.watching == 0)
    with pytest.raises(Unreachable):
        turns(reads)
    api.put(SERVING, service("a", 1))
    api.refuse = lambda *_: None
    assert soon(lambda: api.watching == 1)
    assert soon(lambda: turns(reads) == {"a": 1})


def test_silence_is_not_taken_for_truth(
    api: ApiServer, reads: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "PROOF_S", 0.3)
    monkeypatch.setattr(watched, "PROOF_TIMEOUT_S", 0.3)
    api.put(SERVING, service("a"))
    watching(api, reads)
    api.go_silent()
    try:
        time.sleep(0.4)
        with pytest.raises(Unreachable):
            turns(reads)
    finally:
        api.speak()
    assert soon(lambda: turns(reads) == {"a": 0})


def test_a_dead_watch_of_a_living_server_is_noticed(
    api: ApiServer, reads: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "WINDOW_S", 0)
    monkeypatch.setattr(watched, "GRACE_S", 0.3)
    monkeypatch.setattr(api, "bookmark_s", 60.0)
    original = api.watch

    def mute(path: str, query: dict[str, str]) -> Iterator[Json | None]:
        yield from original(path, {**query, "timeoutSeconds": "30", "resourceVersion": "1" * 9})

    monkeypatch.setattr(api, "watch", mute)
    api.put(SERVING, service("a"))
    watching(api, reads)
    api.put(SERVING, service("a", 1))  # the watch never says so
    assert soon(lambda: turns(reads) == {"a": 1})


def each_write_is_read(cluster: Cluster, reads: Watched) -> None:
    """Turns service `a` from 1 to 19: each turn is in the very next read."""
    for turn in range(1, 20):
        cluster.send(
            "PATCH",
            f"{SERVING}/a",
            doing="x",
            body={"spec": {"turn": turn}},
            content_type=MERGE_PATCH,
        )
        assert turns(reads) == {"a": turn}


def test_the_own_write_is_in_the_next_read(
    api: ApiServer, cluster: Cluster, reads: Watched
) -> None:
    api.put(SERVING, service("a"))
    watching(api, reads)
    each_write_is_read(cluster, reads)
    cluster.send("POST", SERVING, doing="x", body=service("b"))
    assert turns(reads) == {"a": 19, "b": 0}
    cluster.send("DELETE", f"{SERVING}/a", doing="x")
    assert turns(reads) == {"b": 0}


def test_a_dry_run_is_no_write_to_wait_for(
    api: ApiServer, cluster: Cluster, reads: Watched
) -> None:
    api.put(SERVING, service("a"))
    watching(api, reads)
    cluster.send("PATCH", f"{SERVING}/new", doing="x", query=_DRY, body=service("new"))
    assert turns(reads) == {"a": 0}
    assert api.asked_for("GET", "inferenceservices", limit="500") == 1


_DRY = {"dryRun": "All", "fieldManager": "slipway"}


def test_who_may_not_watch_reads_as_before_and_is_asked_about_again(
    api: ApiServer, reads: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "ASK_AGAIN_S", 0.5)
    api.refuse = lambda _m, _p, query: 403 if query.get("watch") else None
    api.put(SERVING, service("a"))
    assert turns(reads) == {"a": 0}
    assert soon(lambda: reads.refused)
    api.put(SERVING, service("a", 1))
    assert turns(reads) == {"a": 1}
    assert reads.watching == 0
    api.refuse = lambda *_: None
    assert soon(lambda: bool(turns(reads)) and not reads.refused)


def test_who_may_not_list_is_told(api: ApiServer, reads: Watched) -> None:
    api.refuse = lambda *_: 403
    with pytest.raises(Denied):
        turns(reads)


def test_a_copy_that_nobody_reads_stops_watching(
    api: ApiServer, reads: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "WINDOW_S", 1)
    monkeypatch.setattr(watched, "IDLE_S", 0.0)
    api.put(SERVING, service("a"))
    turns(reads)
    assert soon(lambda: reads.watching == 0)
    api.put(SERVING, service("a", 1))
    assert turns(reads) == {"a": 1}


def test_the_age_of_the_last_answer_is_known(api: ApiServer, reads: Watched) -> None:
    assert reads.confirmed_s_ago is None
    api.put(SERVING, service("a"))
    watching(api, reads)
    assert reads.confirmed_s_ago is not None
    assert reads.confirmed_s_ago < SOON_S


def test_deployments_without_the_label_are_not_read(api: ApiServer, cluster: Cluster) -> None:
    api.put(DEPLOYMENTS, {"metadata": {"name": "mine", "labels": {"of": "a"}}})
    api.put(DEPLOYMENTS, {"metadata": {"name": "other"}})
    reads = Watched(cluster, {DEPLOYMENTS: Scope("of")})
    assert [d["metadata"]["name"] for d in reads.items(DEPLOYMENTS, doing="x")] == ["mine"]
    reads.close()


ONE = {SERVING: Scope(name="a"), PODS: Scope("of=a")}


def looked(reads: Direct) -> tuple[int | None, int]:
    found = reads.get(f"{SERVING}/a", doing="x")
    return found and found["spec"]["turn"], len(reads.items(PODS, doing="x", selector="of=a"))


def test_a_service_that_is_followed_is_listed_once_however_often_it_is_looked_at(
    api: ApiServer, cluster: Cluster
) -> None:
    api.put(SERVING, service("a"))
    api.put(SERVING, service("b"))
    api.put(PODS, pod("p1", "a"))
    reads = Direct(cluster)
    with reads.following(ONE):
        assert [looked(reads) for _ in range(20)] == [(0, 1)] * 20
        api.put(SERVING, service("a", 1))
        api.put(PODS, pod("p2", "a"))
        assert soon(lambda: looked(reads) == (1, 2))
        asked = len(api.asked)
    assert asked == 4  # two lists, two watches
    assert soon(lambda: api.watching == 0)


def test_what_a_follower_does_not_watch_is_read_from_the_server(
    api: ApiServer, cluster: Cluster
) -> None:
    api.put(SERVING, service("a"))
    api.put(SERVING, service("b", 7))
    api.put(PODS, pod("p1", "b"))
    reads = Direct(cluster)
    with reads.following(ONE):
        found = reads.get(f"{SERVING}/b", doing="x")
        assert found is not None
        assert found["spec"]["turn"] == 7
        assert len(reads.items(SERVING, doing="x")) == 2
        assert len(reads.items(PODS, doing="x", selector="of=b")) == 1


def test_after_following_the_server_itself_is_read_again(api: ApiServer, cluster: Cluster) -> None:
    api.put(SERVING, service("a"))
    reads = Direct(cluster)
    with reads.following(ONE):
        looked(reads)
    before = api.asked_for("GET", "/a")
    assert looked(reads) == (0, 0)
    assert api.asked_for("GET", "/a") == before + 1


def test_two_services_followed_at_once_do_not_wait_for_each_others_writes(
    api: ApiServer, cluster: Cluster
) -> None:
    api.put(PODS, pod("p1", "a"))
    api.put(PODS, pod("p2", "b"))
    mine, other = Direct(cluster), Direct(cluster)
    with mine.following({PODS: Scope("of=a")}), other.following({PODS: Scope("of=b")}):
        for reads, name in ((mine, "a"), (other, "b")):
            assert len(reads.items(PODS, doing="x", selector=f"of={name}")) == 1
        asked = api.asked_for("GET", "pods", limit="500")
        for turn in range(3):
            body = {"metadata": {"labels": {"of": "a", "turn": str(turn)}}}
            cluster.send("PATCH", f"{PODS}/p1", doing="x", body=body, content_type=MERGE_PATCH)
            (seen,) = mine.items(PODS, doing="x", selector="of=a")
            assert seen["metadata"]["labels"]["turn"] == str(turn)
            other.items(PODS, doing="x", selector="of=b")
        assert api.asked_for("GET", "pods", limit="500") == asked
        assert api.asked_for("GET", "pods", labelSelector="of=b") == 2  # a list and a watch


def test_a_follower_that_ended_leaves_the_others_their_own_writes(
    api: ApiServer, cluster: Cluster, reads: Watched
) -> None:
    api.put(SERVING, service("a"))
    with Direct(cluster).following(ONE):
        pass
    watching(api, reads)
    each_write_is_read(cluster, reads)


def test_a_followed_service_that_is_deleted_is_gone(api: ApiServer, cluster: Cluster) -> None:
    api.put(SERVING, service("a"))
    reads = Direct(cluster)
    with reads.following(ONE):
        looked(reads)
        api.remove(SERVING, "a")
        assert soon(lambda: looked(reads)[0] is None)
