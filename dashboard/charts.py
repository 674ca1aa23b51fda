"""What a load test's charts show, as plain data; drawn in place by ECharts, exported by Plotly.

Pure: no Streamlit, no clock. Each chart answers the question in its title, labels its axes with
units, starts at zero or says so, and stays small whatever the number of requests: at most
`MOST_POINTS` per line, at most 60 bars. A release keeps its colour on every chart of a page.

Streamlit puts a Plotly chart's data into its identity: new data takes the chart away and builds
another, every second while a test runs, at a quarter of a core. Its ECharts chart takes new data
in place.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from dashboard import words
from services import changeover
from services.changeover import Changeover
from services.domain import LoadSummary, Percentiles, Tick

if TYPE_CHECKING:
    import plotly.graph_objects as go

T = TypeVar("T")
Bars: TypeAlias = Sequence[tuple[float, int]]
Option: TypeAlias = dict[str, Any]
"""A chart as ECharts takes it: https://echarts.apache.org/en/option.html."""

# Okabe and Ito's palette: told apart by the colour-blind, legible on light and dark.
VERSION_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999933")
ERROR_COLOUR = "#C0392B"
MARK_COLOUR = "#8A8F98"
TEXT_COLOURS = {"light": "#566273", "dark": "#a3afbd"}
"""Of axes and legends: the grey of small text in `.streamlit/config.toml`."""
MOST_VERSIONS = 5
"""Versions with a line of their own: more cannot be told apart."""
QUANTILES = (
    ("p50", "#0072B2", "solid"),
    ("p95", "#E69F00", "dashed"),
    ("p99", "#CC79A7", "dotted"),
)
_BAR_STEP = 1.07
"""The ratio of a bar's upper bound to its lower one where its neighbours do not tell it."""
MOST_BARS = 60
"""A histogram with more bars than this is noise on a screen."""
MOST_POINTS = 300
"""Points per line: five minutes at one a second, about one every two pixels; longer runs are
thinned by their worst value."""
MOST_MARKS = 6
"""Changes of the answering version marked in a chart: more would hide what they mark."""
HEIGHT_PX = 290
_WHOLE_S = 0.9
"""What is shorter than this is no second to count the answers of."""
_FAR = 4
"""An objective so many times above every value is left out: the lines would lie on the ground."""


@dataclass(frozen=True, slots=True)
class Line:
    """One series: a line, or steps, or bars when the chart's x are names."""

    name: str
    x: Sequence[float | str]
    y: Sequence[float | None]
    colour: str
    dash: str = "solid"
    width: float = 2


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment at which something changed, and until when the change took."""

    at: float
    until: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn. Foreign text in it is data."""

    title: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    unit: str = ""
    """Behind a value, as `ms`."""
    logarithmic: bool = False
    """The x axis."""
    steps: bool = False
    limit: tuple[float, str] | None = None
    """A level and its words: the objective."""
    marks: tuple[Mark, ...] = ()

    @property
    def named(self) -> bool:
        """Whether x are names, and the chart has bars."""
        return any(isinstance(x, str) for line in self.lines for x in line.x[:1])

    @property
    def highest(self) -> float:
        """The largest value of all."""
        return max((y for line in self.lines for y in line.y if y is not None), default=0.0)

    @property
    def said(self) -> str:
        """The chart's name for who cannot see it, with how far it has come."""
        if self.named or self.logarithmic or not self.lines:
            return self.title
        newest = max((float(line.x[-1]) for line in self.lines if line.x), default=0.0)
        return f"{self.title}, up to second {newest:g}"


def colour_of(index: int) -> str:
    """The colour of the index-th version (or run) on a page."""
    return VERSION_COLOURS[index % len(VERSION_COLOURS)]


# ── What is shown ─────────────────────────────────────────────────────────────────────────────


def response_over_time(ticks: Sequence[Tick], *, slo_s: float | None = None) -> Chart:
    """p50, p95 and p99 by second, in milliseconds, with the objective as a line.

    Each over the seconds before it that it needs to be shown, which its name says. Ticks of earlier
    Slipways know their own second alone.
    """
    seconds = _thinned([round(tick.at_s, 2) for tick in ticks], max)
    known = any(tick.trailing for tick in ticks)
    lines = []
    for name, colour, dash in QUANTILES:
        if known:
            # A second of failures alone has no time; the answers before it are drawn already.
            told = [
                tick.trailing.get(name) if tick.ok or not tick.errors else None for tick in ticks
            ]
            values = [words.milliseconds(one.value_s if one else None) for one in told]
            label = f"{name}, {_over_words([one.over_s for one in told if one])}"
        else:
            values = [words.milliseconds(getattr(tick.response, name)) for tick in ticks]
            label = f"{name} of each second"
        if any(value is not None for value in values):
            lines.append(Line(label, seconds, _thinned(values, _worst), colour, dash))
    highest = [words.milliseconds(tick.response.max) for tick in ticks]
    lines.append(Line("slowest", seconds, _thinned(highest, _worst), MARK_COLOUR, width=1))
    return Chart(
        "Response time by second",
        "seconds since the start",
        "milliseconds",
        tuple(lines),
        unit="ms",
        limit=(slo_s * 1000, f"objective {slo_s * 1000:g} ms") if slo_s is not None else None,
    )


def _over_words(spans_s: Sequence[float]) -> str:
    """`over the last 10 s`; where the answers came unevenly, `over the last 8 to 12 s`."""
    if not spans_s:
        return ""
    fewest, most = max(1, round(min(spans_s))), max(1, round(max(spans_s)))
    return f"over the last {fewest} s" if fewest == most else f"over the last {fewest} to {most} s"


def marked(chart: Chart, changes: Sequence[Changeover], began_at: datetime | None = None) -> Chart:
    """The same chart over time, with each moment at which another version began to answer.

    `began_at`: the test's second 0 in the reader's time zone; without it seconds are told.
    """
    return replace(
        chart,
        marks=tuple(
            Mark(change.from_s, change.both_until_s, changeover.mark_words(change, began_at))
            for change in changes[-MOST_MARKS:]
        ),
    )


def rate_over_time(ticks: Sequence[Tick]) -> Chart:
    """Answers and failures per second; a line per version where more than one answered."""
    last_s = ticks[-1].at_s - ticks[-2].at_s if len(ticks) > 1 else 1.0
    if last_s < _WHOLE_S and ticks[-1].final and not ticks[-1].errors:
        ticks = ticks[:-1]  # the last bit of a second: few answers, and no fall of the rate
    seconds = _thinned([round(tick.at_s, 2) for tick in ticks], max)
    by_who = changeover.counts_by_answerer(ticks)
    versions = list(dict.fromkeys(who for counts in by_who for who in counts))[:MOST_VERSIONS]
    # By name, because who answered first changes from run to run: one colour on all of a page.
    versions.sort(key=lambda who: (len(who), who))
    if len(versions) < 2:
        answered = {"answered": [tick.ok for tick in ticks]}
    else:
        answered = {
            changeover.who_words(who): [counts.get(who, 0) for counts in by_who] for who in versions
        }
    lines = [
        Line(name, seconds, _thinned(counts, _fewest), colour_of(index))
        for index, (name, counts) in enumerate(answered.items())
    ]
    failed = [sum(tick.errors.values()) for tick in ticks]
    if any(failed):
        lines.append(Line("failed", seconds, _thinned(failed, _worst), ERROR_COLOUR, "dashed"))
    return Chart(
        "Answers per second", "seconds since the start", "answers per second", tuple(lines)
    )


def histogram(runs: Mapping[str, Bars]) -> Chart:
    """How response times are spread, one outline per run, on a logarithmic axis.

    Shares instead of counts, so that runs of different length can be laid over each other. The bars
    are those of a summary or of a tick: upper bounds in seconds, and counts.
    """
    edges = _edges([bars for bars in runs.values() if bars])
    shown = [float(f"{edge * 1000:.4g}") for edge in edges]
    lines = [
        # A share holds from its edge to the next one; the outline begins and ends on the ground.
        Line(name, [*shown[:1], *shown], [0.0, *_shares(found, edges), 0.0], colour_of(index))
        for index, (name, found) in enumerate(runs.items())
        if found
    ]
    return Chart(
        "Spread of response times" if len(runs) < 2 else "Spread of response times, by run",
        "milliseconds (logarithmic)",
        "share of requests, percent",
        tuple(lines),
        unit="%",
        logarithmic=True,
        steps=True,
    )


def percentile_bars(runs: Mapping[str, LoadSummary]) -> Chart:
    """p50 to p99.9 of every run side by side; a percentile with too few samples is left out."""
    shown = [
        label
        for at, label in enumerate(_NAMES)
        if any(_values(summary.response)[at] is not None for summary in runs.values())
    ]
    lines = []
    for index, (name, summary) in enumerate(runs.items()):
        known = dict(zip(_NAMES, _values(summary.response), strict=True))
        values = [words.milliseconds(known[label]) for label in shown]
        lines.append(Line(name, shown, values, colour_of(index)))
    return Chart("Response time by percentile", "", "milliseconds", tuple(lines), unit="ms")


_NAMES = ("p50", "p90", "p95", "p99", "p99.9")


def _values(found: Percentiles) -> tuple[float | None, ...]:
    return (found.p50, found.p90, found.p95, found.p99, found.p99_9)


def _edges(runs: Sequence[Bars]) -> list[float]:
    """The bins that all of the runs are counted in: each as wide as the others on a logarithm.

    As many as the run with the fewest answers can fill, and none finer than the bars are.
    """
    if not runs:
        return []
    bounds = [[bound for bound, _ in bars] for bars in runs]
    steps = [high / low for one in bounds for low, high in pairwise(one) if low > 0]
    finest = min(min(steps, default=_BAR_STEP), _BAR_STEP)
    low = max(min(one[0] for one in bounds) / finest, 1e-9)
    high = max(one[-1] for one in bounds)
    fewest = min(sum(count for _, count in bars) for bars in runs)
    bins = min(MOST_BARS, max(round(2 * math.sqrt(fewest)), 1))
    # Bars of a binary ladder are up to twice as wide as its finest ones.
    step = max(math.log(high / low) / bins, 2 * math.log(finest))
    bins = max(math.ceil(math.log(high / low) / step - 1e-9), 1)
    return [low * math.exp(step * at) for at in range(bins + 1)]


def _shares(bars: Bars, edges: Sequence[float]) -> list[float]:
    """The percent of the answers between each edge and the next one."""
    total = sum(count for _, count in bars) or 1
    found = [0.0] * (len(edges) - 1)
    for bound, count in bars:
        found[min(max(bisect_left(edges, bound * (1 - 1e-9)) - 1, 0), len(found) - 1)] += count
    return [round(100 * count / total, 3) for count in found]


def _worst(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None


def _fewest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None


def _thinned(values: Sequence[T], pick: Callable[[Sequence[T]], T]) -> list[T]:
    """At most MOST_POINTS values: `pick` of each stretch, so that no peak is lost."""
    if len(values) <= MOST_POINTS:
        return list(values)
    width = -(-len(values) // MOST_POINTS)
    stretches = [values[at : at + width] for at in range(0, len(values), width)]
    return [pick(stretch) for stretch in stretches]


# ── Drawn on the page ─────────────────────────────────────────────────────────────────────────

_FORMATS = {"ms": "%.2f ms", "%": "%.1f %%", "": "%.0f"}


def option(chart: Chart, *, theme: str | None = None) -> Option:
    """The chart for ECharts: no movement, nothing that new data would have to build anew.

    `theme`: `light` or `dark`. Its text then stands out from its ground at 4.5 to 1 or more; what
    Streamlit's theme gives axes and legends on white is 3.7 to 1.
    """
    top = 34 + 22 * (len(chart.lines) > 1)
    drawn: Option = {
        "animation": False,
        "title": {"text": chart.title, "left": 0, "top": 4, "textStyle": {"fontSize": 14}},
        "legend": {
            "show": len(chart.lines) > 1,
            "type": "scroll",
            "left": 0,
            "top": 28,
            "itemHeight": 8,
            "data": [line.name for line in chart.lines],
        },
        # Its labels and names have their room beside these.
        "grid": {"left": 4, "right": 18, "top": top + 14, "bottom": 4},
        "tooltip": {"trigger": "axis", "valueFormatter": _FORMATS[chart.unit]},
        "xAxis": {
            "type": "category" if chart.named else "log" if chart.logarithmic else "value",
            **({"data": list(chart.lines[0].x)} if chart.named else {}),
            "name": chart.x_title,
            "nameLocation": "middle",
            "nameGap": 26,
        },
        "yAxis": {
            "type": "value",
            "min": 0,
            "name": chart.y_title,
            "nameLocation": "middle",
            "nameGap": 44,
        },
        "series": [_series(chart, line) for line in chart.lines],
    }
    if not chart.named:
        drawn["xAxis"] |= {"min": "dataMin", "max": "dataMax"}
    if chart.logarithmic and len(rungs := _rungs(chart)) > 1:
        # Of itself, it would label the powers of ten: often one, or none.
        drawn["xAxis"]["axisLabel"] = {"customValues": rungs}
    if chart.limit or chart.marks:
        drawn["series"].append(_marks(chart))
        drawn["yAxis"]["max"] = _ceiling(chart)
    if theme in TEXT_COLOURS:
        said = {"color": TEXT_COLOURS[theme]}
        drawn["legend"]["textStyle"] = said
        for axis in (drawn["xAxis"], drawn["yAxis"]):
            axis |= {"axisLabel": axis.get("axisLabel", {}) | said, "nameTextStyle": said}
        for series in drawn["series"][-1:]:  # none where no request was answered
            for mark in series.get("markLine", {}).get("data", ()):
                mark["label"] |= said
    return drawn


def _rungs(chart: Chart) -> list[float]:
    """1, 2, 5, 10, 20 and so on, as far as the chart's x goes."""
    found = [float(x) for line in chart.lines for x in line.x if float(x) > 0]
    if not found:
        return []
    low, high = min(found), max(found)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    rungs = [float(f"{part}e{power}") for power in powers for part in (1, 2, 5)]
    return [rung for rung in rungs if low <= rung <= high]


def _series(chart: Chart, line: Line) -> Option:
    drawn: Option = {
        "type": "bar" if chart.named else "line",
        "name": line.name,
        "data": list(line.y)
        if chart.named
        else [list(at) for at in zip(line.x, line.y, strict=True)],
        "itemStyle": {"color": line.colour},
    }
    if chart.named:
        return drawn
    drawn |= {
        # A line of one point is none: until there are more, the points are drawn.
        "showSymbol": len(line.x) < 3,
        "lineStyle": {"type": line.dash, "width": line.width, "color": line.colour},
        "emphasis": {"disabled": True},
    }
    if chart.steps:
        drawn["step"] = "end"
        if len(chart.lines) == 1:
            drawn["areaStyle"] = {"opacity": 0.3}
    return drawn


def _marks(chart: Chart) -> Option:
    """A series without data that carries the objective and the changes of version."""
    lines: list[Option] = []
    areas: list[list[Option]] = []
    if chart.limit and chart.limit[0] <= _ceiling(chart):
        level, said = chart.limit
        lines.append(
            {
                "yAxis": level,
                "name": said,
                "lineStyle": {"color": ERROR_COLOUR, "type": "dashed", "width": 1},
                "label": {"formatter": "{b}", "position": "insideEndTop"},
            }
        )
    for place, mark in enumerate(chart.marks):
        if mark.until is not None:
            areas.append([{"xAxis": mark.at}, {"xAxis": mark.until}])
        lines.append(
            {
                "xAxis": mark.at,
                "name": mark.text,
                "lineStyle": {"color": MARK_COLOUR, "type": "dashed", "width": 1.5},
                # Each a line lower than those before: two changes may be seconds apart.
                "label": {
                    "formatter": "{b}",
                    "rotate": 0,
                    "position": "insideEnd",
                    "distance": [8, 4 + 14 * place],
                },
            }
        )
    return {
        "type": "line",
        "name": "",
        "data": [],
        "markLine": {"silent": True, "symbol": "none", "animation": False, "data": lines},
        "markArea": {
            "silent": True,
            "itemStyle": {"color": MARK_COLOUR, "opacity": 0.18},
            "data": areas,
        },
    }


def _ceiling(chart: Chart) -> float:
    """The end of the y axis: room for the objective unless it is far away, and for the marks."""
    highest = chart.highest
    if chart.limit and chart.limit[0] <= _FAR * highest:
        highest = max(highest, chart.limit[0] * 1.02)
    return float(f"{(highest or 1) * (1.1 + 0.12 * len(chart.marks)):.3g}")


# ── Exported ──────────────────────────────────────────────────────────────────────────────────


def figure(chart: Chart) -> go.Figure:
    """The chart for a page of its own, which brings its library along."""
    import plotly.graph_objects as go  # half a second, for an export alone

    drawn = go.Figure()
    drawn.update_layout(
        title={"text": _plain(chart.title), "font": {"size": 15}},
        height=360,
        margin={"l": 10, "r": 10, "t": 60, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        hovermode="x unified",
        barmode="group",
        template="plotly_white",
    )
    drawn.update_xaxes(title=chart.x_title or None, automargin=True)
    drawn.update_yaxes(title=chart.y_title, automargin=True, rangemode="tozero")
    if chart.logarithmic:
        drawn.update_xaxes(type="log")
    for line in chart.lines:
        if chart.named:
            drawn.add_bar(
                x=list(line.x), y=list(line.y), name=_plain(line.name), marker_color=line.colour
            )
        else:
            drawn.add_scatter(
                x=list(line.x),
                y=list(line.y),
                name=_plain(line.name),
                mode="lines+markers" if len(line.x) < 3 else "lines",
                line={
                    "color": line.colour,
                    "width": line.width,
                    "dash": {"dashed": "dash", "dotted": "dot"}.get(line.dash, "solid"),
                    "shape": "hv" if chart.steps else "linear",
                },
            )
    if chart.limit and chart.limit[0] <= _ceiling(chart):
        drawn.add_hline(
            y=chart.limit[0], line={"color": ERROR_COLOUR, "dash": "dash", "width": 1},
            annotation_text=chart.limit[1],
        )  # fmt: skip
    for place, mark in enumerate(chart.marks):
        if mark.until is not None:
            drawn.add_vrect(
                x0=mark.at, x1=mark.until, fillcolor=MARK_COLOUR, opacity=0.18, line_width=0
            )
        drawn.add_vline(x=mark.at, line={"color": MARK_COLOUR, "dash": "dash", "width": 1.5})
        drawn.add_annotation(
            x=mark.at, y=1 - 0.08 * place, yref="paper", yanchor="top", xanchor="left", xshift=4,
            text=_plain(mark.text), showarrow=False,
        )  # fmt: skip
    return drawn


def _plain(text: str) -> str:
    """Foreign text as text: Plotly reads a few HTML tags in names and annotations."""
    return text.replace("&", "&amp;").replace("<", "&lt;")
