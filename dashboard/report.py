"""What stored load tests say, what is kept of them, and all of it as one HTML page. Pure.

A run is named by who answered: while a canary takes a share of the traffic, figures are those of
neither version alone.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from typing import Any

from dashboard import charts, views, words
from services import changeover, difference, latency, records
from services.domain import Load, Objective, Percentiles, WayIn
from services.histogram import NO_PERCENTILES
from services.ports import Run

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1b2430; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .5rem 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #dde3ea; padding: .25rem .6rem; text-align: left; }
td:not(:first-child) { font-variant-numeric: tabular-nums; }
"""


def settings_text(load: Load, cold_start_s: float | None = None, *, side: int | None = None) -> str:
    """What was asked of a load test, as JSON without addresses' secrets and without bodies.

    `cold_start_s`: what waking the service took before; None when it was awake. `side`: the release
    that was asked alone; None when it was whichever the traffic goes to.
    """
    plain = replace(load, requests=(), endpoint=replace(load.endpoint, headers=(), ca_file=None))
    sent = load.requests[0]
    asked = {"protocol": sent.protocol.value, "rows": sent.rows, "bodies": len(load.requests)}
    before = {"release": side, "cold_start_s": cold_start_s}
    return json.dumps(json.loads(records.dump(plain)) | asked | before)


def settings_of(run: Run) -> dict[str, object]:
    """What a stored run was asked for, as `settings_text` wrote it."""
    found = json.loads(run.settings)
    return found if isinstance(found, dict) else {}


def objective_of(run: Run) -> Objective:
    """The objective that a stored run was held to."""
    promised = settings_of(run).get("objective")
    return records.load(Objective, json.dumps(promised)) if promised else Objective()


def cold_start_of(run: Run) -> float | None:
    """What waking the service took before it, in seconds; None when it was awake, or not kept."""
    told = settings_of(run).get("cold_start_s")
    return float(told) if isinstance(told, int | float) else None


def via_of(run: Run) -> WayIn | None:
    """The hop that a stored run measured; None where it was not kept."""
    settings = settings_of(run)
    endpoint = settings.get("endpoint")
    # Runs that earlier Slipways kept from the terminal have it beside the rest.
    told = endpoint.get("via") if isinstance(endpoint, dict) else settings.get("via")
    return next((way for way in WayIn if way.value == told), None)


def request_of(run: Run) -> str:
    """What a stored run sent, in words; "" where it was not kept."""
    settings = settings_of(run)
    protocol, rows = settings.get("protocol"), settings.get("rows")
    if not isinstance(protocol, str) or not isinstance(rows, int):
        return ""
    return words.request_words(protocol, rows)


def between(first: Run, other: Run) -> tuple[str, ...]:
    """What was different about two runs besides what they measured."""
    return tuple(
        filter(
            None,
            (
                _place_warning(first, other),
                difference.hop_warning(via_of(first), via_of(other)),
                difference.request_warning(request_of(first), request_of(other)),
            ),
        )
    )


def _place_warning(first: Run, other: Run) -> str:
    places = [place_of(run) for run in (first, other)]
    return f"They are of {places[0]} and of {places[1]}." if places[0] != places[1] else ""


def place_of(run: Run) -> str:
    """Which service was measured: `mini/models/wine`."""
    return "/".join(filter(None, (run.target, run.namespace, run.service)))


def against_earliest(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """What is compared with what: (the earliest, each later one), in the order of time."""
    ordered = sorted(runs, key=lambda run: run.created_at)
    return [(ordered[0], run) for run in ordered[1:]]


def answered(run: Run) -> dict[str, int]:
    """Answers by who gave them, most first: `wine/1`, or `release 7` where only that is known."""
    summary, model = run.summary, model_of(run)
    found = {
        latency.who_called(who, model): count
        for who, (count, _) in latency.by_answerer(summary).items()
    }
    rest = summary.ok - sum(found.values())
    if found and rest > 0:
        found["an unnamed version"] = rest
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def model_of(run: Run) -> str:
    """The registered model that a run asked, where its version names one."""
    # A run of several versions is called "wine/1 70 %, wine/2 30 % as answered".
    model, slash, _ = run.version.partition("/")
    return model if slash else ""


def mix(run: Run) -> str:
    """Who answered: `wine/1`, or `wine/1 70 % + wine/2 30 %`."""
    found = answered(run)
    total = sum(found.values())
    if len(found) < 2:
        if not run.summary.ok:
            return run.version  # which was asked
        only = next(iter(found), run.version)
        return run.version if only.startswith("release ") else only
    return " + ".join(f"{who} {_share(count / total)}" for who, count in found.items())


def answerers(run: Run) -> str:
    """`mix`; "nobody" for a run in which nothing was answered."""
    return mix(run) if run.summary.ok else "nobody"


def _share(ratio: float) -> str:
    return f"{ratio:.0%}".replace("%", " %") if ratio >= 0.01 else "< 1 %"


def labels(runs: Sequence[Run]) -> dict[int | None, str]:
    """A name for each run that tells it apart from the others, by its id."""
    return {run.id: f"#{run.id} {mix(run)}" for run in runs}


def asked_of(run: Run) -> views.AskedRow:
    """What was asked for, by one set of names."""
    settings = settings_of(run)
    kept: dict[str, Any] = {name: settings.get(name) for name in views.AskedRow.__annotations__}
    asked: Any = kept | {"via": via_of(run)}
    return asked  # type: ignore[no-any-return]  # the keys are those of the row


def _asked(run: Run) -> dict[str, object]:
    """The same beside a run's figures, with what was promised."""
    objective = objective_of(run)
    ratio = objective.error_ratio
    asked: dict[str, object] = dict(asked_of(run))
    asked["asked_release"] = asked.pop("release")  # beside the release that answered
    return asked | {
        "objective_p99_ms": words.milliseconds(objective.p99_s),
        "objective_failures_percent": None if ratio is None else round(ratio * 100, 4),
        "cold_start_s": cold_start_of(run),
    }


def figures(run: Run) -> dict[str, object]:
    """What came out, in milliseconds; None where a percentile has too few answers behind it."""
    summary = run.summary
    return {
        "requests": summary.requests,
        "failures": sum(summary.errors.values()),
        "per_second": round(summary.rate, 2),
        "lasted_s": round(summary.duration_s, 3),
        **_times("", summary.response),
        **_times("service_", summary.service),
        "send_lateness_p99_ms": words.milliseconds(summary.lateness_p99_s),
        "client_limited": summary.client_limited,
        "objective_met": summary.objective_met,
    }


def _times(prefix: str, found: Percentiles) -> dict[str, float | None]:
    names = ("p50", "p90", "p95", "p99", "p99_9", "max", "mean")
    return {f"{prefix}{name}_ms": words.milliseconds(getattr(found, name)) for name in names}


def run_row(run: Run) -> views.RunRow:
    """One stored load test, without its seconds."""
    return {
        "run": run.id,
        "label": run.name,
        "actor": run.actor,
        "created_at": views.time_text(datetime.fromisoformat(run.created_at)),
        "target": run.target,
        "namespace": run.namespace,
        "service": run.service,
        "release": run.release,
        "version": run.version,
        "answered_by": answered(run),
        "asked": asked_of(run),
        "objective": views.objective_row(objective_of(run)),
        "cold_start_s": cold_start_of(run),
        **views.load_figures(run.summary),
    }


def comparison_row(first: Run, run: Run, found: difference.Comparison) -> views.RunComparisonRow:
    """How `run` differs from `first`."""
    return {
        "run": run.id,
        "against": first.id,
        **views.comparison_figures(found),
        "warnings": [*found.warnings, *between(first, run)],
    }


def told_of(names: tuple[str, str], verdict: str) -> str:
    """A verdict with the two runs that it is of."""
    return f"{names[1]} against {names[0]}: {verdict}"


def difference_rows(names: tuple[str, str], found: difference.Comparison) -> list[dict[str, str]]:
    """How the percentiles of two runs, so named, differ; [] where too few samples back them."""

    def change(ratio: float) -> str:
        return f"{(ratio - 1) * 100:+.1f} %"

    return [
        {
            "against": names[0],
            "run": names[1],
            "percentile": percentile,
            "before": words.latency_words(one.before_s),
            "after": words.latency_words(one.after_s),
            "difference": change(one.ratio),
            "95 % interval": f"{change(one.low)} to {change(one.high)}",
        }
        for percentile, one in (("p50", found.p50), ("p99", found.p99))
        if one is not None
    ]


def csv_row(run: Run) -> dict[str, object]:
    """Everything of one run in a row."""
    return {
        "run": run.id,
        "answered_by": answerers(run),
        "version": run.version,
        "release": run.release,
        "target": run.target,
        "namespace": run.namespace,
        "service": run.service,
        "asked": run.name,
        "when": run.created_at,
        "by": run.actor,
        **_asked(run),
        **figures(run),
        "verdict": run.summary.verdict,
    }


def as_csv(runs: Sequence[Run]) -> str:
    """Everything of each run in a row. At least one run."""
    rows = [csv_row(run) for run in runs]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows({name: _as_text(value) for name, value in one.items()} for one in rows)
    return out.getvalue()


def _as_text(value: object) -> object:
    """A cell that a spreadsheet takes for what it says: words of others are no formula (OWASP)."""
    return f"'{value}" if isinstance(value, str) and value[:1] in set("=+-@\t\r") else value


def version_rows(
    run: Run, compared: Sequence[difference.VersionComparison]
) -> list[dict[str, str]]:
    """The versions that answered in one run beside each other; [] when there was one.

    Each against the one with most answers, with the interval that `compared` knows.
    """
    found = {
        who: (count, times)
        for who, (count, times) in latency.by_answerer(run.summary).items()
        if times != NO_PERCENTILES
    }
    if len(found) < 2:
        return []
    model, first = model_of(run), next(iter(found))
    known = {one.after: one.found for one in compared}

    def change(who: str, name: str) -> str:
        if who == first:
            return ""
        before_s, after_s = (getattr(found[one][1], name) for one in (first, who))
        return _change(before_s, after_s, getattr(known.get(who), name, None))

    return [
        {
            "version": latency.who_called(who, model),
            "answers": f"{count:,}",
            "p50": words.latency_words(times.p50),
            "p95": words.latency_words(times.p95),
            "p99": words.latency_words(times.p99),
            "max": words.latency_words(times.max),
            "p50 against the first": change(who, "p50"),
            "p99 against the first": change(who, "p99"),
        }
        for who, (count, times) in found.items()
    ]


def _change(
    before_s: float | None, after_s: float | None, found: difference.Difference | None
) -> str:
    if not before_s or after_s is None:
        return "too few"
    told = f"{(after_s / before_s - 1) * 100:+.0f} %"
    if found is None:
        return told
    low, high = ((ratio - 1) * 100 for ratio in (found.low, found.high))
    return f"{told} ({low:+.0f} to {high:+.0f})"


def version_note(compared: Sequence[difference.VersionComparison]) -> str:
    """What is to be known of the table of versions."""
    if compared:
        return (
            "In brackets the 95 % interval. Versions of one run share its seconds: what disturbed"
            " them alike is no difference."
        )
    return "No intervals: this run was kept without the times of each version. A new one has them."


# ── As a page ─────────────────────────────────────────────────────────────────────────────────


def page(runs: Sequence[Run], zone: tzinfo | None, at: datetime) -> str:
    """Their figures, verdicts and charts; of several services each is compared with its own.

    `zone` is the reader's, None this machine's; `at` the moment of the export.
    """
    named = labels(runs)
    many = "" if len(runs) == 1 else "s"
    services = ", ".join(dict.fromkeys(run.service for run in runs))
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Load tests of {html.escape(services)}</title><style>{_STYLE}</style>"
        f"<h1>Load tests of {html.escape(services)}</h1>"
        f"<p>{len(runs)} load test{many}; made by Slipway on {_moment(at, zone)}.</p>"
    )
    told = [{"run": named[run.id], **figures(run)} for run in runs]
    drawn = [charts.figure(chart) for chart in _charts(runs, named, zone)]
    shown = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0)
        for number, figure in enumerate(drawn)
    ]
    details = [_run(run, named[run.id], zone) for run in runs]
    return "\n".join(
        [head, *_compared(runs, named), _table(_turned(told)), *details, *shown, "</html>"]
    )


def _charts(
    runs: Sequence[Run], named: Mapping[int | None, str], zone: tzinfo | None
) -> Iterator[charts.Chart]:
    summaries = {named[run.id]: run.summary for run in runs}
    yield charts.histogram({name: one.histogram for name, one in summaries.items()})
    yield charts.percentile_bars(summaries)
    for run in runs:
        ticks = [tick for tick in run.ticks if not tick.warm_up]
        if not ticks:
            continue
        began_at = run.summary.began_at
        clock = began_at.astimezone(zone) if began_at else None
        slo_s = objective_of(run).p99_s
        for chart in (
            charts.response_over_time(ticks, slo_s=slo_s),
            charts.rate_over_time(ticks),
        ):
            changes = changeover.changeovers(ticks)
            whose = replace(chart, title=f"{chart.title}: {named[run.id]}")
            yield charts.marked(whose, changes, clock)


def _turned(rows: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Figures below each other and runs side by side: a reader compares along a line."""
    first, *names = rows[0]
    return [
        {first: name.replace("_", " "), **{str(one[first]): one[name] for one in rows}}
        for name in names
    ]


def _run(run: Run, name: str, zone: tzinfo | None) -> str:
    asked = _asked(run)
    facts = {
        "asked": run.name,
        "when": _moment(datetime.fromisoformat(run.created_at), zone),
        "by": run.actor,
        "target": place_of(run).replace("/", " / "),
        **{key.replace("_", " "): str(value) for key, value in asked.items() if value is not None},
    }
    lines = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
        for key, value in facts.items()
    )
    return (
        f"<h2>{html.escape(name)}</h2><p>{html.escape(run.summary.verdict)}</p>"
        f"<table>{lines}</table>{_versions(run)}"
    )


def _versions(run: Run) -> str:
    compared = difference.compare_versions(run.summary, model_of(run))
    rows = version_rows(run, compared)
    if not rows:
        return ""
    said = [one.found.verdict for one in compared]
    said += difference.warnings_of(one.found for one in compared)
    told = "".join(f"<p>{html.escape(one)}</p>" for one in (*said, version_note(compared)))
    return f"{_table(rows)}{told}"


def _compared(runs: Sequence[Run], named: Mapping[int | None, str]) -> list[str]:
    said = []
    of_each: dict[str, list[Run]] = {}
    for run in runs:
        of_each.setdefault(run.service, []).append(run)
    for first, run in (pair for mine in of_each.values() for pair in against_earliest(mine)):
        names = (named[first.id], named[run.id])
        found = difference.compare(first.summary, run.summary, names)
        said += [told_of(names, found.verdict), *found.warnings, *between(first, run)]
    return [f"<p>{html.escape(one)}</p>" for one in dict.fromkeys(said) if one]


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape('' if value is None else str(value))}</td>" for value in row.values()
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _moment(at: datetime, zone: tzinfo | None) -> str:
    return at.astimezone(zone).strftime("%-d %B %Y, %H:%M:%S %Z")
