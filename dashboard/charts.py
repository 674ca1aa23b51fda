"""Samples → Plotly figures. Pure: no Streamlit, no clock.

Each chart answers the question in its title, labels its axes with units, starts at zero or says so,
and stays small whatever the number of requests: at most a point per second and percentile, at most
200 bars. A release keeps its colour on every chart of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TypeAlias, TypeVar

import plotly.graph_objects as go

from dashboard import words
from services import changeover
from services.changeover import Changeover
from services.domain import LoadSummary, Percentiles, Tick

T = TypeVar("T")
Figure: TypeAlias = go.Figure
Bars: TypeAlias = Sequence[tuple[float, int]]

# Okabe and Ito's palette: told apart by the colour-blind, legible on light and dark.
VERSION_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999933")
ERROR_COLOUR = "#C0392B"
MARK_COLOUR = "#8A8F98"
MOST_VERSIONS = 5
"""Versions with a line of their own: more cannot be told apart."""
QUANTILES = (("p50", "#0072B2", "solid"), ("p95", "#E69F00", "dash"), ("p99", "#CC79A7", "dot"))
MOST_BARS = 60
"""A histogram with more bars than this is noise on a screen."""
MOST_POINTS = 600
"""Points per line: ten minutes at one a second; longer runs are thinned by their worst value."""
MOST_MARKS = 6
"""Changes of the answering version marked in a chart: more would hide what they mark."""


def colour_of(index: int) -> str:
    """The colour of the index-th version (or run) on a page."""
    return VERSION_COLOURS[index % len(VERSION_COLOURS)]


def response_over_time(
    ticks: Sequence[Tick], *, slo_s: float | None = None, service: bool = False
) -> go.Figure:
    """p50, p95 and p99 by second, in milliseconds, with the objective as a line."""
    what = "Service time" if service else "Response time"
    figure = _figure(f"{what} by second", "seconds since the start", "milliseconds")
    seconds = _thinned([round(tick.at_s, 2) for tick in ticks], max)
    for name, colour, dash in QUANTILES:
        values = [
            words.milliseconds(getattr(tick.service if service else tick.response, name))
            for tick in ticks
        ]
        figure.add_scatter(
            x=seconds,
            y=_thinned(values, _worst),
            name=name,
            mode="lines+markers" if len(ticks) < 3 else "lines",
            line={"color": colour, "dash": dash, "width": 2},
            hovertemplate="%{y:.1f} ms<extra>" + name + "</extra>",
        )
    figure.add_scatter(
        x=seconds,
        y=_thinned(
            [
                words.milliseconds((tick.service if service else tick.response).max)
                for tick in ticks
            ],
            _worst,
        ),
        name="max",
        mode="markers",
        marker={"color": "#888888", "size": 5, "symbol": "line-ew-open"},
        hovertemplate="%{y:.1f} ms<extra>max</extra>",
    )
    if slo_s is not None:
        figure.add_hline(
            y=slo_s * 1000,
            line={"color": ERROR_COLOUR, "dash": "dashdot", "width": 1},
            annotation_text=f"objective {slo_s * 1000:g} ms",
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


def marked(
    figure: go.Figure, changes: Sequence[Changeover], began_at: datetime | None = None
) -> go.Figure:
    """The same figure over time, with each moment at which another version began to answer.

    A line where it began, a band for the seconds in which the version before answered, too.
    `began_at`: the test's second 0 in the reader's time zone; without it seconds are told.
    """
    shown = changes[-MOST_MARKS:]
    if not shown:
        return figure
    lines = [line for line in figure.data if line.x]
    highest = max((y for line in lines for y in line.y if y is not None), default=0)
    middle = max((line.x[-1] for line in lines), default=0) / 2
    # Room above the lines for the words, each a line lower than those before: two changes may be
    # seconds apart.
    figure.update_yaxes(range=[0, (highest or 1) * (1.1 + 0.12 * len(shown))])
    for place, change in enumerate(shown):
        if change.both_until_s is not None:
            figure.add_vrect(
                x0=change.from_s, x1=change.both_until_s, fillcolor=MARK_COLOUR, opacity=0.18,
                line_width=0, layer="below",
            )  # fmt: skip
        figure.add_vline(x=change.from_s, line={"color": MARK_COLOUR, "dash": "dash", "width": 1.5})
        late = change.from_s > middle
        figure.add_annotation(
            x=change.from_s, xanchor="right" if late else "left", xshift=-4 if late else 4,
            y=1 - 0.1 * place, yref="paper", yanchor="top",
            text=_plain(changeover.mark_words(change, began_at)),
            showarrow=False, font={"size": 12},
        )  # fmt: skip
    return figure


def rate_over_time(ticks: Sequence[Tick]) -> go.Figure:
    """Answers and failures per second; a line per version where more than one answered."""
    figure = _figure("Requests per second", "seconds since the start", "requests per second")
    seconds = [round(tick.at_s, 2) for tick in ticks]
    by_who = changeover.counts_by_answerer(ticks)
    versions = list(dict.fromkeys(who for counts in by_who for who in counts))
    mode = "lines+markers" if len(ticks) < 3 else "lines"
    if len(versions) < 2:
        lines = {"answered": [tick.ok for tick in ticks]}
    else:
        lines = {
            changeover.who_words(who): [counts.get(who, 0) for counts in by_who]
            for who in versions[:MOST_VERSIONS]
        }
    for index, (name, counts) in enumerate(lines.items()):
        figure.add_scatter(
            x=_thinned(seconds, max),
            y=_thinned(counts, min),
            name=_plain(name),
            mode=mode,
            line={"color": colour_of(index), "width": 2},
        )
    failed = [sum(tick.errors.values()) for tick in ticks]
    if any(failed):
        figure.add_scatter(
            x=_thinned(seconds, max),
            y=_thinned(failed, max),
            name="failed",
            mode=mode,
            line={"color": ERROR_COLOUR, "dash": "dash", "width": 2},
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


def histogram(runs: Mapping[str, Bars]) -> go.Figure:
    """How response times are spread, one outline per run, on a logarithmic axis.

    Shares instead of counts, so that runs of different length can be laid over each other. The bars
    are those of a summary or of a tick: upper bounds in seconds, and counts.
    """
    title = "Spread of response times" if len(runs) < 2 else "Spread of response times, by run"
    figure = _figure(title, "milliseconds (logarithmic)", "share of requests, percent")
    for index, (name, found) in enumerate(runs.items()):
        total = sum(count for _, count in found) or 1
        bars = _wider(found)
        figure.add_scatter(
            x=[bound * 1000 for bound, _ in bars],
            y=[100 * count / total for _, count in bars],
            name=name,
            mode="lines",
            line={"color": colour_of(index), "shape": "hvh", "width": 2},
            fill="tozeroy" if len(runs) == 1 else None,
            hovertemplate="%{y:.1f} % up to %{x:.2f} ms<extra></extra>",
        )
    figure.update_xaxes(type="log")
    figure.update_yaxes(rangemode="tozero")
    return figure


def percentile_bars(runs: Mapping[str, LoadSummary]) -> go.Figure:
    """p50 to p99.9 of every run side by side; a percentile with too few samples is left out."""
    figure = _figure("Response time by percentile", "", "milliseconds")
    for index, (name, summary) in enumerate(runs.items()):
        shown = [
            (label, words.milliseconds(value))
            for label, value in _named(summary.response)
            if value is not None
        ]
        figure.add_bar(
            x=[label for label, _ in shown],
            y=[value for _, value in shown],
            name=name,
            marker={"color": colour_of(index)},
            hovertemplate="%{y:.2f} ms<extra>" + name + "</extra>",
        )
    figure.update_layout(barmode="group")
    figure.update_yaxes(rangemode="tozero")
    return figure


def answered_by(counts: Mapping[str, int]) -> go.Figure:
    """Requests by the version that answered."""
    figure = _figure("Who answered", "", "requests")
    figure.add_bar(
        x=list(counts),
        y=list(counts.values()),
        marker={"color": [colour_of(index) for index in range(len(counts))]},
        hovertemplate="%{x}: %{y}<extra></extra>",
    )
    figure.update_yaxes(rangemode="tozero")
    return figure


def as_page(figures: Sequence[go.Figure]) -> str:
    """The figures as one HTML page that needs nothing else, not even a network."""
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=number == 0)
        for number, figure in enumerate(figures)
    ]
    return "\n".join(['<!doctype html><meta charset="utf-8"><title>Load tests</title>', *parts])


def _named(percentiles: Percentiles) -> tuple[tuple[str, float | None], ...]:
    return (
        ("p50", percentiles.p50),
        ("p90", percentiles.p90),
        ("p95", percentiles.p95),
        ("p99", percentiles.p99),
        ("p99.9", percentiles.p99_9),
    )


def _wider(bars: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Neighbouring bars joined until there are at most MOST_BARS; the counts' sum stays."""
    width = -(-len(bars) // MOST_BARS) or 1
    joined = [bars[at : at + width] for at in range(0, len(bars), width)]
    return [(part[-1][0], sum(count for _, count in part)) for part in joined]


def _figure(title: str, x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title={"text": title, "font": {"size": 14}},
        xaxis_title=x_title or None,
        yaxis_title=y_title,
        height=280,
        margin={"l": 10, "r": 10, "t": 44, "b": 10},
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
        hovermode="x unified",
        # The same revision keeps zoom and legend choices through live refreshes.
        uirevision=title,
    )
    return figure


def _plain(text: str) -> str:
    """Foreign text as text: Plotly reads a few HTML tags in names and annotations."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _worst(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _thinned(values: Sequence[T], pick: Callable[[Sequence[T]], T]) -> list[T]:
    """At most MOST_POINTS values: `pick` of each stretch, so that no peak is lost."""
    if len(values) <= MOST_POINTS:
        return list(values)
    width = -(-len(values) // MOST_POINTS)
    stretches = [values[at : at + width] for at in range(0, len(values), width)]
    return [pick(stretch) for stretch in stretches]
