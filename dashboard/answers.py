"""The answers of the Predict page: one request sent, to one or several at once, and what came.

Foreign text goes through code blocks and tables, never through Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import streamlit as st

from dashboard import widgets, wiring, words
from dashboard.asking import Asked, Whom, pretty
from services import bench, coldstart
from services.domain import Difference, InferRequest, Mode, Prediction, Service
from services.errors import SlipwayError, one_line
from services.ports import Ops

SHOWN_BYTES = 256 * 1024
"""A browser tab freezes on more raw text (streamlit/streamlit#517); the rest is a download."""
KEPT_ANSWERS = 10


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
        addressed = replace(
            request, path=request.path.replace(f"/{service.name}/", f"/{endpoint.model_name}/", 1)
        )
        asleep = service.mode is Mode.KNATIVE and is_asleep(ops, whom)
        answer = Answer(
            at=datetime.now(UTC),
            service=service.name,
            whom=whom,
            request=addressed,
            rows=asked.rows,
            curl=bench.as_curl(endpoint, addressed),
            python=bench.as_python(endpoint, addressed),
            why=endpoint.why,
            cold=asleep,
        )
        bound_s = coldstart.answer_within_s(asleep=asleep)
        try:
            found = ops.predictor.infer(endpoint, addressed, timeout_s=bound_s)
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


def shown(service: Service) -> None:
    """The last answer to this service, whole; the earlier ones to choose from."""
    kept: list[list[Answer]] = [
        group for group in st.session_state.get("answers", []) if group[0].service == service.name
    ]
    if not kept:
        st.caption("The answer appears here.")
        return
    group = kept[0]
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
    kept: list[list[Answer]] = st.session_state.get("answers", [])
    newest = next((group for group in kept if group[0].service == service.name), None)
    if newest is None:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if st.button("Send again", key="again"):
            whom = tuple(one.whom for one in newest)
            send(ops, service, Asked(newest[0].request, newest[0].rows, whom))
            st.rerun()
        name = st.text_input(
            "Keep this request as an example named", key="example_name", max_chars=60
        )
        model = service.intent.version.model if service.intent and service.intent.version else ""
        if st.button("Keep", key="keep_example", disabled=not (name and model)):
            ops.store.save_example(model, one_line(name, 60), newest[0].rows)
            wiring.forget_reads()
            st.toast(f"Kept for {widgets.literal(model)}: choose it under “Start from”.")


def _told(group: Sequence[Answer]) -> str:
    parts = []
    for answer in group:
        if answer.prediction is None:
            parts.append("failed")
        else:
            version = answer.prediction.version or answer.whom
            parts.append(f"{version}, {answer.prediction.timing.total_s * 1000:.1f} ms")
    return " and ".join(parts)


def _one_answer(answer: Answer) -> None:
    if answer.error is not None:
        widgets.error_box(answer.error)
        _as_code(answer)
        return
    prediction = answer.prediction
    assert prediction is not None
    _facts(answer, prediction)
    table, raw, code = st.tabs(["Table", "Raw answer", "curl and Python"])
    with table:
        _outputs(prediction)
    with raw:
        _raw(prediction)
    with code:
        _as_code(answer)


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
        f"connect {timing.connect_s * 1000:.1f} ms, wait {timing.wait_s * 1000:.1f} ms,"
        f" read {timing.read_s * 1000:.1f} ms; by {prediction.via}, protocol {prediction.protocol}"
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
    rows = [
        {
            output.name: _cell(output.values[at]) if at < len(output.values) else None
            for output in prediction.outputs
        }
        for at in range(min(count, 1_000))
    ]
    st.dataframe(rows, alt="Outputs of the prediction")
    if count > len(rows):
        st.caption(f"The first 1,000 of {count:,} rows; download the raw answer for all of them.")


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _raw(prediction: Prediction) -> None:
    text = prediction.raw[:SHOWN_BYTES].decode("utf-8", "replace")
    st.code(pretty(text) if len(prediction.raw) <= SHOWN_BYTES else text, language="json")
    if prediction.cut:
        st.caption("The answer was longer than Slipway reads; it is cut here.")
    st.download_button(
        "Download the raw answer", prediction.raw, "answer.json", key="download-answer"
    )


def _as_code(answer: Answer) -> None:
    st.code(answer.curl, language="bash")
    st.code(answer.python, language="python")


def _side_by_side(group: Sequence[Answer]) -> None:
    columns = st.columns(len(group))
    for column, answer in zip(columns, group, strict=True):
        with column:
            if answer.prediction is None:
                widgets.error_box(answer.error or SlipwayError("No answer came."))
            else:
                _facts(answer, answer.prediction)
                _outputs(answer.prediction)
    good = [answer.prediction for answer in group if answer.prediction is not None]
    if len(good) == 2:
        _differences(bench.compare_outputs(good[0], good[1]))


def _differences(found: Sequence[Difference]) -> None:
    if not found:
        st.success("Both versions gave the same outputs.", icon=":material/equal:")
        return
    st.warning(f"The outputs differ in {len(found)} places.", icon=":material/difference:")
    st.dataframe(
        [{"where": d.field, "left": d.left, "right": d.right} for d in found[:200]],
        hide_index=True,
    )
