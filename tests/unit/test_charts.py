"""Figures as pure functions: small whatever the run, and honest in their titles."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime

from dashboard import charts
from services.changeover import changeovers
from services.domain import LoadSummary, Percentiles, Tick

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


def test_times_are_drawn_in_milliseconds() -> None:
    figure = charts.response_over_time([tick(0), tick(1)])
    assert list(figure.data[0].y) == [4.0, 4.0]


def test_a_percentile_with_too_few_samples_is_a_gap_and_no_zero() -> None:
    figure = charts.response_over_time([tick(0), tick(1, NONE)])
    assert list(figure.data[2].y) == [9.0, None]


def test_an_hour_of_ticks_stays_a_small_figure_and_keeps_its_worst_second() -> None:
    ticks = [tick(second) for second in range(3_600)]
    ticks[1_801] = tick(1_801, replace(SOME, p99=3.0))
    figure = charts.response_over_time(ticks)
    assert len(figure.data[2].y) <= charts.MOST_POINTS
    assert max(figure.data[2].y) == 3_000.0
    assert len(figure.to_json()) < 100_000


def test_failures_are_a_line_of_their_own_only_when_there_are_some() -> None:
    assert len(charts.rate_over_time([tick(0)]).data) == 1
    assert len(charts.rate_over_time([tick(0), tick(1, failed=3)]).data) == 2


def test_the_objective_is_drawn_as_a_line() -> None:
    figure = charts.response_over_time([tick(0)], slo_s=0.02)
    assert figure.layout.shapes[0].y0 == 20.0


def test_runs_of_different_length_are_laid_over_each_other_as_shares() -> None:
    figure = charts.histogram({"a": summary().histogram, "b": summary().histogram})
    assert [sum(line.y) for line in figure.data] == [100.0, 100.0]


def test_exported_charts_need_no_network_and_keep_names_as_text() -> None:
    name = "</script><script>alert(1)</script>"
    page = charts.as_page(
        (charts.histogram({name: summary().histogram}), charts.percentile_bars({name: summary()}))
    )
    assert "<script src=" not in page
    assert "<script>alert(1)" not in page


def test_ten_minutes_of_live_charts_stay_below_a_hundred_kilobytes() -> None:
    rng = random.Random(1)
    ticks = [tick(second, Percentiles(*(rng.random() for _ in range(7)))) for second in range(600)]
    bars = {"this run": [(rng.random(), 7) for _ in range(60)]}
    figures = (
        charts.response_over_time(ticks, slo_s=0.05),
        charts.rate_over_time(ticks),
        charts.histogram(bars),
        charts.answered_by({"7": 1}),
    )
    assert sum(len(figure.to_json()) for figure in figures) < 100_000


def versions(*told: str) -> list[Tick]:
    """A second per word: the versions, as digits, that answered in it."""
    return [
        replace(tick(at), by_version=dict.fromkeys(word, 50 // len(word)))
        for at, word in enumerate(told, start=1)
    ]


def test_a_switch_is_marked_by_a_line_and_the_time_of_both_by_a_band() -> None:
    ticks = versions("1", "12", "12", "2")
    began_at = datetime(2026, 3, 1, 14, 30, tzinfo=UTC)
    figure = charts.marked(charts.response_over_time(ticks), changeovers(ticks), began_at)
    band, line = figure.layout.shapes
    assert (band.x0, band.x1, line.x0, line.x1) == (1.0, 3.0, 1.0, 1.0)
    assert figure.layout.annotations[0].text == "version 2 answers from 14:30:01"


def test_a_run_of_one_version_has_no_mark() -> None:
    ticks = versions("1", "1")
    figure = charts.marked(charts.rate_over_time(ticks), changeovers(ticks))
    assert not figure.layout.shapes


def test_answers_are_drawn_by_version_once_there_are_two() -> None:
    figure = charts.rate_over_time(versions("1", "12", "2"))
    assert [(line.name, list(line.y)) for line in figure.data] == [
        ("version 1", [50, 25, 0]),
        ("version 2", [0, 25, 50]),
    ]


def test_a_version_named_by_a_foreign_server_is_text_in_a_mark() -> None:
    ticks = [replace(one, by_version={"<b>9</b>": 50}) for one in versions("1", "1")]
    ticks[0] = versions("1")[0]
    figure = charts.marked(charts.response_over_time(ticks), changeovers(ticks))
    assert "<b>" not in figure.layout.annotations[0].text


def test_a_hidden_percentile_has_no_bar() -> None:
    figure = charts.percentile_bars({"a": summary()})
    assert "p99.9" not in figure.data[0].x
