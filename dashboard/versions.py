"""Registered models and their versions as the pages draw them: lists, one version, two compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard import widgets, wiring, words
from services import preparing
from services.compare import compare_versions, signature_changes
from services.domain import (
    Difference,
    ModelVersion,
    RegisteredModel,
    VersionDetails,
    VersionRef,
    newest,
    proposed_service_name,
)
from services.errors import one_line

LISTED = 2_000
"""Rows of one table: more are searched, not scrolled."""
LISTED_OPEN = 14
"""Longer lists scroll in a box of their own."""
_SIGNATURE_OPEN = 20
_SIGNATURE_PX = 718
"""Ends in the middle of a row, of 35 pixels: at a row's end it would seem to be the last."""
_METRICS_SHOWN = 6
_FILES_SHOWN = 500

Serving = Mapping[VersionRef, Sequence[str]]


def model_list(models: Sequence[RegisteredModel], serving: Serving) -> RegisteredModel | None:
    """A searchable list; the chosen model stands in the URL. None when none is chosen."""
    search = st.text_input(
        "Search", key="search", bind="query-params", type="search", live=True,
        placeholder="Name or description",
    )  # fmt: skip
    first, second = st.columns(2)
    with first:
        aliases = sorted({alias for model in models for alias in model.aliases})
        alias = widgets.picker("Alias", aliases, key="alias", index=None, placeholder="Any")
    with second:
        tags = sorted({f"{k}={v}"[:120] for model in models for k, v in model.tags.items()})
        tag = widgets.picker("Tag", tags, key="tag", index=None, placeholder="Any")
    found = words.matching_models(models, search or "", alias or "", tag or "")
    asked = widgets.from_url("model")
    if asked and all(model.name != asked for model in models):
        widgets.gone(asked, "registered model")
    if not found:
        st.text("No registered model fits.")
    else:
        by_model: dict[str, list[str]] = {}
        for ref, places in serving.items():
            by_model.setdefault(ref.model, []).extend(places)
        rows = words.model_rows(found[:LISTED], by_model)
        widgets.table(
            rows,
            {
                "model": "Registered model",
                "aliases": widgets.chips_column("Aliases", rows, "aliases"),
                # Beside an opened model there is room for what it is found by, and no more.
                "versions": None
                if asked
                else st.column_config.NumberColumn("Versions", width="small"),
                "serves on": None
                if asked
                else widgets.chips_column("Serves on", rows, "serves on"),
            },
            key="models",
            choose="model",
            param="model",
            alt="Registered models",
            height=560 if len(rows) > LISTED_OPEN else None,
        )
        if len(found) > LISTED:
            st.caption(f"The first {LISTED} of {len(found)}: search for the others.")
    return next((model for model in models if model.name == asked), None)


def model_head(model: RegisteredModel) -> None:
    """The model's name, description and tags."""
    widgets.headline(model.name)
    if model.description:
        st.text(one_line(model.description, 1000))
    if model.tags:
        st.caption(widgets.literal(words.pairs_words(model.tags), 600))


def version_list(versions: Sequence[ModelVersion], serving: Serving) -> tuple[ModelVersion, ...]:
    """The versions as a table that sorts by any column; gives the one or two chosen in the URL."""
    metrics = sorted({name for version in versions for name in version.metrics})
    rows = words.version_rows(versions[:LISTED], serving)
    rows = [{**row, "state": [row["state"]]} for row in rows]
    shown = [f"metric {one_line(name, 60)}" for name in metrics[:_METRICS_SHOWN]]
    columns = {
        "version": st.column_config.NumberColumn("Version", width="small"),
        "aliases": widgets.chips_column("Aliases", rows, "aliases"),
        "serves on": widgets.chips_column("Serves on", rows, "serves on"),
        "state": widgets.state_column("State", rows, "state"),
        "parameters": "Parameters",
        "tags": "Tags",
        "created": widgets.time_column("Created"),
        "author": "Author",
        "source": "Source",
    } | {
        column: st.column_config.NumberColumn(column.removeprefix("metric "), format="%.4g")
        for column in shown
    }
    widgets.table(
        rows,
        columns,
        key="versions",
        choose="version",
        param="version",
        many=True,
        alt="Versions, newest first",
        height=360 if len(rows) > 9 else None,
    )
    if len(versions) > LISTED:
        st.caption(f"The newest {LISTED} of {len(versions)} versions.")
    by_number = {str(version.ref.number): version for version in versions}
    asked = [one for one in widgets.from_url("version").split(",") if one]
    for one in asked:
        if one not in by_number:
            widgets.gone(one, "version")
    return tuple(by_number[one] for one in asked if one in by_number)[:2]


def version_page(version: ModelVersion, serving: Serving) -> None:
    """One version whole: what it takes and gives, what it needs, where it came from."""
    ref = version.ref
    with st.container(horizontal=True, vertical_alignment="bottom"):
        widgets.headline(str(ref), width="content")
        for alias in version.aliases:
            st.badge(widgets.literal(alias, 40), icon=":material/label:", color="blue")
        for place in serving.get(ref, ()):
            st.badge(widgets.literal(f"serves on {place}"), icon=":material/check:", color="gray")
        _deploy_button(ref)
    for problem in version.problems:
        st.warning(widgets.literal(problem, 600))
    if version.description:
        st.text(one_line(version.description, 2000))
    details = widgets.looked(wiring.details(ref), f"files of {ref}")
    if details is None:
        return
    for problem in details.problems:
        st.warning(widgets.literal(problem, 600))
    _signature(details)
    left, right = st.columns(2, gap="large")
    with left:
        widgets.section("Input example")
        if details.example is None:
            st.caption("None: the version can become ready, but it cannot be verified.")
        else:
            st.code(words.example_words(details.example), language="json", height=260)
    with right:
        widgets.section("Requirements")
        runs_on = [
            f"Python {details.python_version}" if details.python_version else "",
            f"MLflow {details.mlflow_version}" if details.mlflow_version else "",
        ]
        st.caption(widgets.literal(" · ".join(filter(None, runs_on))) or "Python unknown")
        st.code("\n".join(details.requirements) or "None.", language=None, height=218)
    _origin(version, details)


def _deploy_button(ref: VersionRef) -> None:
    widgets.go(
        f"Deploy {ref}", "deploy", key="deploy", primary=True,
        model=ref.model, version=ref.number, service=proposed_service_name(ref.model),
    )  # fmt: skip


def _signature(details: VersionDetails) -> None:
    widgets.section("Signature")
    rows = words.signature_rows(details.signature)
    if not rows:
        st.caption("None: requests cannot be checked before they are sent.")
        return
    st.dataframe(
        rows,
        hide_index=True,
        placeholder="",
        column_config={
            "part": "Part",
            "name": "Name",
            "type": "Type",
            "shape": "Shape",
            "required": "Required",
        },
        alt="Signature",
        height="content" if len(rows) <= _SIGNATURE_OPEN else _SIGNATURE_PX,
    )


def _origin(version: ModelVersion, details: VersionDetails) -> None:
    with st.expander(f"Files ({len(details.files)}), parameters, run"):
        widgets.facts(
            {
                "Author": one_line(version.author, 64),
                "Created": widgets.moment(version.created_at),
                "Run": one_line(version.run_id or ""),
                "Source": one_line(version.source),
            }
        )
        if version.run_url:
            st.link_button("Open the run in MLflow", version.run_url)
        if version.params:
            st.dataframe(
                [
                    {"parameter": one_line(k), "value": one_line(v)}
                    for k, v in version.params.items()
                ],
                hide_index=True,
                placeholder="",
            )
        st.dataframe(
            [
                {"file": one_line(file.path), "size": words.size_words(file.size_bytes)}
                for file in details.files[:_FILES_SHOWN]
            ],
            hide_index=True,
            placeholder="",
        )


def comparison(one: ModelVersion, other: ModelVersion) -> None:
    """Two versions side by side, differences only; the older one stands left."""
    left, right = sorted((one, other), key=lambda version: version.ref.number)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        widgets.headline(f"{left.ref} compared with {right.ref}")
        _deploy_button(right.ref)
    first = widgets.looked(wiring.details(left.ref), f"files of {left.ref}")
    second = widgets.looked(wiring.details(right.ref), f"files of {right.ref}")
    if first is None or second is None:
        return
    differences(compare_versions(left, first, right, second), str(left.ref), str(right.ref))


def differences(
    found: Sequence[Difference],
    left: str,
    right: str,
    *,
    same: str = "They differ in nothing that is compared.",
) -> None:
    """Differences as a table, those that break callers first and said; `same` where none is."""
    breaking = [each for each in found if each.breaking]
    if breaking:
        st.error(
            widgets.literal(
                f"Callers of {left} break on {right}: {breaking[0].field}. {breaking[0].why}"
                + (f" And {len(breaking) - 1} more." if len(breaking) > 1 else "")
            ),
            icon=":material/warning:",
        )
    if not found:
        st.text(same)
        return
    st.dataframe(
        words.difference_rows(found),
        hide_index=True,
        placeholder="",
        column_config={
            "field": "Field",
            "left": st.column_config.TextColumn(one_line(left), width="medium"),
            "right": st.column_config.TextColumn(one_line(right), width="medium"),
            "effect": st.column_config.TextColumn("Effect", width="large"),
        },
        alt=f"Differences between {one_line(left)} and {one_line(right)}",
    )


def differences_to_live(made: preparing.Prepared) -> bool:
    """What changes for callers of the version that answers most; True when some would break."""
    before, after = made.met, made.plan.after
    if before is None or after is None or before.version is None or before.version == after.version:
        return False
    found = [
        *signature_changes(before.signature, after.signature),
        *words.requirement_changes(before.requirements, after.requirements),
    ]
    widgets.section(f"What changes for callers of {before.version}")
    differences(
        found,
        str(before.version),
        str(after.version),
        same="Nothing: signature and requirements are the same. Models compares all the rest.",
    )
    return any(each.breaking for each in found)


def version_picker() -> ModelVersion | None:
    """Registered model and version, both in the URL; None until both are chosen."""
    seen = wiring.models()
    models = widgets.looked(seen, "registered models")
    if models == ():
        widgets.empty(
            "The registry has no models yet.", "Train and register a few real ones.", "slipway demo"
        )
    if not models:
        return None
    first, second = st.columns([3, 2])
    with first:
        model = widgets.picker(
            "Registered model", [model.name for model in models], key="model", index=None,
            placeholder="Choose a registered model",
            then=_leave_service,
        )  # fmt: skip
    if model is None:
        return None
    found = wiring.versions(model)
    if found.value is None:  # the URL's version stays for when it comes
        widgets.looked(found, f"versions of {model}")
        return None
    by_number = {str(version.ref.number): version for version in found.value}
    with second:
        latest = newest(found.value)
        number = widgets.choice(
            "Version",
            {number: _version_label(version) for number, version in by_number.items()},
            name="version",
            key=f"version-{model}",
            default=str(latest.ref.number) if latest else None,
            placeholder="No version",
        )
    widgets.looked(found, f"versions of {model}")
    return by_number.get(number or "")


def _leave_service() -> None:
    """Another model was picked by hand: the service name and the version were the last one's."""
    widgets.into_url(service=None, version=None, canary_percent=None)


def _version_label(version: ModelVersion) -> str:
    aliases = one_line(", ".join(version.aliases), 80)
    return f"{version.ref.number} ({aliases})" if aliases else str(version.ref.number)
