"""The stored load tests of the Predict page: opened, laid over each other, compared, exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import streamlit as st

from dashboard import charts, report, widgets, wiring, words
from dashboard.reads import Look
from dashboard.trial import MOST_LAID, by_second, drawn, versions_compared
from services import changeover, records
from services.domain import Service
from services.errors import one_line
from services.ports import Run, StoredRuns


def stored(service: Service) -> None:
    """Earlier load tests of this service: choose some, and they lie over each other."""
    widgets.section("Earlier load tests")
    named_once = dict.fromkeys(widgets.from_url("runs").split(","))  # in order
    wanted = [one for one in named_once if one][:MOST_LAID]
    kept = widgets.looked(_look(service, wanted), "load tests")
    if kept is None:
        return
    found = kept.found
    runs = {str(run.id): run for run in found}
    _missing(wanted, runs, kept.damaged)
    if not runs:
        st.caption("None yet. Every load test is kept here with its version and settings.")
        return
    named = report.labels(found)
    asked = [part for part in wanted if part in runs]
    chosen = st.multiselect(
        "Lay over each other",
        list(runs),
        default=asked or list(runs)[:1],
        max_selections=MOST_LAID,
        format_func=lambda key: f"{named[runs[key].id]}: {one_line(runs[key].name, 200)}",
        key=f"runs-{service.name}-{next(iter(runs))}",
    )
    widgets.into_url(runs=",".join(chosen))
    picked = [runs[key] for key in chosen]
    if not picked:
        return
    summaries = {named[run.id]: run.summary for run in picked}
    if len(picked) > 1:
        _compared(picked, named)
    left, right = st.columns(2)
    with left:
        bars = {name: summary.histogram for name, summary in summaries.items()}
        drawn(charts.histogram(bars), key="runs-histogram")
    with right:
        drawn(charts.percentile_bars(summaries), key="runs-percentiles")
    _courses(picked, named)
    for run in picked:
        st.text(f"{named[run.id]}: {one_line(run.summary.verdict, 2_000)}")
        _versions(run, named)
    st.dataframe(
        [_run_row(run) for run in picked],
        hide_index=True,
        placeholder="",
        alt="Load tests that are laid over each other",
        column_config={
            "run": st.column_config.NumberColumn("Run", width="small"),
            "answered by": "Answered by",
            "release": st.column_config.NumberColumn("Release", width="small"),
            "asked": "Asked",
            "measured by": "Measured by way of",
            "when": widgets.time_column("When"),
            "by": "By",
            "answers": "Answers",
            "per second": "Per second",
            "failures": "Failures",
        },
    )
    export = st.container(horizontal=True)
    export.download_button("CSV", report.as_csv(picked), "load-tests.csv", key="runs-csv")
    export.download_button(
        "JSON",
        "[" + ",".join(records.dump(run) for run in picked) + "]",
        "load-tests.json",
        key="runs-json",
    )
    zone = widgets.zone()
    export.download_button(
        "Report as HTML",
        # Made when it is asked for: the page brings its own library, so that it opens anywhere.
        lambda: report.page(picked, zone, datetime.now(UTC)),
        "load-tests.html",
        key="runs-html",
    )
    st.caption("PNG: Point at a chart, or tap it; the arrow above its corner saves it.")


def _look(service: Service, wanted: Sequence[str]) -> Look[StoredRuns]:
    """The newest load tests, and those of the link that are older."""
    newest = wiring.runs(service.name)
    if newest.value is None:
        return newest
    known = {run.id for run in newest.value.found}
    ids = {int(one) for one in wanted if one.isascii() and one.isdigit() and len(one) < 19}
    return wiring.runs(service.name, ids - known) if ids - known else newest


def _missing(wanted: Sequence[str], runs: Mapping[str, Run], damaged: Sequence[int]) -> None:
    """Say which load tests are not there, of the link and of those that were stored."""
    for one in wanted:
        if one not in runs and one not in map(str, damaged):
            widgets.gone(one, "load test")
    if damaged:
        numbers = ", ".join(f"#{number}" for number in damaged[:MOST_LAID])
        more = f" and {len(damaged) - MOST_LAID} more" if len(damaged) > MOST_LAID else ""
        st.warning(
            f"Damaged in the store, and left out: load test {numbers}{more}. Slipway's log says"
            " what is wrong with each.",
            icon=":material/broken_image:",
        )


def _versions(run: Run, named: Mapping[int | None, str]) -> None:
    """The versions that answered within one run, beside each other."""
    compared = wiring.version_comparisons(run.summary, report.model_of(run))
    if run.id != _run_above():
        versions_compared(compared)
    rows = report.version_rows(run, compared)
    if rows:
        st.dataframe(rows, hide_index=True, alt=f"Versions that answered in {named[run.id]}")
        st.caption(report.version_note(compared))


def _run_above() -> int | None:
    """The run that the panel of the load test shows already."""
    live_test = wiring.load_tests().test(widgets.from_url("test"))
    return live_test.run_id if live_test else None


def _courses(runs: Sequence[Run], named: Mapping[int | None, str]) -> None:
    """The course of each run in which the version changed, and of one that is looked at alone."""
    above = _run_above()
    for run in runs:
        changed = changeover.changeovers(run.ticks)
        if run.id != above and run.ticks and (changed or len(runs) == 1):
            if len(runs) > 1:
                st.text(f"The course of {named[run.id]}")
            objective = report.objective_of(run)
            by_second(run.ticks, run.summary.began_at, objective, key=f"run-{run.id}")


def _compared(runs: Sequence[Run], named: Mapping[int | None, str]) -> None:
    """Each later run against the earliest: in words, and for each percentile with its interval."""
    rows: list[dict[str, str]] = []
    warnings: dict[str, None] = {}  # in order, and each once
    for first, run in report.against_earliest(runs):
        names = (named[first.id], named[run.id])
        found = wiring.comparison(first.summary, run.summary, names)
        told = report.told_of(names, found.verdict) if len(runs) > 2 else found.verdict
        said = widgets.literal(told, 1_000)
        st.info(said, icon=":material/compare_arrows:")
        warnings |= dict.fromkeys((*found.warnings, *report.between(first, run)))
        rows += report.difference_rows(names, found)
    for warning in warnings:
        st.warning(widgets.literal(warning, 1_000), icon=":material/warning:")
    if rows:
        st.dataframe(rows, hide_index=True)


def _run_row(run: Run) -> dict[str, object]:
    response = run.summary.response
    return {
        "run": run.id,
        "answered by": report.answerers(run),
        "release": run.release,
        "asked": one_line(run.name, 200),
        "measured by": report.via_of(run),
        "when": run.created_at,
        "by": run.actor,
        "p50": words.latency_words(response.p50),
        "p95": words.latency_words(response.p95),
        "p99": words.latency_words(response.p99),
        "max": words.latency_words(response.max),
        "answers": run.summary.ok,
        "per second": round(run.summary.rate, 1),
        "failures": sum(run.summary.errors.values()),
        "cold start s": report.cold_start_of(run),
    }
