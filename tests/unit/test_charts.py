"""Figures as pure functions: small whatever the run, and honest in their titles."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime

from dashboard import charts
from services.changeover import changeovers
from services.domain import LoadSummary, Percentiles, Tick, Trailing

SOME = Percentiles(0.004, 0.006, 0.007, 0.009, None, 0.012, 0.0045)
NONE = Percentiles(None, None, None, None, None, None, None)


def tick(second: int, response: Percentiles = SOME, failed: int = 0) -> Tick:
    errors = {"reset": failed} if failed else {}
    return Tick(float(second), 50, errors, 50.0, response, response)


def summary() -> LoadSummary:
    return LoadSummary(
        requests=100,
        ok=100,
        errors={},
        duration_s=2.0,
        rate=50.0,
        target_rate=50.0,
        response=SOME,
        service=SOME,
        lateness_p99_s=0.0001,
        client_limited=False,
        verdict="",
        histogram=((0.004, 50), (0.012, 50)),
    )


def test_a_run_without_any_answer_is_an_empty_chart() -> None:
    chart = charts.histogram({"all failed": ()})
    assert charts.option(chart, theme="dark")["series"] == []


def test_a_version_keeps_its_colour_whichever_answered_first() -> None:
    runs = [[{"2": 9, "10": 1}, {"10": 9, "2": 1}], [{"10": 9, "2": 1}, {"2": 9, "10": 1}]]
    colours = [
        {
            line.name: line.colour
            for line in charts.rate_over_time(
                [
                    replace(tick(at), ok=10, by_version=counts)
                    for at, counts in enumerate(seconds, 1)
                ]
            ).lines
        }
        for seconds in runs
    ]
    assert colours[0] == colours[1]
    assert len(set(colours[0].values())) == 2


def test_times_are_drawn_in_milliseconds() -> None:
    chart = charts.response_over_time([tick(0), tick(1)])
    assert list(chart.lines[0].y) == [4.0, 4.0]


def test_a_percentile_with_too_few_samples_is_a_gap_and_no_zero() -> None:
    chart = charts.response_over_time([tick(0), tick(1, NONE)])
    assert list(chart.lines[2].y) == [9.0, None]


def test_an_hour_of_ticks_stays_a_small_figure_and_keeps_its_worst_second() -> None:
    ticks = [tick(second) for second in range(3_600)]
    ticks[1_801] = tick(1_801, replace(SOME, p99=3.0))
    chart = charts.response_over_time(ticks)
    assert len(chart.lines[2].y) <= charts.MOST_POINTS
    assert max(value for value in chart.lines[2].y if value) == 3_000.0
    assert len(json.dumps(charts.option(chart))) < 100_000


def test_failures_are_a_line_of_their_own_only_when_there_are_some() -> None:
    assert len(charts.rate_over_time([tick(0)]).lines) == 1
    assert len(charts.rate_over_time([tick(0), tick(1, failed=3)]).lines) == 2


def test_the_objective_is_drawn_as_a_line() -> None:
    chart = charts.response_over_time([tick(0)], slo_s=0.02)
    marks = charts.option(chart)["series"][-1]["markLine"]["data"]
    assert [mark["yAxis"] for mark in marks] == [20.0]


def test_an_objective_far_above_every_answer_does_not_press_them_to_the_ground() -> None:
    drawn = charts.option(charts.response_over_time([tick(0)], slo_s=5.0))
    assert drawn["yAxis"]["max"] < 20


def test_each_percentile_says_over_how_many_seconds_it_is() -> None:
    ticks = [
        replace(tick(at), trailing={"p50": Trailing(0.004, 1.0), "p95": Trailing(0.007, at)})
        for at in (9, 11)
    ]
    chart = charts.response_over_time(ticks)
    assert [line.name for line in chart.lines] == [
        "p50, over the last 1 s",
        "p95, over the last 9 to 11 s",
        "slowest",
    ]


def test_the_newest_second_is_said_to_who_cannot_see_the_chart() -> None:
    assert charts.rate_over_time([tick(1), tick(2)]).said == "Answers per second, up to second 2"


def test_runs_of_different_length_are_laid_over_each_other_as_shares() -> None:
    chart = charts.histogram({"a": summary().histogram, "b": summary().histogram})
    assert [sum(value or 0 for value in line.y) for line in chart.lines] == [100.0, 100.0]


def test_times_that_nobody_waited_are_a_gap_in_the_spread() -> None:
    fast, slow = ((0.004 + 0.0001 * at, 20) for at in range(10)), ((0.4, 40),)
    line = charts.histogram({"a": (*fast, *slow)}).lines[0]
    between = [y for x, y in zip(line.x, line.y, strict=True) if 8 < float(x) < 300]
    assert len(between) > 5
    assert set(between) == {0.0}


def test_a_logarithmic_axis_is_labelled_also_between_the_powers_of_ten() -> None:
    drawn = charts.option(charts.histogram({"a": ((0.012, 50), (0.09, 50))}))
    assert drawn["xAxis"]["axisLabel"]["customValues"] == [20.0, 50.0]


def test_few_answers_are_spread_over_few_bars() -> None:
    one_each = tuple((0.01 * 1.03**at, 1) for at in range(60))
    line = charts.histogram({"a": one_each}).lines[0]
    assert len(line.y) < 20
    assert max(value or 0 for value in line.y) > 5


def test_the_last_bit_of_a_second_is_no_fall_of_the_rate() -> None:
    ticks = [tick(1), tick(2), replace(tick(2), at_s=2.03, ok=1, final=True)]
    assert list(charts.rate_over_time(ticks).lines[0].y) == [50, 50]


def test_a_whole_last_second_is_counted() -> None:
    ticks = [tick(1), replace(tick(2), ok=30, final=True)]
    assert list(charts.rate_over_time(ticks).lines[0].y) == [50, 30]


def test_ten_minutes_of_live_charts_stay_below_a_hundred_kilobytes() -> None:
    rng = random.Random(1)
    ticks = [
        replace(
            tick(second, Percentiles(*(rng.random() for _ in range(7)))),
            trailing={name: Trailing(rng.random(), 1.0) for name in ("p50", "p95", "p99")},
        )
        for second in range(600)
    ]
    bars = {"this run": [(rng.random(), 7) for _ in range(60)]}
    figures = (
        charts.response_over_time(ticks, slo_s=0.05),
        charts.rate_over_time(ticks),
        charts.histogram(bars),
    )
    assert sum(len(json.dumps(charts.option(figure))) for figure in figures) < 100_000


def versions(*told: str) -> list[Tick]:
    """A second per word: the versions, as digits, that answered in it."""
    return [
        replace(tick(at), by_version=dict.fromkeys(word, 50 // len(word)))
        for at, word in enumerate(told, start=1)
    ]


def test_a_switch_is_marked_by_a_line_and_the_time_of_both_by_a_band() -> None:
    ticks = versions("1", "12", "12", "2")
    began_at = datetime(2026, 3, 1, 14, 30, tzinfo=UTC)
    chart = charts.marked(charts.response_over_time(ticks), changeovers(ticks), began_at)
    drawn = charts.option(chart)["series"][-1]
    line = drawn["markLine"]["data"][0]
    assert drawn["markArea"]["data"] == [[{"xAxis": 1.0}, {"xAxis": 3.0}]]
    assert (line["xAxis"], line["name"]) == (1.0, "version 2 answers from 14:30:01")


def test_a_run_of_one_version_has_no_mark() -> None:
    ticks = versions("1", "1")
    chart = charts.marked(charts.rate_over_time(ticks), changeovers(ticks))
    assert not any("markLine" in line for line in charts.option(chart)["series"])


def test_answers_are_drawn_by_version_once_there_are_two() -> None:
    chart = charts.rate_over_time(versions("1", "12", "2"))
    assert [(line.name, list(line.y)) for line in chart.lines] == [
        ("version 1", [50, 25, 0]),
        ("version 2", [0, 25, 50]),
    ]


def test_a_version_named_by_a_foreign_server_is_text_in_a_mark() -> None:
    ticks = [replace(one, by_version={"<b>9</b>": 50}) for one in versions("1", "1")]
    ticks[0] = versions("1")[0]
    chart = charts.marked(charts.response_over_time(ticks), changeovers(ticks))
    # ECharts draws a name as text; only Plotly reads tags, and a template would read "{b}".
    assert "<b>" not in charts.figure(chart).layout.annotations[0].text
    label = charts.option(chart)["series"][-1]["markLine"]["data"][0]["label"]
    assert label["formatter"] == "{b}"


def test_a_hidden_percentile_has_no_bar() -> None:
    chart = charts.percentile_bars({"a": summary()})
    assert "p99.9" not in chart.lines[0].x
