"""The demo's models, really trained and registered, seen through the registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

import pytest

from services.compare import compare_versions
from services.demo import is_seeded, seed
from services.domain import VersionRef
from services.ports import Registry
from services.registry import MlflowRegistry

pytestmark = pytest.mark.timeout(900)

ROOT = Path(__file__).parents[2]
EVERY = [
    VersionRef("wine", 1),
    VersionRef("wine", 2),
    VersionRef("wine", 3),
    VersionRef("diabetes-progression", 1),
    VersionRef("diabetes-progression", 2),
    VersionRef("ticket-router", 1),
    VersionRef("shipping-price", 1),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded registry, in a process that was killed half way and then run again."""
    folder = tmp_path_factory.mktemp("demo")
    code = (
        "import os, sys; from pathlib import Path; from services.demo import is_seeded, seed\n"
        "def report(line, ratio):\n"
        "    if 'boosted' in line: os._exit(9)\n"
        "folder = Path(sys.argv[1])\n"
        "seed(f'sqlite:///{folder}/mlflow.db', folder / 'artifacts', report)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (killed.returncode, killed.stdout, killed.stderr) == (9, "", "")
    seed(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    return folder


@pytest.fixture(scope="module")
def registry(folder: Path) -> Registry:
    return MlflowRegistry(f"sqlite:///{folder}/mlflow.db", timeout_s=30)


def test_a_seeding_that_was_killed_is_taken_up_where_it_stopped(registry: Registry) -> None:
    models = registry.models()
    found = [version.ref for model in models for version in registry.versions(model.name)]
    assert sorted(found) == sorted(EVERY)
    assert is_seeded(models)
    assert not is_seeded(models[1:])


def test_seeding_again_changes_nothing(folder: Path, registry: Registry) -> None:
    before = [registry.versions(model.name) for model in registry.models()]
    files = sorted(folder.rglob("*"))
    names = seed(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    assert sorted(names) == sorted({ref.model for ref in EVERY})
    assert [registry.versions(model.name) for model in registry.models()] == before
    assert sorted(folder.rglob("*")) == files


def test_seeding_leaves_the_environment_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The dashboard takes the place of the process that seeded, and inherits what stands there.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:////elsewhere.db")
    before = dict(os.environ)
    seed(f"sqlite:///{folder}/mlflow.db", folder / "artifacts")
    assert dict(os.environ) == before


@pytest.mark.parametrize("ref", EVERY, ids=str)
def test_each_version_has_all_that_a_team_would_log(registry: Registry, ref: VersionRef) -> None:
    version, details = registry.version(ref), registry.details(ref)
    assert version.problems == details.problems == ()
    assert version.metrics
    assert version.params
    assert version.tags
    assert version.description
    assert version.run_id
    assert (version.model_id or "").startswith("m-")
    assert details.signature is not None
    assert details.signature.inputs
    assert details.signature.outputs
    assert json.loads(details.example or "")["dataframe_split"]["data"]


@pytest.mark.parametrize("ref", EVERY, ids=str)
def test_requirements_are_pinned_to_what_is_installed(registry: Registry, ref: VersionRef) -> None:
    requirements = registry.details(ref).requirements
    assert requirements
    for requirement in requirements:
        name, _, pinned = requirement.partition("==")
        assert pinned == installed(name)


def test_each_model_loads_and_answers_its_own_example(registry: Registry, tmp_path: Path) -> None:
    for place, ref in enumerate(EVERY):
        registry.download(ref, tmp_path / str(place))
        (tmp_path / f"{place}.json").write_text(registry.details(ref).example or "")
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore'); import mlflow\n"
        "import pandas as pd\n"
        "for place in range(int(sys.argv[1])):\n"
        "    model = mlflow.pyfunc.load_model(str(place))\n"
        "    body = json.load(open(f'{place}.json'))['dataframe_split']\n"
        "    rows = pd.DataFrame(body['data'], columns=body['columns'])\n"
        "    print(len(model.predict(rows)))\n"
    )
    answered = subprocess.run(
        [sys.executable, "-c", code, str(len(EVERY))],
        cwd=tmp_path,  # none of Slipway's own modules is within reach
        capture_output=True,
        text=True,
        check=False,
    )
    assert answered.stdout.split() == ["1"] * len(EVERY), answered.stderr


def test_the_wine_models_get_better(registry: Registry) -> None:
    accuracy = [registry.version(VersionRef("wine", n)).metrics["accuracy"] for n in (1, 2, 3)]
    assert accuracy[0] < accuracy[1]
    assert min(accuracy) > 0.6


def test_champion_and_challenger_are_set(registry: Registry) -> None:
    wine = next(model for model in registry.models() if model.name == "wine")
    assert wine.aliases == {"champion": 2, "challenger": 3}


def test_the_challenger_breaks_callers_of_the_champion(registry: Registry) -> None:
    two, three = VersionRef("wine", 2), VersionRef("wine", 3)
    found = compare_versions(
        registry.version(two),
        registry.details(two),
        registry.version(three),
        registry.details(three),
    )
    assert [d.field for d in found if d.breaking] == ["input magnesium"]


def test_the_python_model_has_parameters_and_the_text_model_a_string(registry: Registry) -> None:
    shipping = registry.details(VersionRef("shipping-price", 1)).signature
    tickets = registry.details(VersionRef("ticket-router", 1)).signature
    assert shipping is not None
    assert tickets is not None
    assert {param.name: param.default_json for param in shipping.params} == {
        "fuel_surcharge_percent": "8.0",
        "discount_percent": "0.0",
        "decimals": "2",
    }
    assert [column.kind.value for column in tickets.inputs] == ["string"]  # type: ignore[union-attr]


def test_a_model_of_the_same_name_that_is_not_the_demos_is_left_alone(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri, registry_uri=uri)
    for name in ("wine", "diabetes-progression", "ticket-router", "shipping-price"):
        client.create_registered_model(name, tags={"mine": "yes"})
    heard: list[str] = []
    assert seed(uri, tmp_path / "artifacts", lambda line, _ratio: heard.append(line)) == ()
    assert any("left alone" in line for line in heard)
    assert MlflowRegistry(uri).versions("wine") in ([], ())
