"""The verb of stored load tests: listed, opened, compared, exported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dashboard import report, views
from dashboard.commands.request import load_lines
from dashboard.commands.session import Answer, Session
from dashboard.terminal import table
from services import difference, latency, records
from services.errors import ConfigError, NotFound, one_line
from services.ports import Run, StoredRuns

_FORMATS = (".csv", ".json", ".html")


def runs(session: Session) -> Answer:
    """The newest stored load tests, or some in full and against the earliest of them."""
    args = session.args
    if args.out is not None and Path(args.out).suffix.lower() not in _FORMATS:
        raise ConfigError(
            f"It is not known as what {one_line(args.out)!r} is to be written.",
            why="The ending of its name says it.",
            fix=f"End it with {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}.",
        )
    found = _chosen(session) if args.id else _newest(session)
    document: dict[str, Any] = {"runs": [report.run_row(run) for run in found]}
    lines = _listed(found)
    if args.id:
        document, lines = _opened(found)
    if args.out is not None and found:
        _write(Path(args.out), found)
        document["file"] = args.out
        many = "" if len(found) == 1 else "s"
        session.terminal.say(f"Written: {one_line(args.out)}, {len(found)} load test{many}.")
    return Answer(document, lines)


def _newest(session: Session) -> Sequence[Run]:
    """The newest load tests, of a service and a target where they were named."""
    args = session.args
    kept = session.reach.store.runs(service=args.name, target=args.target, limit=args.limit)
    _say_damaged(session, kept)
    found = [run for run in kept.found if args.namespace in {None, run.namespace}]
    if not found:
        whose = f" of {args.name}" if args.name else ""
        name = args.name or "NAME"
        session.terminal.say(
            f"No load test{whose} is kept. Keep one:"
            f" `slipway bench {name} --rate 50 --duration 30 --save`."
        )
    return found


def _chosen(session: Session) -> Sequence[Run]:
    """The load tests with the given ids, in that order. NotFound where one is not there."""
    args = session.args
    ids = list(dict.fromkeys(args.id))
    kept = session.reach.store.runs(service=args.name, limit=0, ids=ids)
    by_id = {run.id: run for run in kept.found}
    missing = [number for number in ids if number not in by_id]
    if missing:
        number = missing[0]
        raise NotFound(
            f"There is no load test {number}{f' of {args.name}' if args.name else ''}.",
            why="It was damaged in the store: the log file says how."
            if number in kept.damaged
            else "",
            fix="List those that are kept: `slipway runs`.",
        )
    return [by_id[number] for number in ids]


def _say_damaged(session: Session, kept: StoredRuns) -> None:
    if kept.damaged:
        numbers = ", ".join(str(number) for number in kept.damaged)
        session.terminal.warn(
            f"Damaged in the store, and left out: load test {numbers}. The log file says what is"
            " wrong with each."
        )


_HEADERS = (
    "RUN",
    "WHEN",
    "SERVICE",
    "TARGET",
    "ANSWERED BY",
    "LABEL",
    "PER SECOND",
    "P50",
    "P99",
    "FAILED",
    "OBJECTIVE",
)


def _listed(found: Sequence[Run]) -> Iterator[str]:
    if not found:
        return
    yield from table(
        _HEADERS,
        (
            (
                run.id,
                run.created_at[:19],
                run.service,
                run.target,
                report.mix(run),
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


def _opened(found: Sequence[Run]) -> tuple[dict[str, Any], Iterator[str]]:
    """Load tests in full, and each later one against the earliest: as a document and in words."""
    named = report.labels(found)
    rows, told = [], []
    for run in found:
        model = report.model_of(run)
        versions = difference.compare_versions(run.summary, model)
        row = {**report.run_row(run), **views.load_document(run.summary, run.ticks, versions)}
        rows.append(row)
        who = latency.answered_words(run.summary, model)
        told.append(load_lines(row, run.summary, run.ticks, who, versions))
    compared = []
    for first, run in report.against_earliest(found):
        names = (named[first.id], named[run.id])
        one = difference.compare(first.summary, run.summary, names)
        compared.append(report.comparison_row(first, run, one))
        told.append(_compared_lines(names, one, report.between(first, run)))

    def lines() -> Iterator[str]:
        for run, one in zip(found, told, strict=False):
            yield f"{named[run.id]}: {one_line(run.name, 200)}"
            yield _facts(run)
            yield from one
            yield ""
        for one in told[len(found) :]:
            yield from one

    return {"runs": rows, "compared": compared}, lines()


def _facts(run: Run) -> str:
    """When, by whom, where, by which way and of what."""
    via = report.via_of(run)
    where = "/".join(filter(None, (run.target, run.namespace, run.service)))
    parts = (
        f"{run.created_at[:19]} by {run.actor}",
        where if run.release is None else f"{where}, release {run.release}",
        f"by way of {via}" if via else "",
        report.request_of(run),
    )
    return "; ".join(one_line(part, 200) for part in parts if part)


def _compared_lines(
    names: tuple[str, str], found: difference.Comparison, beside: Sequence[str]
) -> Iterator[str]:
    yield from (found.verdict, *found.warnings, *beside)
    rows = report.difference_rows(names, found)
    if rows:
        yield from table([name.upper() for name in rows[0]], [list(row.values()) for row in rows])


def _write(path: Path, found: Sequence[Run]) -> None:
    """Everything of the load tests into a file: what the Predict page exports."""
    kind = path.suffix.lower()
    if kind == ".csv":
        text = report.as_csv(found)
    elif kind == ".json":
        text = "[" + ",".join(records.dump(run) for run in found) + "]"
    else:
        now = datetime.now(UTC)
        text = report.page(found, now.astimezone().tzinfo or UTC, now)
    try:
        path.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigError(
            f"The load tests cannot be written to {one_line(path)}.",
            why=f"{one_line(error.strerror)}.",
            fix="Give a file in a folder that can be written.",
        ) from error
