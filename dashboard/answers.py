"""The answers of the Predict page: one request sent, to one or several at once, and what came.

Foreign text goes through code blocks and tables, never through Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import streamlit as st

from dashboard import widgets, wiring, words
from dashboard.asking import Asked, Whom, addressed, answers_to, pretty
from services import bench, coldstart
from services.domain import Difference, InferRequest, Mode, Prediction, Service
from services.errors import SlipwayError, one_line
from services.ports import Ops

SHOWN_BYTES = 256 * 1024
"""A browser tab freezes on more raw text (streamlit/streamlit#517); the rest is a download."""
KEPT_ANSWERS = 10
LINES_OPEN = 24
"""Longer code and tables scroll in a box of their own."""
CODE_PX = 420
MOST_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and what came of it, as the session keeps it."""

    at: datetime
    service: str
    whom: Whom
    request: InferRequest
    rows: str
    """The rows alone, as the JSON text of an /invocations body: what an example is kept as."""
    curl: str
    python: str
    why: str = ""
    """Why this way in was taken."""
    cold: bool = False
    """True when the service was asleep: the time is that of waking it."""
    prediction: Prediction | None = None
    error: SlipwayError | None = None


def send(ops: Ops, service: Service, asked: Asked) -> None:
    """Send one request to each side and keep the answers in the session, newest first."""
    request, answers = asked.request, []
    for whom in asked.whom:
        endpoint = ops.serving.endpoint(whom.service, whom.release)
        sent = addressed(request, service.name, endpoint.model_name)
        asleep = service.mode is Mode.KNATIVE and is_asleep(ops, whom)
        answer = Answer(
            at=datetime.now(UTC),
            service=service.name,
            whom=whom,
            request=sent,
            rows=asked.rows,
            curl=bench.as_curl(endpoint, sent),
            python=bench.as_python(endpoint, sent),
            why=endpoint.why,
            cold=asleep,
        )
        if len(asked.whom) > 1:
            # Opened before the clock, for each alike: else whoever is asked first pays for it.
            ops.predictor.ready(endpoint)
        bound_s = coldstart.answer_within_s(asleep=asleep)
        try:
            found = ops.predictor.infer(endpoint, sent, timeout_s=bound_s)
            answers.append(replace(answer, prediction=found))
        except SlipwayError as error:
            answers.append(replace(answer, error=error))
    kept: list[list[Answer]] = st.session_state.setdefault("answers", [])
    kept.insert(0, answers)
    del kept[KEPT_ANSWERS:]


def is_asleep(ops: Ops, whom: Whom) -> bool:
    """Whether a request would have to wake it first, as it is at this moment."""
    found = ops.serving.service(whom.service)
    return found is not None and found.asleep


def shown(service: Service, *, refused: bool = False) -> None:
    """The last answer to this service, whole; the earlier ones to choose from.

    `refused`: what was asked for since did not fit, so that no answer here belongs to it.
    """
    kept = answers_to(service.name)
    if not kept:
        st.caption("The answer appears here.")
        return
    group = kept[0]
    if refused:
        st.info(
            f"Nothing was sent just now: what is wrong with it stands below the form. This is the"
            f" answer to the request of {widgets.moment(group[0].at)}.",
            icon=":material/history:",
        )
    if len(kept) > 1:
        labels = [f"{widgets.moment(group[0].at)} · {_told(group)}" for group in kept]
        at = st.selectbox(
            "Answers of this session",
            range(len(kept)),
            format_func=lambda index: labels[index],
            key=f"answer-of-{kept[0][0].at.timestamp()}",
        )
        group = kept[at or 0]
    if len(group) > 1:
        _side_by_side(group)
    else:
        _one_answer(group[0])


def again(ops: Ops, service: Service) -> None:
    """Offer to send the newest request once more, and to keep its rows as an example."""
    kept = answers_to(service.name)
    if not kept:
        return
    newest = kept[0]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if st.button("Send again", key="again"):
            whom = tuple(one.whom for one in newest)
            send(ops, service, Asked(newest[0].request, newest[0].rows, whom))
            st.rerun()
        name = st.text_input(
            "Keep this request as an example named", key="example_name", max_chars=60
        )
        model = service.intent.version.model if service.intent and service.intent.version else ""
        st.button(
            "Keep",
            key="keep_example",
            disabled=not (name and model),
            # By callback: the form above offers it in the same drawing.
            on_click=_keep_example,
            args=(ops, model, name, newest[0].rows),
        )


def _keep_example(ops: Ops, model: str, name: str, rows: str) -> None:
    with widgets.errors_shown():
        ops.store.save_example(model, one_line(name, 60), rows)
        wiring.forget_reads()
        st.toast(f"Kept for {widgets.literal(model)}: choose it under “Start from”.")


def _told(group: Sequence[Answer]) -> str:
    parts = []
    for answer in group:
        if answer.prediction is None:
            parts.append("failed")
        else:
            version = answer.prediction.version or answer.whom
            took = words.latency_words(answer.prediction.timing.total_s)
            parts.append(f"{version}, {took}")
    return " and ".join(parts)


def _one_answer(answer: Answer) -> None:
    if answer.prediction is None:
        _failed(answer)
        return
    _facts(answer, answer.prediction)
    table, raw, code = st.tabs(["Table", "Raw answer", "curl and Python"])
    with table:
        _outputs(answer.prediction)
    with raw:
        _raw(answer.prediction)
    with code:
        _as_code(answer)


def _error(answer: Answer) -> SlipwayError:
    """Draw why no prediction came, and who said so; gives it."""
    error = answer.error or SlipwayError("No answer came.")
    widgets.error_box(error)
    if error.met:
        st.caption(widgets.literal(error.met))
    return error


def _failed(answer: Answer, key: str = "") -> None:
    """An error: what the server answered, and the request to try by hand, closed."""
    error = _error(answer)
    if error.said:
        st.caption("What the server answered")
        _code(pretty(error.said.decode("utf-8", "replace")), "json")
    with st.expander("The request as curl and Python", key=f"request-by-hand{key}"):
        _as_code(answer, key)


def _facts(answer: Answer, prediction: Prediction) -> None:
    timing = prediction.timing
    who = str(prediction.version) if prediction.version else "not told"
    if prediction.release is not None:
        who += f", release {prediction.release}"
    widgets.facts(
        {
            "Answered by": who,
            "Cold start" if answer.cold else "Latency": words.latency_words(timing.total_s),
            "HTTP status": str(prediction.http_status),
        }
    )
    st.caption(
        f"connect {words.latency_words(timing.connect_s)}, wait"
        f" {words.latency_words(timing.wait_s)}, read {words.latency_words(timing.read_s)};"
        f" by {prediction.via}, protocol {prediction.protocol}"
    )
    if answer.why:
        st.caption(widgets.literal(answer.why, 400))
    if answer.cold:
        st.caption("It was asleep: this is the time of waking it. Send it again for a warm one.")


def _outputs(prediction: Prediction) -> None:
    if not prediction.outputs:
        st.caption("The answer holds no outputs; see the raw answer.")
        return
    count = max(len(output.values) for output in prediction.outputs)
    names = {output.name for output in prediction.outputs}
    number = "row" if "row" not in names else "row of the request"
    rows = [
        {number: at + 1}
        | {
            output.name: _cell(output.values[at]) if at < len(output.values) else None
            for output in prediction.outputs
        }
        for at in range(min(count, MOST_ROWS))
    ]
    st.dataframe(
        rows,
        hide_index=True,
        alt="Outputs of the prediction",
        column_config={number: st.column_config.NumberColumn(width="small", pinned=True)},
    )
    if count > len(rows):
        st.caption(f"The first 1,000 of {count:,} rows; download the raw answer for all of them.")


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _raw(prediction: Prediction, key: str = "") -> None:
    text = prediction.raw[:SHOWN_BYTES].decode("utf-8", "replace")
    _code(pretty(text) if len(prediction.raw) <= SHOWN_BYTES else text, "json")
    if prediction.cut:
        st.caption("The answer was longer than Slipway reads; it is cut here.")
    st.download_button(
        "Download the raw answer", prediction.raw, "answer.json", key=f"download-answer{key}"
    )


def _as_code(answer: Answer, key: str = "") -> None:
    body = answer.request.body
    if len(body) > bench.MAX_SHOWN_BODY_BYTES:
        st.caption("The request is long: both read it from the file request.json beside them.")
        st.download_button(
            "Download request.json", body, "request.json", "application/json", key=f"body{key}"
        )
    _code(answer.curl, "bash")
    _code(answer.python, "python")


def _code(text: str, language: str) -> None:
    """Code that scrolls in a box of its own where it is long."""
    long = text.count("\n") > LINES_OPEN or len(text) > LINES_OPEN * 200
    st.code(text, language=language, height=CODE_PX if long else "content")


def _side_by_side(group: Sequence[Answer]) -> None:
    """Several answers to one request: their times, their outputs in one table, each one's whole."""
    names = _names(group)
    good = {
        name: answer.prediction
        for name, answer in zip(names, group, strict=True)
        if answer.prediction is not None
    }
    for name, answer in zip(names, group, strict=True):
        if answer.prediction is None:
            st.text(name)
            _error(answer)
    if good:
        _times(good)
    if len(good) > 1:
        _differences(good)
    tabs = st.tabs([widgets.literal(name) for name in names])
    for name, tab, answer in zip(names, tabs, group, strict=True):
        with tab:
            if answer.prediction is None:
                _failed(answer, key=f"-{name}")
                continue
            _facts(answer, answer.prediction)
            if len(good) == 1:
                _outputs(answer.prediction)
            raw, code = st.tabs(["Raw answer", "curl and Python"])
            with raw:
                _raw(answer.prediction, key=f"-{name}")
            with code:
                _as_code(answer, key=f"-{name}")


def _names(group: Sequence[Answer]) -> list[str]:
    """What tells the answers apart: the version, with whom was asked where that is not enough."""
    names = [
        str(one.prediction.version)
        if one.prediction is not None and one.prediction.version
        else str(one.whom)
        for one in group
    ]
    return [
        f"{name}, {one.whom}" if names.count(name) > 1 else name
        for name, one in zip(names, group, strict=True)
    ]


def _times(good: Mapping[str, Prediction]) -> None:
    st.dataframe(
        [
            {
                "answered by": name,
                "wait and read": words.latency_words(one.timing.wait_s + one.timing.read_s),
                "connect": words.latency_words(one.timing.connect_s),
            }
            for name, one in good.items()
        ],
        hide_index=True,
        alt="Latency by version",
    )
    st.caption(
        "Compare wait and read: the connections were opened before. One request says little;"
        " a load test of each side says more."
    )


def _differences(good: Mapping[str, Prediction]) -> None:
    """The outputs of all in one table, row by row; what differs from the first is marked."""
    first, *others = good.items()
    found = [(name, bench.compare_outputs(first[1], prediction)) for name, prediction in others]
    differing = {
        (name, difference.field): difference for name, differences in found
        for difference in differences
    }  # fmt: skip
    if not differing:
        st.success("All gave the same outputs.", icon=":material/equal:")
    else:
        told = "place" if len(differing) == 1 else "places"
        st.warning(
            f"The outputs differ in {len(differing):,} {told}, marked ≠.",
            icon=":material/difference:",
        )
    for (name, where), difference in differing.items():
        if ", row " not in where:  # what no row of the table can show
            st.text(f"{where}: {first[0]} {difference.left}, {name} {difference.right}")
    rows = list(_compared_rows(good, differing))
    st.dataframe(
        rows[:MOST_ROWS],
        hide_index=True,
        height=CODE_PX if len(rows) > LINES_OPEN // 2 else "auto",
        alt="Outputs side by side",
        column_config={"row": st.column_config.NumberColumn("Row", width="small", pinned=True)},
    )
    if len(rows) > MOST_ROWS:
        st.caption(
            f"The first {MOST_ROWS:,} of {len(rows):,} rows, those that differ first;"
            " the raw answers hold all of them."
        )


def _compared_rows(
    good: Mapping[str, Prediction], differing: Mapping[tuple[str, str], Difference]
) -> Iterator[dict[str, object]]:
    """A line per row and output; where there are more than fit, those that differ come first."""
    first = next(iter(good))
    shape = [output.name for output in good[first].outputs]
    lines = []
    for at, output in enumerate(shape):
        count = max(
            (len(one.outputs[at].values) for one in good.values() if at < len(one.outputs)),
            default=0,
        )
        for row in range(count):
            line: dict[str, object] = {"row": row + 1}
            if len(shape) > 1:
                line["output"] = output
            why = ""
            for name, one in good.items():
                values = one.outputs[at].values if at < len(one.outputs) else ()
                shown = str(_cell(values[row])) if row < len(values) else "nothing"
                mark = differing.get((name, f"output {at + 1}, row {row + 1}"))
                line[name] = f"≠ {shown}" if mark else shown
                why = why or (mark.why if mark else "")
            line["difference"] = why
            lines.append(line)
    if len(lines) > MOST_ROWS:
        lines.sort(key=lambda line: not line["difference"])
    yield from lines
