"""The verb of stored load tests: listed, opened, compared, exported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dashboard import report, views
from dashboard.commands.loads import load_lines
from dashboard.commands.session import Answer, Session
from dashboard.terminal import table
from services import difference, latency, records
from services.errors import ConfigError, NotFound, one_line
from services.ports import Run

LISTED = 20
"""So many of the newest, where it is not said how many."""
MOST_OPENED = 20
"""In full or on one page: each is resampled, and drawn, for itself."""
_FORMATS = (".csv", ".json", ".html")
_HEADERS = (
    "RUN",
    "WHEN",
    "SERVICE",
    "ANSWERED BY",
    "LABEL",
    "PER SECOND",
    "P50",
    "P99",
    "FAILED",
    "OBJECTIVE",
)


def runs(session: Session) -> Answer:
    """The newest stored load tests, or some in full and against the earliest of them."""
    args = session.args
    kind = _refuse_file(args.out) if args.out is not None else ""
    if args.id and args.limit is not None:
        raise ConfigError(
            "--limit does not go with --id.",
            why="Which load tests are meant is said already.",
            fix="Leave one of them out.",
        )
    found = _chosen(session) if args.id else _newest(session)
    if (args.id or kind == ".html") and len(found) > MOST_OPENED:
        raise ConfigError(
            f"{len(found)} load tests are too many to be opened together.",
            why=f"Up to {MOST_OPENED} are.",
            fix="Choose fewer with --id or --limit, or write a .csv or .json file.",
        )
    document, lines = _opened(found) if args.id else _summed_up(found)
    if args.out is not None:
        _write(Path(args.out), kind, found)
        document["file"] = args.out
        many = "" if len(found) == 1 else "s"
        session.terminal.say(f"Written: {one_line(args.out)}, {len(found)} load test{many}.")
    return Answer(document, lines)


def _refuse_file(name: str) -> str:
    """The kind of a file to be written; ConfigError for one that cannot be."""
    kind = Path(name).suffix.lower()
    if kind not in _FORMATS:
        raise ConfigError(
            f"It is not known as what {one_line(name)!r} is to be written.",
            why="The ending of its name says it.",
            fix=f"End it with {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}.",
        )
    if kind == ".html" and importlib.util.find_spec("plotly") is None:
        raise ConfigError(
            "The page cannot be drawn.",
            why="Its charts need Plotly; this is the command line alone.",
            fix="Install it with its extra: `uv sync --extra dashboard`, or write .csv or .json.",
        )
    return kind


def _newest(session: Session) -> Sequence[Run]:
    """The newest load tests of a service, target and namespace, where they were named."""
    args = session.args
    most = LISTED if args.limit is None else args.limit
    kept = session.reach.store.runs(
        service=args.name, target=args.target, namespace=args.namespace, limit=most + 1
    )
    if kept.damaged:
        numbers = ", ".join(map(str, kept.damaged))
        session.terminal.warn(
            f"Damaged in the store, and left out: load test {numbers}. The log file says what is"
            " wrong with each."
        )
    if len(kept.found) > most:
        session.terminal.say(f"The newest {most}; there are more: see --limit.")
    if kept.found:
        return kept.found[:most]
    asked = (("service", args.name), ("target", args.target), ("namespace", args.namespace))
    whose = ", ".join(f"{what} {one_line(name)}" for what, name in asked if name)
    told = f"No{' other' if kept.damaged else ''} load test is kept{f': {whose}' if whose else ''}."
    fix = f"Keep one: `slipway bench {args.name or 'NAME'} --rate 50 --duration 30 --save`."
    if args.out is not None:
        raise NotFound(f"{told} Nothing was written.", fix=fix)
    session.terminal.say(f"{told} {fix}")
    return ()


def _chosen(session: Session) -> Sequence[Run]:
    """The load tests with the given ids, in that order. NotFound where one is not there."""
    args = session.args
    ids = list(dict.fromkeys(args.id))
    kept = session.reach.store.runs(
        service=args.name, target=args.target, namespace=args.namespace, limit=0, ids=ids
    )
    by_id = {run.id: run for run in kept.found}
    damaged = [number for number in ids if number in kept.damaged]
    if damaged:
        raise NotFound(
            f"Damaged in the store: load test {', '.join(map(str, damaged))}.",
            why="The log file says what is wrong with each.",
            fix="List those that can be read: `slipway runs`.",
        )
    missing = [number for number in ids if number not in by_id]
    if missing:
        asked = (args.name, args.target, args.namespace)
        whose = "/".join(one_line(name) for name in asked if name)
        numbers = ", ".join(map(str, missing))
        raise NotFound(
            f"There is no load test {numbers}{f' of {whose}' if whose else ''}.",
            fix="List those that are kept: `slipway runs`.",
        )
    return [by_id[number] for number in ids]


def _summed_up(found: Sequence[Run]) -> tuple[dict[str, Any], Iterator[str]]:
    """Load tests in a row each, as a document and in words."""
    return {"runs": [report.run_row(run) for run in found]}, _listed(found)


def _listed(found: Sequence[Run]) -> Iterator[str]:
    if not found:
        return
    yield from table(
        _HEADERS,
        (
            (
                run.id,
                _when(run),
                report.place_of(run),
                report.answerers(run),
                one_line(run.name, 80),
                f"{run.summary.rate:.1f}",
                views.seconds_text(run.summary.response.p50),
                views.seconds_text(run.summary.response.p99),
                sum(run.summary.errors.values()),
                {True: "met", False: "missed", None: ""}[run.summary.objective_met],
            )
            for run in found
        ),
    )


def _when(run: Run) -> str:
    """By this machine's clock, as the changes of version in a run are told."""
    return datetime.fromisoformat(run.created_at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _opened(found: Sequence[Run]) -> tuple[dict[str, Any], Iterator[str]]:
    """Load tests in full, and each later one against the earliest: as a document and in words."""
    named = report.labels(found)
    rows, told = [], []
    for run in found:
        model = report.model_of(run)
        versions = difference.compare_versions(run.summary, model)
        row = {**report.run_row(run), **views.load_document(run.summary, run.ticks, versions)}
        who = latency.answered_words(run.summary, model)
        rows.append(row)
        told.append(load_lines(row, run.summary, run.ticks, who, versions))
    compared, against = [], []
    for first, run in report.against_earliest(found):
        names = (named[first.id], named[run.id])
        one = difference.compare(first.summary, run.summary, names)
        compared.append(report.comparison_row(first, run, one))
        against.append(_compared_lines(names, one, report.between(first, run)))

    def lines() -> Iterator[str]:
        for run, one in zip(found, told, strict=True):
            yield f"{named[run.id]}: {one_line(run.name, 200)}"
            yield _facts(run)
            yield from one
            yield ""
        for one in against:
            yield from one

    return {"runs": rows, "compared": compared}, lines()


def _facts(run: Run) -> str:
    """When, by whom, where, by which way and of what."""
    via, place = report.via_of(run), report.place_of(run)
    parts = (
        f"{_when(run)} by {run.actor}",
        place if run.release is None else f"{place}, release {run.release}",
        f"by way of {via}" if via else "",
        report.request_of(run),
    )
    return "; ".join(one_line(part, 200) for part in parts if part)


def _compared_lines(
    names: tuple[str, str], found: difference.Comparison, beside: Sequence[str]
) -> Iterator[str]:
    yield from (report.told_of(names, found.verdict), *found.warnings, *beside)
    rows = report.difference_rows(names, found)
    if rows:
        yield from table([name.upper() for name in rows[0]], [list(row.values()) for row in rows])


def _write(path: Path, kind: str, found: Sequence[Run]) -> None:
    """Everything of the load tests into a file, whole or not at all; as the page exports it."""
    if kind == ".csv":
        text = report.as_csv(found)
    elif kind == ".json":
        text = "[" + ",".join(records.dump(run) for run in found) + "]"
    else:
        text = report.page(found, None, datetime.now(UTC))
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise ConfigError(
            f"The load tests cannot be written to {one_line(path)}.",
            why=f"{one_line(error.strerror)}.",
            fix="Give a file in a folder that can be written.",
        ) from error
