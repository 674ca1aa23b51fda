"""The Predict page: a request built, checked, sent and timed."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from typing import Any, cast

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import ButtonGroup

from dashboard import wiring
from services import bench
from services.domain import (
    ColumnSpec,
    Load,
    LoadMode,
    LoadSummary,
    Mode,
    Protocol,
    Scale,
    Signature,
    TargetKind,
    Tick,
    ValueKind,
    WayIn,
)
from services.errors import InferenceFailed
from services.histogram import NO_PERCENTILES
from tests.memory import WINE, MemoryEngine, MemoryLoad, World
from tests.pages.conftest import OpenPage, rows_of, words_of


def send(app: AppTest) -> AppTest:
    return app.button(key="send").click().run()


def written_as(app: AppTest, way: str) -> AppTest:
    return cast("ButtonGroup[str]", app.get("button_group")[0]).set_value(way).run()


def test_without_a_service_the_next_step_is_a_deploy(open_page: OpenPage) -> None:
    assert "No service on local" in words_of(open_page("predict"))


def test_the_form_is_prefilled_with_the_example_of_the_version(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    assert [(field.label, field.value) for field in app.text_input] == [
        ("alcohol", "13.2"),
        ("hue", "1.05"),
    ]


def test_the_service_that_was_chosen_by_itself_stands_in_the_link(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    assert open_page("predict").query_params["service"] == "wine"


def test_a_link_to_a_service_that_is_gone_asks_no_other_in_its_place(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    app = open_page("predict", service="gone")
    assert "There is no service gone here." in words_of(app).replace("\\", "")
    assert app.selectbox(key="service").value is None
    assert "send" not in [button.key for button in app.button]
    app = app.selectbox(key="service").set_value("wine").run()
    assert app.query_params["service"] in ("wine", ["wine"])
    assert app.button(key="send")


def test_the_versions_that_answered_are_told_apart_by_names_and_not_by_markup(
    world: World, open_page: OpenPage
) -> None:
    from services import planning, preparing, rollout

    world.serves("wine", [1], model="*w*")
    world.registry.add("*w*", 2)
    made = preparing.prepare_deploy(
        world, "*w*/2", name="wine", wish=planning.Wish(canary_percent=30)
    )
    rollout.apply(made.plan, world, actor="ana", version=made.version)
    rollout.settle(world, "wine", now=world.clock.now)
    app = open_page("predict", service="wine")
    app.selectbox(key="side").set_value("each version, side by side")
    labels = [tab.label for tab in send(app).tabs]
    assert labels
    assert not [label for label in labels if label.startswith("*")]


def test_a_request_that_fits_is_sent_once_and_names_the_version_that_answered(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine", [1, 2])
    app = send(open_page("predict", service="wine"))
    assert len(world.predictor.sent) == 1
    assert "wine/2, release 2" in words_of(app)


def test_a_field_that_does_not_fit_is_named_and_nothing_is_sent(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    app.text_input[1].set_value("pale")
    app = send(app)
    assert not world.predictor.sent
    assert rows_of(app)[0]["field"] == "hue"


def test_rows_can_be_pasted_as_csv(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    app = written_as(app, "JSON or CSV")
    app.text_area[0].set_value("alcohol,hue\n12.5,1\n13,2\n")
    send(app)
    assert [request.rows for request in world.predictor.sent] == [2]


def sent_and_written_as_json(world: World, open_page: OpenPage) -> AppTest:
    """A form was sent with another first value than the example's, and left for JSON."""
    world.serves("wine")
    app = open_page("predict", service="wine")
    app.text_input[0].set_value("12.5")
    return written_as(send(app), "JSON or CSV")


def test_another_way_of_writing_begins_with_the_values_that_were_sent_last(
    world: World, open_page: OpenPage
) -> None:
    app = sent_and_written_as_json(world, open_page)
    assert "12.5" in (app.text_area[0].value or "")
    assert written_as(app, "Form").text_input[0].value == "12.5"


def test_the_versions_example_can_be_returned_to_after_a_request(
    world: World, open_page: OpenPage
) -> None:
    app = sent_and_written_as_json(world, open_page)
    app = app.selectbox(key="example").set_value("the version's example").run()
    assert "13.2" in (app.text_area[0].value or "")


def test_an_example_that_is_named_as_the_versions_own_stands_beside_it(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    world.store.save_example("wine", "the version's example", '{"inputs": [1]}')
    options = open_page("predict", service="wine").selectbox(key="example").options
    assert options == ["the version's example", "the version's example (kept)"]


def test_a_form_says_that_its_example_has_more_rows(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    rows = [{"alcohol": 11.0, "hue": 0.5}, {"alcohol": 12.0, "hue": 0.6}]
    world.store.save_example("wine", "two", json.dumps(rows))
    app = open_page("predict", service="wine", example="two")
    assert "The form holds the first of 2 rows of two." in words_of(app).replace("\\", "")


def test_an_endpoint_that_fails_is_told_with_the_request_to_try_by_hand(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    world.predictor.fails = InferenceFailed("wine answered with HTTP 500.", "A column is missing.")
    world.predictor.fails.met = "It was answered by wine/1 via loopback."
    words = words_of(send(open_page("predict", service="wine")))
    assert "HTTP 500" in words
    assert "answered by wine/1 via loopback" in words
    assert "curl" in words


def test_a_stopped_service_offers_the_way_to_start_it(world: World, open_page: OpenPage) -> None:
    from services import planning, preparing, rollout

    world.serves("wine")
    rollout.apply(planning.plan_stop(preparing.require(world, "wine")), world, actor="ana")
    rollout.settle(world, "wine", now=world.clock.now)
    words = words_of(open_page("predict", service="wine"))
    assert "wine is stopped" in words
    assert "Start it on Endpoints" in words


def test_a_hundred_columns_are_asked_for_as_text(world: World, open_page: OpenPage) -> None:
    wide = Signature(tuple(ColumnSpec(f"c{at}", ValueKind.DOUBLE) for at in range(100)))
    world.registry.add("wide", signature=wide, example=None)
    world.serves("wide")
    app = open_page("predict", service="wide")
    assert not app.text_input
    assert app.text_area


def test_both_sides_of_a_canary_can_be_asked_side_by_side(
    world: World, open_page: OpenPage
) -> None:
    with_canary(world)
    app = open_page("predict", service="wine")
    app.selectbox(key="side").set_value("each version, side by side")
    app = send(app)
    assert len(world.predictor.sent) == 2
    assert "same outputs" in words_of(app)


def load_test(app: AppTest, mode: LoadMode = LoadMode.BURST) -> AppTest:
    if app.radio(key="mode").value != mode:
        app = app.radio(key="mode").set_value(mode).run()
    app = app.button(key="start_load").click().run()
    for _ in range(100):
        tests = [wiring.load_tests().running_on("wine")]
        if tests == [None]:
            break
        time.sleep(0.1)
    wiring.forget_reads()
    return app.run()


def reopened(world: World, open_page: OpenPage, **summary: Any) -> AppTest:
    """The only stored run, opened as one that was kept with another summary."""
    [run] = world.store.kept
    world.store.kept[:] = [replace(run, summary=replace(run.summary, **summary))]
    wiring.forget_reads()
    return open_page("predict", service="wine", runs="1")


def test_a_load_test_repeats_the_example_and_is_kept(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = load_test(open_page("predict", service="wine"))
    assert [run.version for run in world.store.kept] == ["wine/1"]
    assert "The load engine was not the limit." in words_of(app)


def test_a_load_test_sends_what_the_form_asked_for(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine", mode="steady-rate")
    app.number_input(key="rate").set_value(7)
    app.number_input(key="seconds").set_value(2)
    load_test(app, LoadMode.STEADY_RATE)
    load = world.engine.loads[0]
    assert (load.mode, load.rate, load.duration_s) == (LoadMode.STEADY_RATE, 7.0, 2.0)


def test_a_load_test_asks_only_for_what_its_mode_uses(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    asked = {field.key for field in app.number_input}
    assert {"count", "concurrency"} < asked
    assert "rate" not in asked
    app = app.radio(key="mode").set_value(LoadMode.STEADY_RATE).run()
    asked = {field.key for field in app.number_input}
    assert "rate" in asked
    assert not {"count", "concurrency"} & asked


def test_the_page_says_which_request_a_load_test_repeats(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    assert "The version's input example is sent, by V2." in words_of(app).replace("\\", "")
    app = send(app)
    assert "Repeats the request sent last: V2, 1 row." in words_of(app).replace("\\", "")


def test_a_load_test_speaks_what_the_server_speaks(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    held = world.serving.held["wine"]
    package = replace(held.intent.package, protocol=Protocol.INVOCATIONS)
    world.serving.held["wine"] = replace(held, intent=replace(held.intent, package=package))
    load_test(open_page("predict", service="wine"))
    assert world.engine.loads[0].requests[0].protocol is Protocol.INVOCATIONS


def test_a_run_of_mixed_traffic_is_kept_under_no_single_version(
    world: World, open_page: OpenPage
) -> None:
    two_versions_answer(world, 100)
    load_test(open_page("predict", service="wine"))
    [kept] = world.store.kept
    assert kept.release is None
    assert "wine/1" in kept.version
    assert "wine/2" in kept.version


def test_a_page_keeps_what_its_load_test_sent(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    load_test(open_page("predict", service="wine"))
    kept = json.loads(world.store.kept[0].settings)
    assert (kept["protocol"], kept["rows"], kept["bodies"]) == ("v2", 1, 1)


def test_a_stored_run_without_any_answer_opens(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    load_test(open_page("predict", service="wine"))
    app = reopened(
        world, open_page, requests=9, ok=0, errors={"http-4xx": 9}, histogram=(), verdict="",
        response=NO_PERCENTILES, service=NO_PERCENTILES, response_blocks="",
    )  # fmt: skip
    assert not app.exception
    assert not app.error


def test_a_load_test_of_one_request_is_called_so(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    world.store.save_example("wine", "weak", '[{"alcohol": 11.0, "hue": 0.5}]')
    app = open_page("predict", service="wine")
    assert app.toggle(key="turns").label == "Take turns with the 1 request kept as an example"
    app.number_input(key="count").set_value(1)
    app.number_input(key="concurrency").set_value(1)
    load_test(app)
    assert world.store.kept[0].name == "wine/1, 1 request within 15 s, 1 at a time"


def test_kept_examples_take_turns_in_a_load_test(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    for hue in (0.5, 0.7):
        text = {"dataframe_split": {"columns": ["alcohol", "hue"], "data": [[13.0, hue]]}}
        world.store.save_example("wine", f"hue {hue}", json.dumps(text))
    world.store.save_example("wine", "of an older signature", '[{"colour": 1}]')
    app = open_page("predict", service="wine")
    app.toggle(key="turns").set_value(True)
    load_test(app)
    assert len({request.body for request in world.engine.loads[0].requests}) == 3


def test_two_runs_are_laid_over_each_other_with_a_verdict(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    app = load_test(load_test(open_page("predict", service="wine")))
    picker = next(one for one in app.multiselect if one.label == "Lay over each other")
    app = picker.set_value(["2", "1"]).run()
    assert len(app.info) == 1


def test_a_load_test_through_a_roll_out_says_when_the_version_changed(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    world.engine.answered = [{"1": 100}, {"1": 20, "2": 80}, {"2": 100}]
    app = load_test(open_page("predict", service="wine"))
    assert [info.value.replace("\\", "") for info in app.info] == [
        "Version 2 answers from 14:30:01; until 14:30:02 version 1 answered, too."
    ]


def two_versions_answer(world: World, of_the_second: int) -> None:
    """Each second 300 answers of version 1, which takes 10 ms, and so many of 2, which takes 20."""
    world.serves("wine")
    world.engine.answered = [{"1": 300, "2": of_the_second}] * 10
    world.engine.taking = {"1": 0.010, "2": 0.020}


def test_versions_of_one_load_test_are_compared_when_it_is_over(
    world: World, open_page: OpenPage
) -> None:
    two_versions_answer(world, 100)
    app = load_test(open_page("predict", service="wine"))
    [said] = [info.value.replace("\\", "") for info in app.info]
    assert said.startswith("Version 2 is ")
    assert said.endswith(" than version 1.")
    assert "Version 1 gave 3,000 answers, version 2 1,000" in words_of(app)


def test_versions_of_a_stored_run_are_compared_with_intervals(
    world: World, open_page: OpenPage
) -> None:
    two_versions_answer(world, 200)
    load_test(open_page("predict", service="wine"))
    app = open_page("predict", service="wine", runs="1")
    assert [info.value.replace("\\", "").split(" is ")[0] for info in app.info] == ["wine/2"]
    assert "In brackets the 95 % interval" in words_of(app)


def test_another_service_is_not_asked_for_the_load_tests_of_the_one_before(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    world.serves("churn")
    app = load_test(open_page("predict", service="wine"))
    assert app.query_params["runs"]

    app = app.selectbox(key="service").set_value("churn").run()

    assert "There is no load test" not in words_of(app)
    assert "None yet. Every load test is kept here" in words_of(app)


def test_rows_for_one_side_of_a_canary_are_held_against_that_side(
    world: World, open_page: OpenPage
) -> None:
    more = (*WINE.inputs, ColumnSpec("magnesium", ValueKind.DOUBLE))
    with_canary(world, replace(WINE, inputs=more))
    app = open_page("predict", service="wine")
    app.selectbox(key="side").set_value("wine/2 (release 2)")
    sent = len(world.predictor.sent)

    app = send(app)

    assert not world.predictor.sent[sent:]
    assert "magnesium" in words_of(app)


def test_a_run_of_an_earlier_slipway_opens_without_intervals(
    world: World, open_page: OpenPage
) -> None:
    two_versions_answer(world, 200)
    load_test(open_page("predict", service="wine"))
    app = reopened(world, open_page, response_blocks_by_version={})
    assert not app.info
    assert not app.exception
    assert "No intervals: this run was kept without" in words_of(app)


def test_the_page_warns_before_a_load_test_that_measures_the_api_server(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    world.serving.via = WayIn.SERVICE_PROXY
    app = open_page("predict", service="wine")
    assert [warning.value for warning in app.warning] == [bench.way_warning(WayIn.SERVICE_PROXY)]


def with_canary(world: World, signature: Signature = WINE) -> None:
    from services import planning, preparing, rollout

    world.serves("wine", [1])
    world.registry.add("wine", 2, signature=signature)
    wish = planning.Wish(canary_percent=30)
    made = preparing.prepare_deploy(world, "wine/2", name="wine", wish=wish)
    rollout.apply(made.plan, world, actor="ana", version=made.version)
    rollout.settle(world, "wine", now=world.clock.now)


class UntilStopped(MemoryEngine):
    """Loads that go on until they are stopped, and a moment longer, as an engine's do."""

    def __init__(self, *, heeds: bool = True) -> None:
        super().__init__()
        self.heeds = heeds
        self.over = threading.Event()

    def run(self, load: Load) -> MemoryLoad:
        return _UntilStopped(load, self)


class _UntilStopped(MemoryLoad):
    def __init__(self, load: Load, engine: UntilStopped) -> None:
        super().__init__(load)
        self.engine = engine

    def __next__(self) -> Tick | LoadSummary:
        self.engine.over.wait(30)
        return super().__next__()

    def stop(self) -> None:
        super().stop()
        if self.engine.heeds:
            threading.Timer(0.2, self.engine.over.set).start()


def test_what_a_stop_draws_is_the_end_already(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    world.engine = UntilStopped()
    app = open_page("predict", service="wine").button(key="start_load").click().run()
    app = app.button(key="stop_load").click().run()
    assert "stop_load" not in [button.key for button in app.button]
    assert "The load engine was not the limit." in words_of(app)


def test_a_stop_that_is_not_heeded_is_not_waited_for_and_says_that_it_was_asked(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    world.engine = UntilStopped(heeds=False)
    app = open_page("predict", service="wine").button(key="start_load").click().run()
    app = app.button(key="stop_load").click().run()
    assert app.button(key="stop_load").disabled
    assert "Stopping…" in [bar.text for bar in app.get("progress")]
    world.engine.over.set()


def test_one_side_of_a_canary_can_be_put_under_load(world: World, open_page: OpenPage) -> None:
    with_canary(world)
    app = open_page("predict", service="wine")
    app.selectbox(key="load_side").set_value("wine/2 (release 2)")
    load_test(app)
    assert world.engine.loads[0].endpoint.release == 2
    assert (world.store.kept[0].version, world.store.kept[0].release) == ("wine/2", 2)


def test_a_load_test_repeats_its_rows_as_often_as_asked(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    app.number_input(key="rows_each").set_value(25)
    load_test(app)
    assert world.engine.loads[0].requests[0].rows == 25


def test_an_answer_is_marked_as_of_the_earlier_request_when_the_next_was_refused(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    app = send(open_page("predict", service="wine"))
    app.text_input[1].set_value("pale")
    assert "Nothing was sent just now" in words_of(send(app))


def test_every_value_of_pasted_rows_that_does_not_fit_is_told(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    app = written_as(app, "JSON or CSV")
    app.text_area[0].set_value("alcohol,hue\n12.5,pale\nstrong,2\n")
    rows = rows_of(send(app))
    assert [(row["field"], row["row"]) for row in rows] == [("alcohol", 2), ("hue", 1)]


def test_a_stopped_service_still_shows_its_stored_load_tests(
    world: World, open_page: OpenPage
) -> None:
    from services import planning, preparing, rollout

    world.serves("wine")
    load_test(open_page("predict", service="wine"))
    rollout.apply(planning.plan_stop(preparing.require(world, "wine")), world, actor="ana")
    rollout.settle(world, "wine", now=world.clock.now)
    wiring.forget_reads()
    app = open_page("predict", service="wine")
    assert "wine is stopped" in words_of(app)
    assert runs_picker(app) == ["1"]


def test_a_version_without_an_example_is_asked_with_a_row_made_of_its_signature(
    world: World, open_page: OpenPage
) -> None:
    world.registry.add("plain", example=None)
    world.serves("plain")
    app = open_page("predict", service="plain")
    app = written_as(app, "JSON or CSV")
    assert "alcohol" in str(app.text_area[0].value)
    send(app)
    assert len(world.predictor.sent) == 1


def test_what_a_server_answered_beside_an_error_is_shown(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    error = InferenceFailed("wine answered with HTTP 500.", "A column is missing.")
    error.said = b'{"error": "the whole story"}'
    world.predictor.fails = error
    assert "the whole story" in words_of(send(open_page("predict", service="wine")))


def sleepy(world: World) -> None:
    world.kind, world.mode = TargetKind.KUBERNETES, Mode.KNATIVE
    world.serves("wine")
    held = world.serving.held["wine"]
    assert held.intent is not None
    held.intent = replace(held.intent, scale=Scale(min_replicas=0))


def until(app: AppTest, words: str) -> AppTest:
    for _ in range(200):
        if words in words_of(app):
            return app
        time.sleep(0.1)
        app = app.run()
    pytest.fail(f"{words!r} did not appear")


def test_a_cold_start_is_waited_for_and_shown_apart(world: World, open_page: OpenPage) -> None:
    sleepy(world)
    app = open_page("predict", service="wine")
    sent = len(world.predictor.sent)
    app = until(app.button(key="cold_start").click().run(), "Cancel")
    assert len(world.predictor.sent) == sent
    world.serving.asleep.add("wine")
    app = until(app, "Measured")
    assert len(world.predictor.sent) == sent + 1
    assert not world.store.kept


def test_a_cold_start_that_is_waited_for_is_there_for_another_tab_and_can_be_cancelled(
    world: World, open_page: OpenPage
) -> None:
    sleepy(world)
    sent = len(world.predictor.sent)
    open_page("predict", service="wine").button(key="cold_start").click().run()
    app = until(open_page("predict", service="wine"), "Cancel")
    until(app.button(key="cancel_cold_start").click().run(), "was cancelled; nothing was sent")
    assert len(world.predictor.sent) == sent


def test_a_service_that_never_sleeps_offers_no_cold_start(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    assert "Measure a cold start" not in words_of(open_page("predict", service="wine"))


def runs_picker(app: AppTest) -> list[str]:
    return next(one for one in app.multiselect if one.label == "Lay over each other").value


def test_a_new_run_is_laid_over_those_that_were_chosen(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = load_test(open_page("predict", service="wine"))
    assert runs_picker(app) == ["1"]
    app = load_test(app)
    assert runs_picker(app) == ["1", "2"]


def test_each_later_run_is_compared_with_the_earliest(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    load_test(open_page("predict", service="wine"))
    first = world.store.kept[0]
    for minute in (1, 2):
        world.store.save_run(replace(first, created_at=f"2027-01-01T00:0{minute}:00+00:00"))
    wiring.forget_reads()
    app = open_page("predict", service="wine", runs="1,2,3")
    assert len(app.info) == 2


def test_a_run_that_a_link_names_twice_is_laid_once(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    load_test(open_page("predict", service="wine"))
    assert runs_picker(open_page("predict", service="wine", runs="1,1")) == ["1"]


def test_a_visitor_who_comes_back_to_a_finished_load_test_sees_its_run_once(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    app = load_test(open_page("predict", service="wine"))
    wiring.forget_reads()
    test_id = app.query_params["test"]
    told = test_id if isinstance(test_id, str) else test_id[0]
    again = open_page("predict", service="wine", test=told, runs="1").run()
    assert runs_picker(again) == ["1"]
    assert again.query_params["runs"] in ("1", ["1"])


def test_a_link_to_a_load_test_that_is_gone_says_so(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    load_test(open_page("predict", service="wine"))
    wiring.forget_reads()
    assert "There is no load test 7 here." in words_of(
        open_page("predict", service="wine", runs="7")
    )


def test_runs_over_different_hops_are_warned_of(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    load_test(open_page("predict", service="wine"))
    world.store.save_run(replace(world.store.kept[0], settings='{"via": "ingress"}'))
    wiring.forget_reads()
    app = open_page("predict", service="wine", runs="1,2")
    assert "different ways in" in app.warning[0].value


def test_a_missed_objective_is_seen_at_once(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    world.engine.objective_met = False
    app = load_test(app)
    assert "The load engine was not the limit" in app.error[0].value


def test_a_request_is_kept_as_an_example_of_its_model_and_started_from(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    app.text_input[0].set_value("11.5")
    app = send(app)
    app.text_input(key="example_name").set_value("weak").run()
    app = app.button(key="keep_example").click().run()
    assert list(world.store.examples("wine")) == ["weak"]
    assert "weak" in app.selectbox(key="example").options
    wiring.forget_reads()
    app = open_page("predict", service="wine", example="weak")
    assert app.text_input[0].value == "11.5"


def test_the_newest_request_can_be_sent_again(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = send(open_page("predict", service="wine"))
    app.button(key="again").click().run()
    assert len(world.predictor.sent) == 2


def test_an_objective_stays_with_its_service(world: World, open_page: OpenPage) -> None:
    world.serves("wine")
    app = open_page("predict", service="wine")
    app.number_input(key="slo-wine").set_value(25)
    load_test(app)
    wiring.forget_reads()
    assert open_page("predict", service="wine").number_input(key="slo-wine").value == 25


def test_a_run_that_the_terminal_kept_does_not_hide_the_form(
    world: World, open_page: OpenPage
) -> None:
    world.serves("wine")
    load_test(open_page("predict", service="wine"))
    world.store.save_run(replace(world.store.kept[0], settings='{"rate": 5.0}'))
    wiring.forget_reads()
    app = open_page("predict", service="wine")
    assert app.number_input(key="slo-wine").value == 0
    assert not app.error
