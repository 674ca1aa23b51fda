"""Verbs that send requests: predict, bench."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from dashboard import report, views
from dashboard.commands.loads import load_lines
from dashboard.commands.session import Answer, Interrupted, Session, tell_workflow
from dashboard.terminal import table
from services import bench as requests
from services import (
    coldstart,
    difference,
    latency,
    lineage,
    preparing,
    rollout,
    split,
    tabular,
)
from services.domain import (
    Endpoint,
    InferRequest,
    Load,
    LoadMode,
    LoadSummary,
    Objective,
    Phase,
    Protocol,
    Service,
    Signature,
    Tick,
)
from services.errors import (
    ConfigError,
    InferenceFailed,
    NotFound,
    ObjectiveMissed,
    ObjectiveNotJudged,
    SignatureMismatch,
    SlipwayError,
    Unreachable,
    one_line,
)
from services.histogram import MIN_TAIL
from services.ports import Run, RunningLoad

INPUT_BYTES_LIMIT = 64 * 1024 * 1024
"""What of an input is read; `bench` refuses it long before."""


MOST_CONNECTIONS = 64
"""Of a steady rate: a server that keeps all of them busy is slower than the rate."""

MOST_BODIES = 10_000
"""Requests in rotation; all of them are kept in memory, up to INPUT_BYTES_LIMIT together."""


def predict(session: Session) -> Answer:
    """One request, held against the signature before it is sent."""
    args, ops = session.args, session.ops
    service = _awake(preparing.require(ops, args.name))
    side = _release_of(service, args.version)
    endpoint = ops.serving.endpoint(service.name, side)
    service = lineage.as_answering(service, ops.journal.history(service.name), side)
    service = preparing.with_signature(ops, service)
    request = _request(session, service, endpoint.model_name)
    if args.requests is not None:
        return _split(session, service, endpoint, request)
    bound_s = coldstart.answer_within_s(asleep=service.asleep)
    try:
        prediction = ops.predictor.infer(endpoint, request, timeout_s=bound_s)
    except SlipwayError as error:
        error.why = " ".join(filter(None, (_ended(error.why), error.met)))
        raise
    prediction = preparing.with_release(prediction, service.answering)
    document = views.prediction_document(prediction, cold=service.asleep)
    if endpoint.why:
        session.terminal.say(f"Reached via {endpoint.via}: {endpoint.why}")
    if prediction.cut:
        session.terminal.warn(
            f"The answer is longer than {len(prediction.raw) / 2**20:.0f} MiB, which is all that"
            " Slipway reads: it is cut, and its outputs are not shown. Send fewer rows at a time."
        )
    if service.asleep:
        session.terminal.say("It was asleep: this is the time of waking it, not of a warm answer.")
    who = document["answered_by"]
    tell_workflow(
        session,
        f"Slipway: predict {service.name}",
        {
            "Answered by version": who["version"],
            "Took": views.seconds_text(document["latency_s"]),
            "Via": document["via"],
        },
    )
    return Answer(document, _prediction_lines(document))


def _ended(text: str) -> str:
    """A sentence with its full stop; servers leave it out."""
    return text if not text or text.endswith((".", "!", "?")) else f"{text}."


def _split(session: Session, service: Service, endpoint: Endpoint, request: InferRequest) -> Answer:
    """The same request many times: who answered how often, against who was to."""
    predictor = session.ops.predictor
    session.terminal.say(f"Sending {session.args.requests} requests via {endpoint.via}.")
    found = split.measure(
        lambda: predictor.infer(endpoint, request), session.args.requests, service.answering
    )
    document = views.split_document(found)
    rows = (
        (
            f"{row['model']}/{row['version']}" if row["version"] is not None else "(not told)",
            row["answered"],
            "–" if row["ratio"] is None else split.share_words(row["ratio"]),
            f"{split.share_words(row['low'])} to {split.share_words(row['high'])}",
            f"{row['configured_percent']} %",
        )
        for row in document["split"]
    )
    lines = [*table(("VERSION", "ANSWERED", "SHARE", "95 % INTERVAL", "CONFIGURED"), rows), ""]
    failed = ", ".join(f"{count} × {kind}" for kind, count in found.failed.items())
    lines += [
        f"{found.requests} requests{f', failed: {failed}' if failed else ''}. {found.verdict}"
    ]
    error = None
    if not any(share.answered for share in found.shares):
        error = InferenceFailed(f"No request to {service.name} was answered.", why=f"{failed}.")
    return Answer(document, lines, error)


def _awake(service: Service) -> Service:
    """The service; Unreachable, with the way to start it, while it is stopped."""
    if service.phase is Phase.STOPPED:
        raise Unreachable(
            f"{service.name} is stopped. The request was not sent.",
            why=service.message,
            fix=f"Start it: `slipway start {service.name}`.",
        )
    return service


def _release_of(service: Service, number: int | None) -> int | None:
    """The release that answers for version `number`; None for whichever the traffic goes to."""
    if number is None:
        return None
    for side in service.answering:
        if side.version is not None and side.version.number == number:
            return side.release
    there = ", ".join(str(side.version) for side in service.answering) or "none"
    raise NotFound(
        f"Version {number} does not answer at {service.name}.", why=f"Answering: {there}."
    )


def _request(session: Session, service: Service, model_name: str) -> InferRequest:
    """The request that the options describe, held against the signature."""
    args, intent = session.args, service.intent
    signature = intent.signature if intent else None
    if args.input is not None:
        rows = _rows(args.input, _input_bytes(session, args.input), signature)
    else:
        rows = requests.example_rows(signature, intent.example if intent else None)
    protocol = _protocol(session, service)
    return requests.request_for(signature, rows, model_name=model_name, protocol=protocol)


def _protocol(session: Session, service: Service) -> Protocol:
    """What was asked for, else what the service's server speaks."""
    if session.args.protocol:
        return Protocol(session.args.protocol)
    return service.speaks


def _rotation(session: Session, service: Service, model_name: str) -> tuple[InferRequest, ...]:
    """The requests that take turns: one for every `--input`, or one for every line of a .jsonl."""
    sources = session.args.input
    if not sources:
        return (_request(session, service, model_name),)
    signature = service.intent.signature if service.intent else None
    protocol = _protocol(session, service)
    made: list[InferRequest] = []
    room = INPUT_BYTES_LIMIT
    for source in sources:
        text = _input_bytes(session, source)
        room -= len(text)
        for where, part in _parts(source, text):
            try:
                rows = _rows(source, part, signature)
                made.append(
                    requests.request_for(signature, rows, model_name=model_name, protocol=protocol)
                )
            except SignatureMismatch as error:
                if where:
                    raise SignatureMismatch(
                        f"{where} cannot be sent. No load was started.",
                        *(error.why, error.fix, error.problems),
                    ) from error
                raise
        if len(made) > MOST_BODIES or room < 0:
            raise ConfigError(
                "The load test was not started.",
                why=f"It has more than {MOST_BODIES:,} requests or "
                f"{INPUT_BYTES_LIMIT // 2**20} MiB of them.",
                fix="Give fewer: they take turns for as long as the test runs.",
            )
    return tuple(made)


def _parts(source: str, text: bytes) -> Iterator[tuple[str, bytes]]:
    """What each request is made of, with a name for it where a file holds several."""
    if not source.lower().endswith((".jsonl", ".ndjson")):
        yield "", text
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"Line {number} of {one_line(source, 80)}", line


def _rows(source: str, content: bytes, signature: Signature | None) -> requests.Rows:
    """Rows of a file by what it is: parquet by its name or its first bytes, CSV by its name."""
    name = source.lower()
    if name.endswith(".parquet") or content.startswith(tabular.MAGIC):
        rows = tabular.rows_from_parquet(content)
        return requests.check_rows(rows, signature) if signature else rows
    return requests.parse_rows(content, signature, content="csv" if name.endswith(".csv") else None)


def _input_bytes(session: Session, source: str) -> bytes:
    """What stands in the file, or on stdin for "-"."""
    try:
        if source == "-":
            stdin = session.terminal.stdin
            if stdin is None:
                raise ConfigError("There is no standard input to read the rows from.")
            raw = getattr(stdin, "buffer", None)
            text = raw.read(INPUT_BYTES_LIMIT) if raw else stdin.read().encode()
            return bytes(text)
        with Path(source).open("rb") as file:
            return file.read(INPUT_BYTES_LIMIT)
    except OSError as error:
        raise ConfigError(
            f"The input {one_line(source)!r} cannot be read.",
            why=f"{one_line(error.strerror)}.",
            fix="Give a JSON, CSV or parquet file, or - for standard input.",
        ) from error


def _prediction_lines(document: views.PredictionDocument) -> Iterator[str]:
    outputs = document["outputs"]
    if document["cut"]:
        yield "The answer was too long to read; it is cut."
    else:
        yield from _output_lines(outputs)
    answered = document["answered_by"]
    who = f"version {answered['version']}" if answered["version"] is not None else "unknown version"
    release = f", release {answered['release']}" if answered["release"] is not None else ""
    yield ""
    yield (
        f"HTTP {document['http_status']} in {views.seconds_text(document['latency_s'])}"
        f" from {who}{release}, by {document['protocol']} via {document['via']}"
    )


def _output_lines(outputs: Sequence[views.OutputRow]) -> Iterator[str]:
    rows = max((len(output["values"]) for output in outputs), default=0)
    shown = min(rows, 50)
    yield from table(
        ("ROW", *(output["name"] for output in outputs)),
        (
            (
                place + 1,
                *(
                    json.dumps(output["values"][place], ensure_ascii=False)
                    if place < len(output["values"])
                    else ""
                    for output in outputs
                ),
            )
            for place in range(shown)
        ),
    )
    if rows > shown:
        yield f"… and {rows - shown:,} more; --json has them all."


def bench(session: Session) -> Answer:
    """A load test: a burst or a steady rate. ObjectiveMissed, -NotJudged, InferenceFailed."""
    args, ops = session.args, session.ops
    service = _awake(preparing.require(ops, args.name))
    side = _release_of(service, args.version)
    endpoint = ops.serving.endpoint(service.name, side)
    service = lineage.as_answering(service, ops.journal.history(service.name), side)
    service = preparing.with_signature(ops, service)
    objective = _objective(session, service)
    load = Load(
        endpoint=endpoint,
        requests=_rotation(session, service, endpoint.model_name),
        mode=LoadMode.STEADY_RATE if args.rate is not None else LoadMode.BURST,
        duration_s=args.duration,
        rate=args.rate,
        concurrency=MOST_CONNECTIONS if args.concurrency is None else args.concurrency,
        warm_up_s=args.warm_up,
        objective=objective,
    )
    if args.requests is not None:
        load = replace(load, max_requests=args.requests)
    if args.max_errors is not None:
        # Who says how many failures are too many may want to see an outage to its end.
        load = replace(load, max_errors=args.max_errors, all_failing_s=None)
    for warning in (requests.way_warning(endpoint.via), _too_few_warning(session, load)):
        if warning:
            session.terminal.warn(warning)
    cold_start_s = _woken(session, service, load)
    summary, ticks, interrupted = _measured(session, service, load)
    model = service.intent.version.model if service.intent and service.intent.version else ""
    compared = difference.compare_versions(summary, model)
    document: dict[str, Any] = dict(views.load_document(summary, ticks, compared)) | {
        "cold_start_s": cold_start_s,
        "objective": views.objective_row(objective),
    }
    if args.save:
        document["run"] = _saved_run(
            session, service, load, summary, ticks, side=side, cold_start_s=cold_start_s
        )
        session.terminal.say(f"Compare it with others: `slipway runs {service.name}`.")
        if args.max_p99 is not None or args.max_error_ratio is not None:
            ops.store.keep_objective(ops.target, ops.namespace, service.name, objective)
    tell_workflow(session, f"Slipway: bench {service.name}", _load_summary(document))
    error = interrupted or _load_error(service, summary, load.objective, args)
    who = latency.answered_words(summary, model)
    return Answer(document, load_lines(document, summary, ticks, who, compared), error)


def _measured(
    session: Session, service: Service, load: Load
) -> tuple[LoadSummary, list[Tick], Interrupted | None]:
    """Run the load, telling each second; after a Ctrl-C, what was measured until then."""
    ticks: list[Tick] = []
    summary: LoadSummary | None = None
    run = session.ops.engine.run(load)
    with _stopped_by_interrupts(run) as interrupts:
        for part in run:
            if isinstance(part, LoadSummary):
                summary = part
            else:
                ticks.append(replace(part, histogram=()))
                if not part.final or part.ok or part.errors:
                    session.terminal.say(_tick_line(part))
    if summary is None:
        raise InferenceFailed(
            f"The load test of {service.name} ended without a result.",
            why="Its process ended early.",
            fix="Look at the log file, and try a smaller load.",
        )
    if not interrupts:
        return summary, ticks, None
    kept = ", and kept" if session.args.save else ""
    error = Interrupted(
        f"The load test of {service.name} was interrupted.",
        why=f"What was measured until then is told{kept}.",
    )
    return summary, ticks, error


@contextmanager
def _stopped_by_interrupts(run: RunningLoad) -> Iterator[list[int]]:
    """Let a first Ctrl-C end the load and its summary come, a second one end all; gives them."""
    interrupts: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        interrupts.append(number)
        if len(interrupts) > 1:
            raise KeyboardInterrupt
        run.stop()

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:  # not in the main thread, where none arrives
        yield interrupts
        return
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _objective(session: Session, service: Service) -> Objective:
    """What the service's users were promised, as the options say it, else as it is kept."""
    args, ops = session.args, session.ops
    kept = Objective()
    if args.max_p99 is None or args.max_error_ratio is None:
        kept = ops.store.objective(ops.target, ops.namespace, service.name)
    p99_s, ratio = kept.p99_s, kept.error_ratio
    if args.max_p99 is not None:
        p99_s = args.max_p99 or None
    if args.max_error_ratio is not None:
        ratio = args.max_error_ratio if args.max_error_ratio < 1 else None
    taken = [
        *([f"p99 within {latency.in_words(p99_s)}"] if p99_s and args.max_p99 is None else []),
        *(
            [f"at most {ratio:.3%} of the requests failed"]
            if ratio is not None and args.max_error_ratio is None
            else []
        ),
    ]
    if taken:
        session.terminal.say(
            f"The objective kept for {service.name}: {', '.join(taken)}. Without it:"
            f" --max-p99 none --max-error-ratio none."
        )
    return Objective(p99_s, ratio)


def _too_few_warning(session: Session, load: Load) -> str:
    """That the asked requests are too few to judge a p99 whatever it is; "" when they may do."""
    most = load.max_requests if session.args.requests is not None else math.inf
    if load.rate is not None:
        most = min(most, round(load.rate * load.duration_s))
    if load.objective.p99_s is None or most >= latency.ENOUGH_FOR_P99:
        return ""
    enough = f"--requests {latency.ENOUGH_FOR_P99}"
    if load.rate is not None:
        enough = f"--duration {math.ceil(latency.ENOUGH_FOR_P99 / load.rate)}"
    return (
        f"These are {most:,} requests. A p99 needs {latency.ENOUGH_FOR_P99:,}"
        f" ({MIN_TAIL} that lie behind it): with fewer, one late answer is enough to leave"
        f" the objective unjudged, which ends with exit 10. {enough} sends them."
    )


def _woken(session: Session, service: Service, load: Load) -> float | None:
    """Wake a service that sleeps, or with `--cold` will: the seconds it took. None while awake."""
    ops, asleep = session.ops, service.asleep
    if session.args.cold:
        for waited_s in coldstart.fall_asleep(ops, service):
            if round(waited_s) % 15 == 0:
                session.terminal.say(f"  {waited_s:>5.0f} s  {service.name} is still awake")
        asleep = True
    if not asleep:
        return None
    took_s = coldstart.wake(ops.predictor, load.endpoint, load.requests[0]).timing.total_s
    session.terminal.say(
        f"It was asleep: waking it took {views.seconds_text(took_s)}, which the figures leave out."
    )
    return took_s


def _load_summary(document: Mapping[str, Any]) -> dict[str, object]:
    times = document["latency_s"]
    return {
        "Requests": f"{document['requests']:,}",
        "Failed": f"{sum(document['errors'].values()):,}",
        "Rate": f"{document['rate']:.1f}/s",
        **{name: views.seconds_text(times[name]) for name in ("p50", "p95", "p99")},
        "Verdict": document["verdict"],
    }


def _load_error(
    service: Service, summary: LoadSummary, objective: Objective, args: argparse.Namespace
) -> SlipwayError | None:
    if summary.requests and not summary.ok:
        kinds = ", ".join(f"{count:,} × {kind}" for kind, count in summary.errors.items())
        kind = InferenceFailed if summary.objective_met is None else ObjectiveMissed
        return kind(
            f"No request of the load test of {service.name} was answered.",
            why=f"{kinds}.",
            fix=f"Send one to see why: `{_one_request(args)}`.",
        )
    if summary.objective_met is False:
        return ObjectiveMissed(
            f"{service.name} missed its objective.",
            why=summary.verdict,
            fix="Look at the percentiles; give it more resources, or ask for less.",
        )
    if summary.gave_up:
        return InferenceFailed(
            f"The load test of {service.name} gave up: {one_line(summary.stopped)}.",
            why=summary.verdict,
            fix=f"Look at `slipway status {service.name}` and `slipway logs {service.name}`.",
        )
    if summary.objective_met is None and objective != Objective():
        return ObjectiveNotJudged(
            f"Whether {service.name} keeps its objective cannot be told.",
            why=summary.verdict,
            fix="Measure at a lower rate, or from a machine with a free core."
            if summary.client_limited
            else "Send more requests: a longer --duration, or a higher --rate.",
        )
    return None


def _one_request(args: argparse.Namespace) -> str:
    """The command that sends one request as a load test did."""
    words = ["slipway", "predict", args.name]
    for option, value in (
        ("--input", args.input[0] if args.input else None),
        ("--protocol", args.protocol),
        ("--version", args.version),
    ):
        words += [] if value is None else [option, str(value)]
    return shlex.join(words)


def _saved_run(
    session: Session,
    service: Service,
    load: Load,
    summary: LoadSummary,
    ticks: Sequence[Tick],
    *,
    side: int | None,
    cold_start_s: float | None,
) -> int:
    version, release = service.intent.version if service.intent else None, service.release
    called, release = latency.recorded_as(summary, str(version or ""), release)
    asked = "" if session.args.version is None else f" version {session.args.version}"
    run = Run(
        id=None,
        name=session.args.label or f"{service.name}{asked} {load.mode.value}",
        actor=session.surroundings.actor,
        created_at=rollout.utc_now().isoformat(timespec="seconds"),
        target=service.target,
        namespace=service.namespace,
        service=service.name,
        release=release,
        version=called,
        settings=report.settings_text(load, cold_start_s, side=side),
        summary=summary,
        ticks=tuple(ticks),
    )
    return session.ops.store.save_run(run)


def _tick_line(tick: Tick) -> str:
    failed = sum(tick.errors.values())
    tail = f", {failed:,} failed" if failed else ""
    p50, p99 = (views.seconds_text(one) for one in (tick.response.p50, tick.response.p99))
    return f"  {max(0.0, tick.at_s):>5.0f} s  {tick.rate:>8.1f}/s  p50 {p50}  p99 {p99}{tail}"
