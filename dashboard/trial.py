"""The pieces of the Predict page: the request, the answer, the load test, the stored runs.

What is drawn here is decided in `services.bench` (requests), `services.latency` (figures) and
`dashboard.charts`; this module only arranges it. Foreign text goes through code blocks and tables,
never through Markdown.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from dashboard import charts, loadtests, widgets, wiring, words
from dashboard.coldstarts import ColdStart
from dashboard.loadtests import LoadTest
from services import bench, changeover, coldstart, latency, records, rollout, tabular
from services.domain import (
    Difference,
    InferRequest,
    Intent,
    Load,
    LoadMode,
    LoadSummary,
    Mode,
    Objective,
    Phase,
    Prediction,
    Protocol,
    Service,
    Tick,
    WayIn,
)
from services.errors import NotDeployable, SignatureMismatch, SlipwayError, one_line
from services.ports import Ops, Run

MOST_FIELDS = 60
"""A form of more fields is no form: JSON or CSV then."""
SHOWN_BYTES = 256 * 1024
"""A browser tab freezes on more raw text (streamlit/streamlit#517); the rest is a download."""
KEPT_ANSWERS = 10
LOOK_EVERY_S = 0.5
"""How often a running load test is looked at: a point made once a second would otherwise wait
up to a second to be seen, and a look that finds nothing new costs a few milliseconds."""
_MOST_LAID = 6
"""Runs over each other without anybody having asked: more cannot be told apart."""
FORM, TEXT, FILE = "Form", "JSON or CSV", "File"
PROTOCOLS = {
    "V2 (Open Inference)": Protocol.V2,
    "/invocations (MLflow)": Protocol.INVOCATIONS,
    "V1": Protocol.V1,
}


@dataclass(frozen=True, slots=True)
class Whom:
    """Whom a request is sent to: a service, and the release when it is one side of it alone."""

    service: str
    release: int | None = None

    def __str__(self) -> str:
        return self.service if self.release is None else f"release {self.release}"


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


# ── The request ───────────────────────────────────────────────────────────────────────────────


def service_picker() -> Service | None:
    """The service to ask, bound to the URL; None, with the next step, where there is none."""
    found = widgets.looked(wiring.services(), "services")
    if found is None:
        return None
    if not found:
        with widgets.empty(
            f"No service on {wiring.target()} to send a request to yet.",
            "A service answers predictions. Deploying a version makes one.",
        ):
            widgets.go("Choose a version", "models", key="choose", primary=True)
        return None
    name = widgets.picker("Service", [service.name for service in found], key="service")
    if name and not widgets.from_url("service"):
        # A link that names no service would open another one once there is a name before it.
        widgets.into_url(service=name)
    chosen = next((service for service in found if service.name == name), None)
    if chosen is None or (chosen.phase is Phase.READY and len(chosen.answering) < 2):
        return chosen
    # Requests have to fit what answers, which a failed or running roll-out's version does not yet.
    return rollout.as_answering(chosen, wiring.history(chosen.name).value or ())


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that fits, and whom to ask."""

    request: InferRequest
    rows: str
    whom: tuple[Whom, ...]


def _starting_points(service: Service) -> dict[str, str | None]:
    """What a request can start from: the version's example, and those kept for its model."""
    intent = service.intent
    found: dict[str, str | None] = {"the version's example": intent.example if intent else None}
    if intent and intent.version:
        found |= wiring.examples(intent.version.model).value or {}
    return found


def request_form(service: Service) -> Asked | None:
    """Draw the request; what was asked when it was sent just now and fits."""
    signature = service.intent.signature if service.intent else None
    points = _starting_points(service)
    start = "the version's example"
    if len(points) > 1:
        start = widgets.picker("Start from", list(points), key="example") or start
    example = points[start]
    fields = bench.form_fields(signature, example) if signature else ()
    ways = [FORM, TEXT, FILE] if fields and len(fields) <= MOST_FIELDS else [TEXT, FILE]
    way = st.segmented_control(
        "Write the request as", ways, default=ways[0], key="input", required=True
    )
    if signature is None:
        st.caption("This version has no signature: what is sent cannot be checked beforehand.")
    elif FORM not in ways:
        st.caption(f"The signature has {len(fields)} inputs: too many for a form.")
    with st.form("request", border=True):
        rows_text, form_values, upload = "", {}, None
        if way == FORM:
            form_values = _fields(f"{service.name}-{service.release}-{start}", fields)
        elif way == FILE:
            upload = st.file_uploader(
                "CSV with a header, JSON, or parquet", type=["csv", "json", "parquet"], key="upload"
            )
        else:
            rows_text = st.text_area(
                "Rows as JSON or CSV",
                value=_pretty(example) if example else "",
                height=240,
                key=f"rows-{service.name}-{service.release}-{start}",
                help="A list of records, dataframe_split, inputs, one bare row, or CSV.",
            )
        options = st.columns(2)
        speaks = service.intent.package.protocol if service.intent else Protocol.V2
        first = list(PROTOCOLS.values()).index(speaks)
        protocol = options[0].selectbox("Protocol", list(PROTOCOLS), first, key="protocol")
        sides = _sides(service)
        side = options[1].selectbox("Ask", list(sides), key="side")
        sent = st.form_submit_button("Send request", type="primary", key="send")
    if not sent:
        return None
    if way == FORM:
        rows = _rows_of_form(service, form_values)
    elif way == FILE:
        rows = _rows_of_file(upload, service)
    else:
        rows = bench.parse_rows(rows_text, signature)
    if rows is None:
        return None
    chosen = PROTOCOLS.get(protocol or "", Protocol.V2)
    request = bench.request_for(signature, rows, model_name=service.name, protocol=chosen)
    plain = bench.request_for(
        signature, rows, model_name=service.name, protocol=Protocol.INVOCATIONS
    )
    return Asked(request, plain.body.decode(), sides[side or "any"])


def _fields(start: str, fields: Sequence[bench.FormField]) -> dict[str, str]:
    """One widget per field in a grid; JSON values over the whole width.

    `start` tells apart what the fields begin with: another example's fields are other widgets.
    """
    values: dict[str, str] = {}
    grid = st.columns(3)
    place = 0
    for field in fields:
        key = f"field-{start}-{field.key}"
        wide = field.kind in {"tensor", "array", "object", "map", "any"}
        label = widgets.literal(field.label)
        if wide:
            values[field.key] = st.text_area(
                label, value=field.text, help=field.hint, key=key, height=100
            )
            continue
        column = grid[place % 3]
        place += 1
        if field.kind == "boolean":
            choices = ["true", "false"] if field.required else ["true", "false", ""]
            values[field.key] = column.selectbox(
                label,
                choices,
                index=choices.index(field.text) if field.text in choices else 0,
                help=field.hint,
                key=key,
            )
        else:
            values[field.key] = column.text_input(label, value=field.text, help=field.hint, key=key)
    return values


def _rows_of_form(service: Service, values: dict[str, str]) -> bench.Rows | None:
    """The form's rows; None when some fields do not fit, which is then shown field by field."""
    signature = service.intent.signature if service.intent else None
    assert signature is not None  # without one there is no form
    rows = bench.form_rows(signature, values)
    problems = bench.problems_of(rows, signature)
    if problems:
        _show_problems(problems)
        return None
    return bench.check_rows(rows, signature)


def _rows_of_file(upload: UploadedFile | None, service: Service) -> bench.Rows:
    if upload is None:
        raise SignatureMismatch("The request was not sent.", "No file was chosen.")
    name, content = upload.name, upload.getvalue()
    signature = service.intent.signature if service.intent else None
    if name.lower().endswith(".parquet"):
        rows = tabular.rows_from_parquet(content)
        return bench.check_rows(rows, signature) if signature else rows
    if name.lower().endswith(".csv"):
        return bench.parse_rows(content, signature, content="csv")
    return bench.parse_rows(content, signature, content="json")


def _sides(service: Service) -> dict[str, tuple[Whom, ...]]:
    """Whom a request can be sent to: whoever the traffic goes to, one side, or several at once."""
    name = service.name
    sides: dict[str, tuple[Whom, ...]] = {"any": (Whom(name),)}
    taking = [side for side in service.answering if side.release is not None]
    for side in taking:
        sides[f"{side.version} (release {side.release})"] = (Whom(name, side.release),)
    if len(taking) > 1:
        sides["each version, side by side"] = tuple(Whom(name, side.release) for side in taking)
    for other in wiring.services(wait=False).value or ():
        # Where nothing splits traffic, a second service beside it is what a version is tried on.
        if other.name in {f"{name}-next", name.removesuffix("-next")} - {name} and other.answering:
            sides[f"{name} and {other.name}, side by side"] = (Whom(name), Whom(other.name))
    return sides


def _show_problems(problems: Sequence[bench.Problem]) -> None:
    st.error("The request was not sent: some fields do not fit.", icon=":material/error:")
    st.dataframe(
        [
            {"field": p.column, "why": p.why, "fix": p.fix or "Write it as the hint says."}
            for p in problems
        ],
        hide_index=True,
    )


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return text


# ── The answer ────────────────────────────────────────────────────────────────────────────────


def send(ops: Ops, service: Service, asked: Asked) -> None:
    """Send one request to each side and keep the answers in the session, newest first."""
    request, answers = asked.request, []
    for whom in asked.whom:
        endpoint = ops.serving.endpoint(whom.service, whom.release)
        addressed = replace(
            request, path=request.path.replace(f"/{service.name}/", f"/{endpoint.model_name}/", 1)
        )
        asleep = service.mode is Mode.KNATIVE and _asleep(ops, whom)
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


def _asleep(ops: Ops, whom: Whom) -> bool:
    found = ops.serving.service(whom.service)
    return found is not None and found.asleep


def answers(service: Service) -> None:
    """The last answer to this service, whole; the earlier ones to choose from."""
    kept: list[list[Answer]] = [
        group for group in st.session_state.get("answers", []) if group[0].service == service.name
    ]
    if not kept:
        st.caption("The answer appears here.")
        return
    shown = kept[0]
    if len(kept) > 1:
        labels = [f"{_clock(group[0].at)} · {_told(group)}" for group in kept]
        at = st.selectbox(
            "Answers of this session",
            range(len(kept)),
            format_func=lambda index: labels[index],
            key=f"answer-of-{kept[0][0].at.timestamp()}",
        )
        shown = kept[at or 0]
    if len(shown) > 1:
        _side_by_side(shown)
    else:
        _one_answer(shown[0])


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
    st.code(_pretty(text) if len(prediction.raw) <= SHOWN_BYTES else text, language="json")
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


# ── The load test ─────────────────────────────────────────────────────────────────────────────


def load_form(ops: Ops, service: Service) -> None:
    """Ask for a burst or a steady rate and begin it; the example, or the last request, is sent."""
    _hop(widgets.glanced(wiring.way_in(service.name)), "The requests would be measured by way of")
    with st.form("load", border=True):
        mode = st.radio(
            "Again, as",
            [LoadMode.BURST, LoadMode.STEADY_RATE],
            format_func={
                LoadMode.BURST: "a burst: N requests, C at a time",
                LoadMode.STEADY_RATE: "a steady rate: R per second, whatever the answers do",
            }.__getitem__,
            key="mode",
        )
        first, second, third, fourth = st.columns(4)
        count = first.number_input("Requests (burst)", 1, 1_000_000, 2_000, key="count")
        at_once = second.number_input("At a time", 1, 256, 4, key="concurrency")
        rate = third.number_input("Per second (steady)", 1, 20_000, 20, key="rate")
        seconds = fourth.number_input("For at most, seconds", 1, 3_600, 15, key="seconds")
        warm, slo, errors = st.columns(3)
        warm_s = warm.number_input("Warm-up, seconds", 0, 60, 1, key="warm_up")
        known, promised = _promised(service)
        # What a widget begins with is fixed by its key: until it is known, it is another widget.
        field = service.name if known else f"reading-{service.name}"
        slo_ms = slo.number_input(
            "Objective: p99 below, ms (0: none)",
            *(0, 60_000, round((promised.p99_s or 0) * 1000)),
            key=f"slo-{field}",
        )
        errors_percent = errors.number_input(
            "Objective: failures below, percent (0: none)",
            *(0.0, 100.0, (promised.error_ratio or 0.0) * 100),
            key=f"slo-errors-{field}",
        )
        kept = [text for text in list(_starting_points(service).values())[1:] if text]
        turns = bool(kept) and st.toggle(
            f"Take turns with the {len(kept)} requests kept as examples", key="turns"
        )
        began = st.form_submit_button("Start the load test", key="start_load")
    if not began:
        return
    load = Load(
        endpoint=ops.serving.endpoint(service.name),
        requests=(_load_request(service), *_kept_requests(service, kept if turns else ())),
        mode=mode,
        duration_s=float(seconds),
        rate=float(rate) if mode is LoadMode.STEADY_RATE else None,
        concurrency=int(at_once) if mode is LoadMode.BURST else max(int(at_once), 64),
        max_requests=int(count) if mode is LoadMode.BURST else 1_000_000,
        warm_up_s=float(warm_s),
        objective=Objective(
            p99_s=slo_ms / 1000 if slo_ms else None,
            error_ratio=errors_percent / 100 if errors_percent else None,
        ),
    )
    version = str(service.intent.version) if service.intent and service.intent.version else "?"
    asked = (
        f"{count} requests, {at_once} at a time"
        if mode is LoadMode.BURST
        else f"{rate} per second for {seconds} s"
    )
    cold_start_s = _woken(ops, load, service)
    label = f"{version}, {asked}"
    if cold_start_s is not None:
        label += f", after a cold start of {words.latency_words(cold_start_s)}"

    who = wiring.actor()  # asked here: the thread that saves the run belongs to no session

    def run(summary: LoadSummary) -> Run:
        return Run(
            id=None,
            name=label,
            actor=who,
            created_at=datetime.now(UTC).isoformat(),
            target=ops.target,
            namespace=ops.namespace,
            service=service.name,
            release=service.release,
            version=version,
            settings=loadtests.settings_text(load, cold_start_s),
            summary=summary,
            ticks=(),
        )

    test_id = wiring.load_tests().start(
        ops.engine, ops.store, load, run, service=service.name, label=label
    )
    widgets.into_url(test=test_id)


def _hop(via: WayIn | None, told: str) -> None:
    """Which hop is measured, and a warning where it is a bottleneck itself."""
    if via is None:
        return
    warning = bench.way_warning(via)
    if warning:
        st.warning(warning, icon=":material/warning:")
    else:
        st.caption(f"{told} {via}.")


def _promised(service: Service) -> tuple[bool, Objective]:
    """The objective of this service's newest load test: what is promised stays until changed.

    The first is False while the load tests are still being read.
    """
    runs = widgets.glanced(wiring.runs(service.name))
    if runs is None:
        return False, Objective()
    return True, _objective_of(runs[0]) if runs else Objective()


def _objective_of(run: Run) -> Objective:
    # A run from the terminal keeps other settings than one from a page; both keep the objective.
    promised = _settings_of(run).get("objective")
    return records.load(Objective, json.dumps(promised)) if promised else Objective()


def _woken(ops: Ops, load: Load, service: Service) -> float | None:
    """Wake a service that sleeps: its cold start is no part of the figures. The seconds it took."""
    if service.mode is not Mode.KNATIVE or not _asleep(ops, Whom(service.name)):
        return None
    with st.spinner("Waking it first…"):
        return coldstart.wake(ops.predictor, load.endpoint, load.requests[0]).timing.total_s


def _load_request(service: Service) -> InferRequest:
    """The last request that was sent from this session, else the version's example."""
    for group in st.session_state.get("answers", []):
        if group[0].service == service.name and group[0].prediction is not None:
            sent: InferRequest = group[0].request
            return sent
    intent: Intent | None = service.intent
    if intent is None or intent.example is None:
        raise NotDeployable(
            f"There is nothing to send to {service.name}. No load was started.",
            why="Its version has no input example, and no request was sent yet.",
            fix="Send one request first; the load test repeats it.",
        )
    return bench.request_for_example(intent.signature, intent.example, model_name=service.name)


def _kept_requests(service: Service, texts: Sequence[str]) -> tuple[InferRequest, ...]:
    """The requests of examples; those that fit another version's signature only are left out."""
    signature = service.intent.signature if service.intent else None
    made = []
    for text in texts:
        with suppress(SignatureMismatch):
            made.append(bench.request_for_example(signature, text, model_name=service.name))
    return tuple(made)


def cold_start(ops: Ops, service: Service) -> None:
    """Measure what waking a service takes, where it scales to zero; the times stand here alone."""
    if not coldstart.can_sleep(service):
        return
    widgets.section("Cold start")
    place = (ops.target, ops.namespace, service.name)
    known = wiring.cold_starts().of(*place)
    if known is not None and known.running:
        st.fragment(_cold_start_panel, run_every="1s")(place)
        return
    if known is not None:
        _cold_starts_measured(known)
    under_load = wiring.load_tests().running_on(service.name) is not None
    if st.button("Measure a cold start", key="cold_start", disabled=under_load):
        with widgets.errors_shown():
            wiring.cold_starts().start(ops, service, _load_request(service))
            st.rerun()
    minutes = round(coldstart.ASLEEP_WITHIN_S / 60)
    st.caption(
        "Its load test is under way: it does not fall asleep."
        if under_load
        else f"Waits until nothing of it runs, up to {minutes} minutes in which nothing is sent,"
        " then wakes it with one request and times that. It is no part of any other latency."
    )


def _cold_start_panel(place: tuple[str, str, str]) -> None:
    """A measurement under way: how long it has waited, and a way out."""
    known = wiring.cold_starts().of(*place)
    if known is None or not known.running:
        st.rerun()  # the whole page: the ticking ends, and the time appears
    if known.waking:
        st.progress(1.0, text="It sleeps. Waking it with one request.")
        return
    waited = words.duration_words(known.waited_s)
    st.progress(
        min(known.waited_s / coldstart.ASLEEP_WITHIN_S, 1.0),
        text=f"Waiting until it sleeps: {waited} so far. This goes on when the page is left.",
    )
    if st.button("Cancel", key="cancel_cold_start"):
        wiring.cold_starts().cancel(*place)


def _cold_starts_measured(known: ColdStart) -> None:
    if known.error is not None:
        widgets.error_box(known.error)
    elif known.cancelled:
        st.caption("The last measurement was cancelled; nothing was sent.")
    if not known.measured:
        return
    newest, *earlier = known.measured
    widgets.facts(
        {
            "Cold start": words.latency_words(newest.took_s),
            "Measured": _clock(newest.at),
            "Earlier": ", ".join(words.latency_words(one.took_s) for one in earlier),
        }
    )


def live(service: Service) -> None:
    """The load test under way, or the one in the URL: refreshed in place, with a stop button."""
    tests = wiring.load_tests()
    wanted = widgets.from_url("test")
    test = tests.test(wanted) or tests.running_on(service.name)
    if test is None or test.service != service.name:
        return
    # A finished test is drawn once; only a running one ticks.
    st.fragment(live_panel, run_every=LOOK_EVERY_S if test.running else None)(test.id)


def live_panel(test_id: str) -> None:
    """One load test as it stands: figures and charts, and while it runs a stop button."""
    test = wiring.load_tests().test(test_id)
    if test is None:
        return
    widgets.section("Load test")
    st.text(test.label)
    _hop(test.via, "Measured by way of")
    if test.running:
        done_s = test.ticks[-1].at_s if test.ticks else 0.0
        st.progress(min(max(done_s, 0) / max(test.duration_s, 1), 1.0), text=f"{done_s:.0f} s")
        if st.button("Stop", key="stop_load"):
            wiring.load_tests().stop(test_id)
    if test.error is not None:
        widgets.error_box(test.error)
    summary_figures(test.summary, test.ticks)
    _time_charts(test)
    if not test.running and st.session_state.get("load_seen") != test_id:
        # The whole page once more: the stored run appears below, laid over those that were chosen
        # there, and the ticking ends.
        st.session_state["load_seen"] = test_id
        if test.run_id is not None:
            wiring.forget_reads()
            before = [part for part in widgets.from_url("runs").split(",") if part]
            widgets.into_url(runs=",".join([*before[-_MOST_LAID + 1 :], str(test.run_id)]))
        st.rerun()


def _time_charts(test: LoadTest) -> None:
    if not test.ticks:
        st.caption("The first second is being measured.")
        return
    if test.summary is not None and not test.summary.ok:
        return  # charts of nothing say nothing
    _by_second(test.ticks, test.began_at, test.objective, key=test.id)
    bars = test.summary.histogram if test.summary else test.histogram
    left, right = st.columns(2)
    if bars:
        spread = _kept(f"spread-{test.id}", (bars,), lambda: charts.histogram({"this run": bars}))
        left.plotly_chart(spread, key=f"spread-{test.id}")
    answered: dict[str, int] = {}
    for counts in changeover.counts_by_answerer(test.ticks):
        for version, count in counts.items():
            name = changeover.who_words(version)
            answered[name] = answered.get(name, 0) + count
    if answered:
        state = (tuple(answered.items()),)
        who = _kept(f"who-{test.id}", state, lambda: charts.answered_by(answered))
        right.plotly_chart(who, key=f"who-{test.id}")
    if test.summary is not None and len(test.summary.response_by_version) > 1:
        st.dataframe(
            [
                {
                    "version": version,
                    "answers": test.summary.by_version.get(version, 0),
                    "p50 ms": _ms(found.p50),
                    "p95 ms": _ms(found.p95),
                    "p99 ms": _ms(found.p99),
                    "max ms": _ms(found.max),
                }
                for version, found in test.summary.response_by_version.items()
            ],
            hide_index=True,
        )


def _by_second(
    ticks: Sequence[Tick], began_at: datetime | None, objective: Objective, *, key: str
) -> None:
    """A test's course: response times and rates by second, marked where the version changed."""
    changes = changeover.changeovers(ticks)
    clock = began_at.astimezone(widgets.zone()) if began_at else None
    for change in changes[-charts.MOST_MARKS :]:
        told = widgets.literal(changeover.sentence(change, clock), 300)
        st.info(told, icon=":material/swap_horiz:")
    state = (len(ticks), ticks[-1].at_s, clock, objective.p99_s)
    response = _kept(
        f"response-{key}",
        state,
        lambda: charts.marked(
            charts.response_over_time(ticks, slo_s=objective.p99_s), changes, clock
        ),
    )
    rates = _kept(
        f"rate-{key}", state, lambda: charts.marked(charts.rate_over_time(ticks), changes, clock)
    )
    left, right = st.columns(2)
    left.plotly_chart(response, key=f"response-{key}")
    right.plotly_chart(rates, key=f"rate-{key}")


def _kept(key: str, state: tuple[object, ...], draw: Callable[[], charts.Figure]) -> charts.Figure:
    """What `draw` gives, until `state` changes.

    Plotly takes six times as long to build a figure as to write it down, most looks at a running
    test find nothing new, and every tab that looks at it draws the same.
    """
    held = _drawn.get(key)
    if held is None or held[0] != state:
        held = (state, draw())
        if len(_drawn) >= _MOST_DRAWN:
            _drawn.clear()
        _drawn[key] = held
    return held[1]


_drawn: dict[str, tuple[tuple[object, ...], charts.Figure]] = {}
_MOST_DRAWN = 32


def summary_figures(summary: LoadSummary | None, ticks: Sequence[Tick]) -> None:
    """The figures of a run: of the whole when it is over, of the last second while it runs."""
    if summary is None and not ticks:
        return
    response = summary.response if summary else ticks[-1].response
    columns = st.columns(5)
    for column, (name, value) in zip(
        columns,
        [
            ("p50", response.p50),
            ("p95", response.p95),
            ("p99", response.p99),
            ("max", response.max),
        ],
        strict=False,
    ):
        column.metric(name, "too few" if value is None else f"{value * 1000:.1f} ms")
    failures = summary.errors if summary else ticks[-1].errors
    columns[4].metric("Failures", str(sum(failures.values())))
    if summary is not None:
        _judged(summary)
        if failures:
            st.dataframe(
                [
                    {"failure": kind, "count": count, "meaning": latency.ERROR_KINDS.get(kind, "")}
                    for kind, count in failures.items()
                ],
                hide_index=True,
            )


def _judged(summary: LoadSummary) -> None:
    """The verdict in words; with an objective, whether it was met is seen at once."""
    if summary.objective_met is None:
        st.text(summary.verdict)
    elif summary.objective_met:
        st.success(widgets.literal(summary.verdict, 1_000), icon=":material/check_circle:")
    else:
        st.error(widgets.literal(summary.verdict, 1_000), icon=":material/error:")


# ── Stored runs ───────────────────────────────────────────────────────────────────────────────


def stored_runs(service: Service) -> None:
    """Earlier load tests of this service: choose some, and they lie over each other."""
    widgets.section("Earlier load tests")
    stored = widgets.looked(wiring.runs(service.name), "load tests")
    if stored is None:
        return
    runs = {str(run.id): run for run in stored}
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
            objective = _objective_of(run)
            _by_second(run.ticks, run.summary.began_at, objective, key=f"run-{run.id}")


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
        "before ms": _ms(found.before_s),
        "after ms": _ms(found.after_s),
        "difference": change(found.ratio),
        "95 % interval": f"{change(found.low)} to {change(found.high)}",
    }


def _via(run: Run) -> WayIn | None:
    """The hop that a stored run measured; None where it was not kept."""
    settings = _settings_of(run)
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
        "p50 ms": _ms(response.p50),
        "p95 ms": _ms(response.p95),
        "p99 ms": _ms(response.p99),
        "max ms": _ms(response.max),
        "per second": round(run.summary.rate, 1),
        "failures": sum(run.summary.errors.values()),
        "cold start s": _settings_of(run).get("cold_start_s"),
        "verdict": run.summary.verdict,
    }


def _settings_of(run: Run) -> dict[str, object]:
    """What a stored run was asked for; pages and terminal write different keys."""
    found = json.loads(run.settings)
    return found if isinstance(found, dict) else {}


def _as_csv(runs: Sequence[Run]) -> str:
    rows = [_run_row(run) for run in runs]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _clock(at: datetime) -> str:
    return f"{at.astimezone(widgets.zone()):%H:%M:%S}"


def asks_for_start(service: Service) -> bool:
    """Whether a prediction makes no sense now; says so, with the way out."""
    if service.phase is not Phase.STOPPED:
        return False
    st.info(f"{service.name} is stopped: nothing answers.", icon=":material/stop_circle:")
    widgets.go("Start it on Endpoints", "endpoints", key="start-it", service=service.name)
    return True
