"""The request of the Predict page: whom to ask, and rows that fit the signature.

What fits is decided in `services.bench`. Foreign text goes through code blocks and tables, never
through Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from dashboard import widgets, wiring
from services import bench, rollout, tabular
from services.domain import InferRequest, Phase, Protocol, Service
from services.errors import SignatureMismatch

MOST_FIELDS = 60
"""A form of more fields is no form: JSON or CSV then."""
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
class Asked:
    """A request that fits, and whom to ask."""

    request: InferRequest
    rows: str
    whom: tuple[Whom, ...]


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
    found: dict[str, str | None] = {"the version's example": intent.example if intent else None}
    if intent and intent.version:
        found |= wiring.examples(intent.version.model).value or {}
    return found


def request_form(service: Service) -> Asked | None:
    """Draw the request; what was asked when it was sent just now and fits."""
    signature = service.intent.signature if service.intent else None
    points = starting_points(service)
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
                value=pretty(example) if example else "",
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


def pretty(text: str) -> str:
    """JSON on several lines; any other text as it is."""
    try:
        return json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    except ValueError:
        return text
