"""One service as the pages draw it: a plan to confirm, a roll-out, traffic, history, logs.

Used by Deploy and Endpoints. Buttons write, panels read. What is chosen beside a version is in
`options`, what a service leaves behind in `evidence`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import streamlit as st

from dashboard import options, versions, views, widgets, wiring, words
from dashboard.reads import Look
from dashboard.worker import Operation, State
from services import lineage, planning, preparing, settings
from services.domain import (
    Action,
    Cause,
    Endpoint,
    Outcome,
    Phase,
    Plan,
    Progress,
    Release,
    Service,
    Step,
    StepState,
    TargetKind,
    Verdict,
    after_failure,
)
from services.errors import one_line

MOST_REQUESTS = 2_000
_EVIDENCE_LINES = 20
_EVIDENCE_SHOWN = 6
"""So many lines stand open; more are folded."""
_NOTED_S = 900.0
"""What was not carried out is told for so long; the audit keeps it."""
_BAD = {Outcome.FAILED, Outcome.TIMEOUT, Outcome.NOT_APPLIED}


# ── Plans ─────────────────────────────────────────────────────────────────────────────────────


def plan_shown(made: preparing.Prepared, checked_at: datetime | None) -> None:
    """A plan before it is confirmed: what changes, what was checked, what would be sent."""
    plan = made.plan
    before = words.intent_words(plan.before) if plan.before else "nothing"
    after = words.intent_words(plan.after) if plan.after else "nothing"
    with st.container():
        widgets.facts({"Service": plan.service, "Wanted now": before, "Wanted after": after})
        rows = words.change_rows(plan.changes)
        if rows:
            st.dataframe(
                rows,
                hide_index=True,
                placeholder="",
                alt="What the plan changes",
                column_config={"field": "Field", "now": "Wanted now", "after": "Wanted after"},
            )
        label = f"Checks: {words.findings_sentence(made.findings)}"
        attention = any(f.verdict in {Verdict.WARN, Verdict.FAIL} for f in made.findings)
        with st.expander(label, expanded=attention):
            widgets.findings(made.findings)
            widgets.when(checked_at, "Checked ")
        with st.expander("What is sent to the target"):
            st.code(made.manifest, language="yaml")
            if wiring.ops().kind is not TargetKind.LOCAL:
                st.download_button(
                    "Download the manifest", made.manifest, f"{plan.service}.yaml",
                    mime="application/yaml", key="download_manifest", on_click="ignore",
                )  # fmt: skip


def consented(service: str) -> frozenset[str]:
    """The managers whose fields may be taken over by the plan that is shown."""
    ticked = st.session_state.get(_consent_key(service), {})
    return frozenset(manager for manager, given in ticked.items() if given)


def consent(made: preparing.Prepared) -> None:
    """Ask whether fields of others may be taken over, one box for each who owns some."""
    service = made.plan.service
    for manager in sorted({field.manager for field in made.owned}):
        fields = ", ".join(field.field for field in made.owned if field.manager == manager)
        given = st.checkbox(
            widgets.plain_label(f"Take over from {manager}: {fields}", 400),
            value=manager in consented(service),
            key=f"take-over-{service}-{manager}",
            help="The plan sets these fields, but somebody else owns them. Who takes them over sets"
            " them from now on; it is recorded with the release.",
        )
        ticked = st.session_state.setdefault(_consent_key(service), {})
        if ticked.get(manager, False) != given:
            ticked[manager] = given
            st.rerun()  # the plan is made and checked again, with the consent or without


def _consent_key(service: str) -> str:
    return f"consent-{wiring.target()}-{service}"


def callers_agreed(made: preparing.Prepared) -> str:
    """What changes for callers; why the plan is blocked while their breaking is not agreed to."""
    if not versions.differences_to_live(made):
        return ""
    agreed = st.checkbox("Callers of the present version will break, and I want that.", key="agree")
    return "" if agreed else "The box above is not ticked."


def nothing_to_do(plan: Plan) -> None:
    """Say that what would be wanted is wanted already."""
    if plan.action is Action.CANARY and plan.after is not None:
        percent = plan.after.canary_percent
        st.info(f"The canary has {percent} % already: choose another share.")
        return
    wanted = words.intent_words(plan.after) if plan.after else "nothing"
    canary = plan.after is not None and plan.after.canary_percent is not None
    said = f"Nothing to do: {plan.service} is wanted to serve {wanted} already."
    if canary:
        said += " Open the service to promote the canary, to change its share or to abort it."
    if wiring.is_open(plan.service):
        said = f"{wanted} is being rolled out as {plan.service}: see below."
    st.info(widgets.literal(said), icon=":material/check:")
    with st.container(horizontal=True):
        widgets.go("Send it a request", "predict", key="try", service=plan.service)
        widgets.go("Open the service", "endpoints", key="open", service=plan.service)


def confirm(
    made: preparing.Prepared,
    *,
    ask_reason: bool = True,
    alias: str = "",
    undo: bool = False,
    blocked: str = "",
    then: Callable[[], None] = lambda: None,
) -> None:
    """The one button that carries out a plan, with what it wants first.

    The service's name is typed to delete, and for every write on a protected target. `blocked` says
    why it cannot be pressed yet. `alias` moves once the version is verified, `undo` rolls back when
    it fails. `then` runs after the click.
    """
    plan, where = made.plan, wiring.place()
    what = f"{plan.service}-{plan.action}"
    if ask_reason:
        st.text_input("Reason", key=f"reason-{what}", placeholder="Why? It stays in the history.")
    typed = plan.service
    if plan.action is Action.DELETE or where.protected:
        said = (
            "It cannot be undone." if plan.action is Action.DELETE else "The target is protected."
        )
        typed = (
            st.text_input(
                f"Type {plan.service} to confirm. {said}", key=f"confirm-{what}", live=True
            )
            or ""
        )
    failed = planning.blocking(made.findings)
    if failed:
        blocked = blocked or f"{failed[0].name} failed: {failed[0].detail}"
    if wiring.is_open(plan.service) and plan.supersedes is None:
        blocked = blocked or "Another operation on it is under way."
    if typed != plan.service:
        blocked = blocked or "The name is not typed yet."

    def act() -> None:
        wished = planning.with_alias(plan, alias) if alias else plan
        wished = planning.with_rollback(wished) if undo else wished
        wiring.begin(
            replace(made, plan=wished), one_line(st.session_state.get(f"reason-{what}", ""))
        )
        st.session_state.pop(_consent_key(plan.service), None)  # it was for this plan alone
        then()

    with st.container(horizontal=True, vertical_alignment="center"):
        # The nonce in the key: a late second click on an old plan's button meets nothing.
        st.button(
            widgets.literal(words.plan_title(plan)),
            key=f"apply-{plan.nonce}",
            type="primary",
            disabled=bool(blocked),
            on_click=act,
        )
        namespace = f", namespace {where.namespace}" if where.namespace else ""
        st.text(one_line(blocked) if blocked else f"on {where.target}{namespace}, {where.server}")


# ── The roll-out panel ────────────────────────────────────────────────────────────────────────


def rollout_panel(name: str, *, titled: bool = False) -> None:
    """How far the last operation on a service is: looks again until it ended, then once more."""
    live = wiring.is_open(name)
    if not live and not wiring.history(name).value and wiring.operation(name) is None:
        return
    if titled:
        widgets.section("Roll-out" if live else "Last release")

    @st.fragment(run_every=widgets.REFRESH_S if live else None, key=f"rollout-{name}")
    def panel() -> None:
        if live:
            wiring.begin_run(0.9)
        with widgets.errors_shown():
            _rollout_drawn(name)
        if live and wiring.has_ended(name):
            st.rerun()

    panel()
    begun = wiring.operation(name)
    if titled and live and not (begun and begun.state is State.RUNNING):
        widgets.go("Cancel the roll-out…", "endpoints", key="give_up", service=name, do="abort")


def _rollout_drawn(name: str) -> None:
    operation = wiring.operation(name)
    releases = wiring.history(name).value or ()
    newest = releases[0] if releases else None
    if operation is not None and _left_no_release(operation, releases):
        st.markdown(f"**{widgets.literal(operation.title)}** was not carried out.")
        if operation.error is not None:
            widgets.error_box(operation.error)
    if operation is not None and operation.state is State.RUNNING:
        _packaging(operation)
        if newest is None or newest.operation != operation.nonce:
            return
    if newest is None:
        return
    look = wiring.progress(name)
    progress = widgets.glanced(look)
    with st.container(border=True):
        _release_line(newest, progress)
        if progress is None:
            st.text(look.error.what if look.error else "Looking…")
            return
        if look.error is not None:
            widgets.error_box(look.error, warning=True)
            st.text(f"Shown: as of {widgets.moment(look.at)}.")
        if newest.settled and newest.outcome not in _BAD:
            with st.expander("Steps"):
                steps(progress.steps)
        else:
            steps(progress.steps)
        cause = progress.cause or newest.cause
        if cause is not None and (newest.outcome in _BAD or newest.outcome is Outcome.SERVING):
            cause_box(cause, progress)


def _left_no_release(operation: Operation, releases: Sequence[Release]) -> bool:
    if operation.state is not State.FAILED or _age_s(operation) > _NOTED_S:
        return False
    return all(release.operation != operation.nonce for release in releases)


def _age_s(operation: Operation) -> float:
    return (datetime.now(UTC) - operation.started_at).total_seconds()


def _packaging(operation: Operation) -> None:
    last = operation.lines[-1] if operation.lines else None
    with st.container(border=True):
        st.markdown(f"**{widgets.literal(operation.title)}** is being prepared.")
        if last is None:
            st.caption("Starting…")
        else:
            if last.ratio is not None:
                st.progress(min(max(last.ratio, 0.0), 1.0))
            st.code("\n".join(line.text for line in operation.lines[-8:]), language=None)
        if operation.cancelled:
            st.caption("It ends at its next step.")
        else:
            st.button("Cancel", key="cancel", on_click=wiring.cancel, args=(operation.nonce,))


def _release_line(release: Release, progress: Progress | None) -> None:
    word, icon, colour = widgets.OUTCOME_BADGE[release.outcome]
    took = words.took_words(release)
    action = words.ACTION_WORDS[release.action]
    if release.action in {Action.ROLLBACK, Action.ABORT}:
        action += ", back to" if release.action is Action.ABORT else " to"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]  # literals from the table
        version = words.intent_words(release.intent)
        st.text(f"Release {release.number}: {action} {version}, by {one_line(release.actor, 64)}")
        widgets.when(release.created_at)
        if took:
            st.caption(f"took {took}", width="content")
    if progress is not None and release.outcome is Outcome.OPEN:
        st.text(f"{one_line(progress.message)}.")
    if progress is not None and progress.undoes is not None:
        failed = words.cause_sentence(progress.undoes)
        st.warning(widgets.literal(f"It undoes release {release.rolled_back_from}: {failed}", 600))
    if release.reason:
        st.text(f"Reason: {one_line(release.reason, 1000)}")


def steps(found: Sequence[Step]) -> None:
    """Steps with their times, one line each, the shape first."""
    if not found:
        return
    lines = []
    for step in found:
        took = views.step_text(step.took_s)
        if step.state is StepState.RUNNING and step.started_at is not None and not took:
            took = words.duration_words((datetime.now(UTC) - step.started_at).total_seconds())
        shape = words.STEP_WORDS[step.state]
        detail = one_line(step.detail, 160)
        lines.append(f"{shape}  {one_line(step.name):<22} {took:>12}   {detail}".rstrip())
    st.code("\n".join(lines), language=None)


def cause_box(cause: Cause, progress: Progress | None = None) -> None:
    """Why a release failed, what still answers, what to do, and the lines that say so."""
    answers = words.answers_words(progress.answering) if progress else ""
    still = (
        after_failure(progress.answering, progress.release, cause.what)
        if progress is not None
        else ""
    )
    if progress is not None and progress.outcome is Outcome.SERVING:
        st.warning(widgets.literal(f"{words.cause_sentence(cause)} {answers} answers.", 600))
    else:
        st.error(widgets.literal(f"{words.cause_sentence(cause)} {still}".rstrip(), 600))
    with st.container(gap=None):
        if cause.why:
            st.text(one_line(cause.why, 1000))
        where = views.where_text(cause.where, cause.exit_code)
        if where:
            st.caption(widgets.literal(where))
        if cause.fix:
            widgets.fix_line(cause.fix)
    if cause.evidence:
        few = len(cause.evidence) <= _EVIDENCE_SHOWN
        with st.expander("The lines that say so", expanded=few):
            lines = [one_line(line, 1000) for line in cause.evidence[:_EVIDENCE_LINES]]
            st.code("\n".join(lines), language=None)


# ── One service, opened ───────────────────────────────────────────────────────────────────────


def head(service: Service) -> None:
    """The service's name, the answer first, and the facts: wanted, answering, how far."""
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("All services", key="all", type="tertiary"):
            widgets.open_page("endpoints")
        st.text("›")
        st.text(service.name)
        widgets.phase_badge(service)
        if service.owner:
            st.badge(widgets.literal(f"owned by {service.owner}"), color="gray")
        elif not service.managed:
            st.badge("not made by Slipway", color="gray")
    widgets.headline(words.service_sentence(service))
    if service.gone:
        return
    wanted = words.wanted_words(service)
    release = f" (release {service.release})" if service.release else ""
    widgets.facts(
        {
            "Wanted": wanted + release,
            "Answers": words.answers_words(service.answering) or "nothing",
            "By": one_line(service.actor, 64),
            "Since": widgets.ago(service.since),
            "Mode": service.mode.value,
        }
    )
    if service.url:
        _address(service, service.url)
    _drift(service)


def _address(service: Service, url: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.code(url, language=None, width="content")
        way = _way_in(service)
        said = words.way_in_words(way) if way else ""
        if said:
            st.caption(widgets.literal(said, 400), width="content")


def _drift(service: Service) -> None:
    """What drifted beside what the headline says, and how it is undone."""
    told = words.trouble(service)
    for drift in service.drift:
        if words.drift_sentence(drift) not in told:  # the headline has it
            st.warning(widgets.literal(words.drift_sentence(drift)))
    undoing = words.undoing_words(service)
    if undoing:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(undoing)
            if words.undoable(service):
                st.button(
                    f"Roll back to release {service.release}…",
                    key="undo_drift",
                    on_click=plan,
                    args=("rollback", service.release),
                )


def _way_in(service: Service) -> Endpoint | None:
    """How the service is reached from here; None while that is not known, or nothing answers."""
    return widgets.glanced(wiring.way_in(service.name, wait=False)) if service.answering else None


def traffic(service: Service) -> None:
    """Who takes which share, as read back, as bars with words."""
    taking = [side for side in service.answering if side.percent]
    if len(taking) < 2:
        return
    widgets.section("Traffic")
    st.dataframe(
        [
            {
                "version": words.version_words(side.version),
                "release": side.release,
                "share": side.percent,
                "replicas": side.replicas,
                "address": side.address or "none of its own",
            }
            # By release, not by share: a row stays where it is while its share changes.
            for side in sorted(service.answering, key=lambda side: side.release or 0)
        ],
        hide_index=True,
        placeholder="",
        column_config={
            "version": "Version",
            "release": "Release",
            "share": st.column_config.ProgressColumn(
                "Share", min_value=0, max_value=100, format="%d %%"
            ),
            "replicas": "Replicas",
            "address": "Address",
        },
        alt="Traffic by version, as read back from the target",
    )
    way = _way_in(service)
    if way is not None:
        st.caption(widgets.literal(words.sides_words(taking, way), 400))
    with widgets.errors_shown():
        _measured_split(service)


def _measured_split(service: Service) -> None:
    """Send requests on a click; who answered how often, held against the shares above."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        count = widgets.number_in_url(
            "Requests", 10, MOST_REQUESTS, 100, 50, key="split_requests", width=160
        )
        if st.button("Measure the split", key="measure_split"):
            st.session_state["split"] = (service.name, service.release, count, time.time())
    asked = st.session_state.get("split")
    if asked is None or asked[:2] != (service.name, service.release):
        st.caption("The shares are how the target routes. Requests show who answers them.")
        return
    look = wiring.split(service, asked[2], asked[3])
    if look.value is None and look.error is None:
        st.caption(f"Sending {words.counted(asked[2], 'request')}…")
    found = widgets.looked(look, "the answers")
    if found is None:
        return
    st.text(found.verdict)
    st.dataframe(
        words.share_rows(found),
        hide_index=True,
        alt="Share of the answers by version",
        column_config={
            "version": "Version",
            "answered": "Answered",
            "share": "Measured",
            "interval": "95 % interval",
            "configured": "Configured",
        },
        width=720,
    )
    if found.failed:
        failed = ", ".join(f"{count} × {kind}" for kind, count in found.failed.items())
        st.caption(f"{words.counted(found.requests, 'request')}, failed: {failed}.")


def actions(service: Service) -> None:
    """What can be done with the service; the one being planned stands in the URL as `do`."""
    if service.owner:
        owned(service)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if service.managed and not widgets.from_url("do"):
            _way_out(service)
        doing = widgets.choice(
            "Change the service",
            _offers(service),
            name="do",
            key=_doing(service.name),
            widget=st.segmented_control,
            told=False,
            label_visibility="collapsed",
        )
        wanted = words.wanted_version(service)
        if service.managed:
            widgets.go(
                "Deploy another version", "deploy", key="deploy",
                service=service.name, model=wanted.model if wanted else None,
            )  # fmt: skip
        if not service.gone:
            widgets.go("Predict", "predict", key="predict", service=service.name)
    if doing is not None:
        with st.container(border=True):
            _planned(service, doing)


def _way_out(service: Service) -> None:
    """What a service that failed or is stopped wants first, as the page's primary button."""
    wanting = service.phase in {Phase.FAILED, Phase.STOPPED} or (
        service.phase is Phase.UNKNOWN and not service.answering
    )
    if not wanting or wiring.is_open(service.name):
        return
    label, doing = ("Start it again…", "start")
    if service.answering:
        label, doing = ("Go back to a verified release…", "rollback")
    if service.gone:
        label, doing = ("Bring it back…", "rollback")
    st.button(label, key="way_out", type="primary", on_click=plan, args=(doing,))


def _offers(service: Service) -> dict[str, str]:
    """Action → label, of what the service's state allows."""
    if not service.managed:
        return {"adopt": "Adopt"}
    if service.gone:
        return {"rollback": "Bring it back"}
    canary = service.intent is not None and service.intent.canary_percent is not None
    running = service.phase is not Phase.STOPPED
    broken = service.phase in {Phase.FAILED, Phase.UNKNOWN}
    rolling = service.phase is Phase.ROLLING_OUT and not canary and wiring.is_open(service.name)
    offers = [
        ("abort", "Cancel the roll-out", rolling),
        ("promote", "Promote canary", canary),
        ("abort", "Abort canary", canary),
        ("canary", "Change share", canary),
        ("rollback", "Roll back", not canary and _has_another(service)),
        ("begin_canary", "Start a canary", not canary and bool(service.answering) and running),
        ("start", "Restart" if broken else "Start", broken or not running),
        ("stop", "Stop", running),
        ("delete", "Delete", True),
    ]
    return {word: label for word, label, offered in offers if offered}


def _has_another(service: Service) -> bool:
    """Whether there is a release to return to; True while that is not known."""
    history = wiring.history(service.name).value
    if history is None:
        return True
    return any(release.number != service.release for release in lineage.returnable(history))


def _doing(name: str) -> str:
    """Key of what is being planned for a service."""
    return f"do-{name}"


def plan(doing: str | None, to: int | None = None) -> None:
    """Open another plan, or none: a second click on a confirmed one meets no button."""
    widgets.into_url(do=doing, to=to, percent=None)


def _planned(service: Service, doing: str) -> None:
    """The plan of the chosen action, to confirm or to leave."""
    name = service.name
    if doing == "begin_canary":
        options.canary_ways(service)
        return
    what: tuple[object, ...] = (doing,)
    make = _PLANS[doing]
    if doing == "rollback":
        to = _release_picker(name)
        what = (doing, to)

        def make(current: Service, history: Sequence[Release]) -> Plan:
            return planning.plan_rollback(current, history, to)

    if doing == "canary":
        now = service.intent.canary_percent if service.intent else None
        percent = widgets.number_in_url(
            "Share of the traffic for the canary, percent", 0, 99, now or 10, 5,
            key="percent", width=320,
        )  # fmt: skip
        what = (doing, percent)

        def make(current: Service, history: Sequence[Release]) -> Plan:
            return planning.plan_canary(current, history, percent)

    if doing == "delete":
        _blast_radius(service)
    if doing == "adopt":
        st.text(
            "Its present state becomes release 1. Nothing on the service is written and no pod"
            " restarts; from then on it can be deployed to and rolled back."
        )
    look: Look[preparing.Prepared] = wiring.prepared(name, what, make, take_over=consented(name))
    made = widgets.looked(look, "the plan")
    if made is None:
        return
    if made.plan.nothing_to_do:
        nothing_to_do(made.plan)
        return
    plan_shown(made, look.at)
    consent(made)
    alias = _alias_back(service, made.plan) if doing == "rollback" else ""
    blocked = callers_agreed(made) if doing == "promote" else ""
    confirm(made, alias=alias, blocked=blocked, then=lambda: plan(None))


def _alias_back(service: Service, planned: Plan) -> str:
    """The alias that moved with a release of the service, when it is to move back with this one."""
    tied = lineage.tied_alias(wiring.history(service.name).value or ())
    version = planned.after.version if planned.after else None
    if not tied or version is None:
        return ""
    label = f"Move the alias {tied} to {version} once it is verified"
    return tied if st.checkbox(widgets.plain_label(label), key=f"alias-{service.name}") else ""


def owned(service: Service) -> None:
    """Why a service of a GitOps tool is not changed here, and the way that works."""
    st.text(
        f"{service.owner} would put back whatever is changed here. Write the manifest, and give it"
        f" to {service.owner}:"
    )
    st.code(f"slipway render REF --name {service.name} --target {service.target}", language="bash")
    widgets.go("Predict", "predict", key="predict", service=service.name)


def _release_picker(name: str) -> int | None:
    """Which release to return to; None is the newest verified one that differs from the wanted."""
    releases = [
        release
        for release in wiring.history(name).value or ()
        if not release.intent.stopped and release.action is not Action.DELETE
    ]
    said = {
        str(release.number): f"Release {release.number}:"
        f" {words.intent_words(release.intent)}, {words.OUTCOME_WORDS[release.outcome]},"
        f" {widgets.moment(release.created_at)}"
        for release in releases
    }
    chosen = widgets.choice(
        "Return to",
        said,
        name="to",
        key=f"to-{name}",
        placeholder="The newest verified release of another version or setting",
        width=560,
    )
    return int(chosen) if chosen else None


def _blast_radius(service: Service) -> None:
    answers = words.answers_words(service.answering)
    releases = len(wiring.history(service.name).value or ())
    aliases = words.aliases_by_version(wiring.models(wait=False).value or ())
    wanted = words.wanted_version(service)
    pointing = aliases.get(wanted, []) if wanted else []
    st.text(
        f"{service.url or service.name} stops answering"
        + (f"; {answers} takes its requests now." if answers else "; nothing answers there now.")
    )
    st.text(
        f"What stays: {words.counted(releases, 'release')} of history, their packages,"
        f" and the registered versions"
        + (f" (aliases {', '.join(pointing)} keep pointing at {wanted})." if pointing else ".")
    )


_PLANS: dict[str, Callable[[Service, Sequence[Release]], Plan]] = {
    "promote": planning.plan_promote,
    "abort": planning.plan_abort,
    "canary": lambda current, history: planning.plan_canary(current, history, 10),
    "rollback": planning.plan_rollback,
    "start": planning.plan_start,
    "stop": lambda current, _history: planning.plan_stop(current),
    "delete": lambda current, _history: planning.plan_delete(current),
    "adopt": lambda current, _history: planning.plan_adopt(current),
}


# ── Clusters ──────────────────────────────────────────────────────────────────────────────────


_ADD = "To keep it, with settings of its own, add to slipway.toml and start Slipway again:"


def clusters_offered() -> None:
    """Clusters that no target names: of the kubeconfig, and of a project of Google Cloud."""
    widgets.section("More clusters")
    _contexts_offered()
    _gke_offered()


def _contexts_offered() -> None:
    found = {context.name: context for context in widgets.glanced(wiring.contexts()) or ()}
    if not found:
        return
    name = widgets.picker("Context of the kubeconfig", list(found), key="context", width=420)
    if name is None:
        return
    context = found[name]
    kind = f"{context.flavour}, " if context.flavour else ""
    st.text(f"{kind}{one_line(context.server)}, no target yet.")
    widgets.go(
        "Use it as it is",
        "health",
        key="use_context",
        target=f"{settings.CONTEXT}{name}",
    )
    st.text(_ADD)
    st.code(views.target_lines(context), language="toml")


def _gke_offered() -> None:
    project = widgets.text_in_url(
        "Google Cloud project", key="project", width=420, placeholder="its id, to list its clusters"
    ).strip()
    if not project:
        return
    found = widgets.looked(wiring.gke_clusters(project), f"clusters of {project}")
    if found is None:
        return
    fresh = {f"{each.name}, {each.location}": each for each in found}
    if not fresh:
        st.text("It has no cluster of GKE that is no target yet.")
        return
    name = widgets.picker("Cluster of GKE", list(fresh), key="cluster", width=420)
    if name is None:
        return
    chosen = fresh[name]
    st.text(f"{chosen.status}, {chosen.version}. {_ADD}")
    st.code(views.gke_target_lines(chosen), language="toml")
