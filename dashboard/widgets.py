"""The pages' shared pieces: errors, pickers, tables, plans to confirm, the roll-out panel.

Buttons write, panels read. Names and texts of others are drawn as text, code or cells; where they
must stand in a label or a headline, which Streamlit reads as Markdown, they go through `literal`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import wiring, words
from dashboard.reads import Look
from dashboard.worker import told_error
from services.domain import (
    AuditEntry,
    Finding,
    Outcome,
    Phase,
    RegisteredModel,
    Service,
    Verdict,
)
from services.errors import SlipwayError, one_line

PAGES = Path(__file__).parent.parent / "pages"
REFRESH_S = 1.0
"""How often an open panel looks again."""
ROLLING_S, SETTLED_S = 3.0, 15.0
"""A list of services draws itself again after so long, by whether one is rolling out."""

_MOST_WAKES = 20
"""So often a page draws itself again while something that it never had is still awaited."""
_ROWS_OPEN = 16
"""Longer tables scroll in a box of their own."""

T = TypeVar("T")
Row = words.Row

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=])")


def literal(text: object, limit: int = 256) -> str:
    """Foreign text for a label or headline: one line, every Markdown sign escaped."""
    return _MARKDOWN.sub(r"\\\1", one_line(text, limit))


_IN_LABEL = re.compile(
    r"""\\(?=[!-/:-@\[-`{-~])          # before a sign, it would hide
    | (?<![^\W_])_ | _(?![^\W_])      # within a word, it is none
    | <(?=[A-Za-z/!?]) | &(?=\#?\w+;)
    | :(?=[A-Za-z/]) | @(?=[\w.-]*\.) | (?<=www)\.
    | ^(?:\#(?=\#*(?:\s|$)) | [+*-](?=[\s-]|$) | > | \d+(?=[.)](?:\s|$)))
    """,
    re.VERBOSE,
)
_LINKS = re.compile(r"\]\s*[(\[:]|\[\^|:[A-Za-z][\w-]*\[|^\[.\]")
"""Where brackets are more than brackets: links, notes, colours, boxes to tick."""
_ICONS = re.compile(r":[\w+/-]+:")
_IN_PAIRS = "`*~$"
"""Signs that mean nothing alone."""


def plain_label(text: object, limit: int = 256) -> str:
    """Foreign text for a field's label, which screen readers are given as it is written.

    Streamlit draws a label as Markdown, and gives the same string as `aria-label` to text and
    number fields, boxes and lists; a backslash is read out there. Only what Markdown would read as
    markup, here, is escaped: `weight_kg (optional)`, `od[0]`, `a*b` and `< 5 $` stay so. (Buttons,
    tabs and the choices of a radio are named by what is drawn: there, `literal` does.)
    """
    said = one_line(text, limit)
    signs = "".join(sign for sign in _IN_PAIRS if said.count(sign) > 1)
    if _LINKS.search(said):
        signs += "[]"
    if _ICONS.search(said):
        signs += ":"
    at = {found.start() for found in _IN_LABEL.finditer(said)}
    at |= {place for place, sign in enumerate(said) if sign in signs}
    # Digits are no sign that can be escaped: a joiner keeps them from beginning a list.
    return "".join(
        sign if place not in at else f"\u2060{sign}" if sign.isdigit() else f"\\{sign}"
        for place, sign in enumerate(said)
    )


# ── Errors and reads ──────────────────────────────────────────────────────────────────────────


class _ErrorsShown(AbstractContextManager[None]):
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        # Streamlit's own stop and rerun are no Exceptions and pass.
        if isinstance(error, Exception):
            error_box(told_error(error))
            return True
        return False


def errors_shown() -> AbstractContextManager[None]:
    """Draw an error of the block in its three parts; a bug of ours as a reference to the log."""
    return _ErrorsShown()


def error_box(error: SlipwayError, *, warning: bool = False) -> None:
    """What happened, why, and what to do about it; commands in the fix can be copied."""
    draw, icon = (st.warning, ":material/history:") if warning else (st.error, ":material/error:")
    draw(literal(error.what), icon=icon)
    with st.container(gap=None):
        if error.why:
            st.text(one_line(error.why, 1000))
        if error.fix:
            fix_line(error.fix)


def fix_line(fix: str) -> None:
    """What to do, with the command that it quotes in a form to copy."""
    said, *lines = fix.splitlines() or [""]
    if not lines:  # commands that end the sentence stand below it, once
        said = re.sub(r"(?:,?\s*`(?!--)[^`]* [^`]*`)+\.?$", "", said)
    st.text(f"Fix: {one_line(said, 1000).replace('`', '')}")
    if lines:
        st.code("\n".join(one_line(line, 1000) for line in lines), language="sh", wrap_lines=True)
    for command in re.findall(r"`([^`]+)`", fix)[:2]:
        if " " in command and not command.startswith("--"):
            st.code(command, language=None)


def looked(look: Look[T], what: str) -> T | None:
    """The value of a read, with its age and what is wrong now; None when there is none to show."""
    if look.error is not None:
        error_box(look.error, warning=look.value is not None)
        with st.container(horizontal=True, vertical_alignment="center"):
            if look.stale and look.at is not None:
                st.text(f"Shown: {what} as of {moment(look.at)}.")
            st.button("Try again", key=f"again-{what}", on_click=wiring.forget_reads)
    elif look.waiting and look.value is None:
        st.caption(f"Reading {literal(what)}…{' No answer yet.' if look.late else ''}")
        st.skeleton(height=160)
    elif look.late:
        st.caption(literal(f"Shown: {what} as of {moment(look.at)}. No newer answer yet."))
    _await(look)
    return look.value


def glanced(look: Look[T]) -> T | None:
    """The value of a read that a page can do without; it is drawn when it comes."""
    if look.value is None:
        _await(look)
    return look.value


_run = threading.local()


def _await(look: Look[Any]) -> None:
    if look.waiting:
        _run.awaited = True
        # A fragment that runs alone may do so in a thread that began no run.
        _run.missing = getattr(_run, "missing", False) or look.value is None


def begin_run() -> None:
    """Start a script run: its time budget, and nothing awaited yet."""
    _run.awaited = _run.missing = False
    # Only a run that `wake_when_answered` began has it: any other one is a visitor's own.
    _run.woken = st.session_state.pop("woken", 0)
    wiring.begin_run()
    _run.answers = wiring.answers()


def may_wake(woken: int, *, missing: bool) -> bool:
    """Whether a page that drew itself again `woken` times by itself may do so once more."""
    return woken < (_MOST_WAKES if missing else 1)


def wake_when_answered() -> None:
    """At the end of a run: draw the page again when an answer that it awaits has come.

    On a machine where every read takes longer than a page waits, each drawing would find its
    answers too old and ask again: what is missing is waited for `_MOST_WAKES` times, what is only
    refreshed once.
    """
    woken = getattr(_run, "woken", 0)
    awaited, missing = getattr(_run, "awaited", False), getattr(_run, "missing", False)
    if not awaited or not may_wake(woken, missing=missing):
        return
    drawn: list[bool] = []
    seen = _run.answers  # of the run's begin: an answer may have come after it was looked for

    @st.fragment(run_every=REFRESH_S, key="awaited")
    def wake() -> None:
        if drawn and wiring.answers() != seen:
            st.session_state["woken"] = woken + 1
            st.rerun()
        drawn.append(True)

    wake()


# ── Time ──────────────────────────────────────────────────────────────────────────────────────


def zone() -> ZoneInfo:
    """The viewer's time zone; UTC when the browser does not say."""
    name = st.context.timezone
    try:
        return ZoneInfo(name) if name else ZoneInfo("UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def moment(at: datetime | None) -> str:
    """A time in the viewer's zone: `14:05`, with the day when it is another one."""
    if at is None:
        return "an unknown time"
    local, today = at.astimezone(zone()), datetime.now(zone()).date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%-d %b %Y, %H:%M")


def utc(at: datetime | None) -> str:
    """The same time in UTC, for the hover."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at else ""


def ago(at: datetime | None) -> str:
    """`3 min ago`."""
    return words.ago_words((datetime.now(UTC) - at).total_seconds()) if at else ""


def when(at: datetime | None, prefix: str = "") -> None:
    """A relative time, with the absolute ones on hover."""
    if at is not None:
        st.caption(f"{prefix}{ago(at)}", help=f"{moment(at)} · {utc(at)}", width="content")


def time_column(label: str) -> Any:  # noqa: ANN401 - Streamlit's own untyped column
    """A column of times in the viewer's zone."""
    zone_name = str(zone())
    return st.column_config.DatetimeColumn(
        label, format="D MMM YYYY, HH:mm:ss", timezone=zone_name, help=f"Time zone: {zone_name}"
    )


# ── Words with shapes and colours ─────────────────────────────────────────────────────────────

_PHASE_BADGE = {
    Phase.READY: ("ready", ":material/check_circle:", "green"),
    Phase.ROLLING_OUT: ("rolling out", ":material/progress_activity:", "orange"),
    Phase.FAILED: ("failed", ":material/cancel:", "red"),
    Phase.STOPPED: ("stopped", ":material/stop_circle:", "gray"),
    Phase.UNKNOWN: ("unknown", ":material/help:", "gray"),
}
OUTCOME_BADGE = {
    Outcome.OPEN: ("under way", ":material/progress_activity:", "orange"),
    Outcome.VERIFIED: ("verified", ":material/verified:", "green"),
    Outcome.SERVING: ("serving, not verified", ":material/radio_button_unchecked:", "orange"),
    Outcome.UNCHANGED: ("unchanged", ":material/drag_handle:", "gray"),
    Outcome.FAILED: ("failed", ":material/cancel:", "red"),
    Outcome.TIMEOUT: ("timed out", ":material/timer_off:", "red"),
    Outcome.STOPPED: ("stopped", ":material/stop_circle:", "gray"),
    Outcome.DELETED: ("deleted", ":material/delete:", "gray"),
    Outcome.NOT_APPLIED: ("not applied", ":material/block:", "red"),
}
_VERDICT_BADGE = {
    Verdict.PASS: ("passed", ":material/check:", "gray"),
    Verdict.WARN: ("warning", ":material/warning:", "orange"),
    Verdict.FAIL: ("failed", ":material/close:", "red"),
    Verdict.SKIP: ("not checked", ":material/remove:", "gray"),
}
CHIP_COLOURS = {"✓": "green", "○": "orange", "◐": "orange", "×": "red", "!": "orange"}


def phase_badge(service: Service) -> None:
    """A service's phase in word, shape and colour; green only when verified."""
    word, icon, colour = _PHASE_BADGE[service.phase]
    if service.phase is Phase.READY:
        word, icon, colour = (
            ("verified", ":material/verified:", "green")
            if service.verified
            else ("ready, not verified", ":material/radio_button_unchecked:", "orange")
        )
    if service.phase is Phase.READY and service.asleep:
        word, icon, colour = "asleep", ":material/bedtime:", "gray"
    if service.gone:
        word, icon, colour = "deleted", ":material/delete:", "red"
    st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]  # literals from the table


def state_column(label: str, rows: Sequence[Row], field: str) -> Any:  # noqa: ANN401 - as above
    """A column of state words as chips, coloured by their shape."""
    options = sorted({option for row in rows for option in row[field]})
    colours = [CHIP_COLOURS.get(option[:1], "gray") for option in options]
    return st.column_config.MultiselectColumn(label, options=options, color=colours)


def chips_column(label: str, rows: Sequence[Row], field: str) -> Any:  # noqa: ANN401 - as above
    """A column of neutral chips."""
    options = sorted({option for row in rows for option in row[field]})
    # The grid sizes such a column by its heading and cuts the chips: some 8 px a letter, 26 a chip.
    widest = max((sum(8 * len(chip) + 26 for chip in row[field]) for row in rows), default=0)
    return st.column_config.MultiselectColumn(
        label,
        options=options,
        color=["blue"] * len(options),
        width=min(max(widest + 16, 90), 280),
    )


def facts(pairs: Mapping[str, str]) -> None:
    """Labelled facts side by side, each value literal."""
    with st.container(horizontal=True, gap="large"):
        for label, value in pairs.items():
            with st.container(width="content", gap=None):
                st.caption(literal(label))
                st.text(value or "–")


def findings(found: Sequence[Finding]) -> None:
    """Checks as a list: state, what was looked at, what was seen, what to do."""
    for finding in words.by_gravity(found):
        word, icon, colour = _VERDICT_BADGE[finding.verdict]
        state, said = st.columns([1, 5], vertical_alignment="top")
        with state:
            st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]  # as above
        with said, st.container(gap=None):
            st.text(f"{one_line(finding.name)}: {one_line(finding.detail, 1000)}")
            if finding.fix and finding.verdict is not Verdict.PASS:
                fix_line(finding.fix)


# ── Choosing ──────────────────────────────────────────────────────────────────────────────────


def from_url(name: str) -> str:
    """A value of the URL; "" when it is not there."""
    return str(st.query_params.get(name, ""))


def into_url(**values: object) -> None:
    """Put values into the URL; None takes one out."""
    for name, value in values.items():
        if value is None or value == "":
            st.query_params.pop(name, None)
        else:
            st.query_params[name] = str(value)


def gone(value: str, what: str) -> None:
    """Say that a value of the URL is not there (any more)."""
    st.info(f"There is no {what} {literal(value, 80)} here.", icon=":material/link_off:")


def table(
    rows: Sequence[Row],
    columns: Mapping[str, Any],
    *,
    key: str,
    choose: str = "",
    param: str = "",
    many: bool = False,
    height: int | None = None,
    alt: str = "",
) -> None:
    """Rows as a table. With `choose` (a column) and `param`, the chosen row stands in the URL.

    `many` lets two rows be chosen; the URL then has `3,2`.
    """
    options: dict[str, Any] = {
        "hide_index": True,
        "placeholder": "",
        "column_config": columns,
        "alt": alt or None,
    }
    if height is not None:
        options["height"] = height
    if not choose:
        st.dataframe(rows, key=key, **options)
        return
    names = [str(row[choose]) for row in rows]
    wanted = from_url(param).split(",")
    widget = _table_key(key, names, [one for one in wanted if one in names])

    def chosen() -> None:
        selected = st.session_state[widget].selection.rows
        into_url(**{param: ",".join(names[at] for at in selected[-2:] if at < len(names))})

    st.dataframe(
        rows,
        key=widget,
        on_select=chosen,
        selection_mode="multi-row" if many else "single-row",
        selection_default={
            "selection": {"rows": [names.index(one) for one in wanted if one in names]}
        },
        **options,
    )


def _table_key(key: str, names: Sequence[str], wanted: Sequence[str]) -> str:
    """A table's key: another one where what is ticked is not what the URL says.

    That is so after the browser's way back, and after a third tick where two are shown: a table
    cannot be told to take a tick away, but a new one begins with those of the URL.
    """
    # A filter changes what stands in which row: the selection belongs to these very rows.
    these, turn_key = f"{key}-{hash(tuple(names))}", f"{key}-turn"
    turn = st.session_state.get(turn_key, 0)
    state = st.session_state.get(f"{these}-{turn}")
    if state is not None:
        ticked = {names[at] for at in state.selection.rows if at < len(names)}
        turn += ticked != set(wanted)
        st.session_state[turn_key] = turn
    return f"{these}-{turn}"


def _keep(name: str, then: Callable[[], None] = lambda: None) -> None:
    into_url(**{name: st.session_state[name]})
    then()


def picker(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    index: int | None = 0,
    then: Callable[[], None] = lambda: None,
    **more: Any,  # noqa: ANN401 - passed on
) -> str | None:
    """A select box that stands in the URL; a value that is gone is said and left out.

    `then` runs after a visitor picked another one.

    Not by Streamlit's own binding: what is bound on one page cannot be handed to another one, whose
    URL has the same name (streamlit/runtime/state/query_params.py, `update` and
    `populate_from_query_string`).
    """
    asked = from_url(key)
    if asked and asked not in options:
        gone(asked, label.lower())
    default = options[index] if index is not None and index < len(options) else None
    st.session_state[key] = asked if asked in options else default
    clearable = None if index is None else 0
    chosen: str | None = st.selectbox(
        label, options, index=clearable, key=key, on_change=_keep, args=(key, then), **more
    )
    return chosen


def text_in_url(label: str, *, key: str, default: str = "", **more: Any) -> str:  # noqa: ANN401 - passed on
    """A text field that stands in the URL, and for which another page may bring a value."""
    st.session_state[key] = from_url(key) or default
    return str(st.text_input(label, key=key, on_change=_keep, args=(key,), **more) or "")


def number_in_url(
    label: str,
    low: int,
    high: int,
    default: int,
    step: int,
    *,
    key: str,
    **more: Any,  # noqa: ANN401 - passed on
) -> int:
    """A whole number that stands in the URL; one that cannot be, there, is left out."""
    asked = from_url(key)
    fits = asked.isascii() and asked.isdigit() and low <= int(asked[:9]) <= high
    st.session_state[key] = int(asked[:9]) if fits else default
    return int(
        st.number_input(label, low, high, step=step, key=key, on_change=_keep, args=(key,), **more)
    )


def choice(
    label: str,
    labels: Mapping[str, str],
    *,
    name: str,
    key: str = "",
    default: str | None = None,
    widget: Callable[..., Any] = st.selectbox,
    told: bool = True,
    **more: Any,  # noqa: ANN401 - passed on
) -> str | None:
    """One of the keys of `labels`, drawn by its label; the key itself stands in the URL as `name`.

    Streamlit's own binding would write the label, which changes with aliases and wording. Only a
    visitor's own choice changes what the URL says: what cannot be chosen for a moment, because a
    list is being read anew, is chosen again when it can. `told` says that it is not there.
    """
    key = key or name
    asked = from_url(name)
    if asked and asked not in labels:
        if told:
            gone(asked, label.lower())
        default = None  # a link that points to nothing chooses nothing else in its place
    st.session_state[key] = asked if asked in labels else default
    if widget is st.selectbox:
        more = {"index": None} | more

    def keep() -> None:
        into_url(**{name: st.session_state[key]})

    chosen: str | None = widget(
        label,
        list(labels),
        format_func=lambda one: labels.get(one, one),
        key=key,
        on_change=keep,
        **more,
    )
    if chosen and not asked:
        into_url(**{name: chosen})
    return chosen


# ── Pieces of pages ───────────────────────────────────────────────────────────────────────────


def headline(sentence: str, *, width: Literal["stretch", "content"] = "stretch") -> None:
    """The answer first: a page's opening sentence, names in it literal."""
    st.markdown(f"### {literal(sentence, 600)}", anchors=False, width=width)


def section(title: str) -> None:
    """A part of a page."""
    st.markdown(f"##### {literal(title)}", anchors=False)


def name_of(title: str) -> None:
    """The name of a box, in a row with other things."""
    st.markdown(f"**{literal(title)}**", width="content")


def empty(title: str, text: str, command: str = "") -> DeltaGenerator:
    """A place with nothing in it yet, and the next step; gives where a button may go."""
    box = st.container(border=True, horizontal_alignment="left")
    with box:
        st.markdown(f"**{literal(title)}**")
        st.text(text)
        if command:
            st.code(command, language="bash")
    return box


def go(label: str, page: str, *, key: str, primary: bool = False, **params: object) -> None:
    """A button that opens another page with these values in its URL."""
    if st.button(literal(label), key=key, type="primary" if primary else "secondary"):
        open_page(page, **params)


def open_page(page: str, **params: object) -> None:
    """Open another page with these values in its URL, on the same target."""
    values = {"target": wiring.target()} | {k: str(v) for k, v in params.items() if v is not None}
    st.switch_page(PAGES / f"{page}.py", query_params=values)


def service_table(rows: Sequence[Row], *, key: str, param: str) -> None:
    """Services as a table; the chosen one stands in the URL."""
    table(
        rows,
        {
            "service": "Service",
            "state": state_column("State", rows, "state"),
            "answers": st.column_config.TextColumn("Answers"),
            "wanted": st.column_config.TextColumn("Wanted"),
            "aliases": chips_column("Aliases", rows, "aliases"),
            "since": time_column("Since"),
            "by": st.column_config.TextColumn("By"),
            "release": st.column_config.NumberColumn("Release", width="small"),
            "address": st.column_config.TextColumn("Address"),
        },
        key=key,
        choose="service",
        param=param,
        alt="Services",
    )
    st.caption("Tick the box before a service to open it: its traffic, history and logs.")


def audit_table(entries: Sequence[AuditEntry], *, key: str) -> None:
    """Audit entries as a table; choosing one opens its service."""
    rows = [{**row, "outcome": [row["outcome"]]} for row in words.audit_rows(entries)]

    def chosen() -> None:
        for at in st.session_state[key].selection.rows:
            st.session_state["opened"] = at

    st.dataframe(
        rows,
        key=key,
        hide_index=True,
 placeholder="",
        on_select=chosen,
        selection_mode="single-row",
        height=620 if len(rows) > _ROWS_OPEN else "auto",
        alt="Changes, newest first",
        column_config={
            "at": time_column("When"),
            "by": "By",
            "action": "Action",
            "service": "Service",
            "target": "Target",
            "from": "From",
            "to": "To",
            "outcome": state_column("Outcome", rows, "outcome"),
            "reason": "Reason",
            "detail": "Detail",
            "release": st.column_config.NumberColumn("Release", width="small"),
            "origin": "Origin",
        },
        column_order=[
            "at", "by", "action", "service", "to", "outcome", "reason", "from", "release", "detail",
            "target", "origin",
        ],
    )  # fmt: skip
    opened = st.session_state.pop("opened", None)
    if opened is not None and opened < len(entries):
        entry = entries[opened]
        open_page("endpoints", service=entry.service, target=entry.target)


def first_steps(models: Look[tuple[RegisteredModel, ...]]) -> None:
    """The three steps to the first prediction, the next one as a button."""
    known = models.value or ()
    with st.container(border=True):
        st.markdown("**Three steps to the first prediction**")
        st.text(f"{'✓' if known else '1'}  Register a model in MLflow.")
        st.text("2  Deploy one of its versions.")
        st.text("3  Send it a request on the Predict page.")
        if models.error is not None:
            error_box(models.error, warning=True)
        if known:
            go("Choose a version to deploy", "models", key="choose", primary=True)
        elif models.value is not None:
            st.text("There is no registered model yet. Train and register a few real ones:")
            st.code("slipway demo", language="bash")
        else:
            st.caption("Looking for registered models…")


def services_headline(seen: Look[tuple[Service, ...]]) -> None:
    """What runs on the target, and of when that is where it does not answer now."""
    last_seen = moment(seen.at) if seen.stale else ""
    headline(words.overview_sentence(wiring.target(), seen.value, last_seen=last_seen))


def refresh_services(services: Sequence[Service]) -> None:
    """Draw a list of services again by itself: soon while one is under way, else now and then."""
    rolling = any(service.phase is Phase.ROLLING_OUT for service in services)
    refresh_every(ROLLING_S if rolling else SETTLED_S)


def refresh_every(seconds: float) -> None:
    """Draw the page again after a while."""
    drawn: list[bool] = []

    @st.fragment(run_every=seconds, key="refresh")
    def again() -> None:
        if drawn:
            st.rerun()
        drawn.append(True)

    again()


def lines(found: Iterable[str], *, height: int = 380) -> None:
    """Log lines, literal, in a box of their own."""
    st.code("\n".join(found) or "Nothing yet.", language=None, height=height)


def tabs_lazy(names: Sequence[str], *, key: str) -> Sequence[Any]:
    """Tabs of which only the open one is read; the open one stands in the URL."""
    return st.tabs(names, key=key, bind="query-params")


def place_line() -> None:
    """Target picker and where one stands, on every page."""
    names = wiring.targets()
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        picker("Target", names, key="target", label_visibility="collapsed", width=200)
        where = wiring.place()
        if not where.server:
            _run.awaited = True  # it stands here as soon as the target has said it
        parts = [
            f"kind {where.kind}",
            f"namespace {where.namespace}" if where.namespace else "",
            f"server {where.server}" if where.server else "",
            f"as {where.actor}",
        ]
        st.caption(literal(" · ".join(filter(None, parts)), 400), width="content")
        if where.protected:
            st.badge("protected", icon=":material/lock:", color="orange")
    if wiring.outdated():
        st.warning(
            "Slipway's own files changed after this dashboard started. Start it again, so that its"
            " parts fit each other.",
            icon=":material/restart_alt:",
        )
