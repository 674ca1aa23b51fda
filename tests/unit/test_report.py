"""What stored load tests say of themselves: who answered, every figure, one page of HTML."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime

from dashboard import report
from services import difference
from services.domain import LoadSummary, Percentiles, Tick
from services.histogram import Histogram
from services.latency import Recorder, Slice
from services.ports import Run
from services.tally import Answerer

FAST = Percentiles(0.004, 0.006, 0.007, 0.009, None, 0.012, 0.0045)
SLOW = Percentiles(0.005, 0.008, 0.009, 0.018, None, 0.03, 0.006)
AT = datetime(2026, 3, 1, 14, 30, tzinfo=UTC)


def run(**summary: object) -> Run:
    whole = LoadSummary(
        requests=100,
        ok=100,
        errors={},
        duration_s=2.0,
        rate=50.0,
        target_rate=50.0,
        response=FAST,
        service=FAST,
        lateness_p99_s=0.0001,
        client_limited=False,
        verdict="The load engine was not the limit.",
        histogram=((0.004, 50), (0.012, 50)),
    )
    return Run(
        id=7,
        name="50 per second",
        actor="ana",
        created_at=AT.isoformat(),
        target="prod",
        namespace="models",
        service="wine",
        release=2,
        version="wine/1",
        settings='{"mode": "steady-rate", "via": "ingress", "objective": {"p99_s": 0.02}}',
        summary=replace(whole, **summary),  # type: ignore[arg-type]  # fields by name
        ticks=(Tick(1.0, 50, {}, 50.0, FAST, FAST),),
    )


def canary() -> Run:
    return run(
        by_version={"1": 70, "2": 30},
        response_by_version={"1": FAST, "2": SLOW},
    )


def test_a_run_that_two_versions_answered_is_named_by_both() -> None:
    assert report.labels([canary()]) == {7: "#7 wine/1 70 % + wine/2 30 %"}


def test_a_run_is_named_by_the_one_version_that_answered_it() -> None:
    assert report.mix(run(by_version={"1": 100})) == "wine/1"
    assert report.mix(run(by_release={2: 100})) == "wine/1"


def test_answers_without_a_name_are_part_of_the_mix() -> None:
    assert report.mix(run(by_version={"1": 60})) == "wine/1 60 % + an unnamed version 40 %"


def test_versions_of_one_run_are_compared_with_the_one_that_answered_most() -> None:
    rows = report.version_rows(canary(), ())
    assert [row["version"] for row in rows] == ["wine/1", "wine/2"]
    assert rows[1]["p99 against the first"] == "+100 %"
    assert report.version_rows(run(by_version={"1": 100}), ()) == []


def measured_canary() -> Run:
    """Of which each version's times were kept: version 2 takes half as long again."""
    recorder = Recorder()
    for number in range(20):
        piece = Slice((number + 1) / 4)
        for version, count, ns in (("1", 140, 4_000_000), ("2", 60, 6_000_000)):
            piece.response[Answerer(version=version)] = times = Histogram()
            times.record_all([ns] * count)
            piece.service.merge(times)
        recorder.add(piece)
    return replace(run(), summary=recorder.summary(span_s=5.0))


def test_versions_whose_times_were_kept_are_compared_with_intervals() -> None:
    found = measured_canary()
    rows = report.version_rows(found, difference.compare_versions(found.summary, "wine"))
    assert rows[1]["p99 against the first"] == "+50 % (+50 to +50)"


def test_a_report_tells_the_versions_of_a_run_apart_in_words() -> None:
    page = report.page([measured_canary()], UTC, AT)
    for said in (
        "wine/2 is 50 percent slower at p99 and 50 percent slower at p50 than wine/1.",
        "wine/1 gave 2,800 answers, wine/2 1,200: load alone changes latency.",
        "In brackets the 95 % interval.",
    ):
        assert said in page


def test_a_report_of_an_earlier_run_says_that_its_versions_have_no_intervals() -> None:
    assert "No intervals: this run was kept without" in report.page([canary()], UTC, AT)


def test_the_model_of_a_run_that_is_called_by_its_mix_is_known() -> None:
    mixed = replace(canary(), version="wine/1 70 %, wine/2 30 % as answered")
    assert report.mix(mixed) == "wine/1 70 % + wine/2 30 %"
    assert report.model_of(replace(mixed, version="release 3 70 %, unnamed 30 %")) == ""


def test_a_row_of_csv_holds_all_that_was_asked_and_all_that_came_out() -> None:
    told = report.csv_row(run())
    asked = {"target", "mode", "via", "objective_p99_ms", "rate", "warm_up_s"}
    figures = {"p90_ms", "p99_9_ms", "mean_ms", "service_p50_ms", "objective_met", "verdict"}
    assert asked | figures <= set(told)
    assert (told["mode"], told["objective_p99_ms"], told["mean_ms"]) == ("steady-rate", 20.0, 4.5)


def test_a_label_is_no_formula_in_a_spreadsheet() -> None:
    made = report.as_csv([replace(canary(), name=name) for name in ("=1+1", "p-1")])
    assert [one["asked"] for one in csv.DictReader(io.StringIO(made))] == ["'=1+1", "p-1"]


def test_a_report_needs_no_network_and_keeps_foreign_text_as_text() -> None:
    hostile = "</script><script>alert(1)</script><b>"
    page = report.page(
        [replace(canary(), name=hostile, version=f"{hostile}/1", actor=hostile, service=hostile)],
        UTC,
        AT,
    )
    assert "<script src=" not in page
    assert "<script>alert(1)" not in page
    assert "</script><script>alert" not in page


def test_a_report_says_when_it_was_made_what_was_measured_and_the_verdict() -> None:
    page = report.page([canary()], UTC, AT)
    for said in (
        "1 March 2026, 14:30:00 UTC",
        "ingress",
        "The load engine was not the limit.",
        "+100 %",
    ):
        assert said in page
    assert "Response time by second: #7 wine" in page
