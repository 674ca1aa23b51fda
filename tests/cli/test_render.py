"""`slipway render`: manifests for those who let another tool apply them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from services.domain import VersionRef
from tests.cli.conftest import Cli
from tests.memory import World


def base_of(folder: Path) -> dict[str, object]:
    found = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("mini")
def test_a_base_holds_the_namespace_and_the_manifest_does_not(cli: Cli, tmp_path: Path) -> None:
    ran = cli("render", "wine/1", "--name", "wine", "--kustomize", "base")
    assert ran.code == 0
    assert base_of(tmp_path / "base")["namespace"] == "models"
    made = yaml.safe_load((tmp_path / "base" / "wine.yaml").read_text())
    assert (made["metadata"]["name"], "namespace" in made["metadata"]) == ("wine", False)


@pytest.mark.usefixtures("mini")
def test_a_second_service_joins_the_base(cli: Cli, tmp_path: Path) -> None:
    for name in ("wine", "churn"):
        assert cli("render", "wine/1", "--name", name, "--kustomize", "base").code == 0
    assert base_of(tmp_path / "base")["resources"] == ["wine.yaml", "churn.yaml"]


@pytest.mark.usefixtures("mini")
def test_a_kustomization_that_names_the_service_stays_as_it_was_written(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    path = tmp_path / "base" / "kustomization.yaml"
    path.write_text("# ours\nnamespace: models\nresources: [wine.yaml]\n")
    ran = cli("render", "wine/2", "--name", "wine", "--kustomize", "base", "--json")
    assert ran.document["files"] == [str(Path("base") / "wine.yaml")]
    assert path.read_text().startswith("# ours")


@pytest.mark.usefixtures("mini")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("namespace: others\n", "That base is for the namespace others"),
        ("- a list\n", "is no kustomization"),
        ("a: [\n", "is not YAML"),
    ],
)
def test_a_folder_that_is_not_ours_to_extend_is_left_alone(
    cli: Cli, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "base").mkdir()
    path = tmp_path / "base" / "kustomization.yaml"
    path.write_text(text)
    ran = cli("render", "wine/1", "--name", "wine", "--kustomize", "base")
    assert (ran.code, said in ran.err) == (2, True)
    assert (path.read_text(), (tmp_path / "base" / "wine.yaml").exists()) == (text, False)


def test_a_service_that_another_tool_owns_is_rendered_and_not_deployed(
    cli: Cli, mini: World
) -> None:
    mini.foreign("churn", owner="Argo CD")
    assert cli("deploy", "wine/1", "--name", "churn", "--yes").code == 7
    ran = cli("render", "wine/1", "--name", "churn")
    assert (ran.code, "churn" in ran.out) == (0, True)


def test_a_package_that_is_not_there_yet_is_warned_of(cli: Cli, mini: World) -> None:
    mini.packager.gone.add(mini.packager.propose(mini.registry.version(VersionRef("wine", 1))).uri)
    ran = cli("render", "wine/1", "--name", "wine")
    assert (ran.code, "slipway publish wine/1" in ran.err) == (0, True)


def test_the_manifest_of_another_tool_is_never_applied_by_us(mini: World) -> None:
    from services import preparing, rollout
    from services.errors import NotDeployable

    prepared = preparing.prepare_render(mini, "wine/1", name="wine")
    with pytest.raises(NotDeployable, match="another tool"):
        rollout.apply(prepared.plan, mini, actor="ana")
