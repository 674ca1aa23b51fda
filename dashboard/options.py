"""What may be chosen beside a version: the service's name, and what its manifest says.

What is left alone stays as it is. Fields begin with what the service has now, so that emptying one
takes it away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from dashboard import widgets, wiring, words
from services import planning
from services.domain import (
    Intent,
    Mode,
    ModelVersion,
    PackageKind,
    Resources,
    Scale,
    Service,
    TargetKind,
    proposed_service_name,
    service_name_problem,
)
from services.errors import ConfigError, one_line

_PAIR = re.compile(r"\s*([^=\s][^=]*?)\s*=(.*)")
_UNCHANGED = "As the target has it"
_PACKAGED: dict[str, tuple[PackageKind | None, bool | None]] = {
    _UNCHANGED: (None, None),
    "Files in the bucket, libraries of a serving runtime": (PackageKind.GCS, False),
    "Files in the bucket, libraries in an image of their own": (PackageKind.GCS, True),
    "One image with files and libraries": (PackageKind.IMAGE, False),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen beside the version."""

    wish: planning.Wish
    alias: str = ""
    """The registry's alias to move once the version is verified."""
    undo: bool = False
    """True when a failure is to be undone by itself."""


def service_name(model: str) -> str:
    """The service's name: typed, or proposed from the registered model's."""
    proposed = proposed_service_name(model)
    known = [service.name for service in wiring.services(wait=False).value or ()]
    typed = widgets.text_in_url(
        "Service name",
        key="service",
        default=proposed,
        help="An existing service gets a new release; a new name makes a new service.",
    )
    name = (typed or proposed).strip()
    problem = service_name_problem(name)
    if problem:
        st.text(problem)
    elif name in known:
        st.caption("It exists: it gets a new release.")
    return name


def chosen(version: ModelVersion, name: str) -> Chosen:
    """Draw the options of a deploy. ConfigError for a line that is not KEY=VALUE."""
    current = wiring.service(name)
    local = wiring.ops().kind is TargetKind.LOCAL
    with st.expander("Options"):
        first, second = st.columns(2)
        with first:
            share = _share(current)
        with second:
            alias = _alias(version)
        undo = st.checkbox(
            "Roll back by itself if it fails",
            key="rollback_on_failure",
            help="Once, to the newest verified release. What could not be measured, or is late,"
            " is left for you to judge.",
        )
        if local:
            port = first.number_input(
                "Port", 1024, 65535, None, 1, key="port", placeholder="Chosen, then kept"
            )
            wish = planning.Wish(canary_percent=share, port=int(port) if port else None)
            return Chosen(wish, alias, undo)
        if current is not None and current.mode is Mode.STANDARD:
            canary_ways(current, version)
        # Another release is other fields: what was typed for the last one is no wish for the next.
        stamp = f"{name}-{current.release if current else 'new'}"
        wish = _scale_and_size(stamp, current)
    return Chosen(_advanced(stamp, current, wish, share), alias, undo)


def _share(current: Service | None) -> int | None:
    standard = current is not None and current.mode is Mode.STANDARD
    shut = current is None or not current.answering or standard
    share = st.number_input(
        "Canary share, percent", 1, 99, None, 5, key="canary_percent", bind="query-params",
        placeholder="All of the traffic",
        disabled=shut,
        help="Only a share of the traffic goes to the new version until it is promoted.",
    )  # fmt: skip
    if shut and not standard:
        st.caption("A canary needs a version that answers already.")
    return int(share) if share and not shut else None


def _alias(version: ModelVersion) -> str:
    models = widgets.glanced(wiring.models(wait=False)) or ()
    known = next((model for model in models if model.name == version.ref.model), None)
    chosen_alias = st.selectbox(
        "Move an alias once it is verified",
        sorted(known.aliases) if known else [],
        index=None,
        key="set_alias",
        accept_new_options=True,
        placeholder="None moves",
        help="A canary's alias moves when it is promoted. A roll-back offers to move it back.",
    )
    return one_line(chosen_alias or "", 128).strip()


def canary_ways(service: Service, version: ModelVersion | None = None) -> None:
    """How a version can be tried on part of the traffic here; what works where nothing splits it.

    `version`: the one to try, where it is chosen already.
    """
    name, beside = service.name, f"{service.name}-next"
    wanted = version.ref if version else words.wanted_version(service)
    if service.mode is not Mode.STANDARD:
        st.text("Choose the version on Deploy; its share of the traffic stands under Options.")
        widgets.go(
            "Choose the version", "deploy", key="choose_canary",
            service=name, model=wanted.model if wanted else None, canary_percent=10,
        )  # fmt: skip
        return
    st.text(
        "KServe splits traffic in Knative mode only: in Standard mode it would ignore a percentage."
        f" What works here is a second service, {beside}: compare the two on Predict, then"
        f" deploy the version to {name}."
    )
    second = wiring.service(beside)
    with st.container(horizontal=True):
        widgets.go(
            f"Deploy it as {beside}" if version else f"Deploy a version as {beside}",
            "deploy", key="deploy_beside",
            service=beside, model=wanted.model if wanted else None,
            version=version.ref.number if version else None,
        )  # fmt: skip
        if second is not None and second.answering:
            widgets.go("Compare on Predict", "predict", key="compare", service=name)
            tried = words.wanted_version(second)
            if tried is not None and not version:
                widgets.go(
                    f"Deploy {tried} to {name}", "deploy", key="deploy_tried",
                    service=name, model=tried.model, version=tried.number,
                )  # fmt: skip


def _scale_and_size(stamp: str, current: Service | None) -> planning.Wish:
    now = current.wish if current else None
    first, second = st.columns(2)
    low = first.number_input(
        "Least replicas", 0, 100, now.scale.min_replicas if now else None, 1,
        key=f"min_replicas-{stamp}", placeholder=_UNCHANGED,
        help="0 lets the service sleep in Knative mode.",
    )  # fmt: skip
    high = second.number_input(
        "Most replicas", 1, 100, now.scale.max_replicas if now else None, 1,
        key=f"max_replicas-{stamp}", placeholder=_UNCHANGED,
    )  # fmt: skip
    cpu = first.text_input(
        "CPU", now.resources.cpu or "" if now else "", key=f"cpu-{stamp}", placeholder="500m"
    )
    memory = second.text_input(
        "Memory", now.resources.memory or "" if now else "", key=f"memory-{stamp}",
        placeholder="1Gi",
    )  # fmt: skip
    least, most = _int(low), _int(high)
    had = now.scale if now else Scale()
    return planning.Wish(
        scale=Scale(least, most, had.metric, had.value),
        resources=Resources(cpu.strip() or None, memory.strip() or None),
    )


def _advanced(
    stamp: str, current: Service | None, wish: planning.Wish, share: int | None
) -> planning.Wish:
    now = current.wish if current else None
    with st.expander("Advanced"):
        first, second = st.columns(2)
        mode = None
        if current is None:
            modes = {_UNCHANGED: None, "Standard": Mode.STANDARD, "Knative": Mode.KNATIVE}
            mode = modes[
                first.selectbox(
                    "Mode", list(modes), key=f"mode-{stamp}", help="It never changes afterwards."
                )
            ]
        else:
            first.text_input("Mode", current.mode.value, key=f"mode-{stamp}", disabled=True)
        runtime = second.text_input(
            "Serving runtime", now.runtime or "" if now else "", key=f"runtime-{stamp}",
            placeholder="The one whose libraries fit",
        )  # fmt: skip
        packed = st.selectbox(
            "Packaged as", list(_PACKAGED), key=f"package-{stamp}",
            help="An image is built when it is deployed, unless it is there already.",
        )  # fmt: skip
        account = first.text_input(
            "Service account of the pods", now.service_account or "" if now else "",
            key=f"account-{stamp}", placeholder=_UNCHANGED,
        )  # fmt: skip
        timeout = second.number_input(
            "Seconds that one request may take", 1, 3600, now.timeout_s if now else None, 5,
            key=f"timeout-{stamp}", placeholder=_UNCHANGED,
        )  # fmt: skip
        env = first.text_area(
            "Environment, KEY=VALUE a line", _lines(now.env if now else ()), key=f"env-{stamp}",
            height=100,
        )  # fmt: skip
        labels = second.text_area(
            "Labels, KEY=VALUE a line", _lines(now.labels if now else ()), key=f"labels-{stamp}",
            height=100,
        )  # fmt: skip
        patch = st.text_area(
            "Patch in YAML, merged into the manifest",
            now.patch if now else "",
            key=f"patch-{stamp}",
            height=100,
            placeholder="spec:\n  predictor:\n    nodeSelector: {disk: ssd}",
            help="For what has no field here. It is checked by the dry run of the plan below.",
        )
    return planning.Wish(
        mode=mode,
        runtime=runtime.strip() or None,
        scale=wish.scale if wish.scale != _scale_of(now) else None,
        resources=wish.resources if wish.resources != _size_of(now) else None,
        service_account=account.strip() or None,
        timeout_s=_int(timeout),
        env=_changed(_pairs(env, "Environment"), now.env if now else ()),
        labels=_changed(_pairs(labels, "Labels"), now.labels if now else ()),
        patch=patch if patch != (now.patch if now else "") else None,
        canary_percent=share,
        package=_PACKAGED[packed][0],
        own_environment=_PACKAGED[packed][1],
    )


def _scale_of(now: Intent | None) -> Scale:
    return now.scale if now else Scale()


def _size_of(now: Intent | None) -> Resources:
    return now.resources if now else Resources()


def _changed(
    pairs: tuple[tuple[str, str], ...], now: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...] | None:
    return None if pairs == now else pairs


def _lines(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{key}={value}" for key, value in pairs)


def _pairs(text: str, what: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for line in filter(str.strip, text.splitlines()):
        match = _PAIR.fullmatch(line)
        if match is None:
            raise ConfigError(
                f"{what}: {one_line(line, 60)!r} is not KEY=VALUE.", fix="Write one pair a line."
            )
        pairs.append((match[1], match[2]))
    return tuple(pairs)


def _int(value: float | None) -> int | None:
    return None if value is None else int(value)
