"""The stored load tests of the Predict page: opened, laid over each other, compared, exported."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import streamlit as st

from dashboard import charts, widgets, wiring, words
from dashboard.trial import by_second, objective_of, settings_of
from services import changeover, latency, records
from services.domain import Service, WayIn
from services.errors import one_line
from services.ports import Run


def stored(service: Service) -> None:
    """Earlier load tests of this service: choose some, and they lie over each other."""
    widgets.section("Earlier load tests")
    found = widgets.looked(wiring.runs(service.name), "load tests")
    if found is None:
        return
    runs = {str(run.id): run for run in found}
    if not runs:
        st.caption("None yet. Every load test is kept here with its version and settings.")
        return
    asked = [part for part in widgets.from_url("runs").split(",") if part in runs]
    chosen = st.multiselect(
        "Lay over each other",
        list(runs),
        default=asked or list(runs)[:1],
        format_func=lambda key: f"#{key} {runs[key].name}",
        key=f"runs-{service.name}-{next(iter(runs))}",
    )
    widgets.into_url(runs=",".join(chosen))
    picked = [runs[key] for key in chosen]
    if not picked:
        return
    by_label = {f"#{run.id} {run.version}": run.summary for run in picked}
    bars = {name: summary.histogram for name, summary in by_label.items()}
    if len(picked) > 1:
        _compared(picked)
    left, right = st.columns(2)
    left.plotly_chart(charts.histogram(bars), key="runs-histogram")
    right.plotly_chart(charts.percentile_bars(by_label), key="runs-percentiles")
    _courses(picked)
    for run in picked:
        st.text(f"#{run.id}, {run.version}: {one_line(run.summary.verdict, 400)}")
    st.dataframe(
        [_run_row(run) for run in picked],
        hide_index=True,
        placeholder="",
        alt="Load tests that are laid over each other",
        column_order=[
            "run", "version", "release", "asked", "measured by", "when", "by", "p50 ms", "p95 ms",
            "p99 ms", "max ms", "per second", "failures",
        ],
        column_config={
            "run": st.column_config.NumberColumn("Run", width="small"),
            "version": "Version",
            "release": st.column_config.NumberColumn("Release", width="small"),
            "asked": "Asked",
            "measured by": "Measured by way of",
            "when": widgets.time_column("When"),
            "by": "By",
            "per second": "Per second",
            "failures": "Failures",
        },
    )  # fmt: skip
    export = st.container(horizontal=True)
    export.download_button("CSV", _as_csv(picked), "load-tests.csv", key="runs-csv")
    export.download_button(
        "JSON",
        "[" + ",".join(records.dump(run) for run in picked) + "]",
        "load-tests.json",
        key="runs-json",
    )
    export.download_button(
        "Charts as HTML",
        # Made when it is asked for: the page brings its own library, so that it opens anywhere.
        lambda: charts.as_page((charts.histogram(bars), charts.percentile_bars(by_label))),
        "load-tests.html",
        key="runs-html",
    )
    st.caption("The camera in a chart's corner saves it as PNG.")


def _courses(runs: Sequence[Run]) -> None:
    """The course of each run in which the version changed, and of one that is looked at alone."""
    live_test = wiring.load_tests().test(widgets.from_url("test"))
    above = live_test.run_id if live_test else None
    for run in runs:
        changed = changeover.changeovers(run.ticks)
        if run.id != above and run.ticks and (changed or len(runs) == 1):
            if len(runs) > 1:
                st.text(f"The course of #{run.id}, {run.version}")
            objective = objective_of(run)
            by_second(run.ticks, run.summary.began_at, objective, key=f"run-{run.id}")


def _compared(runs: Sequence[Run]) -> None:
    """Each later run against the earliest: in words, and for each percentile with its interval."""
    first, *others = sorted(runs, key=lambda run: run.created_at)
    rows: list[dict[str, object]] = []
    warnings: dict[str, None] = {}  # in order, and each once
    for run in others:
        names = (f"#{first.id} ({first.version})", f"#{run.id} ({run.version})")
        found = wiring.comparison(first.summary, run.summary, names)
        which = f"{names[1]} against {names[0]}: " if len(others) > 1 else ""
        said = widgets.literal(f"{which}{found.verdict}", 1_000)
        st.info(said, icon=":material/compare_arrows:")
        warnings |= dict.fromkeys(
            filter(None, (*found.warnings, latency.hop_warning(_via(first), _via(run))))
        )
        rows += [
            _difference_row(names, name, difference)
            for name, difference in (("p50", found.p50), ("p99", found.p99))
            if difference is not None
        ]
    for warning in warnings:
        st.warning(widgets.literal(warning, 1_000), icon=":material/warning:")
    if rows:
        st.dataframe(rows, hide_index=True)


def _difference_row(
    names: tuple[str, str], percentile: str, found: latency.Difference
) -> dict[str, object]:
    def change(ratio: float) -> str:
        return f"{(ratio - 1) * 100:+.1f} %"

    return {
        "against": names[0],
        "run": names[1],
        "percentile": percentile,
        "before ms": words.milliseconds(found.before_s),
        "after ms": words.milliseconds(found.after_s),
        "difference": change(found.ratio),
        "95 % interval": f"{change(found.low)} to {change(found.high)}",
    }


def _via(run: Run) -> WayIn | None:
    """The hop that a stored run measured; None where it was not kept."""
    settings = settings_of(run)
    endpoint = settings.get("endpoint")
    told = endpoint.get("via") if isinstance(endpoint, dict) else settings.get("via")
    return next((way for way in WayIn if way.value == told), None)


def _run_row(run: Run) -> dict[str, object]:
    response = run.summary.response
    return {
        "run": run.id,
        "version": run.version,
        "release": run.release,
        "asked": run.name,
        "measured by": _via(run),
        "when": run.created_at,
        "by": run.actor,
        "p50 ms": words.milliseconds(response.p50),
        "p95 ms": words.milliseconds(response.p95),
        "p99 ms": words.milliseconds(response.p99),
        "max ms": words.milliseconds(response.max),
        "per second": round(run.summary.rate, 1),
        "failures": sum(run.summary.errors.values()),
        "cold start s": settings_of(run).get("cold_start_s"),
        "verdict": run.summary.verdict,
    }


def _as_csv(runs: Sequence[Run]) -> str:
    rows = [_run_row(run) for run in runs]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
