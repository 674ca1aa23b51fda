"""Every page in the five states: empty, normal, degraded, unreachable, denied."""

from __future__ import annotations

import time

import pytest

from dashboard import wiring
from services import planning, preparing, rollout
from services.domain import Cause, VersionRef
from services.errors import Denied, Unreachable
from tests.memory import World
from tests.pages.conftest import OpenPage, WorldConnections, rows_of, words_of

PAGES = ("overview", "models", "deploy", "endpoints", "activity", "health")

DOWN = Unreachable("The place did not answer within 4 s.", "Connection refused.", "Start it.")
FORBIDDEN = Denied("You may not look there.", "The account lacks list.", "Ask its owner.")


def _break(world: World, error: Denied | Unreachable) -> None:
    world.registry.broken = world.serving.broken = world.store.broken = error


def _fail(world: World) -> None:
    """wine/1 answers, wine/2 failed."""
    world.serves("wine", [1])
    world.registry.add("wine", 2)
    world.serving.fails[VersionRef("wine", 2)] = Cause(
        "wine/2 did not load",
        "No module named 'xgboost'.",
        "Add it.",
        where="wine-2/kserve-container",
        exit_code=0,
        evidence=("ModuleNotFound",),
    )
    made = preparing.prepare_deploy(world, "wine/2", name="wine")
    rollout.apply(made.plan, world, actor="ana", version=made.version)
    rollout.settle(world, "wine", now=world.clock.now)


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_world_is_drawn_with_a_next_step(page: str, open_page: OpenPage) -> None:
    app = open_page(page)
    assert not app.exception
    assert not app.error
    assert words_of(app)


@pytest.mark.parametrize("page", PAGES)
def test_a_normal_world_is_drawn(page: str, world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1, 2])
    app = open_page(page)
    assert not app.exception
    assert not app.error


def test_a_failed_roll_out_names_its_container_and_exit_code(
    world: World, open_page: OpenPage
) -> None:
    _fail(world)
    app = open_page("endpoints", service="wine")
    assert "wine-2/kserve-container, exit code 0" in words_of(app).replace("\\", "")


@pytest.mark.parametrize("page", PAGES)
def test_a_failed_release_is_drawn(page: str, world: World, open_page: OpenPage) -> None:
    _fail(world)
    assert not open_page(page).exception


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("error", [DOWN, FORBIDDEN], ids=["unreachable", "denied"])
def test_a_world_that_gives_nothing_says_why_and_what_to_do(
    page: str, error: Denied | Unreachable, world: World, open_page: OpenPage
) -> None:
    _break(world, error)
    app = open_page(page)
    assert not app.exception
    said = words_of(app)
    assert error.what.rstrip(".") in said.replace("\\", "")
    assert error.fix in said


@pytest.mark.parametrize("page", ["overview", "endpoints"])
@pytest.mark.parametrize("error", [DOWN, FORBIDDEN], ids=["unreachable", "denied"])
def test_a_target_that_told_nothing_is_not_called_empty(
    page: str, error: Denied | Unreachable, world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1])
    _break(world, error)
    said = words_of(open_page(page, service="wine")).replace("\\", "")
    assert "What runs on local is not known." in said
    assert "Nothing runs" not in said


@pytest.mark.parametrize("page", ["overview", "endpoints"])
def test_what_a_silent_target_served_is_told_as_what_was(
    world: World, open_page: OpenPage, page: str
) -> None:
    world.serves("wine", [1])
    open_page(page)
    world.serving.broken = DOWN
    wiring.forget_reads()
    assert "Last seen at " in words_of(open_page(page))


def test_the_last_good_list_is_shown_with_its_age(world: World, open_page: OpenPage) -> None:
    world.serves("wine", [1])
    open_page("models")
    world.registry.broken = DOWN
    wiring.forget_reads()
    app = open_page("models")
    assert [row["model"] for row in rows_of(app)] == ["wine"]
    assert "Shown: registered models as of " in words_of(app)


def test_a_black_hole_holds_no_page_up(world: World, open_page: OpenPage) -> None:
    open_page("health")  # what a first run imports is not what is measured
    wiring.forget_reads()
    look, world.registry._look = world.registry._look, lambda: time.sleep(8)  # type: ignore[method-assign]
    try:
        began = time.monotonic()
        app = open_page("models")
        first_s = time.monotonic() - began
        began = time.monotonic()
        app.run()
        again_s = time.monotonic() - began
    finally:
        world.registry._look = look  # type: ignore[method-assign]
    # The budget is 1.4 s; the rest is for a busy machine. Without a budget it would be 8 s.
    assert first_s < 6
    assert again_s < 3
    assert "No answer yet." in words_of(app)


def test_the_overview_says_what_needs_somebody(world: World, open_page: OpenPage) -> None:
    _fail(world)
    world.serves("churn", [1])
    said = words_of(open_page("overview")).replace("\\", "")
    assert "2 services on local, 1 needs you: wine." in said
    assert "wine/1 still answers" in said


def test_a_failed_release_shows_cause_fix_and_evidence(world: World, open_page: OpenPage) -> None:
    _fail(world)
    said = words_of(open_page("endpoints", service="wine"))
    assert "No module named 'xgboost'." in said
    assert "Fix: Add it." in said
    assert "ModuleNotFound" in said


def test_a_registry_that_nothing_answers_for_is_told_before_its_client_gives_up(
    connections: WorldConnections, world: World, open_page: OpenPage
) -> None:
    open_page("health")
    connections.unreachable = DOWN
    look, world.registry._look = world.registry._look, lambda: time.sleep(4)  # type: ignore[method-assign]
    try:
        said = words_of(open_page("models"))
    finally:
        world.registry._look = look  # type: ignore[method-assign]
    assert DOWN.what.rstrip(".") in said.replace("\\", "")
    assert DOWN.fix in said


def test_a_failed_service_whose_predecessor_answers_offers_the_way_back_first(
    world: World, open_page: OpenPage
) -> None:
    _fail(world)
    page = open_page("endpoints", service="wine")
    assert page.button(key="way_out").label == "Go back to a verified release…"
    page.button(key="way_out").click().run()
    assert "Roll back to release 1" in words_of(page)


def test_a_failed_service_that_nothing_answers_for_offers_a_restart_first(
    world: World, open_page: OpenPage
) -> None:
    ref = world.registry.add("wine")
    world.serving.fails[ref] = Cause("wine/1 did not load")
    made = preparing.prepare_deploy(world, "wine/1", name="wine")
    rollout.apply(made.plan, world, actor="ana", version=made.version)
    rollout.settle(world, "wine", now=world.clock.now)
    assert open_page("endpoints", service="wine").button(key="way_out").label == "Start it again…"


def test_every_command_that_ends_a_fix_stands_below_it_and_not_in_it(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1, 2])
    made = preparing.prepare_deploy(
        world, "wine/2", name="wine", wish=planning.Wish(canary_percent=30)
    )
    rollout.apply(made.plan, world, actor="ana", version=made.version)
    rollout.settle(world, "wine", now=world.clock.now)
    world.registry.add("wine", 3)
    app = open_page("deploy", model="wine", version=3, service="wine")
    assert "by command:" in words_of(app)
    assert [code.value for code in app.code][:2] == ["slipway promote wine", "slipway abort wine"]
    (fix,) = [text.value for text in app.text if text.value.startswith("Fix:")]
    assert fix.endswith("by command:")
