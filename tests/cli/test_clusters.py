"""What the command line says of clusters: options, canaries, services of others, aliases."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from services.domain import Mode, Resources, Scale, TargetKind
from services.errors import Unreachable
from services.gke import GkeCluster
from tests.cli.conftest import Cli
from tests.memory import World


def test_every_option_of_the_form_is_an_option_of_deploy(
    cli: Cli, mini: World, tmp_path: Path
) -> None:
    (tmp_path / "more.yaml").write_text("spec: {predictor: {hostIPC: false}}", encoding="utf-8")
    ran = cli(
        *("deploy", "wine/1", "--name", "wine", "--mode", "Knative", "--runtime", "mlserver-3"),
        *("--min-replicas", "1", "--max-replicas", "3", "--cpu", "500m", "--memory", "1Gi"),
        *("--service-account", "predictor", "--request-timeout", "30", "--patch", "more.yaml"),
        *("--env", "A=1", "--env", "B=x=y", "--label", "team=ml", "--yes"),
    )
    assert ran.code == 0
    intent = mini.serving.held["wine"].intent
    assert (intent.mode, intent.runtime) == (Mode.KNATIVE, "mlserver-3")
    assert (intent.scale, intent.resources) == (Scale(1, 3), Resources("500m", "1Gi"))
    assert (intent.service_account, intent.timeout_s) == ("predictor", 30)
    assert (intent.env, intent.labels) == ((("A", "1"), ("B", "x=y")), (("team", "ml"),))
    assert intent.patch == "spec: {predictor: {hostIPC: false}}"


@pytest.mark.usefixtures("mini")
def test_a_patch_that_is_not_there_is_told_before_anything_is_planned(cli: Cli) -> None:
    ran = cli("deploy", "wine/1", "--name", "wine", "--patch", "gone.yaml", "--yes")
    assert (ran.code, "gone.yaml" in ran.err) == (2, True)


@pytest.mark.usefixtures("mini")
def test_a_canary_in_standard_mode_is_refused_with_what_works_there(cli: Cli) -> None:
    cli("deploy", "wine/1", "--name", "wine", "--yes")
    ran = cli("deploy", "wine/2", "--name", "wine", "--canary-percent", "30", "--yes")
    assert ran.code == 7
    assert "--name wine-next" in ran.err


def test_a_service_of_others_is_adopted_by_its_name(cli: Cli, mini: World) -> None:
    mini.foreign("churn")
    assert "None" not in cli("status").out
    assert cli("stop", "churn", "--yes").code == 7
    ran = cli("adopt", "churn", "--yes", "--json")
    assert ran.code == 0
    assert (ran.document["release"], ran.document["action"]) == (1, "adopt")
    assert mini.serving.held["churn"].managed
    assert "unknown version" in cli("history", "churn").out


def test_an_alias_goes_back_with_a_roll_back_when_that_is_asked_for(cli: Cli, mini: World) -> None:
    cli("deploy", "wine/1", "--name", "wine", "--yes")
    cli("deploy", "wine/2", "--name", "wine", "--yes", "--set-alias", "live")
    assert mini.registry.aliases["wine"]["live"] == 2
    ran = cli("rollback", "wine", "--yes")
    assert "--set-alias live" in ran.err
    assert mini.registry.aliases["wine"]["live"] == 2
    cli("rollback", "wine", "--to", "2", "--yes")
    cli("rollback", "wine", "--to", "1", "--yes", "--set-alias", "live")
    assert mini.registry.aliases["wine"]["live"] == 1


def test_a_canarys_split_is_measured_and_held_against_what_was_read_back(
    cli: Cli, mini: World
) -> None:
    mini.mode = Mode.KNATIVE
    cli("deploy", "wine/1", "--name", "wine", "--yes")
    cli("deploy", "wine/2", "--name", "wine", "--yes", "--canary-percent", "30")
    document = cli("predict", "wine", "--requests", "100", "--json").document
    assert document["requests"] == sum(row["answered"] for row in document["split"]) == 100
    assert {row["version"]: row["configured_percent"] for row in document["split"]} == {
        1: 70,
        2: 30,
    }
    assert document["verdict"].startswith("Not as configured: wine/1 took 100 %")


def test_a_prediction_says_when_it_woke_the_service(cli: Cli, mini: World) -> None:
    mini.mode = Mode.KNATIVE
    cli("deploy", "wine/1", "--name", "wine", "--yes")
    assert cli("predict", "wine", "--json").document["cold_start"] is False
    mini.serving.asleep.add("wine")
    ran = cli("predict", "wine", "--json")
    assert ran.document["cold_start"] is True
    assert "asleep" in ran.err


def test_a_load_test_keeps_the_time_of_waking_a_service_apart(cli: Cli, mini: World) -> None:
    mini.mode = Mode.KNATIVE
    cli("deploy", "wine/1", "--name", "wine", "--yes", "--min-replicas", "0")
    words = ("bench", "wine", "--rate", "5", "--duration", "1", "--save", "--json")
    assert cli(*words).document["cold_start_s"] is None
    mini.serving.asleep.add("wine")
    ran = cli(*words, "--cold")
    assert ran.document["cold_start_s"] > 0
    assert len(mini.engine.loads) == 2
    assert json.loads(mini.store.kept[1].settings)["cold_start_s"] == ran.document["cold_start_s"]


@pytest.mark.parametrize(
    "kept", [(), ("--mode", "Knative"), ("--mode", "Knative", "--min-replicas", "1")]
)
def test_a_service_that_never_sleeps_has_no_cold_start(
    cli: Cli, mini: World, kept: tuple[str, ...]
) -> None:
    cli("deploy", "wine/1", "--name", "wine", "--yes", *kept)
    sent = len(mini.predictor.sent)
    ran = cli("bench", "wine", "--rate", "5", "--duration", "1", "--cold", "--json")
    assert (ran.code, ran.document["error"]["kind"]) == (7, "NotOffered")
    assert (len(mini.predictor.sent), mini.engine.loads) == (sent, [])


def test_status_of_a_service_tells_an_alias_that_points_past_it(cli: Cli, mini: World) -> None:
    cli("deploy", "wine/1", "--name", "wine", "--yes", "--set-alias", "live")
    cli("deploy", "wine/2", "--name", "wine", "--yes")
    (row,) = cli("status", "wine", "--json").document["services"]
    assert row["drift"][0]["field"] == "alias live"
    assert mini.registry.aliases["wine"]["live"] == 1


def test_status_of_all_services_tells_such_an_alias_too(cli: Cli, mini: World) -> None:
    cli("deploy", "wine/1", "--name", "wine", "--yes", "--set-alias", "live")
    cli("deploy", "wine/2", "--name", "wine", "--yes")
    assert "Drift in alias live: recorded wine/2, seen wine/1" in cli("status").out


def test_a_registry_that_is_down_takes_no_service_from_the_status(cli: Cli, mini: World) -> None:
    cli("deploy", "wine/1", "--name", "wine", "--yes", "--set-alias", "live")
    mini.registry.broken = Unreachable("The registry does not answer.")
    ran = cli("status", "--json")
    assert (ran.code, len(ran.document["services"])) == (0, 1)
    assert "Where aliases point is not known" in ran.err


def test_a_service_that_somebody_deleted_is_told_and_rolled_back_to(cli: Cli, mini: World) -> None:
    cli("deploy", "wine/1", "--name", "wine", "--yes")
    del mini.serving.held["wine"]
    every = cli("status", "--json")
    (row,) = every.document["deleted"]
    assert (row["name"], row["release"], row["version"]) == ("wine", 1, 1)
    assert "slipway rollback wine --to 1" in every.err
    one = cli("status", "wine")
    assert one.code == 5
    assert "wine was deleted outside Slipway" in one.err
    assert cli("rollback", "wine", "--to", "1", "--yes").code == 0
    assert cli("status", "wine").code == 0


def test_status_says_in_words_what_drifted_and_by_whom(cli: Cli, mini: World) -> None:
    cli("deploy", "wine/1", "--name", "wine", "--yes")
    intent = mini.serving.held["wine"].intent
    mini.serving.edited["wine"] = replace(intent, scale=Scale(max_replicas=3))
    said = cli("status", "wine").out
    assert "wine: Drift in replicas: recorded none, seen at most 3, by kubectl-edit." in said


def test_status_tells_the_address_of_each_side_of_a_canary(cli: Cli, mini: World) -> None:
    cli("deploy", "wine/1", "--name", "wine", "--yes", "--mode", "Knative")
    cli("deploy", "wine/2", "--name", "wine", "--yes", "--canary-percent", "30")
    ran = cli("status", "wine", "--json")
    (row,) = ran.document["services"]
    assert [side["address"] for side in row["traffic"]] == ["http://prev-wine.test", None]
    assert "prev-wine.test" in ran.err
    assert "wine: wine/2 alone: no address of its own" in cli("status", "wine").out


# ── Clusters of a Google Cloud project ────────────────────────────────────────────────────────

SERVING = GkeCluster(
    "acme", "europe-west1", "serving", "RUNNING", "", "34.0.0.1", "CA", private=False,
    workload_pool="acme.svc.id.goog", version="1.34.1",
)  # fmt: skip
PROD = """
[targets.prod]
kind = "gke"
project = "acme"
location = "europe-west1"
cluster = "serving"
"""


def test_the_clusters_of_a_project_are_listed_with_the_targets_that_name_them(
    cli: Cli, worlds: dict[str, World], clusters: dict[str, tuple[GkeCluster, ...]], tmp_path: Path
) -> None:
    worlds["prod"] = World(target="prod", kind=TargetKind.GKE, namespace="default")
    (tmp_path / "slipway.toml").write_text(PROD)
    clusters["acme"] = (SERVING, replace(SERVING, name="b'atch", private=True))
    ran = cli("targets", "--project", "acme", "--json")
    assert [(row["name"], row["endpoint"], row["target"]) for row in ran.document["clusters"]] == [
        ("serving", "public", "prod"),
        ("b'atch", "private", None),
    ]
    assert "serving is no target yet" not in ran.err
    offered = ran.err.split("slipway.toml:")[1]
    settings = tomllib.loads(offered)["targets"]["b-atch"]
    assert (settings["kind"], settings["cluster"]) == ("gke", "b'atch")


def test_a_project_that_is_not_there_ends_with_its_error(cli: Cli) -> None:
    ran = cli("targets", "--project", "nobodys", "--json")
    assert (ran.code, ran.document["error"]["kind"]) == (5, "NotFound")
