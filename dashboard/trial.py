"""The load tests of the Predict page: asked for, watched while they run, and cold starts.

Figures are computed in `services.latency`, charts in `dashboard.charts`; this module only arranges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

import streamlit as st

from dashboard import charts, report, widgets, wiring, words
from dashboard.answers import Answer, is_asleep
from dashboard.asking import Whom, addressed, answers_to, sides_of, starting_points
from dashboard.coldstarts import ColdStart
from dashboard.loadtests import LoadTest
from services import bench, changeover, coldstart, difference, latency
from services.domain import (
    InferRequest,
    Intent,
    Load,
    LoadMode,
    LoadSummary,
    Mode,
    Objective,
    Percentiles,
    Protocol,
    Service,
    Tick,
    WayIn,
)
from services.errors import NotDeployable, SignatureMismatch
from services.ports import Ops, Run

LOOK_EVERY_S = 1.0
"""How often a running load test is looked at: as often as there is a new point. Twice as often
would show it a quarter of a second earlier on average, and cost the machine twice as much."""
END_WITHIN_S = 0.8
"""So long a drawing waits for the end of a test that was told to stop: the engine takes half a
second. What is drawn before the end would stand until the next look, a second later."""
SPREAD_EVERY = 3
"""So many seconds lie between two drawings of how a running test's times are spread."""
_PRESSED_TWICE_S = 3.0
"""A load test that began so lately was begun by the first of two presses."""
MOST_LAID = 6
"""Runs over each other: more cannot be told apart."""


_MODES: Mapping[str, str] = {
    LoadMode.BURST: "a burst: N requests, C at a time",
    LoadMode.STEADY_RATE: "a steady rate: R per second, whatever the answers do",
}


class _Pace(NamedTuple):
    """How fast, how much and how long; a burst has no `rate`."""

    seconds: int
    rate: int = 0
    requests: int = 1_000_000
    at_once: int = 64

    def __str__(self) -> str:
        if self.rate:
            return f"{self.rate} per second for {self.seconds} s"
        requests = words.counted(self.requests, "request")
        return f"{requests} within {self.seconds} s, {self.at_once} at a time"


def _pace_asked(mode: LoadMode) -> _Pace:
    first, second, third = st.columns(3)
    # First, in both modes: what stays where it is keeps what was typed, and does not jump.
    seconds = int(first.number_input("For at most, seconds", 1, 3_600, 15, key="seconds"))
    if mode is LoadMode.STEADY_RATE:
        rate = second.number_input("Requests per second", 1, 20_000, 20, key="rate")
        return _Pace(seconds, rate=int(rate))
    count = second.number_input("Requests", 1, 1_000_000, 2_000, key="count")
    at_once = third.number_input("At a time", 1, 256, 4, key="concurrency")
    return _Pace(seconds, requests=int(count), at_once=int(at_once))


def load_form(ops: Ops, service: Service) -> None:
    """Ask for a burst or a steady rate and begin it; the example, or the last request, is sent."""
    way = widgets.glanced(wiring.way_in(service.name))
    _hop(way.via if way else None, "The requests would be measured by way of")
    st.caption(widgets.literal(_repeated(service)))
    # Outside the form: it decides what the form asks.
    asked_mode = widgets.choice(
        "Again, as", _MODES, name="mode", default=LoadMode.BURST, widget=st.radio
    )
    mode = LoadMode(asked_mode or LoadMode.BURST)
    with st.form("load", border=True):
        pace = _pace_asked(mode)
        warm, rows, side, ceiling = st.columns(4)
        warm_s = warm.number_input("Warm-up, seconds", 0, 60, 1, key="warm_up")
        rows_each = rows.number_input(
            "Rows per request (0: as it was sent)", 0, 100_000, 0, key="rows_each"
        )
        sides = {
            "all of its traffic" if name == "any" else name: whom[0]
            for name, whom in sides_of(service).items()
            if len(whom) == 1
        }
        most_failures = ceiling.number_input(
            "Stop after failures", 0, 1_000_000, 1_000, key="max_errors"
        )
        asked_side = side.selectbox("Ask", list(sides), key="load_side")
        slo, errors = st.columns(2)
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
        st.caption("The objective is kept for the service: `slipway bench` is judged by it, too.")
        kept = [text for text in list(starting_points(service).values())[1:] if text]
        turns = bool(kept) and st.toggle(
            f"Take turns with the {words.counted(len(kept), 'request')} kept as"
            f" {'an example' if len(kept) == 1 else 'examples'}",
            key="turns",
        )
        began = st.form_submit_button("Start the load test", key="start_load")
    if not began:
        return
    running = wiring.load_tests().running_on(service.name)
    if running and (datetime.now(UTC) - running.started_at).total_seconds() < _PRESSED_TWICE_S:
        widgets.into_url(test=running.id)  # a second press on the same button
        return
    whom = sides.get(asked_side or "", Whom(service.name))
    endpoint = ops.serving.endpoint(whom.service, whom.release)
    prepared = [_load_request(service, rows_each)]
    prepared += _kept_requests(service, kept if turns else (), rows_each)
    load = Load(
        endpoint=endpoint,
        requests=tuple(addressed(one, service.name, endpoint.model_name) for one in prepared),
        mode=mode,
        duration_s=float(pace.seconds),
        rate=float(pace.rate) if pace.rate else None,
        concurrency=pace.at_once,
        max_requests=pace.requests,
        warm_up_s=float(warm_s),
        max_errors=int(most_failures),
        objective=Objective(
            p99_s=slo_ms / 1000 if slo_ms else None,
            error_ratio=errors_percent / 100 if errors_percent else None,
        ),
    )
    _keep_promise(ops, service, promised, load.objective)
    version, release = _answering(service, whom)
    cold_start_s = _woken(ops, load, service)
    taking = [str(side.version or f"release {side.release}") for side in service.answering]
    told = " + ".join(taking) if whom.release is None and len(taking) > 1 else version
    label = f"{told}, {pace}"
    if whom.release is not None:
        label += f", release {whom.release} alone"
    if rows_each:
        label += f", {words.counted(int(rows_each), 'row')} each"
    if cold_start_s is not None:
        label += f", after a cold start of {words.latency_words(cold_start_s)}"

    who = wiring.actor()  # asked here: the thread that saves the run belongs to no session

    def run(summary: LoadSummary) -> Run:
        measured, measured_release = latency.recorded_as(summary, version, release)
        return Run(
            id=None,
            name=label,
            actor=who,
            created_at=datetime.now(UTC).isoformat(),
            target=ops.target,
            namespace=ops.namespace,
            service=service.name,
            release=measured_release,
            version=measured,
            settings=report.settings_text(load, cold_start_s, side=whom.release),
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
    """What was promised of this service; the first is False while it is still being read."""
    kept = widgets.glanced(wiring.objective(service.name))
    return kept is not None, kept or Objective()


def _keep_promise(ops: Ops, service: Service, before: Objective, now: Objective) -> None:
    if now == before:
        return
    ops.store.keep_objective(ops.target, ops.namespace, service.name, now)
    wiring.forget_reads()


def _answering(service: Service, whom: Whom) -> tuple[str, int | None]:
    """The version and the release that a load test is recorded under."""
    for side in service.answering:
        if whom.release is not None and side.release == whom.release:
            return str(side.version or "?"), side.release
    version = service.intent.version if service.intent else None
    return str(version or "?"), service.release


def _woken(ops: Ops, load: Load, service: Service) -> float | None:
    """Wake a service that sleeps: its cold start is no part of the figures. The seconds it took."""
    if service.mode is not Mode.KNATIVE or not is_asleep(ops, Whom(service.name)):
        return None
    with st.spinner("Waking it first…"):
        return coldstart.wake(ops.predictor, load.endpoint, load.requests[0]).timing.total_s


def _answered_last(service: Service) -> Answer | None:
    """The newest request of this session that got a prediction."""
    groups = answers_to(service.name)
    return next((group[0] for group in groups if group[0].prediction is not None), None)


def _repeated(service: Service) -> str:
    """Which request a load test would repeat, in words."""
    groups, last = answers_to(service.name), _answered_last(service)
    failed = (
        "The request sent last got no prediction. " if groups and groups[0][0] is not last else ""
    )
    if last is None:
        if service.intent is None or service.intent.example is None:
            return f"{failed}There is nothing to repeat yet: send one request first."
        by = words.protocol_words(service.speaks)
        return f"{failed}The version's input example is sent, by {by}."
    sent = last.request
    which = "the newest one that got one" if failed else "the request sent last"
    return f"{failed}Repeats {which}: {words.request_words(sent.protocol, sent.rows)}."


def _load_request(service: Service, rows_each: int = 0) -> InferRequest:
    """The last request that was sent from this session, else the version's example.

    `rows_each`: its rows, over and over until there are so many; 0 for as many as it has.
    """
    if (answer := _answered_last(service)) is not None:
        sent = answer.request
        return _with_rows(service, answer.rows, sent.protocol, rows_each) or sent
    intent: Intent | None = service.intent
    if intent is None or intent.example is None:
        so_far = "that was sent got a prediction" if answers_to(service.name) else "was sent yet"
        raise NotDeployable(
            f"There is nothing to send to {service.name}. No load was started.",
            why=f"Its version has no input example, and no request {so_far}.",
            fix="Send one request first; the load test repeats it.",
        )
    return _example_request(service, intent.example, rows_each)


def _example_request(service: Service, text: str, rows_each: int) -> InferRequest:
    """The request of an example, as the service's server speaks. SignatureMismatch."""
    signature = service.intent.signature if service.intent else None
    return _with_rows(service, text, service.speaks, rows_each) or bench.request_for_example(
        signature, text, model_name=service.name, protocol=service.speaks
    )


def _with_rows(
    service: Service, text: str, protocol: Protocol, rows_each: int
) -> InferRequest | None:
    """The request of these rows, repeated; None when they shall stay as they are."""
    if not rows_each:
        return None
    signature = service.intent.signature if service.intent else None
    rows = bench.repeated(bench.example_rows(signature, text), rows_each)
    return bench.request_for(signature, rows, model_name=service.name, protocol=protocol)


def _kept_requests(
    service: Service, texts: Sequence[str], rows_each: int
) -> tuple[InferRequest, ...]:
    """The requests of examples; those that fit another version's signature only are left out."""
    made = []
    for text in texts:
        with suppress(SignatureMismatch):
            made.append(_example_request(service, text, rows_each))
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
            "Measured": widgets.moment(newest.at),
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
    ticking = test.running
    st.fragment(live_panel, run_every=LOOK_EVERY_S if ticking else None)(test.id, ticking=ticking)


def live_panel(test_id: str, *, ticking: bool = False) -> None:
    """One load test as it stands: figures and charts, and while it runs a stop button.

    `ticking`: whether this is drawn again by itself.
    """
    test = wiring.load_tests().test(test_id)
    if test is None:
        return
    widgets.section("Load test")
    st.text(test.label)
    _hop(test.via, "Measured by way of")
    if test.running:
        test = _under_way(test)
    if test.error is not None:
        widgets.error_box(test.error)
    _figures(test)
    _time_charts(test)
    if test.running or st.session_state.get("load_seen") == test_id:
        return
    if ticking and st.session_state.get("load_end_drawn") != test_id:
        # The end first, in place: what is drawn in the same run as a rerun is asked for may never
        # reach the browser, and the whole page takes its time. The next tick asks for it.
        st.session_state["load_end_drawn"] = test_id
        return
    # The whole page once more: the stored run appears below, laid over those that were chosen
    # there, and the ticking ends.
    st.session_state["load_seen"] = test_id
    if test.run_id is not None:
        wiring.forget_reads()
        stored = str(test.run_id)
        # In a session that comes back to it, the run is among them already.
        before = [part for part in widgets.from_url("runs").split(",") if part not in {"", stored}]
        widgets.into_url(runs=",".join([*before[-MOST_LAID + 1 :], stored]))
    st.rerun()


def _under_way(test: LoadTest) -> LoadTest:
    """How far a running test is, and its stop button; the test as it is after that was drawn."""
    tests = wiring.load_tests()
    done_s = test.ticks[-1].at_s if test.ticks else 0.0
    share = min(max(done_s, 0) / max(test.duration_s, 1), 1.0)
    if test.stop_asked_at is None:
        st.progress(share, text=f"{done_s:.0f} s")
        # By callback: what it does is done before the panel, which may take a while, is drawn.
        st.button("Stop", key="stop_load", on_click=tests.stop, args=(test.id,))
        return test
    bar, place = st.progress(share, text="Stopping…"), st.empty()
    place.button("Stop", key="stop_load", disabled=True)
    test = tests.ended(test.id, END_WITHIN_S) or test
    if not test.running:
        bar.empty()
        place.empty()
    return test


def _time_charts(test: LoadTest) -> None:
    if not any(not tick.warm_up for tick in test.ticks):
        st.caption(
            "It is warming up: nothing is measured yet."
            if test.ticks
            else "The first second is being measured."
        )
        return
    if test.summary is not None and not test.summary.ok:
        return  # charts of nothing say nothing
    by_second(test.ticks, test.began_at, test.objective, key=test.id)
    left, right = st.columns(2)
    bars = test.summary.histogram if test.summary else test.histogram
    if bars:
        # How it is spread changes slowly: a look every third second is enough while it runs.
        at = -1 if test.summary else len(test.ticks) // SPREAD_EVERY
        with left:
            _drawn_once(f"spread-{test.id}", (at,), lambda: charts.histogram({"this run": bars}))
    with right:
        _answerers(test)


def _answerers(test: LoadTest) -> None:
    """Who answered: a sentence for one version; for several their figures beside each other."""
    answered = changeover.totals(test.ticks)
    total = sum(answered.values())
    if len(answered) == 1:
        answers = f"All {total:,} answers" if total > 1 else "The one answer"
        st.caption(widgets.literal(f"{answers} came from {next(iter(answered))}."))
    by_version = test.summary.response_by_version if test.summary else {}
    if len(answered) < 2:
        return
    st.caption("Who answered")
    known = {changeover.who_words(who): found for who, found in by_version.items()}
    st.dataframe(
        [
            {
                "version": who,
                "answers": count,
                "share": f"{count / total:.0%}",
                **(percentile_cells(known[who]) if who in known else {}),
            }
            for who, count in answered.items()
        ],
        hide_index=True,
        alt="Answers by version",
    )
    if test.summary is not None:
        versions_compared(wiring.version_comparisons(test.summary, ""))


def versions_compared(found: Sequence[difference.VersionComparison]) -> None:
    """The versions of one run against each other, in words."""
    for one in found:
        st.info(widgets.literal(one.found.verdict, 1_000), icon=":material/compare_arrows:")
    for warning in difference.warnings_of(one.found for one in found):
        st.caption(widgets.literal(warning, 1_000))


def percentile_cells(found: Percentiles) -> dict[str, str]:
    """The figures of a run or a version as cells of a table."""
    return {
        "p50": words.latency_words(found.p50),
        "p95": words.latency_words(found.p95),
        "p99": words.latency_words(found.p99),
        "max": words.latency_words(found.max),
    }


def by_second(
    ticks: Sequence[Tick], began_at: datetime | None, objective: Objective, *, key: str
) -> None:
    """A test's course: response times and rates by second, marked where the version changed."""
    measured = [tick for tick in ticks if not tick.warm_up]
    if not measured:
        return
    changes = changeover.changeovers(measured)
    clock = began_at.astimezone(widgets.zone()) if began_at else None
    for change in changes[-charts.MOST_MARKS :]:
        told = widgets.literal(changeover.sentence(change, clock), 300)
        st.info(told, icon=":material/swap_horiz:")
    state = (len(measured), measured[-1].at_s, clock, objective.p99_s)
    left, right = st.columns(2)
    with left:
        _drawn_once(
            f"response-{key}",
            state,
            lambda: charts.marked(
                charts.response_over_time(measured, slo_s=objective.p99_s), changes, clock
            ),
        )
    with right:
        _drawn_once(
            f"rate-{key}",
            state,
            lambda: charts.marked(charts.rate_over_time(measured), changes, clock),
        )


def _drawn_once(key: str, state: tuple[object, ...], make: Callable[[], charts.Chart]) -> None:
    """A chart, made anew when `state` changes.

    Most looks at a running test find nothing new, and every tab that looks at it draws the same,
    but for its theme.
    """
    theme = st.context.theme.type
    held = _made.get((key, theme))
    if held is None or held[0] != state:
        chart = make()
        held = (state, charts.option(chart, theme=theme), chart.said)
        if len(_made) >= _MOST_MADE:
            _made.clear()
        _made[key, theme] = held
    _, option, said = held
    st.echarts_chart(option, height=charts.HEIGHT_PX, alt=said, key=key)


def drawn(chart: charts.Chart, *, key: str) -> None:
    """A chart that stays as it is."""
    option = charts.option(chart, theme=st.context.theme.type)
    st.echarts_chart(option, height=charts.HEIGHT_PX, alt=chart.said, key=key)


_made: dict[tuple[str, str | None], tuple[tuple[object, ...], charts.Option, str]] = {}
_MOST_MADE = 32


def _figures(test: LoadTest) -> None:
    """The figures of the run so far, and of the whole once it is over."""
    summary = test.summary
    response = summary.response if summary else test.so_far
    if response is None:
        return
    failures: Counter[str] = Counter(summary.errors if summary else {})
    for tick in () if summary else test.ticks:
        failures.update(tick.errors)
    when = "" if summary else " so far"
    columns = st.columns(5)
    values = {"p50": response.p50, "p95": response.p95, "p99": response.p99, "max": response.max}
    for column, (name, value) in zip(columns, values.items(), strict=False):
        told = words.latency_words(value) or "too few"
        column.metric(f"{name}{when}", told)
    columns[4].metric(f"Failures{when}", f"{failures.total():,}")
    if response.max is not None and (response.p95 is None or response.p99 is None):
        st.caption(
            "A percentile needs ten answers behind it to be more than one request's luck:"
            " p50 needs 20 answers, p95 200, p99 1,000."
        )
    if summary is not None:
        _judged(summary)
    if summary is not None and failures:
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
