"""A finished load test in words, for the verbs that tell one: bench, runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dashboard import views
from dashboard.terminal import pairs, table
from services import changeover, difference
from services.domain import LoadSummary, Tick


def load_lines(
    document: Mapping[str, Any],
    summary: LoadSummary,
    ticks: Sequence[Tick],
    answered_by: str,
    compared: Sequence[difference.VersionComparison],
) -> Iterator[str]:
    """One finished load test for people: its percentiles, figures, verdict, changes of version."""
    began_at = summary.began_at.astimezone() if summary.began_at else None
    names = ("p50", "p90", "p95", "p99", "p99_9", "max", "mean")
    yield from table(
        ("", *(name.replace("_", ".") for name in names)),
        (
            (title, *(views.seconds_text(document[part][name]) for name in names))
            for title, part in (("response", "latency_s"), ("service", "service_time_s"))
        ),
    )
    yield ""
    yield from pairs(
        {
            "cold start": views.seconds_text(document["cold_start_s"])
            if document["cold_start_s"] is not None
            else "",
            "requests": f"{document['requests']:,}",
            "failed": ", ".join(f"{n:,} × {kind}" for kind, n in document["errors"].items()),
            "answered by": answered_by,
            "rate": f"{document['rate']:.1f}/s",
            "asked": f"{document['target_rate']:.1f}/s" if document["target_rate"] else "",
            "kept as run": document.get("run"),
            "verdict": document["verdict"],
        }
    )
    for change in changeover.changeovers(ticks):
        yield changeover.sentence(change, began_at)
    for one in compared:
        yield one.found.verdict
    yield from difference.warnings_of(one.found for one in compared)
