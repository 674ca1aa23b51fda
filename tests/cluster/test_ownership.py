"""Services that others made, edits by others, and two cooks at one pot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from services import inferenceservice as objects
from services import kubeobject, manifests, planning, preparing, rollout
from services.cluster import APPLY_PATCH, MERGE_PATCH, Cluster
from services.domain import Json, Mode, Outcome, Phase, Release, Scale, Verdict
from services.errors import Conflict, NotDeployable, RolloutFailed
from services.kubepaths import Paths
from tests import waiting
from tests.cluster.conftest import ClusterOps, Voyage, intent_of

Begin = Callable[[Mode], Voyage]


@pytest.fixture
def foreign(voyage: Begin, ops: ClusterOps, admin: Cluster) -> Voyage:
    """A service that somebody made with kubectl: version 1, without any mark of ours."""
    journey = voyage(Mode.STANDARD)
    prepared = preparing.prepare_deploy(
        ops, "wine/1", name=journey.service, wish=planning.Wish(mode=Mode.STANDARD)
    )
    assert prepared.plan.after is not None
    assert prepared.version is not None
    ops.packager.make(prepared.version)
    made = manifests.manifest(
        prepared.plan.after, namespace=ops.namespace, workload=0, mode_value="Standard"
    )
    made["metadata"] = {"name": journey.service, "namespace": ops.namespace}
    admin.send(
        "PATCH",
        Paths(ops.namespace).service(journey.service),
        doing="make a service as kubectl does",
        query={"fieldManager": "kubectl-client-side-apply"},
        body=made,
        content_type=APPLY_PATCH,
    )
    waiting.seen(lambda: journey.current.phase is Phase.READY, within_s=180, every_s=1)
    return journey


def pods_of(journey: Voyage, admin: Cluster) -> set[str]:
    selector = f"{kubeobject.SERVICE_LABEL}={journey.service}"
    path = f"/api/v1/namespaces/{journey.ops.namespace}/pods"
    found = admin.items(path, doing="list pods", selector=selector)
    return {pod["metadata"]["uid"] for pod in found if not pod["metadata"].get("deletionTimestamp")}


def edit(journey: Voyage, admin: Cluster, body: Json) -> None:
    admin.send(
        "PATCH",
        Paths(journey.ops.namespace).service(journey.service),
        doing="edit as kubectl does",
        query={"fieldManager": "kubectl-edit"},
        body=body,
        content_type=MERGE_PATCH,
    )


def test_a_service_of_others_is_adopted_without_a_restart_and_then_deployed_to(
    foreign: Voyage, admin: Cluster
) -> None:
    assert not foreign.current.managed
    with pytest.raises(NotDeployable, match="not made by Slipway"):
        foreign.deploy(2)
    before = pods_of(foreign, admin)
    foreign.plan(lambda current, _history: planning.plan_adopt(current))
    assert pods_of(foreign, admin) == before
    assert (foreign.current.managed, foreign.current.release) == (True, 1)
    assert foreign.deploy(2).outcome is Outcome.VERIFIED
    assert foreign.settled_answer(2) == 2
    assert foreign.plan(planning.plan_rollback, 1).outcome is not Outcome.FAILED
    assert foreign.settled_answer(1) == 1


def test_an_edit_between_plan_and_apply_is_a_conflict_that_names_field_and_manager(
    voyage: Begin, admin: Cluster
) -> None:
    journey = voyage(Mode.STANDARD)
    journey.deploy(1)
    prepared = preparing.prepare_deploy(journey.ops, "wine/2", name=journey.service)
    edit(journey, admin, {"spec": {"predictor": {"maxReplicas": 2}}})
    pods = pods_of(journey, admin)
    with pytest.raises(Conflict, match="kubectl-edit changed replicas"):
        rollout.apply(prepared.plan, journey.ops, actor="tester", version=prepared.version)
    assert pods_of(journey, admin) == pods
    (drift,) = journey.current.drift
    assert (drift.field, drift.seen, drift.by) == ("maximum replicas", "2", "kubectl-edit")


def test_a_field_that_another_manager_owns_is_not_taken(voyage: Begin, admin: Cluster) -> None:
    journey = voyage(Mode.STANDARD)
    journey.deploy(1)
    edit(journey, admin, {"spec": {"predictor": {"minReplicas": 2, "maxReplicas": 2}}})
    wish = replace(intent_of(journey.current).scale, min_replicas=1, max_replicas=1)
    prepared = preparing.prepare_deploy(
        journey.ops, "wine/2", name=journey.service, wish=planning.Wish(scale=wish)
    )
    (refused,) = [f for f in prepared.findings if f.verdict is Verdict.FAIL]
    assert "kubectl-edit" in refused.detail
    assert "minReplicas" in refused.detail
    with pytest.raises(Conflict, match="others own"):
        rollout.apply(prepared.plan, journey.ops, actor="tester", version=prepared.version)
    taking = preparing.taking_over(journey.ops, prepared, ["somebody-else"])
    assert taking == prepared


def test_by_consent_a_roll_back_takes_over_what_others_set_and_records_it(
    voyage: Begin, admin: Cluster
) -> None:
    journey = voyage(Mode.STANDARD)
    journey.deploy(1, scale=Scale(1, 1))
    journey.deploy(2)
    edit(journey, admin, {"spec": {"predictor": {"maxReplicas": 2}}})
    history = journey.ops.journal.history(journey.service)
    asked = preparing.prepare(journey.ops, planning.plan_rollback(journey.current, history, 1))
    assert {field.manager for field in asked.owned} == {"kubectl-edit"}
    consented = preparing.taking_over(journey.ops, asked, ["kubectl-edit"])
    planning.refuse_if_blocked(consented.plan, consented.findings)
    rollout.apply(consented.plan, journey.ops, actor="tester", reason="it was wrong")
    assert journey.follow().outcome is Outcome.VERIFIED
    assert journey.settled_answer(1) == 1
    assert (journey.current.drift, intent_of(journey.current).scale.max_replicas) == ((), 1)
    said = journey.releases[0].reason
    assert said.startswith("it was wrong; took over ")
    assert ".spec.predictor.maxReplicas (kubectl-edit)" in said


def test_a_roll_back_that_heals_an_edit_of_others_is_not_failed_by_the_edits_pods(
    voyage: Begin, admin: Cluster
) -> None:
    journey = voyage(Mode.STANDARD)
    journey.deploy(1, scale=Scale(1, 2))
    wrong = {"minReplicas": 2, "model": {"storageUri": "gs://worst/models/none"}}
    edit(journey, admin, {"spec": {"predictor": wrong}})
    waiting.seen(lambda: len(pods_of(journey, admin)) >= 2, within_s=60, every_s=1)
    history = journey.ops.journal.history(journey.service)
    asked = preparing.prepare(journey.ops, planning.plan_rollback(journey.current, history, 1))
    consented = preparing.taking_over(journey.ops, asked, ["kubectl-edit"])
    rollout.apply(consented.plan, journey.ops, actor="tester")
    assert journey.follow().outcome is Outcome.VERIFIED
    assert journey.current.drift == ()
    assert journey.settled_answer(1) == 1


def test_a_service_that_is_deleted_while_it_rolls_out_is_told_with_the_way_back(
    voyage: Begin, admin: Cluster
) -> None:
    journey = voyage(Mode.STANDARD)
    journey.deploy(1)
    prepared = preparing.prepare_deploy(journey.ops, "wine/2", name=journey.service)
    begun = rollout.apply(prepared.plan, journey.ops, actor="tester", version=prepared.version)
    assert begun is not None
    looks = rollout.follow(journey.ops, journey.service, release=begun.number)
    next(looks)
    path = Paths(journey.ops.namespace).service(journey.service)
    admin.send("DELETE", path, doing="delete as kubectl does")
    since = time.monotonic()
    with pytest.raises(RolloutFailed, match="Somebody deleted it while release 2") as told:
        list(looks)
    assert time.monotonic() - since < 15
    assert f"slipway rollback {journey.service} --to 1" in told.value.fix
    assert journey.releases[0].outcome is Outcome.FAILED


def test_a_release_whose_node_comes_after_it_failed_is_a_late_success(
    voyage: Begin, admin: Cluster
) -> None:
    journey = voyage(Mode.STANDARD)
    key = f"slipway.test/{journey.service}"
    journey.begin(1, patch=f'spec: {{predictor: {{nodeSelector: {{{key}: "yes"}}}}}}')
    assert "No node has room" in journey.failure().what
    node = (
        f"/api/v1/nodes/{admin.items('/api/v1/nodes', doing='list nodes')[0]['metadata']['name']}"
    )

    def label(value: str | None) -> None:
        body = {"metadata": {"labels": {key: value}}}
        admin.send("PATCH", node, doing="label a node", body=body, content_type=MERGE_PATCH)

    def settled() -> Release:
        rollout.settle(journey.ops, journey.service)
        return journey.releases[0]

    label("yes")
    try:
        waiting.seen(settled, lambda newest: newest.verified, within_s=120, every_s=1)
    finally:
        label(None)
    newest = journey.releases[0]
    assert (newest.outcome, newest.late) == (Outcome.VERIFIED, True)
    assert (journey.current.phase, journey.current.verified) == (Phase.READY, True)


def test_a_stop_and_a_start_leave_an_edit_of_others_to_them(voyage: Begin, admin: Cluster) -> None:
    journey = voyage(Mode.STANDARD)
    journey.deploy(1)
    edit(journey, admin, {"spec": {"predictor": {"maxReplicas": 3}}})
    journey.plan(lambda current, _history: planning.plan_stop(current))
    journey.plan(planning.plan_start)
    assert [release.intent.scale.max_replicas for release in journey.releases] == [None] * 3
    (drift,) = journey.current.drift
    assert (drift.field, drift.recorded, drift.seen) == ("maximum replicas", "", "3")
    path = Paths(journey.ops.namespace).service(journey.service)
    live = admin.get(path, doing="read who owns what")
    assert ("spec.predictor.maxReplicas", "kubectl-edit") in objects.fields_of_others(live)


def test_the_same_deploy_again_writes_nothing(voyage: Begin, admin: Cluster) -> None:
    journey = voyage(Mode.STANDARD)
    journey.deploy(1)
    pods, version = pods_of(journey, admin), journey.current.object_version
    prepared = preparing.prepare_deploy(journey.ops, "wine/1", name=journey.service)
    assert prepared.plan.nothing_to_do
    assert rollout.apply(prepared.plan, journey.ops, actor="tester") is None
    assert (pods_of(journey, admin), journey.current.object_version) == (pods, version)


def test_a_deleted_service_is_a_state_and_keeps_its_history(voyage: Begin, admin: Cluster) -> None:
    journey = voyage(Mode.STANDARD)
    journey.begin(1)
    path = Paths(journey.ops.namespace).service(journey.service)
    admin.send("DELETE", path, doing="delete behind our back")
    # KServe's finalizer takes its moment
    there = waiting.seen(
        lambda: journey.ops.serving.service(journey.service), lambda it: it is None, within_s=30
    )
    assert there is None
    assert not journey.ops.serving.observe(journey.service).exists
    assert len(journey.releases) == 1
