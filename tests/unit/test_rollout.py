"""Plan, apply, settle and follow, on the ports in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services import checks, lineage, planning, preparing, rollout
from services.domain import (
    Action,
    Answering,
    Cause,
    Change,
    ColumnSpec,
    Finding,
    InferRequest,
    Observed,
    Outcome,
    Phase,
    Plan,
    Progress,
    Protocol,
    Registration,
    Release,
    Scale,
    Service,
    Signature,
    Step,
    StepState,
    ValueKind,
    Verdict,
    VersionRef,
    WayIn,
)
from services.errors import (
    Conflict,
    Denied,
    InferenceFailed,
    NotDeployable,
    NotFound,
    NothingToRollBackTo,
    RolloutFailed,
    RolloutTimeout,
    Unreachable,
)
from tests.memory import START, WINE, World

BROKEN = Cause("The model did not load", "No module named 'skops'.", "Add skops.")


def deploy(world: World, reference: str, name: str = "wine", **wish: int) -> Release | None:
    prepared = preparing.prepare_deploy(
        world, reference, name=name, wish=planning.Wish(canary_percent=wish.get("canary_percent"))
    )
    return rollout.apply(prepared.plan, world, actor="ana", version=prepared.version)


def settle(world: World, name: str = "wine") -> Progress:
    return rollout.settle(world, name, now=world.clock.now)


def roll_back(world: World, to: int | None = None, name: str = "wine") -> Plan:
    return planning.plan_rollback(preparing.require(world, name), world.journal.history(name), to)


def test_a_first_deploy_becomes_release_one_and_is_verified(world: World) -> None:
    world.registry.add("wine")
    deploy(world, "wine/1")
    assert settle(world).outcome is Outcome.VERIFIED
    assert [(r.number, r.verified) for r in world.journal.history("wine")] == [(1, True)]


def test_planning_writes_nothing(world: World) -> None:
    world.registry.add("wine")
    preparing.prepare_deploy(world, "wine/1", name="wine")
    assert not world.serving.applied
    assert not world.store.audit
    assert not world.packager.made


def test_deploying_what_is_live_does_nothing(world: World) -> None:
    world.serves("wine", [1])
    assert deploy(world, "wine/1") is None
    assert len(world.serving.applied) == 1


def test_the_same_plan_applied_ten_times_is_one_operation(world: World) -> None:
    world.registry.add("wine")
    prepared = preparing.prepare_deploy(world, "wine/1", name="wine")
    releases = {
        rollout.apply(prepared.plan, world, actor="ana", version=prepared.version).number  # type: ignore[union-attr]
        for _ in range(10)
    }
    assert releases == {1}
    assert len(world.serving.applied) == 1
    assert len(world.store.audit) == 1


def test_a_plan_made_from_an_old_look_is_a_conflict_and_writes_nothing(world: World) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    world.registry.add("wine", 3)
    late = preparing.prepare_deploy(world, "wine/2", name="wine")
    deploy(world, "wine/3")
    settle(world)
    with pytest.raises(Conflict):
        rollout.apply(late.plan, world, actor="ben", version=late.version)
    assert world.wanted_version("wine") == VersionRef("wine", 3)
    assert world.store.audit[-1].outcome is Outcome.NOT_APPLIED


def test_a_second_operation_is_refused_while_one_is_open(world: World) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    world.registry.add("wine", 3)
    world.serving.hold.add("wine")
    deploy(world, "wine/2")
    with pytest.raises(Conflict, match="open"):
        deploy(world, "wine/3")


def test_without_an_audit_row_nothing_is_written(world: World) -> None:
    world.registry.add("wine")
    world.store.broken = Unreachable("The store cannot be written.")
    with pytest.raises(Unreachable):
        deploy(world, "wine/1")
    assert not world.serving.applied
    assert not world.journal.history("wine")


def test_every_operation_has_one_intent_row_and_its_outcome(world: World) -> None:
    world.serves("wine", [1])
    assert [(e.action, e.outcome, e.release) for e in world.store.audit] == [
        (Action.DEPLOY, Outcome.VERIFIED, 1)
    ]


def test_a_failed_deploy_is_recorded_with_its_cause_while_the_old_version_answers(
    world: World,
) -> None:
    world.serves("wine", [1])
    world.serving.fails[world.registry.add("wine", 2)] = BROKEN
    deploy(world, "wine/2")
    progress = settle(world)
    assert (progress.phase, progress.cause) == (Phase.FAILED, BROKEN)
    assert [side.version for side in progress.answering] == [VersionRef("wine", 1)]
    assert world.journal.history("wine")[0].outcome is Outcome.FAILED


def test_a_failed_version_may_be_deployed_again(world: World) -> None:
    ref = world.registry.add("wine")
    world.serving.fails[ref] = BROKEN
    deploy(world, "wine/1")
    settle(world)
    del world.serving.fails[ref]
    assert deploy(world, "wine/1") is not None
    assert settle(world).outcome is Outcome.VERIFIED


def test_a_version_without_an_example_serves_but_is_not_verified(world: World) -> None:
    world.registry.add("wine", example=None)
    deploy(world, "wine/1")
    progress = settle(world)
    assert progress.outcome is Outcome.SERVING
    assert "no input example" in progress.message


def step_of(progress: Progress) -> Step:
    (found,) = [step for step in progress.steps if step.name == "verified"]
    return found


def test_the_test_inference_is_a_step_with_its_time(world: World) -> None:
    world.registry.add("wine")
    world.serving.via = WayIn.INGRESS
    deploy(world, "wine/1")
    step = step_of(settle(world))
    assert step.state is StepState.DONE
    assert step.took_s is not None


def test_a_test_inference_that_failed_or_was_not_made_is_told_as_such(world: World) -> None:
    world.serving.via = WayIn.INGRESS
    world.registry.add("wine", example=None)
    deploy(world, "wine/1")
    unmeasured = step_of(settle(world))
    assert unmeasured.state is StepState.SKIPPED
    assert "no input example" in unmeasured.detail
    world.registry.add("wine", 2)
    world.predictor.fails = InferenceFailed("It answered 500.")
    deploy(world, "wine/2")
    failed = step_of(settle(world))
    assert (failed.state, failed.detail) == (StepState.FAILED, "It answered 500.")


def test_pods_that_answer_as_another_version_are_not_verified(world: World) -> None:
    world.registry.add("wine")
    world.serving.via = WayIn.INGRESS
    world.predictor.pods_answer_as = VersionRef("wine", 2)
    deploy(world, "wine/1")
    progress = settle(world)
    assert progress.outcome is Outcome.FAILED
    assert progress.cause is not None
    assert progress.cause.why == "Its pods answer as wine/2."


def test_of_an_unknown_version_it_is_not_said_that_it_has_no_example(world: World) -> None:
    world.serves("wine", [1])
    (release,) = world.journal.history("wine")
    unknown = replace(release, intent=replace(release.intent, version=None, example=None))
    _, why = rollout.try_inference(world, unknown)
    assert (
        why == "which version it serves is not known, so there is no input example to test it with"
    )


def test_settling_twice_is_settling_once(world: World) -> None:
    world.registry.add("wine")
    deploy(world, "wine/1")
    first = settle(world)
    recorded = list(world.journal.history("wine"))
    assert settle(world).outcome is first.outcome
    assert list(world.journal.history("wine")) == recorded


def test_a_release_whose_write_never_happened_is_closed_as_not_applied(world: World) -> None:
    world.registry.add("wine")
    prepared = preparing.prepare_deploy(world, "wine/1", name="wine")
    world.journal.begin(prepared.plan, "ana", "")
    assert not settle(world).settled
    world.clock.sleep(rollout.UNAPPLIED_GRACE_S + 1)
    assert settle(world).outcome is Outcome.NOT_APPLIED
    assert deploy(world, "wine/1") is not None


def test_a_service_that_somebody_deleted_while_it_rolled_out_is_told_as_that_at_once(
    world: World,
) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    world.serving.hold.add("wine")
    release = deploy(world, "wine/2")
    assert release is not None
    looks = rollout.follow(world, "wine", release=release.number, now=world.clock.now)
    assert next(looks).phase is Phase.ROLLING_OUT
    del world.serving.held["wine"]
    with pytest.raises(RolloutFailed) as told:
        list(looks)
    assert told.value.what == (
        "wine: Somebody deleted it while release 2 was rolling out. Nothing answers."
    )
    assert told.value.fix == "Bring it back: `slipway rollback wine --to 1`."
    assert world.journal.history("wine")[0].outcome is Outcome.FAILED


def test_a_service_that_is_not_there_is_not_said_to_be_the_fault_of_its_process_alone(
    world: World,
) -> None:
    world.registry.add("wine")
    deploy(world, "wine/1")
    del world.serving.held["wine"]
    world.clock.sleep(rollout.UNAPPLIED_GRACE_S + 1)
    cause = settle(world).cause
    assert cause is not None
    assert "or somebody deleted it since" in cause.why


def test_a_roll_out_beyond_its_deadline_is_a_timeout_and_may_still_become_a_late_success(
    world: World,
) -> None:
    world.registry.add("wine")
    world.serving.hold.add("wine")
    deploy(world, "wine/1")
    world.clock.sleep(rollout.DEADLINE_S + 1)
    assert settle(world).outcome is Outcome.TIMEOUT
    world.serving.hold.clear()
    assert settle(world).outcome is Outcome.VERIFIED
    assert world.journal.history("wine")[0].late


def came_up_after_failing(world: World, code: str) -> World:
    """wine/2 failed with this code; then what it lacked came, and its pods are ready."""
    world.serves("wine", [1])
    world.serving.via = WayIn.INGRESS
    world.registry.add("wine", 2)
    ref = VersionRef("wine", 2)
    world.serving.fails[ref] = Cause("No node has room for the new pod.", code=code)
    deploy(world, "wine/2")
    assert settle(world).outcome is Outcome.FAILED
    world.serving.fails.clear()
    world.serving.held["wine"].settled = False
    return world


def test_a_release_whose_pods_start_after_it_failed_is_a_late_success(world: World) -> None:
    came_up_after_failing(world, "E11")
    assert settle(world).outcome is Outcome.VERIFIED
    newest = world.journal.history("wine")[0]
    assert (newest.late, newest.cause) == (True, None)
    entry = world.store.open_entry(newest.operation)
    assert entry is not None
    assert entry.outcome is Outcome.VERIFIED


def test_a_release_that_failed_otherwise_stands_as_it_is_recorded(world: World) -> None:
    came_up_after_failing(world, "E1")
    assert settle(world).outcome is Outcome.FAILED


def test_a_release_that_comes_up_late_and_fails_its_test_is_tested_once(world: World) -> None:
    came_up_after_failing(world, "E11")
    world.predictor.fails = InferenceFailed("It answered 500.")
    assert settle(world).outcome is Outcome.FAILED
    cause = world.journal.history("wine")[0].cause
    assert cause is not None
    assert "fails the test request" in cause.what
    world.predictor.fails = None
    assert settle(world).outcome is Outcome.FAILED


def test_rolling_back_asks_for_the_newest_verified_release(world: World) -> None:
    world.serves("wine", [1, 2])
    assert roll_back(world).rolled_back_to == 1


def test_after_two_failed_releases_the_default_roll_back_is_the_last_verified_one(
    world: World,
) -> None:
    world.serves("wine", [1, 2])
    for number in (3, 4):
        world.serving.fails[world.registry.add("wine", number)] = BROKEN
        deploy(world, f"wine/{number}")
        settle(world)
    assert roll_back(world).rolled_back_to == 2


def test_a_roll_back_adds_a_release_that_says_where_it_came_from(world: World) -> None:
    world.serves("wine", [1, 2])
    rollout.apply(roll_back(world), world, actor="ben", reason="worse at p99")
    settle(world)
    newest = world.journal.history("wine")[0]
    assert (newest.number, newest.rolled_back_from, newest.rolled_back_to) == (3, 2, 1)
    assert (newest.intent.version, newest.reason) == (VersionRef("wine", 1), "worse at p99")


def test_a_roll_back_works_with_the_registry_down(world: World) -> None:
    world.serves("wine", [1, 2])
    world.registry.broken = Unreachable("The registry did not answer.")
    rollout.apply(roll_back(world), world, actor="ben")
    assert settle(world).outcome is Outcome.VERIFIED


def test_a_service_with_one_release_has_nothing_to_roll_back_to(world: World) -> None:
    world.serves("wine", [1])
    with pytest.raises(NothingToRollBackTo):
        roll_back(world)


def test_rolling_back_to_an_unknown_release_names_those_that_there_are(world: World) -> None:
    world.serves("wine", [1, 2])
    with pytest.raises(NotFound, match="2, 1"):
        roll_back(world, to=9)


def test_a_roll_back_reuses_the_workload_that_still_answers(world: World) -> None:
    world.serves("wine", [1])
    world.serving.fails[world.registry.add("wine", 2)] = BROKEN
    deploy(world, "wine/2")
    settle(world)
    assert roll_back(world).workload == 1


def test_a_missing_package_is_told_before_a_roll_back(world: World) -> None:
    world.serves("wine", [1, 2])
    plan = roll_back(world)
    assert plan.after is not None
    world.packager.gone.add(plan.after.package.uri)
    prepared = preparing.prepare(world, plan)
    with pytest.raises(NotDeployable, match="gone"):
        planning.refuse_if_blocked(prepared.plan, prepared.findings)


def canary(world: World, percent: int = 30) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    deploy(world, "wine/2", canary_percent=percent)
    settle(world)


def shares(world: World) -> dict[str, int]:
    current = preparing.require(world, "wine")
    return {str(side.version): side.percent for side in current.answering}


def test_a_canary_takes_its_share_and_the_stable_version_the_rest(world: World) -> None:
    canary(world)
    assert shares(world) == {"wine/1": 70, "wine/2": 30}


def test_changing_the_share_starts_no_new_workload(world: World) -> None:
    canary(world)
    current = preparing.require(world, "wine")
    rollout.apply(
        planning.plan_canary(current, world.journal.history("wine"), 50), world, actor="ana"
    )
    settle(world)
    assert shares(world) == {"wine/1": 50, "wine/2": 50}
    assert world.journal.history("wine")[0].workload == 2


def test_promoting_gives_the_canary_all_of_the_traffic(world: World) -> None:
    canary(world)
    current = preparing.require(world, "wine")
    rollout.apply(planning.plan_promote(current, world.journal.history("wine")), world, actor="ana")
    settle(world)
    assert shares(world) == {"wine/2": 100}


def test_aborting_returns_to_the_version_beside_the_canary(world: World) -> None:
    canary(world)
    current = preparing.require(world, "wine")
    plan = planning.plan_abort(current, world.journal.history("wine"))
    assert (plan.workload, plan.rolled_back_to) == (1, 1)
    rollout.apply(plan, world, actor="ana")
    settle(world)
    assert shares(world) == {"wine/1": 100}


def rolling(world: World, *before: int) -> None:
    """The next version is being rolled out beside those that served."""
    if before:
        world.serves("wine", list(before))
    ref = world.registry.add("wine")
    world.serving.hold.add("wine")
    deploy(world, str(ref))
    settle(world)


def give_up(world: World) -> Progress:
    current = preparing.require(world, "wine")
    plan = planning.plan_abort(current, world.journal.history("wine"))
    rollout.apply(plan, world, actor="ben")
    world.serving.hold.clear()
    return settle(world)


def test_aborting_a_roll_out_returns_to_what_answers(world: World) -> None:
    rolling(world, 1)
    assert give_up(world).outcome is Outcome.VERIFIED
    assert shares(world) == {"wine/1": 100}
    newest, given_up, _first = world.journal.history("wine")
    assert (newest.action, newest.rolled_back_from, newest.rolled_back_to) == (Action.ABORT, 2, 1)
    assert given_up.outcome is Outcome.FAILED
    assert given_up.cause is not None
    assert given_up.cause.what == "It was cancelled by ben before it was done"


def test_aborting_the_first_roll_out_stops_the_service(world: World) -> None:
    rolling(world)
    assert give_up(world).outcome is Outcome.STOPPED
    assert world.journal.history("wine")[0].intent.stopped


def refused_abort(world: World) -> NotDeployable:
    with pytest.raises(NotDeployable, match="no roll-out under way to abort") as caught:
        planning.plan_abort(preparing.require(world, "wine"), world.journal.history("wine"))
    return caught.value


def test_whoever_aborts_a_roll_out_that_failed_is_sent_to_the_roll_back(world: World) -> None:
    world.serves("wine", [1])
    world.serving.fails[world.registry.add("wine", 2)] = BROKEN
    deploy(world, "wine/2")
    settle(world)
    error = refused_abort(world)
    assert error.why == "Its newest release 2 (wine/2) has ended already, as failed."
    assert error.fix == "Go back to wine/1: `slipway rollback wine`."


def test_whoever_aborts_a_roll_out_that_was_late_is_sent_to_the_roll_back(world: World) -> None:
    rolling(world, 1)
    world.clock.sleep(rollout.DEADLINE_S + 1)
    assert settle(world).outcome is Outcome.TIMEOUT
    assert "as timeout" in refused_abort(world).why


def test_where_there_is_nothing_to_go_back_to_no_roll_back_is_named(world: World) -> None:
    world.serving.fails[world.registry.add("wine", 1)] = BROKEN
    deploy(world, "wine/1")
    settle(world)
    assert refused_abort(world).fix == "Deploy another version: `slipway deploy REF --name wine`."


def test_a_roll_out_that_ended_meanwhile_is_not_aborted(world: World) -> None:
    rolling(world, 1)
    plan = planning.plan_abort(preparing.require(world, "wine"), world.journal.history("wine"))
    world.serving.hold.clear()
    settle(world)
    with pytest.raises(Conflict, match="ended meanwhile"):
        rollout.apply(plan, world, actor="ben")
    assert shares(world) == {"wine/2": 100}


def test_whoever_follows_a_roll_out_that_was_given_up_is_told_so(world: World) -> None:
    rolling(world, 1)
    give_up(world)
    with pytest.raises(RolloutFailed, match="cancelled by ben"):
        list(rollout.follow(world, "wine", release=2, now=world.clock.now))


def test_a_first_deploy_cannot_be_a_canary(world: World) -> None:
    world.registry.add("wine")
    with pytest.raises(NotDeployable, match="cannot start with a canary"):
        deploy(world, "wine/1", canary_percent=10)


@pytest.mark.parametrize("verb", [planning.plan_promote, planning.plan_abort])
def test_promote_and_abort_need_a_canary(world: World, verb: object) -> None:
    world.serves("wine", [1])
    with pytest.raises(NotDeployable, match="no canary"):
        verb(preparing.require(world, "wine"), world.journal.history("wine"))  # type: ignore[operator]


def test_another_version_waits_until_the_canary_is_promoted_or_aborted(world: World) -> None:
    canary(world)
    world.registry.add("wine", 3)
    with pytest.raises(NotDeployable, match="canary running"):
        deploy(world, "wine/3")


def test_stopping_keeps_the_service_and_starting_serves_again(world: World) -> None:
    world.serves("wine", [1])
    rollout.apply(planning.plan_stop(preparing.require(world, "wine")), world, actor="ana")
    assert settle(world).outcome is Outcome.STOPPED
    current = preparing.require(world, "wine")
    rollout.apply(planning.plan_start(current, world.journal.history("wine")), world, actor="ana")
    assert settle(world).outcome is Outcome.VERIFIED


def test_starting_after_a_failed_release_starts_the_last_verified_one(world: World) -> None:
    world.serves("wine", [1])
    world.serving.fails[world.registry.add("wine", 2)] = BROKEN
    deploy(world, "wine/2")
    settle(world)
    current = preparing.require(world, "wine")
    plan = planning.plan_start(current, world.journal.history("wine"))
    assert plan.after is not None
    assert plan.after.version == VersionRef("wine", 1)


def edited(world: World, recorded: int | None) -> Service:
    """`wine` after somebody else set its maximum to 3, beside what its release recorded."""
    held = world.serving.held["wine"]
    mine = replace(held.intent, scale=Scale(max_replicas=recorded))
    held.intent = mine
    releases = world.journal.by_service["wine"]
    releases[:] = [replace(r, intent=replace(r.intent, scale=mine.scale)) for r in releases]
    world.serving.edited["wine"] = replace(mine, scale=Scale(max_replicas=3))
    return preparing.require(world, "wine")


PLANS: dict[str, Callable[[Service, Sequence[Release]], Plan]] = {
    "stop": lambda current, _history: planning.plan_stop(current),
    "start": planning.plan_start,
    "canary": lambda current, history: planning.plan_canary(current, history, 50),
    "promote": planning.plan_promote,
    "abort": planning.plan_abort,
}


@pytest.mark.parametrize("recorded", [None, 1])
@pytest.mark.parametrize("verb", PLANS)
def test_no_plan_takes_an_edit_of_others_for_what_is_wanted(
    world: World, verb: str, recorded: int | None
) -> None:
    if verb in {"stop", "start"}:
        world.serves("wine", [1])
    else:
        canary(world)
    plan = PLANS[verb](edited(world, recorded), world.journal.history("wine"))
    assert plan.after is not None
    assert plan.after.scale.max_replicas == recorded


@pytest.mark.parametrize("recorded", [None, 1])
def test_a_deploy_keeps_the_recorded_scale_and_not_somebody_elses(
    world: World, recorded: int | None
) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    edited(world, recorded)
    plans = [
        prepare(world, "wine/2", name="wine").plan
        for prepare in (preparing.prepare_deploy, preparing.prepare_render)
    ]
    afters = [plan.after.scale.max_replicas for plan in plans if plan.after]
    assert afters == [recorded, recorded]


def test_what_an_edit_changed_stands_in_the_plan_that_undoes_it(world: World) -> None:
    world.serves("wine", [1])
    plan = planning.plan_stop(edited(world, 1))
    assert Change("replicas", "at most 3", "at most 1") in plan.changes


def test_history_outlives_a_deleted_service(world: World) -> None:
    world.serves("wine", [1])
    rollout.apply(planning.plan_delete(preparing.require(world, "wine")), world, actor="ana")
    assert settle(world).outcome is Outcome.DELETED
    assert [r.number for r in world.journal.history("wine")] == [2, 1]


def test_a_service_of_another_registered_model_is_not_taken_over(world: World) -> None:
    world.serves("wine", [1])
    world.registry.add("churn")
    with pytest.raises(NotDeployable, match="serves the registered model wine"):
        deploy(world, "churn/1", name="wine")


@pytest.mark.parametrize("name", ["", "Wine", "1wine", "wine\n", "w" * 60, "wine_2", "-wine"])
def test_names_that_no_target_takes_are_refused_before_anything_is_written(
    world: World, name: str
) -> None:
    world.registry.add("wine")
    with pytest.raises(NotDeployable):
        preparing.prepare_deploy(world, "wine/1", name=name)


def test_a_version_that_failed_to_register_is_not_deployable(world: World) -> None:
    ref = world.registry.add("wine")
    versions = world.registry.by_model["wine"]
    versions[1] = replace(
        versions[1], registration=Registration.FAILED, registration_message="no space left"
    )
    with pytest.raises(NotDeployable, match="no space left"):
        deploy(world, str(ref))


def test_services_that_others_own_are_not_changed(world: World) -> None:
    world.serves("wine", [1, 2])
    world.serving.held["wine"].owner = "Argo CD"
    with pytest.raises(NotDeployable, match="belongs to Argo CD"):
        roll_back(world)


def test_a_breaking_signature_change_is_a_warning_of_the_plan(world: World) -> None:
    world.serves("wine", [1])
    paler = Signature(inputs=(ColumnSpec("alcohol", ValueKind.DOUBLE),), outputs=WINE.outputs)
    world.registry.add("wine", 2, signature=paler)
    made = preparing.prepare_deploy(world, "wine/2", name="wine")
    warned = [f.detail for f in made.findings if f.name == "callers" and f.verdict is Verdict.WARN]
    assert len(warned) == 1
    assert "hue" in warned[0]


def test_beside_a_canary_callers_are_those_of_the_stable_side(world: World) -> None:
    world.serves("wine", [1])
    paler = Signature(inputs=(ColumnSpec("alcohol", ValueKind.DOUBLE),), outputs=WINE.outputs)
    world.registry.add("wine", 2, signature=paler)
    deploy(world, "wine/2", canary_percent=20)
    settle(world)
    current, history = preparing.require(world, "wine"), world.journal.history("wine")

    def warned(made: preparing.Prepared) -> int:
        found = [f for f in made.findings if f.name == "callers" and f.verdict is Verdict.WARN]
        return len(found)

    assert warned(preparing.prepare(world, planning.plan_promote(current, history))) == 1
    assert warned(preparing.prepare_deploy(world, "wine/2", name="wine")) == 1
    assert warned(preparing.prepare(world, planning.plan_abort(current, history))) == 0


def test_a_request_has_to_fit_what_answers_and_not_what_is_wanted(world: World) -> None:
    world.serves("wine", [1])
    world.serving.fails[VersionRef("wine", 2)] = BROKEN
    world.registry.add("wine", 2, example=None)
    deploy(world, "wine/2")
    settle(world)
    current, history = preparing.require(world, "wine"), world.journal.history("wine")
    assert current.intent is not None
    assert current.intent.version == VersionRef("wine", 2)
    answering = lineage.as_answering(current, history)
    assert (answering.release, answering.intent) == (1, history[1].intent)


def test_what_is_wanted_and_answers_is_what_a_request_has_to_fit(world: World) -> None:
    world.serves("wine", [1, 2])
    current = preparing.require(world, "wine")
    assert lineage.as_answering(current, world.journal.history("wine")) == current


def test_following_a_failed_roll_out_says_what_still_answers(world: World) -> None:
    world.serves("wine", [1])
    world.serving.fails[world.registry.add("wine", 2)] = BROKEN
    deploy(world, "wine/2")
    with pytest.raises(RolloutFailed, match="wine/1 still answers"):
        list(rollout.follow(world, "wine", now=world.clock.now, sleep=world.clock.sleep))


def test_a_failed_first_roll_out_says_so_in_whole_sentences(world: World) -> None:
    world.serving.fails[world.registry.add("wine", 1)] = BROKEN
    deploy(world, "wine/1")
    with pytest.raises(RolloutFailed, match=r"\w\. Nothing answers\."):
        list(rollout.follow(world, "wine", now=world.clock.now, sleep=world.clock.sleep))


def followed_failure(world: World) -> RolloutFailed:
    with pytest.raises(RolloutFailed) as caught:
        list(rollout.follow(world, "wine", now=world.clock.now, sleep=world.clock.sleep))
    return caught.value


def test_a_failed_deploy_names_the_way_back_to_a_verified_release(world: World) -> None:
    world.serves("wine", [1])
    world.serving.fails[world.registry.add("wine", 2)] = BROKEN
    deploy(world, "wine/2")
    assert (
        followed_failure(world).fix == "Add skops. Or go back to wine/1: `slipway rollback wine`."
    )


def test_a_failed_canary_names_the_abort_as_its_way_back(world: World) -> None:
    world.serves("wine", [1])
    world.serving.fails[world.registry.add("wine", 2)] = BROKEN
    deploy(world, "wine/2", canary_percent=10)
    assert (
        followed_failure(world).fix == "Add skops. Or take the canary back: `slipway abort wine`."
    )


def test_a_failed_first_deploy_names_no_way_back(world: World) -> None:
    world.serving.fails[world.registry.add("wine", 1)] = BROKEN
    deploy(world, "wine/1")
    assert followed_failure(world).fix == "Add skops."


def test_a_release_that_has_the_traffic_and_fails_its_test_is_told_so_with_the_way_back(
    world: World,
) -> None:
    world.serves("wine", [1])
    world.serving.via = WayIn.INGRESS
    world.registry.add("wine", 2)
    world.predictor.fails = InferenceFailed("It answered 500.")
    deploy(world, "wine/2")
    with pytest.raises(RolloutFailed) as told:
        list(rollout.follow(world, "wine", now=world.clock.now))
    assert told.value.what == ("wine: wine/2 has 100 % of the traffic and fails the test request.")
    assert told.value.fix.startswith("Return to what answered before: `slipway rollback wine`.")


def test_a_roll_back_that_fails_its_test_names_no_way_back_to_itself(world: World) -> None:
    world.serves("wine", [1])
    world.serving.via = WayIn.INGRESS
    world.registry.add("wine", 2)
    world.predictor.fails = InferenceFailed("It answered 500.")
    deploy(world, "wine/2")
    followed_failure(world)
    history = world.journal.history("wine")
    back = planning.plan_rollback(preparing.require(world, "wine"), history)
    rollout.apply(back, world, actor="ana")
    assert "slipway rollback" not in followed_failure(world).fix


def test_following_ends_with_a_timeout_when_nothing_settles(world: World) -> None:
    world.registry.add("wine")
    world.serving.hold.add("wine")
    deploy(world, "wine/1")
    with pytest.raises(RolloutTimeout, match="may still become ready"):
        list(
            rollout.follow(world, "wine", timeout_s=5, now=world.clock.now, sleep=world.clock.sleep)
        )


MAY_NOT = Denied("Could not look.", "You may not list pods in models.", "Apply the Role slipway.")


def test_a_target_that_does_not_let_us_look_is_told_and_looked_at_again(world: World) -> None:
    world.registry.add("wine")
    deploy(world, "wine/1")
    world.serving.broken = MAY_NOT
    told = []
    for progress in rollout.follow(world, "wine", now=world.clock.now, sleep=world.clock.sleep):
        told.append(progress)
        if len(told) == 3:
            assert world.journal.history("wine")[0].outcome is Outcome.OPEN
            world.serving.broken = None
    assert [progress.phase is Phase.UNKNOWN for progress in told] == [True, True, True, False]
    since = f"(since {START:%H:%M:%S} UTC)"
    assert all(str(MAY_NOT) in p.message and since in p.message for p in told[:3])
    assert told[-1].outcome is Outcome.VERIFIED


def test_a_right_that_stays_away_ends_the_following_and_nothing_is_recorded(world: World) -> None:
    world.registry.add("wine")
    deploy(world, "wine/1")
    world.serving.broken = MAY_NOT
    with pytest.raises(Denied, match="list pods"):
        list(
            rollout.follow(world, "wine", timeout_s=9, now=world.clock.now, sleep=world.clock.sleep)
        )
    assert world.journal.history("wine")[0].outcome is Outcome.OPEN


def test_a_missing_right_refuses_a_plan_as_denied(world: World) -> None:
    world.registry.add("wine")
    plan = preparing.prepare_deploy(world, "wine/1", name="wine").plan
    finding = Finding(checks.PERMISSION, Verdict.FAIL, "You may not patch leases in models.")
    with pytest.raises(Denied, match="patch leases"):
        planning.refuse_if_blocked(plan, [finding])


OWNED = Finding(
    checks.DRY_RUN,
    Verdict.FAIL,
    "Others own what it sets: .spec.predictor.minReplicas (kubectl-edit).",
    "Add --take-over kubectl-edit.",
    refusal=Conflict,
)


def test_fields_of_others_alone_are_a_conflict_and_no_word_against_the_version(
    world: World,
) -> None:
    world.registry.add("wine")
    plan = preparing.prepare_deploy(world, "wine/1", name="w1").plan
    with pytest.raises(Conflict) as caught:
        planning.refuse_if_blocked(plan, [OWNED])
    error = caught.value
    assert error.what == "wine/1 sets fields of w1 that others own. Nothing was changed."
    assert (error.why, error.fix) == (OWNED.detail, OWNED.fix)


def test_a_check_that_fails_beside_fields_of_others_is_what_refuses_the_plan(world: World) -> None:
    world.registry.add("wine")
    plan = preparing.prepare_deploy(world, "wine/1", name="w1").plan
    full = Finding("disk", Verdict.FAIL, "It is full.")
    with pytest.raises(NotDeployable, match="would not work") as caught:
        planning.refuse_if_blocked(plan, [OWNED, full])
    assert caught.value.why == "disk: It is full."


def test_a_target_that_is_away_is_told_with_the_time_and_looked_at_again(world: World) -> None:
    world.registry.add("wine")
    deploy(world, "wine/1")
    world.serving.broken = Unreachable("prod did not answer.")
    told = []
    for progress in rollout.follow(
        world, "wine", timeout_s=60, every_s=1, now=world.clock.now, sleep=world.clock.sleep
    ):
        told.append(progress.message)
        if len(told) == 3:
            world.serving.broken = None
    away = f"prod did not answer. It has been away since {START:%H:%M}"
    assert [message.startswith(away) for message in told] == [True, True, True, False]
    assert len(set(told[:3])) == 1
    assert world.journal.history("wine")[0].outcome is Outcome.VERIFIED


facts = st.builds(
    Observed,
    service=st.just("wine"),
    seen_at=st.just(START),
    exists=st.booleans(),
    caught_up=st.booleans(),
    desired=st.integers(0, 2),
    updated=st.integers(0, 2),
    total=st.integers(0, 2),
    available=st.integers(0, 2),
    model_ready=st.sampled_from([None, True, False]),
    traffic_as_wanted=st.booleans(),
    stopped=st.booleans(),
    asleep=st.booleans(),
    failure=st.sampled_from([None, BROKEN]),
)


@given(facts)
def test_progress_is_ready_only_when_every_fact_agrees(seen: Observed) -> None:
    ready = rollout.progress_of(seen).phase is Phase.READY
    awake = bool(seen.model_ready) and seen.traffic_as_wanted
    counts = {seen.desired, seen.updated, seen.total, seen.available}
    agreed = (
        seen.exists
        and not seen.stopped
        and seen.failure is None
        and seen.caught_up
        and len(counts) == 1
        and (seen.asleep or awake)
    )
    assert ready == agreed


# ── Who answered ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sides", "release"),
    [
        ([(1, 3, 100)], 3),
        ([(1, 3, 70), (2, 4, 30)], 3),
        ([(1, 3, 70), (1, 4, 30)], None),
        ([(1, 3, 70), (None, 4, 30)], None),
        ([(2, 4, 100)], None),
    ],
    ids=["alone", "beside another", "two of it", "one unknown", "none"],
)
def test_an_answer_is_of_the_one_release_that_serves_its_version(
    world: World, sides: list[tuple[int | None, int, int]], release: int | None
) -> None:
    world.serves("wine", [1])
    request = InferRequest(Protocol.V2, "/v2/models/wine/infer", b"{}")
    said = world.predictor.infer(world.serving.endpoint("wine"), request)
    said = replace(said, release=None)
    answering = [
        Answering(VersionRef("wine", number) if number else None, number_of, percent)
        for number, number_of, percent in sides
    ]
    assert preparing.with_release(said, answering).release == release


# ── Gone ──────────────────────────────────────────────────────────────────────────────────────


def test_a_service_that_somebody_deleted_is_told_with_its_last_release(world: World) -> None:
    world.serves("wine", [1])
    del world.serving.held["wine"]
    with pytest.raises(NotFound) as told:
        preparing.require(world, "wine")
    assert told.value.what == "wine was deleted outside Slipway."
    assert told.value.why == "Its last release 1 was wine/1, verified."
    assert "slipway rollback wine --to 1" in told.value.fix


def test_a_service_that_somebody_deleted_stands_in_the_list_and_one_that_slipway_deleted_not(
    world: World,
) -> None:
    for name in ("wine", "beer", "ale"):
        world.serves(name, [1])
    del world.serving.held["wine"]
    rollout.apply(planning.plan_delete(preparing.require(world, "beer")), world, actor="ana")
    settle(world, "beer")
    past = world.journal.histories()
    listed = lineage.with_past(world.serving.services(), past, target="local", namespace="")
    assert [(service.name, service.gone) for service in listed] == [("ale", False), ("wine", True)]


def test_a_roll_back_brings_a_deleted_service_back(world: World) -> None:
    world.serves("wine", [1, 2])
    del world.serving.held["wine"]
    left = preparing.require_or_remains(world, "wine")
    plan = planning.plan_rollback(left, world.journal.history("wine"))
    assert (plan.before, plan.based_on, plan.rolled_back_to) == (None, None, 2)
    rollout.apply(plan, world, actor="ana")
    assert settle(world).outcome is Outcome.VERIFIED
    assert world.wanted_version("wine") == VersionRef("wine", 2)


def test_nothing_but_a_return_is_planned_of_a_service_that_is_gone(world: World) -> None:
    world.serves("wine", [1])
    del world.serving.held["wine"]
    with pytest.raises(NotDeployable):
        planning.plan_stop(preparing.require_or_remains(world, "wine"))


def test_a_list_from_before_an_alias_moved_says_nothing_of_it(world: World) -> None:
    world.registry.add("wine")
    old = world.registry.models()
    read_at = world.clock.now()
    deploy_tied(world, "wine/1", "live")
    settle(world)
    tie = lineage.alias_tie(world.journal.history("wine"))
    assert lineage.alias_drift(tie, old, read_at) == ()
    later = read_at + timedelta(hours=1)
    assert lineage.alias_drift(tie, old, later)


# ── Aliases ───────────────────────────────────────────────────────────────────────────────────


def deploy_tied(world: World, reference: str, alias: str, **wish: int) -> None:
    prepared = preparing.prepare_deploy(
        world, reference, name="wine", wish=planning.Wish(canary_percent=wish.get("canary_percent"))
    )
    plan = planning.with_alias(prepared.plan, alias)
    rollout.apply(plan, world, actor="ana", version=prepared.version)


def test_whoever_settles_a_release_moves_the_alias_that_was_tied_to_it(world: World) -> None:
    world.registry.add("wine")
    deploy_tied(world, "wine/1", "live")
    assert world.registry.aliases.get("wine", {}) == {}
    assert "wine@live points to wine/1" in settle(world).message
    assert world.registry.aliases["wine"] == {"live": 1}


def test_an_alias_stays_when_its_release_failed(world: World) -> None:
    ref = world.registry.add("wine")
    world.serving.fails[ref] = BROKEN
    deploy_tied(world, "wine/1", "live")
    settle(world)
    assert world.registry.aliases.get("wine", {}) == {}


def test_a_canarys_alias_moves_when_it_is_promoted(world: World) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    deploy_tied(world, "wine/2", "live", canary_percent=10)
    settle(world)
    assert world.registry.aliases.get("wine", {}) == {}
    plan = planning.plan_promote(preparing.require(world, "wine"), world.journal.history("wine"))
    rollout.apply(plan, world, actor="ana")
    settle(world)
    assert world.registry.aliases["wine"] == {"live": 2}


def test_a_registry_that_is_down_costs_the_alias_and_not_the_release(world: World) -> None:
    world.registry.add("wine")
    deploy_tied(world, "wine/1", "live")
    world.registry.broken = Unreachable("The registry does not answer.")
    seen = settle(world)
    assert (seen.outcome, "was not moved" in seen.message) == (Outcome.VERIFIED, True)


def test_an_alias_that_points_past_what_serves_is_drift(world: World) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    deploy_tied(world, "wine/2", "live")
    settle(world)
    history = world.journal.history("wine")
    assert lineage.alias_drift(lineage.alias_tie(history), world.registry.models()) == ()
    rollout.apply(roll_back(world), world, actor="ana")
    settle(world)
    tie = lineage.alias_tie(world.journal.history("wine"))
    (drift,) = lineage.alias_drift(tie, world.registry.models())
    assert (drift.field, drift.recorded, drift.seen) == ("alias live", "wine/1", "wine/2")


# ── Adoption ──────────────────────────────────────────────────────────────────────────────────


def test_adopting_records_what_is_there_and_opens_the_way_to_deploys(world: World) -> None:
    world.foreign("wine")
    world.registry.add("wine")
    with pytest.raises(NotDeployable) as refused:
        deploy(world, "wine/1")
    assert "slipway adopt wine" in refused.value.fix
    rollout.apply(planning.plan_adopt(preparing.require(world, "wine")), world, actor="ana")
    settle(world)
    assert world.journal.history("wine")[0].action is Action.ADOPT
    deploy(world, "wine/1")
    assert settle(world).outcome is Outcome.VERIFIED


def test_what_was_adopted_is_not_said_to_be_made_by_slipway(world: World) -> None:
    world.foreign("wine")
    rollout.apply(planning.plan_adopt(preparing.require(world, "wine")), world, actor="ana")
    with pytest.raises(NotDeployable, match="need not be adopted") as refused:
        planning.plan_adopt(preparing.require(world, "wine"))
    assert refused.value.why == "Its present state is release 1. Slipway manages it already."


@pytest.mark.parametrize("name", ["", " ", "Wine", "wine\n"])
def test_a_name_that_no_service_can_have_is_refused_before_anything_is_read(
    world: World, name: str
) -> None:
    world.registry.broken = world.serving.broken = Unreachable("Nothing answers.")
    with pytest.raises(NotDeployable, match="cannot name a service"):
        preparing.prepare_deploy(world, "wine/1", name=name)
    with pytest.raises(NotDeployable, match="cannot name a service"):
        preparing.prepare_render(world, "wine/1", name=name)


def test_what_a_gitops_tool_owns_is_not_adopted(world: World) -> None:
    world.foreign("wine", owner="Argo CD")
    with pytest.raises(NotDeployable) as refused:
        planning.plan_adopt(preparing.require(world, "wine"))
    assert "Argo CD" in refused.value.why


# ── Roll-back by itself ───────────────────────────────────────────────────────────────────────


def deploy_undone(world: World, reference: str, **wish: int) -> Release | None:
    """Deploy with the wish that a failure is undone."""
    prepared = preparing.prepare_deploy(
        world, reference, name="wine", wish=planning.Wish(canary_percent=wish.get("canary_percent"))
    )
    plan = planning.with_rollback(prepared.plan)
    return rollout.apply(plan, world, actor="ana", version=prepared.version)


def history_of(world: World) -> list[tuple[int, Action, Outcome]]:
    return [(r.number, r.action, r.outcome) for r in world.journal.history("wine")]


@pytest.fixture
def failing(world: World) -> World:
    """wine/1 is verified, wine/2 cannot load."""
    world.registry.add("wine")
    world.registry.add("wine", 2)
    deploy(world, "wine/1")
    settle(world)
    world.serving.fails[VersionRef("wine", 2)] = BROKEN
    return world


def test_a_failure_is_not_undone_unless_that_was_chosen(failing: World) -> None:
    deploy(failing, "wine/2")
    assert settle(failing).outcome is Outcome.FAILED
    assert len(failing.journal.history("wine")) == 2


def test_a_failure_that_is_to_be_undone_returns_to_the_verified_release(failing: World) -> None:
    deploy_undone(failing, "wine/2")
    begun = settle(failing)
    assert (begun.outcome, begun.release, begun.undoes) == (Outcome.OPEN, 3, BROKEN)
    ended = settle(failing)
    assert (ended.outcome, ended.undoes) == (Outcome.VERIFIED, BROKEN)
    assert history_of(failing) == [
        (3, Action.ROLLBACK, Outcome.VERIFIED),
        (2, Action.DEPLOY, Outcome.FAILED),
        (1, Action.DEPLOY, Outcome.VERIFIED),
    ]
    assert failing.wanted_version("wine") == VersionRef("wine", 1)


def test_the_roll_back_says_who_why_and_from_where(failing: World) -> None:
    deploy_undone(failing, "wine/2")
    settle(failing)
    release = failing.journal.history("wine")[0]
    assert (release.actor, release.rolled_back_from, release.rolled_back_to) == ("ana", 2, 1)
    assert release.reason == "Release 2 failed: The model did not load"
    assert failing.store.audit[-1].origin == rollout.AUTOMATIC


def test_following_it_ends_as_a_failure_that_names_what_answers(failing: World) -> None:
    deploy_undone(failing, "wine/2")
    with pytest.raises(RolloutFailed) as caught:
        for _ in rollout.follow(failing, "wine", now=failing.clock.now, sleep=failing.clock.sleep):
            pass
    assert "The model did not load" in caught.value.what
    assert "rolled back by release 3: wine/1 answers" in caught.value.what


def test_whoever_follows_the_roll_back_itself_is_told_how_that_ends(failing: World) -> None:
    """As when the version that it returns to is deployed again while it is under way."""
    deploy_undone(failing, "wine/2")
    settle(failing)
    seen = list(rollout.follow(failing, "wine", release=3, now=failing.clock.now))
    assert (seen[-1].release, seen[-1].outcome) == (3, Outcome.VERIFIED)
    assert seen[-1].undoes is None


def test_a_roll_back_by_itself_that_fails_is_not_undone_again(failing: World) -> None:
    deploy_undone(failing, "wine/2")
    settle(failing)
    failing.serving.fails[VersionRef("wine", 1)] = Cause("The disk is full")
    with pytest.raises(RolloutFailed) as caught:
        for _ in rollout.follow(failing, "wine", now=failing.clock.now, sleep=failing.clock.sleep):
            pass
    assert "The model did not load" in caught.value.what
    assert "The disk is full" in caught.value.why
    for _ in range(3):
        settle(failing)
    assert len(failing.journal.history("wine")) == 3


def test_settling_a_failure_by_many_front_ends_is_one_roll_back(failing: World) -> None:
    deploy_undone(failing, "wine/2")
    before = failing.journal.history("wine")
    settle(failing)
    failed = rollout._undone(
        failing, before[0], Progress(Phase.FAILED, "", Outcome.FAILED, cause=BROKEN)
    )
    assert failed.release == 3
    assert len(failing.journal.history("wine")) == 3


def failed_elsewhere(world: World) -> None:
    """wine/2 failed, and another process than ours recorded it."""
    release = deploy_undone(world, "wine/2")
    assert release is not None
    world.journal.close(release, Outcome.FAILED, BROKEN)


def test_a_failure_that_another_process_recorded_is_undone_by_who_looks_next(
    failing: World,
) -> None:
    failed_elsewhere(failing)
    assert settle(failing).undoes == BROKEN
    assert settle(failing).outcome is Outcome.VERIFIED
    assert len(failing.journal.history("wine")) == 3


def test_a_failure_of_long_ago_is_left_to_people(failing: World) -> None:
    failed_elsewhere(failing)
    failing.clock.sleep(rollout.UNDONE_WITHIN_S + 1)
    assert settle(failing).outcome is Outcome.FAILED
    assert len(failing.journal.history("wine")) == 2


def test_a_first_release_that_fails_says_why_it_was_not_rolled_back(world: World) -> None:
    world.registry.add("wine")
    world.serving.fails[VersionRef("wine", 1)] = BROKEN
    deploy_undone(world, "wine/1")
    failed = settle(world)
    assert failed.outcome is Outcome.FAILED
    assert failed.cause is not None
    assert "It was not rolled back: wine has no verified release" in failed.cause.why
    assert len(world.journal.history("wine")) == 1


def test_a_package_that_is_gone_is_told_beside_the_first_cause(failing: World) -> None:
    deploy_undone(failing, "wine/2")
    failing.packager.gone.add(failing.journal.history("wine")[1].intent.package.uri)
    failed = settle(failing)
    assert failed.cause is not None
    assert "skops" in failed.cause.why
    assert "It was not rolled back" in failed.cause.why
    assert len(failing.journal.history("wine")) == 2


def test_what_could_not_be_measured_is_never_undone(world: World) -> None:
    world.registry.add("wine")
    world.registry.add("wine", 2, example=None)
    deploy(world, "wine/1")
    settle(world)
    deploy_undone(world, "wine/2")
    assert settle(world).outcome is Outcome.SERVING
    assert len(world.journal.history("wine")) == 2


def test_what_is_merely_late_is_never_undone(failing: World) -> None:
    del failing.serving.fails[VersionRef("wine", 2)]
    failing.serving.hold.add("wine")
    deploy_undone(failing, "wine/2")
    failing.clock.sleep(rollout.DEADLINE_S + 1)
    assert settle(failing).outcome is Outcome.TIMEOUT
    assert len(failing.journal.history("wine")) == 2


def test_a_canary_that_fails_is_aborted(failing: World) -> None:
    deploy_undone(failing, "wine/2", canary_percent=30)
    begun = settle(failing)
    assert begun.undoes == BROKEN
    assert failing.journal.history("wine")[0].action is Action.ABORT


# ── The service's own address ─────────────────────────────────────────────────────────────────


@pytest.fixture
def behind_ingress(world: World) -> World:
    """wine/1 answers; wine/2 is to follow, behind an ingress."""
    world.registry.add("wine")
    world.registry.add("wine", 2)
    deploy(world, "wine/1")
    settle(world)
    world.serving.via = WayIn.INGRESS
    return world


def test_a_release_is_not_verified_before_its_address_answers_with_it(
    behind_ingress: World,
) -> None:
    behind_ingress.predictor.behind = VersionRef("wine", 1)
    deploy(behind_ingress, "wine/2")
    waiting = settle(behind_ingress)
    assert (waiting.outcome, waiting.phase) == (Outcome.OPEN, Phase.ROLLING_OUT)
    assert "still answers with wine/1" in waiting.message
    behind_ingress.predictor.behind = None
    assert settle(behind_ingress).outcome is Outcome.VERIFIED


def test_an_address_that_fails_for_a_moment_is_waited_for(behind_ingress: World) -> None:
    behind_ingress.predictor.behind = InferenceFailed("The endpoint answered 503.")
    deploy(behind_ingress, "wine/2")
    assert settle(behind_ingress).outcome is Outcome.OPEN
    behind_ingress.predictor.behind = None
    assert settle(behind_ingress).outcome is Outcome.VERIFIED


def test_an_address_that_never_follows_is_told_and_is_no_failure_of_the_release(
    behind_ingress: World,
) -> None:
    behind_ingress.predictor.behind = VersionRef("wine", 1)
    deploy_undone(behind_ingress, "wine/2")
    settle(behind_ingress)
    behind_ingress.clock.sleep(rollout.ADDRESS_GRACE_S + 1)
    told = settle(behind_ingress)
    assert told.outcome is Outcome.SERVING
    assert "still answers with wine/1" in told.message
    assert len(behind_ingress.journal.history("wine")) == 2


def test_a_canary_shares_its_address_and_is_verified_on_its_pods(behind_ingress: World) -> None:
    behind_ingress.predictor.behind = VersionRef("wine", 1)
    deploy(behind_ingress, "wine/2", canary_percent=10)
    assert settle(behind_ingress).outcome is Outcome.VERIFIED


# ── First looked at while it sleeps ───────────────────────────────────────────────────────────


@pytest.fixture
def sleeping(behind_ingress: World) -> World:
    """wine/2 was deployed, and fell asleep before anybody looked."""
    deploy(behind_ingress, "wine/2")
    behind_ingress.serving.observe("wine")
    behind_ingress.serving.asleep.add("wine")
    return behind_ingress


def test_a_release_that_fell_asleep_untested_is_woken_and_verified(sleeping: World) -> None:
    assert settle(sleeping).outcome is Outcome.VERIFIED
    assert not sleeping.serving.asleep


def test_a_release_that_nothing_wakes_serves_and_is_not_called_verified(sleeping: World) -> None:
    sleeping.serving.wakes = False
    found = settle(sleeping)
    assert found.outcome is Outcome.SERVING
    assert "asleep and was not woken" in found.message


def test_a_release_that_is_settled_is_left_asleep(sleeping: World) -> None:
    settle(sleeping)
    sleeping.serving.asleep.add("wine")
    settle(sleeping)
    assert sleeping.serving.asleep == {"wine"}
