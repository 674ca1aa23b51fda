"""The journeys by click: deploy, roll back, canary, stop, start, delete."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import wiring
from services import planning, preparing, rollout
from services.domain import (
    Action,
    ColumnSpec,
    Finding,
    ModelVersion,
    Outcome,
    OwnedField,
    Package,
    Signature,
    ValueKind,
    Verdict,
    VersionRef,
)
from services.errors import Conflict
from services.ports import Report, no_report
from tests.memory import WINE, World
from tests.pages.conftest import OpenPage, rows_of, words_of


def press(app: AppTest, label: str) -> AppTest:
    """Click the button with this label."""
    found = [button for button in app.button if button.label.replace("\\", "") == label]
    assert found, [button.label for button in app.button]
    assert not found[0].disabled, words_of(app)
    return found[0].click().run()


def button(app: AppTest, label: str) -> bool:
    """Whether the button is there and can be pressed."""
    return any(b.label.replace("\\", "") == label and not b.disabled for b in app.button)


def choose(app: AppTest, service: str, action: str) -> AppTest:
    """Choose what to do with an opened service."""
    return app.segmented_control(key=f"do-{service}").set_value(action).run()


def test_deploying_by_click_makes_a_verified_release(world: World, open_page: OpenPage) -> None:
    world.registry.add("wine")
    app = open_page("deploy", model="wine", version=1)
    app = press(app, "Deploy wine/1")
    app.run()
    release = world.journal.history("wine")[0]
    assert (release.outcome, release.intent.version) == (Outcome.VERIFIED, VersionRef("wine", 1))
    assert world.store.audit[0].origin == "browser"
    assert "Nothing to do" in words_of(app)


def test_a_field_of_others_is_taken_over_when_the_box_is_ticked(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    field = OwnedField(".spec.predictor.maxReplicas", "kubectl-edit")
    world.serving.owned = (field,)
    app = open_page("deploy", model="wine", version=2)
    assert not button(app, "Deploy wine/2")
    app = app.checkbox(key="take-over-wine-kubectl-edit").check().run()
    press(app, "Deploy wine/2")
    assert world.serving.applied[-1].takes == (field,)


def test_the_newest_version_is_proposed(world: World, open_page: OpenPage) -> None:
    for _ in range(10):
        world.registry.add("wine")
    assert button(open_page("deploy", model="wine"), "Deploy wine/10")


def test_two_tabs_that_confirm_one_plan_deploy_once(world: World, open_page: OpenPage) -> None:
    world.registry.add("wine")
    first = open_page("deploy", model="wine")
    second = open_page("deploy", model="wine")
    press(first, "Deploy wine/1")
    press(second, "Deploy wine/1")
    assert len(world.journal.history("wine")) == 1
    assert len(world.serving.applied) == 1


def test_while_the_package_is_made_its_lines_show_and_the_button_is_shut(
    world: World, open_page: OpenPage
) -> None:
    world.registry.add("wine")
    go_on = threading.Event()
    make = world.packager.make

    def slow(version: ModelVersion, report: Report = no_report) -> Package:
        report("copying", 0.5)
        go_on.wait(30)
        return make(version, report)

    world.packager.make = slow  # type: ignore[method-assign]
    app = press(open_page("deploy", model="wine"), "Deploy wine/1")
    assert "copying" in words_of(app)
    assert not button(app, "Deploy wine/1")
    assert world.journal.history("wine") == ()
    go_on.set()
    for _ in range(50):
        if world.journal.history("wine"):
            break
        threading.Event().wait(0.1)
    app.run()
    assert len(world.journal.history("wine")) == 1


def test_a_replayed_click_is_the_same_operation(world: World, open_page: OpenPage) -> None:
    world.registry.add("wine")
    app = open_page("deploy", model="wine")
    made = preparing.prepare_deploy(world, "wine/1", name="wine")
    for _ in range(10):
        wiring.begin(made, "ten times")
    app.run()
    assert len(world.journal.history("wine")) == 1
    assert len(world.serving.applied) == 1


def test_another_tab_sees_a_roll_out_that_it_did_not_begin(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    world.serving.hold.add("wine")
    made = preparing.prepare_deploy(world, "wine/2", name="wine")
    rollout.apply(made.plan, world, actor="ben", reason="From a terminal", version=made.version)
    said = words_of(open_page("endpoints", service="wine"))
    assert "Release 2: deploy wine/2, by ben" in said
    assert "under way" in said
    assert "From a terminal" in said


def test_a_plan_from_an_old_look_is_a_conflict_that_is_told(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    app = open_page("deploy", model="wine", version=2)

    def refuse(*_: object) -> None:
        raise Conflict("wine changed while you were looking. Nothing was changed.", "Ben.", "Look.")

    world.serving.apply = refuse  # type: ignore[method-assign,assignment]
    app = press(app, "Deploy wine/2")
    assert "changed while you were looking" in words_of(app)


def test_a_breaking_signature_wants_a_tick(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1])
    renamed = Signature((ColumnSpec("colour", ValueKind.DOUBLE), WINE.inputs[0]), WINE.outputs)
    world.registry.add("wine", 2, signature=renamed)
    app = open_page("deploy", model="wine", version=2)
    assert not button(app, "Deploy wine/2")
    assert "The box above is not ticked." in words_of(app)
    app.checkbox(key="agree").check().run()
    assert button(app, "Deploy wine/2")


def test_a_name_that_cannot_be_is_told_before_a_plan(world: World, open_page: OpenPage) -> None:
    world.registry.add("wine")
    app = open_page("deploy", model="wine", service="Not a name")
    assert "small letters" in words_of(app)
    assert not button(app, "Deploy wine/1")


def test_rolling_back_asks_for_the_newest_verified_release(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [6, 7])
    app = open_page("endpoints", service="wine", do="rollback")
    app.text_input(key="reason-wine-rollback").set_value("Too slow")
    press(app, "Roll back to release 1")
    assert world.wanted_version("wine") == VersionRef("wine", 6)
    newest = world.journal.history("wine")[0]
    assert (newest.action, newest.reason, newest.rolled_back_to) == (
        Action.ROLLBACK,
        "Too slow",
        1,
    )


def test_rolling_back_works_with_the_registry_down(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1, 2])
    world.registry.broken = Conflict("The registry is away.")
    press(open_page("endpoints", service="wine", do="rollback", to=1), "Roll back to release 1")
    assert world.wanted_version("wine") == VersionRef("wine", 1)


def test_a_confirmed_roll_back_closes_its_plan(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1, 2])
    app = press(open_page("endpoints", service="wine", do="rollback"), "Roll back to release 1")
    assert app.segmented_control(key="do-wine").value is None


def test_a_canary_is_started_changed_and_promoted(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    app = open_page("deploy", model="wine", version=2)
    app.number_input(key="canary_percent").set_value(10).run()
    press(app, "Deploy wine/2 to 10 % of wine")
    app = choose(open_page("endpoints", service="wine"), "wine", "canary")
    app.number_input(key="percent").set_value(50).run()
    app = press(app, "Give the canary 50 %")
    app.run()
    app = press(choose(app, "wine", "promote"), "Promote wine/2")
    held = world.serving.held["wine"]
    assert (held.intent.version, held.intent.canary_percent) == (VersionRef("wine", 2), None)


def test_an_aborted_canary_gives_the_traffic_back(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    made = preparing.prepare_deploy(
        world, "wine/2", name="wine", wish=planning.Wish(canary_percent=10)
    )
    rollout.apply(made.plan, world, actor="ana", version=made.version)
    rollout.settle(world, "wine", now=world.clock.now)
    press(
        open_page("endpoints", service="wine", do="abort"),
        "Abort the canary, back to wine/1",
    )
    assert world.wanted_version("wine") == VersionRef("wine", 1)


def test_stop_then_start(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1])
    app = press(open_page("endpoints", service="wine", do="stop"), "Stop wine")
    assert world.serving.held["wine"].intent.stopped
    app.run()
    press(choose(app, "wine", "start"), "Start wine")
    assert not world.serving.held["wine"].intent.stopped


def test_deleting_wants_the_name_typed(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1])
    app = open_page("endpoints", service="wine", do="delete")
    assert not button(app, "Delete wine")
    app.text_input(key="confirm-wine-delete").set_value("win").run()
    assert not button(app, "Delete wine")
    app.text_input(key="confirm-wine-delete").set_value("wine").run()
    app = press(app, "Delete wine")
    assert "wine" not in world.serving.held
    app.run()
    assert [row["action"] for row in rows_of(app)] == ["delete", "deploy"]


def test_a_protected_target_wants_the_name_typed_for_every_write(
    world: World, open_page: OpenPage
) -> None:
    world.protected = True
    world.registry.add("wine")
    app = open_page("deploy", model="wine")
    assert not button(app, "Deploy wine/1")
    app.text_input(key="confirm-wine-deploy").set_value("wine").run()
    assert button(app, "Deploy wine/1")


def test_a_service_of_others_is_shown_and_can_only_be_adopted(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1])
    world.serving.held["wine"].managed = False
    app = open_page("endpoints", service="wine", do="delete")
    assert app.segmented_control[0].options == ["Adopt"]
    assert "not made by Slipway" in words_of(app)


def test_a_failed_check_keeps_the_button_shut(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1, 2])
    world.packager.gone.add("/packages/wine/1")
    app = open_page("endpoints", service="wine", do="rollback", to=1)
    assert not button(app, "Roll back to release 1")
    assert "/packages/wine/1 is gone." in words_of(app)


def test_an_operation_that_another_process_left_is_taken_up(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    made = preparing.prepare_deploy(world, "wine/2", name="wine")
    rollout.apply(made.plan, world, actor="ana", version=made.version)
    open_page("overview")
    for _ in range(60):
        if world.journal.history("wine")[0].settled:
            break
        threading.Event().wait(0.1)
    assert world.journal.history("wine")[0].outcome is Outcome.VERIFIED


def test_an_unexpected_error_shows_a_reference_and_no_traceback(
    world: World, open_page: OpenPage
) -> None:
    def broken() -> None:
        message = "secret-in-a-bug"
        raise RuntimeError(message)

    world.registry.models = broken  # type: ignore[method-assign,assignment]
    said = words_of(open_page("models"))
    assert "reference" in said
    assert "secret-in-a-bug" not in said


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"service": "wine", "tab": "Logs"}, "Uvicorn running"),
        ({"service": "wine", "tab": "Events"}, "started"),
        ({"service": "wine", "tab": "Manifest"}, "name: wine"),
        ({"service": "gone"}, "There is no service gone here."),
    ],
)
def test_a_link_opens_the_same_view(
    params: dict[str, str], expected: str, world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1])
    assert expected in words_of(open_page("endpoints", **params))


def test_a_link_to_two_versions_compares_them(world: World, open_page: OpenPage) -> None:
    world.registry.add("wine")
    world.registry.add("wine")
    app = open_page("models", model="wine", version="1,2")
    assert "wine/1 compared with wine/2" in words_of(app)
    assert {row["field"] for row in rows_of(app, 2)} >= {"metric accuracy", "param C"}


def test_versions_sort_as_numbers_and_name_where_they_serve(
    world: World, open_page: OpenPage
) -> None:
    for _ in range(10):
        world.registry.add("wine")
    world.serves("wine", [9])
    rows = rows_of(open_page("models", model="wine"), 1)
    assert [row["version"] for row in rows] == list(range(10, 0, -1))
    assert list(rows[1]["serves on"]) == ["local/wine"]


def test_models_are_found_by_name_and_alias(world: World, open_page: OpenPage) -> None:
    world.registry.add("wine", aliases=("champion",))
    world.registry.add("churn")
    assert [r["model"] for r in rows_of(open_page("models", search="chu"))] == ["churn"]
    assert [r["model"] for r in rows_of(open_page("models", alias="champion"))] == ["wine"]


def test_problems_of_a_version_are_said(world: World, open_page: OpenPage) -> None:
    ref = world.registry.add("wine")
    known = world.registry.by_model["wine"][1]
    world.registry.by_model["wine"][1] = replace(known, problems=("Its run was deleted.",))
    said = words_of(open_page("models", model="wine", version=ref.number))
    assert "Its run was deleted" in said


def test_activity_is_filtered_from_the_url(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1])
    world.serves("churn", [1])
    rows = rows_of(open_page("activity", service="chu", action="deploy"))
    assert [row["service"] for row in rows] == ["churn"]


def test_a_package_that_cannot_be_made_keeps_the_button_shut(
    world: World, open_page: OpenPage
) -> None:
    world.registry.add("wine")
    world.packager.fails = Finding("package", Verdict.FAIL, "There is no such bucket.", "Make it.")
    app = open_page("deploy", model="wine")
    assert "package: There is no such bucket." in words_of(app)
    assert not button(app, "Deploy wine/1")


def test_run_all_checks_checks_again(world: World, open_page: OpenPage) -> None:
    app = open_page("health")
    world.serving.broken = Conflict("The target is away.", fix="Bring it back.")
    app = press(app, "Run all checks")
    said = words_of(app)
    assert "1 of 3 checks failed." in said.replace("\\", "")
    assert "Fix: Bring it back." in said


def test_a_page_reads_each_list_once(world: World, open_page: OpenPage) -> None:
    for number in range(8):
        world.serves(f"service-{number}", [1], model="wine")
    wiring.forget_reads()
    calls = world.registry.calls
    open_page("overview")
    assert world.registry.calls - calls <= 1


def test_another_model_picked_by_hand_gets_its_own_service_name(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1])
    world.registry.add("churn")
    app = open_page("deploy", model="wine", version=1, service="wine")
    app = app.selectbox(key="model").set_value("churn").run()
    assert app.text_input(key="service").value == "churn"
    assert button(app, "Deploy churn/1")


def test_packaging_is_cancelled_by_a_button_and_leaves_no_release(
    world: World, open_page: OpenPage
) -> None:
    world.registry.add("wine")
    go_on = threading.Event()
    make = world.packager.make

    def slow(version: ModelVersion, report: Report = no_report) -> Package:
        report("copying", 0.5)
        go_on.wait(30)
        report("copied", 0.9)
        return make(version, report)

    world.packager.make = slow  # type: ignore[method-assign]
    app = press(open_page("deploy", model="wine"), "Deploy wine/1")
    press(app, "Cancel")
    go_on.set()
    for _ in range(100):
        if world.store.audit[0].outcome is Outcome.NOT_APPLIED:
            break
        threading.Event().wait(0.1)
    assert "cancelled while it was being prepared" in words_of(app.run())
    assert world.journal.history("wine") == ()


def test_a_roll_out_is_cancelled_by_click(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    world.serving.hold.add("wine")
    made = preparing.prepare_deploy(world, "wine/2", name="wine")
    rollout.apply(made.plan, world, actor="ben", version=made.version)
    app = choose(open_page("endpoints", service="wine"), "wine", "abort")
    world.serving.hold.clear()
    press(app, "Cancel it, back to wine/1")
    newest, given_up, _first = world.journal.history("wine")
    assert (newest.action, given_up.outcome) == (Action.ABORT, Outcome.FAILED)
    assert world.wanted_version("wine") == VersionRef("wine", 1)
