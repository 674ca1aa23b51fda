"""The request of the Predict page: whom to ask, and rows that fit the signature.

What fits is decided in `services.bench`. Foreign text goes through code blocks and tables, never
through Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from dashboard import widgets, wiring
from services import bench, lineage, tabular
from services.domain import InferRequest, Phase, Protocol, Service, Signature
from services.errors import SignatureMismatch

if TYPE_CHECKING:
    from dashboard.answers import Answer

MOST_FIELDS = 60
"""A form of more fields is no form: JSON or CSV then."""
FORM, TABLE, TEXT, FILE = "Form", "Table of rows", "JSON or CSV", "File"
_NESTED = {"tensor", "array", "object", "map", "any"}
OWN_EXAMPLE, SENT_LAST = OURS = ("the version's example", "the request sent last")
_MOST_CHARACTERS = 64 * 1024
MOST_WRITTEN = 200
"""Rows of an example that a table begins with."""
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
class Asked:
    """A request that fits, and whom to ask."""

    request: InferRequest
    rows: str
    whom: tuple[Whom, ...]


def addressed(request: InferRequest, service: str, model_name: str) -> InferRequest:
    """The same request, to whatever the endpoint that is asked calls the model."""
    path = request.path.replace(f"/{service}/", f"/{model_name}/", 1)
    return replace(request, path=path)


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
    names = [service.name for service in found]
    looked_at = st.session_state.get("predicted", "")
    index: int | None = names.index(looked_at) if looked_at in names else 0
    if widgets.from_url("service") not in {"", *names}:
        index = None  # a link that points to nothing chooses nothing else in its place
    name = widgets.picker("Service", names, key="service", index=index, then=_leave_runs)
    st.session_state["predicted"] = name
    if name and not widgets.from_url("service"):
        # A link that names no service would open another one once there is a name before it.
        widgets.into_url(service=name)
    chosen = next((service for service in found if service.name == name), None)
    if chosen is None:
        return None
    if chosen.phase is not Phase.READY or len(chosen.answering) > 1:
        # Requests have to fit what answers: a failed or running roll-out's version does not yet.
        chosen = lineage.as_answering(chosen, wiring.history(chosen.name).value or ())
    return wiring.with_signature(chosen)


def _leave_runs() -> None:
    """Another service was picked by hand: the load tests in the URL were the last one's."""
    widgets.into_url(runs=None, test=None)


def other_load_tests(service: Service) -> None:
    """Say that another service is under load: whoever comes back to this page looks for it."""
    for test in wiring.load_tests().under_way():
        if test.service == service.name:
            continue
        with st.container(horizontal=True, vertical_alignment="center"):
            st.info(
                f"A load test of {widgets.literal(test.service)} is under way.",
                icon=":material/speed:",
            )
            widgets.go(
                f"Look at {test.service}",
                "predict",
                key=f"look-{test.id}",
                service=test.service,
                test=test.id,
            )


def asks_for_start(service: Service) -> bool:
    """Whether a prediction makes no sense now; says so, with the way out."""
    if service.phase is not Phase.STOPPED:
        return False
    st.info(f"{service.name} is stopped: nothing answers.", icon=":material/stop_circle:")
    widgets.go("Start it on Endpoints", "endpoints", key="start-it", service=service.name)
    return True


def starting_points(service: Service) -> dict[str, str | None]:
    """What a request can start from: the version's example, and those kept for its model."""
    intent = service.intent
    found: dict[str, str | None] = {OWN_EXAMPLE: intent.example if intent else None}
    if intent and intent.version:
        kept = wiring.examples(intent.version.model).value or {}
        # One that was kept under a name of ours stands beside it and not in its place.
        found |= {f"{name} (kept)" if name in OURS else name: body for name, body in kept.items()}
    return found


def answers_to(service: str) -> list[list[Answer]]:
    """What this session asked of a service, newest first; several answers where several were."""
    kept: list[list[Answer]] = st.session_state.get("answers", [])
    return [group for group in kept if group[0].service == service]


def _carry_over(service: str) -> None:
    """Whoever goes on in another way of writing goes on with the values that were sent last.

    Only then: fields that began with other values would be other fields, and lose what is being
    typed. Long requests are left out: they would be read anew at each drawing.
    """
    sent = answers_to(service)
    if sent and len(sent[0][0].rows) <= _MOST_CHARACTERS:
        newest = sent[0][0]
        st.session_state["carried"] = (service, newest.rows, newest.at.isoformat())
        widgets.into_url(example="")


def request_form(service: Service) -> Asked | None:
    """Draw the request; what was asked when it was sent just now and fits."""
    signature = service.intent.signature if service.intent else None
    points = starting_points(service)
    of, carried, sent_at = st.session_state.get("carried", ("", "", ""))
    if of == service.name:
        points = {SENT_LAST: carried, **points}
    start = next(iter(points))
    if len(points) > 1:
        start = widgets.picker("Start from", list(points), key="example") or start
    example = points[start]
    fields = bench.form_fields(signature, example) if signature else ()
    ways = [TEXT, FILE]
    if fields and len(fields) <= MOST_FIELDS:
        flat = not any(field.kind in _NESTED for field in fields if not field.is_param)
        ways = [FORM, TABLE, *ways] if flat else [FORM, *ways]
    way = st.segmented_control(
        "Write the request as",
        ways,
        default=ways[0],
        key="input",
        required=True,
        help="What is typed and not sent yet is lost by a change: send it first.",
        on_change=_carry_over,
        args=(service.name,),
    )
    if signature is None:
        st.caption("This version has no signature: what is sent cannot be checked beforehand.")
    elif FORM not in ways:
        st.caption(f"The signature has {len(fields)} inputs: too many for a form.")
    elif way == FORM and (count := _rows_in(example, signature)) > 1:
        st.caption(widgets.literal(f"The form holds the first of {count:,} rows of {start}."))
    with st.form("request", border=True):
        start_key = f"{service.name}-{service.release}-{start}"
        if start == SENT_LAST:  # each is a beginning of its own, as another example is
            start_key += sent_at
        read = _written(way or TEXT, start_key, fields, signature, example)
        options = st.columns(2)
        first = list(PROTOCOLS.values()).index(service.speaks)
        protocol = options[0].selectbox("Protocol", list(PROTOCOLS), first, key="protocol")
        sides = sides_of(service)
        side = options[1].selectbox("Ask", list(sides), key="side")
        sent = st.form_submit_button("Send request", type="primary", key="send")
    if not sent:
        return None
    st.session_state["request_refused"] = service.name
    rows = read()
    if rows is None:
        return None
    _refuse_misfit(service, sides[side or "any"], rows)
    chosen = PROTOCOLS.get(protocol or "", Protocol.V2)
    request = bench.request_for(signature, rows, model_name=service.name, protocol=chosen)
    plain = bench.request_for(
        signature, rows, model_name=service.name, protocol=Protocol.INVOCATIONS
    )
    st.session_state["request_refused"] = ""
    return Asked(request, plain.body.decode(), sides[side or "any"])


def _rows_in(example: str | None, signature: Signature) -> int:
    if not example or len(example) > _MOST_CHARACTERS:
        return 0
    with suppress(SignatureMismatch):
        return len(bench.parse_rows(example, signature).data)
    return 0


Fields: TypeAlias = Sequence[bench.FormField]


def _written(
    way: str, start: str, fields: Fields, signature: Signature | None, example: str | None
) -> Callable[[], bench.Rows | None]:
    """Draw what the rows are written in; gives what reads them, None when some do not fit.

    `start` tells apart what the fields begin with: another example's fields are other widgets.
    """
    if way == FORM and signature is not None:
        values = _fields(start, fields)
        return lambda: _fitting(bench.form_rows(signature, values), signature)
    if way == TABLE and signature is not None:
        table = _table(start, fields, signature, example)
        values = _fields(start, [field for field in fields if field.is_param])
        return lambda: _rows_of_table(signature, table, values)
    if way == FILE:
        upload = st.file_uploader(
            "CSV with a header, JSON, or parquet", type=["csv", "json", "parquet"], key="upload"
        )
        return lambda: _rows_of_file(upload, signature)
    text = st.text_area(
        "Rows as JSON or CSV",
        value=pretty(example or _made_up(signature, fields)),
        height=240,
        key=f"rows-{start}",
        help="A list of records, dataframe_split, inputs, one bare row, or CSV.",
    )
    return lambda: _parsed(text, signature)


def refused(service: Service) -> bool:
    """Whether what was asked for last did not fit: no answer belongs to it."""
    return bool(st.session_state.get("request_refused") == service.name)


def _fields(start: str, fields: Fields) -> dict[str, str]:
    """One widget per field in a grid; JSON values over the whole width."""
    values: dict[str, str] = {}
    grid: Sequence[DeltaGenerator] = ()
    place = 0
    for field in fields:
        key = f"field-{start}-{field.key}"
        wide = field.kind in _NESTED
        label = widgets.plain_label(field.label)
        if wide:
            values[field.key] = st.text_area(
                label, value=field.text, help=field.hint, key=key, height=100
            )
            place = 0
            continue
        if place % 3 == 0:
            # A line of its own for each three: on a phone, columns go below each other as a whole.
            # Fields stand on one line, also where a long label takes two.
            grid = st.columns(3, vertical_alignment="bottom")
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


def _table(
    start: str, fields: Fields, signature: Signature, example: str | None
) -> list[dict[str, object]]:
    """The rows as a table to write in; as text, so that what does not fit can be said."""
    columns = [field for field in fields if not field.is_param]
    rows = [{field.name: field.text for field in columns}]
    if example:
        with suppress(SignatureMismatch):
            known = bench.example_rows(signature, example)
            rows = [
                {name: cell_text(value) for name, value in zip(known.columns, row, strict=True)}
                for row in known.data[:MOST_WRITTEN]
            ] or rows
    edited = st.data_editor(
        rows,
        key=f"table-{start}",
        num_rows="dynamic",
        hide_index=True,
        placeholder="",
        alt="Rows of the request",
        column_config={
            field.name: st.column_config.TextColumn(field.label, help=field.hint)
            for field in columns
        },
    )
    return [dict(row) for row in edited]


def cell_text(value: object) -> str:
    """A value as one writes it into a field; "" for none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _rows_of_table(
    signature: Signature, table: Sequence[Mapping[str, object]], params: dict[str, str]
) -> bench.Rows | None:
    """The table's rows, without those that were left empty; None when some do not fit."""
    labels = [field.name for field in bench.form_fields(signature) if not field.is_param]
    written = [tuple(cell_text(row.get(label)) for label in labels) for row in table]
    data = tuple(row for row in written if any(row))
    if not data:
        raise SignatureMismatch("The request was not sent.", "The table has no row.")
    rows = replace(bench.form_rows(signature, params), columns=tuple(labels), data=data)
    return _fitting(rows, signature)


def _parsed(text: str | bytes, signature: Signature | None, **how: Any) -> bench.Rows | None:  # noqa: ANN401 - passed on
    """Written rows; None when several values do not fit, which is then shown value by value."""
    try:
        return bench.parse_rows(text, signature, **how)
    except SignatureMismatch as error:
        if signature is None:
            raise
        unread: bench.Rows | None = None
        with suppress(SignatureMismatch):
            unread = bench.parse_rows(text, None, **how)
        problems = bench.problems_of(unread, signature) if unread else ()
        # Read without the signature, positional rows may look otherwise: then the error is enough.
        if len(problems) < 2 or not error.why.startswith(str(problems[0])):
            raise
        _show_problems(problems)
        return None


def _made_up(signature: Signature | None, fields: Fields) -> str:
    """A row of empty values that fits, for a version without an example; "" when none does."""
    if signature is None:
        return ""
    with suppress(SignatureMismatch):
        rows = bench.rows_from_form(signature, {field.key: field.text for field in fields})
        request = bench.request_for(signature, rows, model_name="-", protocol=Protocol.INVOCATIONS)
        return request.body.decode()
    return ""


def _fitting(rows: bench.Rows, signature: Signature) -> bench.Rows | None:
    problems = bench.problems_of(rows, signature)
    if problems:
        _show_problems(problems)
        return None
    return bench.check_rows(rows, signature)


def _rows_of_file(upload: UploadedFile | None, signature: Signature | None) -> bench.Rows | None:
    if upload is None:
        raise SignatureMismatch("The request was not sent.", "No file was chosen.")
    name, content = upload.name, upload.getvalue()
    if name.lower().endswith(".parquet"):
        rows = tabular.rows_from_parquet(content)
        return bench.check_rows(rows, signature) if signature else rows
    if name.lower().endswith(".csv"):
        return _parsed(content, signature, content="csv")
    return _parsed(content, signature, content="json")


def _refuse_misfit(service: Service, whom: tuple[Whom, ...], rows: bench.Rows) -> None:
    """SignatureMismatch for rows that do not fit the one side of a canary that is asked alone."""
    if len(whom) > 1 or whom[0].release is None:
        return
    history = wiring.history(service.name).value or ()
    asked = lineage.as_answering(service, history, whom[0].release)
    if asked.intent is not None and asked.intent.signature is not None:
        bench.check_rows(rows, asked.intent.signature)


def sides_of(service: Service) -> dict[str, tuple[Whom, ...]]:
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
    rows = [
        {
            "field": p.column,
            "row": p.row,
            "why": p.why,
            "fix": p.fix or "Write it as the hint says.",
        }
        for p in problems
    ]
    one_row = max((p.row or 1 for p in problems), default=1) == 1
    st.dataframe(
        rows,
        hide_index=True,
        alt="Values that do not fit",
        column_order=["field", "why", "fix"] if one_row else None,
    )


def pretty(text: str) -> str:
    """JSON on several lines; any other text as it is."""
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return text
