"""slipway.toml and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from services import settings
from services.connect import Connections
from services.domain import TargetKind
from services.errors import ConfigError, NotFound
from tests.apiserver import kubeconfig


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "slipway.toml"


def test_without_a_file_the_embedded_registry_and_the_local_target_are_used(toml: Path) -> None:
    found = settings.load(environ={})
    assert found.embedded
    assert found.tracking_uri == f"sqlite:///{toml.parent / '.slipway' / 'mlflow.db'}"
    assert found.target()[0] == "local"


def test_mlflow_tracking_uri_is_used_when_the_file_names_no_registry(toml: Path) -> None:
    found = settings.load(environ={"MLFLOW_TRACKING_URI": "http://mlflow:5000"})
    assert found.tracking_uri == "http://mlflow:5000"


def test_the_file_comes_before_mlflow_tracking_uri(toml: Path) -> None:
    toml.write_text('[registry]\ntracking_uri = "http://a"\n')
    found = settings.load(environ={"MLFLOW_TRACKING_URI": "http://b"})
    assert found.tracking_uri == "http://a"


def test_every_key_can_come_from_the_environment(toml: Path) -> None:
    toml.write_text('[targets.mini-1]\nkind = "kubernetes"\ncontext = "minikube"\n')
    found = settings.load(environ={"SLIPWAY_TARGETS__MINI_1__NAMESPACE": "models"})
    assert found.target("mini-1")[1].namespace == "models"


def test_an_unknown_key_names_the_nearest_known_one(toml: Path) -> None:
    toml.write_text('[targets.a]\nkind = "local"\nprotcted = true\n')
    with pytest.raises(ConfigError, match="'protected'") as caught:
        settings.load(environ={})
    assert "targets.a.protcted" in caught.value.what


def test_an_unknown_environment_variable_is_an_error_too(toml: Path) -> None:
    with pytest.raises(ConfigError, match="'default_target'"):
        settings.load(environ={"SLIPWAY_DEFAULT_TARGT": "a"})


def test_a_gke_target_without_its_cluster_says_what_is_missing(toml: Path) -> None:
    toml.write_text('[targets.a]\nkind = "gke"\nproject = "p"\n')
    with pytest.raises(ConfigError, match="location and cluster"):
        settings.load(environ={})


def test_a_default_target_that_does_not_exist_is_told_at_once(toml: Path) -> None:
    toml.write_text('default_target = "prod"\n')
    with pytest.raises(NotFound, match="local"):
        settings.load(environ={})


def test_a_file_that_is_not_toml_is_told_with_its_line(toml: Path) -> None:
    toml.write_text("a = \n")
    with pytest.raises(ConfigError, match="line 1"):
        settings.load(environ={})


def test_a_named_file_must_be_there(toml: Path) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        settings.load("nowhere.toml", environ={})


def test_local_is_always_a_target(toml: Path) -> None:
    toml.write_text('[targets.a]\nkind = "local"\n')
    found = settings.load(environ={})
    assert found.target("local")[1].kind is TargetKind.LOCAL


def test_in_a_workflow_the_actor_is_the_one_of_the_workflow() -> None:
    around = settings.surroundings(
        {
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTOR": "ana",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_REPOSITORY": "acme/models",
            "GITHUB_RUN_ID": "7",
        }
    )
    assert around.actor == "ana"
    assert around.origin == "https://github.com/acme/models/actions/runs/7"


def test_the_configuration_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text('[registry]\ntracking_uri = "http://a"\n')
    assert settings.load(environ={"SLIPWAY_CONFIG": str(file)}).tracking_uri == "http://a"


def test_options_are_handed_on_to_the_dashboard(toml: Path) -> None:
    toml.write_text('[targets.b]\nkind = "local"\n')
    handed_on = settings.environment_for("slipway.toml", "b")
    assert settings.load(environ=handed_on).target()[0] == "b"


BARE = '[targets.c]\nkind = "kubernetes"\n'


def test_in_a_pod_without_a_kubeconfig_no_context_means_the_pods_own_cluster(toml: Path) -> None:
    toml.write_text(BARE)
    found = settings.load(environ={"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBECONFIG": "/none"})
    assert found.target("c")[1].context == "in-cluster"


def test_a_target_without_a_context_is_told_which_there_are(toml: Path) -> None:
    toml.write_text(BARE)
    kubeconfig = toml.with_name("kubeconfig")
    kubeconfig.write_text("contexts: [{name: mini}, {name: big}]")
    with pytest.raises(ConfigError) as caught:
        settings.load(environ={"KUBECONFIG": str(kubeconfig)})
    assert "one of big, mini" in caught.value.fix
    assert '"in-cluster"' in caught.value.fix


def test_a_context_of_the_kubeconfig_is_a_protected_target_without_settings(toml: Path) -> None:
    name, chosen = settings.load(environ={}).target("context:kind-dev")
    assert name == "context:kind-dev"
    assert (chosen.kind, chosen.context) == (TargetKind.KUBERNETES, "kind-dev")
    assert chosen.protected


def test_a_context_that_is_taken_as_it_is_gives_its_own_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = kubeconfig(tmp_path, "https://127.0.0.1:1")
    said = yaml.safe_load(file.read_text())
    said["contexts"][0]["context"]["namespace"] = "dev"
    file.write_text(yaml.safe_dump(said))
    place = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(place, str(file))
    ops = Connections(settings.Settings(state_dir=tmp_path)).ops("context:stub")
    assert (ops.namespace, ops.protected) == ("dev", True)
