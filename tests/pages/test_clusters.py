"""What the pages offer on clusters: options, canaries in both modes, services of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from streamlit.testing.v1 import AppTest

from services import planning, preparing, rollout
from services.domain import (
    AliasRef,
    Mode,
    PackageKind,
    Resources,
    Scale,
    TargetKind,
    VersionRef,
)
from services.gke import GkeCluster
from services.kubeconfig import Context
from tests.memory import World
from tests.pages.conftest import OpenPage, WorldConnections, rows_of, words_of
from tests.pages.test_journeys import button, choose, press

OpenMini = Callable[..., AppTest]


@pytest.fixture
def mini(connections: WorldConnections, world: World) -> World:
    """A cluster in Standard mode beside `local`, with the same registry and audit log."""
    made = World(
        target="mini", kind=TargetKind.KUBERNETES, namespace="models", clock=world.clock,
        registry=world.registry, store=world.store,
    )  # fmt: skip
    connections.others["mini"] = made
    made.registry.add("wine", 1)
    made.registry.add("wine", 2)
    return made


@pytest.fixture
def open_mini(open_page: OpenPage) -> OpenMini:
    """Open a page on the cluster."""
    return lambda page, **params: open_page(page, target="mini", **params)


def field(app: AppTest, label: str) -> object:
    """The input with this label."""
    inputs = (*app.text_input, *app.number_input, *app.text_area, *app.selectbox)
    return next(found for found in inputs if found.label == label)


# ── What somebody did outside ─────────────────────────────────────────────────────────────────


def test_an_alias_that_points_past_what_serves_stands_in_the_lists(
    mini: World, open_mini: OpenMini
) -> None:
    mini.serves("wine", [1])
    (release,) = mini.journal.by_service["wine"]
    long_ago = mini.clock.now() - timedelta(hours=1)
    mini.journal.by_service["wine"] = [replace(release, alias="live", settled_at=long_ago)]
    mini.registry.set_alias(AliasRef("wine", "live"), 2)
    open_mini("models")  # waits for the registry, which no list of services does
    overview = open_mini("overview")
    assert "Drift in alias live: recorded wine/1, seen wine/2" in words_of(overview)
    assert list(rows_of(overview)[0]["state"]) == ["✓ verified", "! drift"]
    assert list(rows_of(open_mini("endpoints"))[0]["state"]) == ["✓ verified", "! drift"]


def test_a_service_that_somebody_deleted_is_listed_and_brought_back(
    mini: World, open_mini: OpenMini
) -> None:
    mini.serves("wine", [1])
    del mini.serving.held["wine"]
    assert rows_of(open_mini("endpoints"))[0]["state"] == ["× deleted"]
    app = open_mini("endpoints", service="wine")
    assert "its last release 1 was wine/1, verified" in words_of(app)
    app = press(app, "Bring it back…")
    app = press(app, "Roll back to release 1")
    assert mini.wanted_version("wine") == VersionRef("wine", 1)


# ── Options ───────────────────────────────────────────────────────────────────────────────────


def test_what_is_chosen_beside_a_version_becomes_the_services_intent(
    mini: World, open_mini: OpenMini
) -> None:
    app = open_mini("deploy", model="wine", version=1)
    chosen = {
        "Least replicas": 0,
        "Most replicas": 3,
        "CPU": "500m",
        "Memory": "1Gi",
        "Mode": "Knative",
        "Serving runtime": "mlserver-3",
        "Service account of the pods": "predictor",
        "Seconds that one request may take": 30,
        "Environment, KEY=VALUE a line": "A=1\nB=x=y",
        "Labels, KEY=VALUE a line": "team=ml",
        "Patch in YAML, merged into the manifest": "spec: {predictor: {}}",
    }
    for label, value in chosen.items():
        field(app, label).set_value(value)  # type: ignore[attr-defined]
    app.run()
    press(app, "Deploy wine/1")
    intent = mini.serving.held["wine"].intent
    assert (intent.mode, intent.scale) == (Mode.KNATIVE, Scale(0, 3))
    assert (intent.resources, intent.timeout_s) == (Resources("500m", "1Gi"), 30)
    assert (intent.runtime, intent.service_account) == ("mlserver-3", "predictor")
    assert (intent.env, intent.labels) == ((("A", "1"), ("B", "x=y")), (("team", "ml"),))
    assert intent.patch == "spec: {predictor: {}}"


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("One image with files and libraries", (PackageKind.IMAGE, False)),
        ("Files in the bucket, libraries in an image of their own", (PackageKind.GCS, True)),
    ],
)
def test_how_a_version_is_packaged_can_be_chosen(
    mini: World, open_mini: OpenMini, words: str, asked: tuple[PackageKind, bool]
) -> None:
    app = open_mini("deploy", model="wine", version=1)
    field(app, "Packaged as").set_value(words)  # type: ignore[attr-defined]
    app.run()
    assert asked in mini.packager.asked
    assert button(app, "Deploy wine/1")


def test_what_is_left_alone_stays_and_what_is_emptied_goes(
    mini: World, open_mini: OpenMini
) -> None:
    app = open_mini("deploy", model="wine", version=1)
    field(app, "CPU").set_value("2")  # type: ignore[attr-defined]
    field(app, "Environment, KEY=VALUE a line").set_value("A=1")  # type: ignore[attr-defined]
    press(app.run(), "Deploy wine/1")
    app = open_mini("deploy", model="wine", version=2)
    field(app, "Environment, KEY=VALUE a line").set_value("")  # type: ignore[attr-defined]
    press(app.run(), "Deploy wine/2")
    intent = mini.serving.held["wine"].intent
    assert (intent.resources, intent.env) == (Resources("2", None), ())


def test_a_line_that_is_no_pair_is_told_and_nothing_can_be_deployed(
    mini: World, open_mini: OpenMini
) -> None:
    app = open_mini("deploy", model="wine", version=1)
    field(app, "Environment, KEY=VALUE a line").set_value("oops")  # type: ignore[attr-defined]
    app.run()
    assert "is not KEY=VALUE" in words_of(app).replace("\\", "")
    assert not button(app, "Deploy wine/1")
    assert not mini.serving.applied


# ── Canaries ──────────────────────────────────────────────────────────────────────────────────


def test_the_panel_of_a_canarys_share_wants_another_one_and_closes_when_it_is_given(
    mini: World, open_mini: OpenMini
) -> None:
    mini.mode = Mode.KNATIVE
    mini.serves("wine", [1])
    wish = planning.Wish(canary_percent=30)
    prepared = preparing.prepare_deploy(mini, "wine/2", name="wine", wish=wish)
    rollout.apply(prepared.plan, mini, actor="ana", version=prepared.version)
    rollout.settle(mini, "wine", now=mini.clock.now)
    app = choose(open_mini("endpoints", service="wine"), "wine", "canary")
    assert "The canary has 30 % already: choose another share." in words_of(app)
    app.number_input(key="percent").set_value(50).run()
    assert app.query_params["percent"] == "50"
    app = press(app, "Give the canary 50 %")
    assert mini.serving.held["wine"].intent.canary_percent == 50
    assert "choose another share" not in words_of(app)
    assert not {"do", "percent"} & set(app.query_params)


def test_in_standard_mode_the_canary_says_why_not_and_offers_a_second_service(
    mini: World, open_mini: OpenMini
) -> None:
    mini.serves("wine", [1])
    app = choose(open_mini("endpoints", service="wine"), "wine", "begin_canary")
    assert "KServe splits traffic in Knative mode only" in words_of(app)
    app = press(app, "Deploy a version as wine-next")
    assert field(app, "Service name").value == "wine-next"  # type: ignore[attr-defined]


def test_a_version_that_was_tried_beside_is_one_click_from_the_service(
    mini: World, open_mini: OpenMini
) -> None:
    mini.serves("wine", [1])
    mini.serves("wine-next", [2], model="wine")
    app = choose(open_mini("endpoints", service="wine"), "wine", "begin_canary")
    app = press(app, "Deploy wine/2 to wine")
    assert button(app, "Deploy wine/2")


def test_in_knative_mode_a_canary_begins_on_deploy_with_a_share(
    mini: World, open_mini: OpenMini
) -> None:
    mini.mode = Mode.KNATIVE
    mini.serves("wine", [1])
    app = choose(open_mini("endpoints", service="wine"), "wine", "begin_canary")
    app = press(app, "Choose the version")
    assert button(app, "Deploy wine/2 to 10 % of wine")


def test_a_split_is_measured_on_a_click_and_held_against_the_configured_one(
    mini: World, open_mini: OpenMini
) -> None:
    mini.mode = Mode.KNATIVE
    mini.serves("wine", [1])
    app = open_mini("deploy", model="wine", version=2, canary_percent=30)
    press(app, "Deploy wine/2 to 30 % of wine")
    app = press(open_mini("endpoints", service="wine"), "Measure the split").run()
    assert "Not as configured: wine/1 took 100 %" in words_of(app)
    assert {row["configured"] for row in rows_of(app, 1)} == {"70 %", "30 %"}


def test_a_service_and_the_one_beside_it_answer_side_by_side(
    mini: World, open_mini: OpenMini
) -> None:
    mini.serves("wine", [1])
    mini.serves("wine-next", [2], model="wine")
    app = open_mini("predict", service="wine")
    app.selectbox(key="side").set_value("wine and wine-next, side by side")
    app = press(app, "Send request")
    said = words_of(app).replace("\\", "")
    assert "wine/1" in said
    assert "wine/2" in said
    assert "same outputs" in said


def test_the_time_of_waking_a_service_is_told_apart(mini: World, open_mini: OpenMini) -> None:
    mini.mode = Mode.KNATIVE
    mini.serves("wine", [1])
    mini.serving.asleep.add("wine")
    said = words_of(press(open_mini("predict", service="wine"), "Send request"))
    assert "Cold start" in said
    assert "Latency" not in said


# ── Services of others ────────────────────────────────────────────────────────────────────────


def test_a_service_of_others_is_adopted_by_click(mini: World, open_mini: OpenMini) -> None:
    mini.foreign("churn")
    app = choose(open_mini("endpoints", service="churn"), "churn", "adopt")
    press(app, "Adopt churn")
    assert mini.serving.held["churn"].managed
    assert mini.journal.history("churn")[0].number == 1


def test_a_service_of_a_gitops_tool_points_to_render(mini: World, open_mini: OpenMini) -> None:
    mini.foreign("churn", owner="Argo CD")
    said = words_of(open_mini("endpoints", service="churn"))
    assert "slipway render REF --name churn --target mini" in said


# ── Aliases ───────────────────────────────────────────────────────────────────────────────────


def test_an_alias_moves_with_a_deploy_and_back_with_a_roll_back(
    mini: World, open_mini: OpenMini
) -> None:
    mini.serves("wine", [1])
    mini.registry.aliases["wine"] = {"live": 1}
    app = open_mini("deploy", model="wine", version=2)
    field(app, "Move an alias once it is verified").set_value("live")  # type: ignore[attr-defined]
    press(app.run(), "Deploy wine/2").run()
    assert mini.registry.aliases["wine"] == {"live": 2}
    app = choose(open_mini("endpoints", service="wine"), "wine", "rollback")
    app = app.checkbox(key="alias-wine").check().run()
    press(app, "Roll back to release 1").run()
    assert mini.registry.aliases["wine"] == {"live": 1}


SERVING = GkeCluster(
    "acme", "europe-west1", "serving", "RUNNING", "", "34.0.0.1", "CA", private=False,
    workload_pool="acme.svc.id.goog", version="1.34.1",
)  # fmt: skip


# ── Contexts ──────────────────────────────────────────────────────────────────────────────────


def test_health_offers_the_contexts_that_no_target_names(
    connections: WorldConnections, open_page: OpenPage
) -> None:
    connections.unnamed = (
        Context(
            "minikube", "https://192.168.49.2:8443", "default", current=True, flavour="minikube"
        ),
    )
    said = words_of(open_page("health"))
    assert '[targets.minikube]\nkind = "kubernetes"\ncontext = "minikube"' in said


def test_a_context_is_used_as_it_is_from_health(
    connections: WorldConnections, open_page: OpenPage
) -> None:
    connections.unnamed = (Context("minikube", "https://192.168.49.2:8443", "dev", current=True),)
    connections.others["context:minikube"] = World(
        target="context:minikube", kind=TargetKind.KUBERNETES, namespace="dev", protected=True
    )
    page = press(open_page("health"), "Use it as it is")
    assert page.selectbox(key="target").value == "context:minikube"
    assert "namespace dev" in words_of(page)


def test_a_link_to_a_context_that_is_gone_opens_the_default_target(
    connections: WorldConnections, open_page: OpenPage
) -> None:
    page = open_page("overview", target="context:minikube")
    assert page.selectbox(key="target").value == connections.world.target


def test_health_lists_the_clusters_of_a_project_that_no_target_names(
    connections: WorldConnections, open_page: OpenPage
) -> None:
    connections.clusters["acme"] = (SERVING, replace(SERVING, name="inner", endpoint=""))
    page = open_page("health", project="acme")
    assert '[targets.serving]\nkind = "gke"\nproject = "acme"' in words_of(page)
    page.selectbox(key="cluster").select("inner, europe-west1").run()
    assert "get-credentials inner" in words_of(page)


def test_health_says_why_a_projects_clusters_cannot_be_listed(open_page: OpenPage) -> None:
    said = words_of(open_page("health", project="nobodys"))
    assert "Could not list the clusters of nobodys" in said


def test_without_such_contexts_health_says_nothing_of_them(open_page: OpenPage) -> None:
    assert "no target yet" not in words_of(open_page("health"))
