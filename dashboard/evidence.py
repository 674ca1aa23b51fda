"""What a service leaves behind: its history, logs, events and manifest. Panels: they only read."""

from __future__ import annotations

import streamlit as st

from dashboard import operations, widgets, wiring, words
from services.domain import LogLine, Service, TargetKind
from services.errors import one_line

_DEFAULT, _ALL = "Initializer and model server", "Every container"
_FOLLOW_S = 2.0
"""A log that is followed is read again so often."""


def tabs(service: Service) -> None:
    """History, logs, events and manifest; only the open one is read.

    Of a service that is gone the history is all that is left.
    """
    if service.gone:
        widgets.section("History")
        with widgets.errors_shown():
            history_table(service.name, service)
        return
    history, logs, events, manifest = st.tabs(
        ["History", "Logs", "Events", "Manifest"], key="tab", bind="query-params"
    )
    if history.open:
        with history, widgets.errors_shown():
            history_table(service.name, service)
    if logs.open:
        with logs, widgets.errors_shown():
            _logs(service.name)
    if events.open:
        with events, widgets.errors_shown():
            found = widgets.looked(wiring.events(service.name), "events")
            if found is not None:
                widgets.lines(_log_text(line) for line in found)
    if manifest.open:
        with manifest, widgets.errors_shown():
            text = widgets.looked(wiring.manifest(service.name), "the manifest")
            if text is not None:
                st.caption(
                    "What it is wanted to be, as the next deploy of the same would write it: with"
                    " the next release's number."
                )
                st.code(text, language="yaml")


def history_table(name: str, service: Service | None = None) -> None:
    """A service's releases; choosing one plans the way back to it."""
    releases = widgets.looked(wiring.history(name), f"the history of {name}")
    if releases == ():
        st.caption("No release yet.")
    if not releases:
        return
    rows = words.release_rows(releases, service.answering if service else ())
    rows = [{**row, "outcome": [row["outcome"]]} for row in rows]
    key = f"history-{name}-{len(rows)}"

    def chosen() -> None:
        for at in st.session_state[key].selection.rows:
            operations.plan("rollback", rows[at]["release"])

    st.dataframe(
        rows,
        key=key,
        hide_index=True,
        placeholder="",
        on_select=chosen if service else "ignore",
        selection_mode="single-row",
        alt=f"Releases of {name}, newest first",
        column_config={
            "release": st.column_config.NumberColumn("Release", width="small"),
            "version": "Version",
            "action": "Action",
            "outcome": widgets.state_column("Outcome", rows, "outcome"),
            "answers": "Answers",
            "by": "By",
            "reason": "Reason",
            "at": widgets.time_column("At"),
            "took": "Took",
        },
    )
    if service:
        st.caption("Choose a release to plan the way back to it.")


def _logs(name: str) -> None:
    follow = bool(st.session_state.get("follow", widgets.from_url("follow").lower() == "true"))

    # Alone, so that the page keeps its place while it is followed.
    @st.fragment(run_every=_FOLLOW_S if follow else None, key=f"log-{name}")
    def panel() -> None:
        if follow:
            wiring.begin_run(0.9)
        with widgets.errors_shown():
            if _log_drawn(name) != follow:
                st.rerun()  # the whole page: only that begins the following, or ends it

    panel()


def _log_drawn(name: str) -> bool:
    """Draw the log, and give whether it is to be followed."""
    here = wiring.ops().kind is TargetKind.LOCAL
    with st.container(horizontal=True, vertical_alignment="bottom"):
        container = None
        if not here:
            known = widgets.glanced(wiring.containers(name)) or ()
            part = widgets.choice(
                "Container", {each: each for each in known} | {"all": _ALL},
                name="container", width=240, placeholder=_DEFAULT, told=bool(known),
            )  # fmt: skip
            container = "" if part == "all" else part
        previous = st.toggle("Previous instance", key="previous", bind="query-params")
        follow = st.toggle("Follow", key="follow", bind="query-params")
        look = wiring.logs(name, container=container, previous=previous)
        found = look.value or ()
        sources = sorted({line.source for line in found})
        source = widgets.choice(
            "Process" if here else "Pod", {each: each for each in sources},
            name="source", width=320, placeholder="All of them",
        )  # fmt: skip
        needle = st.text_input("Filter", key="filter", bind="query-params", width=240)
        shown = [
            line
            for line in found
            if needle.lower() in line.text.lower() and source in (None, line.source)
        ]
        text = [_log_text(line) for line in shown]
        st.download_button(
            "Download",
            "\n".join(text),
            file_name=f"{name}.log",
            mime="text/plain",
            key="download_log",
            on_click="ignore",
        )
        st.button("Read again", key="read_log", on_click=wiring.forget_reads)
    if widgets.looked(look, "the log") is not None:
        of_each = "process" if here else "container"
        said = f"The last {wiring.LOG_LINES} lines of each {of_each} at most."
        if len({line.source for line in shown}) == 1:  # once above, not on every line
            st.caption(widgets.literal(f"Of {shown[0].source}."))
            text = [_log_text(line, sourced=False) for line in shown]
        if found:
            widgets.lines(text)
        else:
            st.text(words.no_lines(previous=previous))
        st.caption(said)
    return follow


def _log_text(line: LogLine, *, sourced: bool = True) -> str:
    mark = "! " if line.warning else ""
    at = f"{widgets.moment(line.time)} " if line.time else ""
    source = f"{one_line(line.source, 64)}  " if sourced else ""
    return f"{at}{source}{mark}{one_line(line.text, 2000)}"
