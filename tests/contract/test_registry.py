"""ports.Registry on real MLflow (SQLite, tracking server, PostgreSQL where given) and in memory."""

from __future__ import annotations

import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from services.domain import (
    AliasRef,
    ColumnSpec,
    Registration,
    Verdict,
    VersionRef,
)
from services.errors import ConfigError, Denied, NotDeployable, NotFound, SlipwayError, Unreachable
from services.ports import Registry
from services.registry import MlflowRegistry
from services.registry.server import name_filter
from tests.contract import mlflow_servers as servers
from tests.contract.mlflow_rows import fill
from tests.memory import MemoryRegistry

pytestmark = pytest.mark.timeout(600)

MLMODEL = """\
artifact_path: model
flavors:
  python_function:
    loader_module: mlflow.sklearn
    python_version: 3.11.7
  sklearn:
    pickled_model: model.skops
    serialization_format: skops
    sklearn_version: 1.7.0
mlflow_version: 3.17.2
saved_input_example_info:
  artifact_path: input_example.json
  serving_input_path: serving_input_example.json
  type: dataframe
signature:
  inputs: '[{"type": "double", "name": "alcohol", "required": true}]'
  outputs: '[{"type": "long", "required": true}]'
  params: null
"""
EXAMPLE = '{"dataframe_split": {"columns": ["alcohol"], "data": [[13.2]]}}'
FILES = {
    "MLmodel": MLMODEL,
    "requirements.txt": "scikit-learn==1.7.0\nskops==0.13.0\n",
    "python_env.yaml": "python: 3.11.7\ndependencies:\n- -r requirements.txt\n",
    "serving_input_example.json": EXAMPLE,
    "data/weights.bin": "w" * 1000,
}
LAST = 12
"""Versions of wine: enough that 9 and 10 sort differently as text and as numbers."""


@dataclass
class Stock:
    """A registry with known content: wine/1 to wine/12, champion → 10, challenger → 12; `empty`."""

    registry: Registry
    client: Any
    """MLflow's own client on the same registry; None in memory."""
    uri: str = ""
    artifacts: Path = Path()
    experiment: str = ""


def write_files(folder: Path, files: dict[str, str] = FILES) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def stocked(uri: str, folder: Path, location: str | None) -> Stock:
    from mlflow import MlflowClient

    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.create_experiment("training", artifact_location=location)
    made = write_files(folder / "made")
    client.create_registered_model("wine", tags={"team": "cellar"}, description="Which grape")
    client.create_registered_model("empty")
    client.register_prompt("greeting", "Hello {{ name }}")
    for number in range(1, LAST + 1):
        run = client.create_run(experiment)
        client.log_metric(run.info.run_id, "accuracy", number / 100)
        client.log_param(run.info.run_id, "C", str(number))
        if number >= 10:
            client.log_artifacts(run.info.run_id, str(made), "model")
        client.create_model_version(
            "wine",
            f"{run.info.artifact_uri}/model",
            run.info.run_id,
            tags={"data": "2024"},
            description=f"Version {number}",
        )
        client.set_terminated(run.info.run_id)
    client.set_registered_model_alias("wine", "champion", "10")
    client.set_registered_model_alias("wine", "challenger", str(LAST))
    registry = MlflowRegistry(uri, timeout_s=30)
    return Stock(registry, client, uri, folder / "artifacts", experiment)


def in_memory() -> Stock:
    registry = MemoryRegistry()
    for number in range(1, LAST + 1):
        aliases = {10: ("champion",), LAST: ("challenger",)}.get(number, ())
        registry.add("wine", number, metrics={"accuracy": number / 100}, aliases=aliases)
    registry.by_model["empty"] = {}
    return Stock(registry, None)


@pytest.fixture(scope="session")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    folder = tmp_path_factory.mktemp("sqlite")
    return stocked(f"sqlite:///{folder / 'mlflow.db'}", folder, str(folder / "artifacts"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("server")
    with servers.tracking_server(folder) as address:
        yield address, folder


@pytest.fixture(scope="session")
def on_server(server: tuple[str, Path]) -> Stock:
    address, folder = server
    return stocked(address, folder, None)


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """URL of a database of this run's own on the PostgreSQL that the suite was given."""
    given = os.environ.get("SLIPWAY_TEST_POSTGRES_URL")
    if not given:
        pytest.skip("SLIPWAY_TEST_POSTGRES_URL names no PostgreSQL to test with")
    name = f"slipway_{secrets.token_hex(4)}"
    admin = create_engine(given, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield admin.url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture(scope="session")
def on_postgres(database: str, tmp_path_factory: pytest.TempPathFactory) -> Stock:
    url = database
    folder = tmp_path_factory.mktemp("postgres")
    stock = stocked(
        url.replace("postgresql://", "postgresql+psycopg://"), folder, str(folder / "artifacts")
    )
    # On a shared database an experiment's place does not count by itself.
    stock.registry = MlflowRegistry(url, timeout_s=30, allowed_roots=[str(folder / "artifacts")])
    return stock


@pytest.fixture(params=["memory", "sqlite", "server", "postgres"])
def stock(request: pytest.FixtureRequest) -> Stock:
    if request.param == "memory":
        return in_memory()
    found: Stock = request.getfixturevalue(f"on_{request.param}")
    return found


@pytest.fixture(params=["sqlite", "server", "postgres"])
def real(request: pytest.FixtureRequest) -> Stock:
    found: Stock = request.getfixturevalue(f"on_{request.param}")
    return found


def add_model(stock: Stock, name: str, source: str, **more: Any) -> VersionRef:
    """One more registered model with one version at `source`."""
    stock.client.create_registered_model(name)
    made = stock.client.create_model_version(name, source, **more)
    return VersionRef(name, int(made.version))


# ── What is registered, everywhere ────────────────────────────────────────────────────────────


def test_versions_come_newest_first_by_number(stock: Stock) -> None:
    numbers = [version.ref.number for version in stock.registry.versions("wine")]
    assert numbers == list(range(LAST, 0, -1))


def test_versions_carry_the_metrics_of_their_runs(stock: Stock) -> None:
    found = {v.ref.number: v.metrics["accuracy"] for v in stock.registry.versions("wine")}
    assert found[7] == pytest.approx(0.07)


def test_versions_carry_their_parameters(stock: Stock) -> None:
    assert stock.registry.version(VersionRef("wine", 7)).params == {"C": "7"}


def test_aliases_are_on_the_versions_of_a_list(stock: Stock) -> None:
    marked = {v.ref.number: v.aliases for v in stock.registry.versions("wine") if v.aliases}
    assert marked == {10: ("champion",), LAST: ("challenger",)}


def test_models_say_their_aliases_newest_number_and_count(stock: Stock) -> None:
    wine = next(model for model in stock.registry.models() if model.name == "wine")
    assert wine.aliases == {"champion": 10, "challenger": LAST}
    assert (wine.latest_number, wine.version_count) == (LAST, LAST)


def test_models_come_by_name_and_an_empty_one_is_among_them(stock: Stock) -> None:
    models = {model.name: model for model in stock.registry.models()}
    assert list(models) == sorted(models)
    assert (models["empty"].latest_number, models["empty"].version_count) == (None, 0)
    assert stock.registry.versions("empty") in ([], ())


def test_an_alias_finds_its_version(stock: Stock) -> None:
    found = stock.registry.version(AliasRef("wine", "champion"))
    assert (found.ref, found.aliases) == (VersionRef("wine", 10), ("champion",))


def test_latest_is_the_highest_number(stock: Stock) -> None:
    assert stock.registry.version(AliasRef("wine", "latest")).ref == VersionRef("wine", LAST)


def test_a_missing_alias_is_told_with_those_that_there_are(stock: Stock) -> None:
    with pytest.raises(NotFound) as raised:
        stock.registry.version(AliasRef("wine", "nobody"))
    assert "challenger, champion" in raised.value.why


@pytest.mark.parametrize(
    "look",
    [
        lambda registry: registry.versions("beer"),
        lambda registry: registry.version(VersionRef("beer", 1)),
        lambda registry: registry.version(VersionRef("wine", 99)),
        lambda registry: registry.version(AliasRef("empty", "latest")),
        lambda registry: registry.details(VersionRef("wine", 99)),
        lambda registry: registry.set_alias(AliasRef("wine", "next"), 99),
        lambda registry: registry.set_alias(AliasRef("beer", "next"), 1),
    ],
    ids=[
        "model",
        "version of none",
        "number",
        "latest of none",
        "details",
        "alias",
        "alias of none",
    ],
)
def test_what_is_not_there_is_not_found(stock: Stock, look: Callable[[Registry], object]) -> None:
    with pytest.raises(NotFound):
        look(stock.registry)


def test_an_alias_can_be_set_and_moved(stock: Stock) -> None:
    for number in (3, 4):
        stock.registry.set_alias(AliasRef("wine", "moving"), number)
        assert stock.registry.version(AliasRef("wine", "moving")).ref.number == number
    if stock.client is not None:
        stock.client.delete_registered_model_alias("wine", "moving")


def test_a_version_is_copied_into_an_empty_folder(stock: Stock, tmp_path: Path) -> None:
    heard: list[float | None] = []

    def report(_line: str, ratio: float | None) -> None:
        heard.append(ratio)

    stock.registry.download(VersionRef("wine", 10), tmp_path, report)
    assert (tmp_path / "MLmodel").read_text()
    assert heard[-1] == 1.0


def test_health_says_that_the_registry_answers(stock: Stock) -> None:
    assert stock.registry.check()[0].verdict is Verdict.PASS


# ── What real registries add ──────────────────────────────────────────────────────────────────


def test_prompts_are_no_models(real: Stock) -> None:
    assert "greeting" not in {model.name for model in real.registry.models()}
    with pytest.raises(NotFound):
        real.registry.versions("greeting")


def test_models_carry_tags_description_and_times(real: Stock) -> None:
    wine = next(model for model in real.registry.models() if model.name == "wine")
    assert (wine.tags, wine.description) == ({"team": "cellar"}, "Which grape")
    assert wine.created_at is not None
    assert wine.created_at.utcoffset() is not None


def test_details_are_read_from_the_files(real: Stock) -> None:
    details = real.registry.details(VersionRef("wine", 10))
    assert details.problems == ()
    assert details.signature is not None
    assert [spec.name for spec in details.signature.inputs] == ["alcohol"]
    assert isinstance(details.signature.inputs[0], ColumnSpec)
    assert json.loads(details.example or "") == json.loads(EXAMPLE)
    assert details.requirements == ("scikit-learn==1.7.0", "skops==0.13.0")
    assert (details.python_version, details.mlflow_version) == ("3.11.7", "3.17.2")
    assert details.flavors["sklearn"]["serialization_format"] == "skops"
    assert {file.path: file.size_bytes for file in details.files} == {
        name: len(content) for name, content in FILES.items()
    }


def test_a_copy_has_the_same_bytes_as_what_was_logged(real: Stock, tmp_path: Path) -> None:
    real.registry.download(VersionRef("wine", 10), tmp_path)
    copied = {
        path.relative_to(tmp_path).as_posix(): path.read_text()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert copied == FILES


def test_a_version_whose_files_are_gone_is_listed_and_says_so(real: Stock, tmp_path: Path) -> None:
    details = real.registry.details(VersionRef("wine", 1))
    assert "gone" in details.problems[0]
    with pytest.raises(NotFound, match="gone"):
        real.registry.download(VersionRef("wine", 1), tmp_path)


def test_a_version_without_a_run_says_that_it_has_no_metrics(real: Stock) -> None:
    source = real.registry.version(VersionRef("wine", 10)).source
    ref = add_model(real, "runless", source) if real.uri.startswith(("sqlite", "post")) else None
    if ref is None:  # a server refuses sources without a run that lie in its artifacts' proxy
        ref = add_model(real, "runless", "s3://elsewhere/model")
    found = real.registry.version(ref)
    assert (found.run_id, found.run_url) == (None, None)
    assert "without a run" in found.problems[0]


def test_a_version_whose_run_was_deleted_says_so(real: Stock) -> None:
    run = real.client.create_run(real.experiment)
    ref = add_model(real, "orphan", f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    real.client.delete_run(run.info.run_id)
    assert any("deleted" in problem for problem in real.registry.version(ref).problems)
    assert any("deleted" in problem for problem in real.registry.versions("orphan")[0].problems)


def test_a_deleted_version_is_listed_no_more(real: Stock) -> None:
    ref = add_model(real, "shrinking", "s3://elsewhere/model")
    real.client.create_model_version("shrinking", "s3://elsewhere/model")
    real.registry.models()
    real.client.delete_model_version("shrinking", "2")
    assert [v.ref for v in real.registry.versions("shrinking")] == [ref]
    model = next(m for m in real.registry.models() if m.name == "shrinking")
    assert (model.latest_number, model.version_count) == (1, 1)


def test_a_run_that_is_younger_than_the_list_of_experiments_is_found(real: Stock) -> None:
    real.registry.versions("wine")
    experiment = real.client.create_experiment("later")
    run = real.client.create_run(experiment)
    real.client.log_metric(run.info.run_id, "f1", 0.5)
    ref = add_model(real, "later", f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    assert real.registry.version(ref).metrics == {"f1": 0.5}


def test_strange_numbers_among_metrics_survive(real: Stock) -> None:
    run = real.client.create_run(real.experiment)
    for name, value in (("nan", float("nan")), ("big", 1e300), ("inf", float("inf"))):
        real.client.log_metric(run.info.run_id, name, value)
    ref = add_model(real, "strange", f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    metrics = real.registry.version(ref).metrics
    assert metrics["nan"] != metrics["nan"]
    assert metrics["big"] == 1e300
    assert metrics["inf"] > 1e300


@pytest.mark.parametrize(
    "alias", ["latest", "LATEST", "v7", "with space", "a/b", "tail\n", "", "é"]
)
def test_an_alias_that_mlflow_keeps_or_forbids_is_refused(on_sqlite: Stock, alias: str) -> None:
    with pytest.raises(ConfigError):
        on_sqlite.registry.set_alias(AliasRef("wine", alias), 1)


def test_a_copy_goes_only_into_an_empty_folder(on_sqlite: Stock, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(ConfigError):
        on_sqlite.registry.download(VersionRef("wine", 10), tmp_path)
    assert (tmp_path / "mine").read_text() == "keep"


# ── Hostile text is data ──────────────────────────────────────────────────────────────────────

HOSTILE = [
    "it's",
    'say "hi"',
    "both ' and \"",
    "back\\slash'",
    "a' OR name LIKE '%",
    "100 %",
    "under_score",
    "two  spaces",
    "ünïcödé 模型",
    "\u202egnihtemos",
    "line\nbreak",
    "tail\n",
    "{{ 7 * 7 }} ${{ secrets }}",
    "<script>alert(1)</script>".replace("/", "|"),
    "![x](y)",
    "&anchor *alias",
    "wine@champion",
    "a" * 250,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_found_byte_for_byte(real: Stock, name: str) -> None:
    ref = add_model(real, name, "s3://elsewhere/model", tags={"x": "\u202e" + "y" * 4_900})
    real.client.set_registered_model_alias(name, "champion", "1")
    assert [version.ref for version in real.registry.versions(name)] == [ref]
    assert real.registry.version(AliasRef(name, "latest")).ref == ref
    assert real.registry.version(AliasRef(name, "champion")).tags == {"x": "\u202e" + "y" * 4_900}
    assert name in {model.name for model in real.registry.models()}


@pytest.mark.parametrize("name", ["..", "a/b", "a:b", "", "nul\0byte", "x' OR 1=1 --", "\ud800"])
def test_a_name_that_cannot_be_is_not_found(real: Stock, name: str) -> None:
    with pytest.raises(NotFound) as raised:
        real.registry.versions(name)
    assert "\n" not in str(raised.value)


def test_errors_about_hostile_names_are_one_line(on_sqlite: Stock) -> None:
    with pytest.raises(NotFound) as raised:
        on_sqlite.registry.version(VersionRef("a\nb\x1b[31m\u202e", 1))
    assert str(raised.value).isprintable()


def test_a_name_filter_never_ends_early() -> None:
    assert name_filter("it's") == 'name = "it\'s"'
    assert name_filter("a'b\"c\\") == "name LIKE 'a_b_c_'"


# ── The source of a version is confined ───────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "source",
    [
        "file:///etc",
        "/etc",
        "/",
        "/proc/self",
        "{artifacts}/../../../../etc",
        "file://{artifacts}/%2e%2e/secrets",
        "file://{artifacts}/model#/../../../etc",
        "file://{artifacts}/model?x=/../..",
        "file://fileserver/share/model",
        "http://169.254.169.254/computeMetadata",
        "https://example.org/model#/../",
        "gs://other/model",
        "s3://other/model",
        "ftp://example.org/model",
        "mlflow-artifacts:/0/model",
        "mlflow-artifacts://evil.example/0/model",
        "models:/m-123",
        "runs:/0123/model",
        "relative/model",
    ],
)
def test_a_source_outside_the_roots_is_refused(
    on_sqlite: Stock, tmp_path: Path, source: str
) -> None:
    name = f"outside {abs(hash(source))}"
    on_sqlite.client.create_registered_model(name)
    place = source.format(artifacts=on_sqlite.artifacts)
    _insert_version(on_sqlite, name, place)
    with pytest.raises(NotDeployable):
        on_sqlite.registry.download(VersionRef(name, 1), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert on_sqlite.registry.details(VersionRef(name, 1)).problems


def _insert_version(stock: Stock, name: str, source: str) -> None:
    """A row as an attacker with access to the database would write it."""
    import sqlite3

    with sqlite3.connect(stock.uri.removeprefix("sqlite:///"), timeout=30) as database:
        database.execute(
            "INSERT INTO model_versions (name, version, current_stage, source, status)"
            " VALUES (?, 1, 'None', ?, 'READY')",
            (name, source),
        )
    database.close()


def linked_outside(folder: Path, secret: Path) -> None:
    (folder / "weights").symlink_to(secret)


def linked_folder(folder: Path, secret: Path) -> None:
    (folder / "more").symlink_to(secret.parent, target_is_directory=True)


def piped(folder: Path, _secret: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize("spoil", [linked_outside, linked_folder, piped])
def test_links_and_special_files_are_refused(
    on_sqlite: Stock, tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    folder = write_files(on_sqlite.artifacts / f"spoiled {spoil.__name__}")
    spoil(folder, secret)
    ref = add_model(on_sqlite, f"spoiled {spoil.__name__}", str(folder))
    into = tmp_path / "into"
    with pytest.raises(NotDeployable, match="link or no plain file"):
        on_sqlite.registry.download(ref, into)
    assert not into.exists()


def test_a_link_to_the_whole_folder_is_followed_only_inside_the_roots(
    on_sqlite: Stock, tmp_path: Path
) -> None:
    (on_sqlite.artifacts / "escape").symlink_to(write_files(tmp_path / "elsewhere"))
    ref = add_model(on_sqlite, "escaping", str(on_sqlite.artifacts / "escape"))
    with pytest.raises(NotDeployable):
        on_sqlite.registry.download(ref, tmp_path / "into")


@pytest.mark.parametrize("caps", [{"max_files": 4}, {"max_bytes": 900}])
def test_too_many_files_or_bytes_are_refused(
    on_sqlite: Stock, tmp_path: Path, caps: dict[str, int]
) -> None:
    registry = MlflowRegistry(on_sqlite.uri, **caps)  # type: ignore[arg-type] # ints by keyword
    with pytest.raises(NotDeployable, match="too many or too large"):
        registry.download(VersionRef("wine", 10), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_allowed_root_opens_a_place(on_sqlite: Stock, tmp_path: Path) -> None:
    ref = add_model(on_sqlite, "allowed", str(write_files(tmp_path / "elsewhere")))
    registry = MlflowRegistry(on_sqlite.uri, allowed_roots=[str(tmp_path)])
    registry.download(ref, tmp_path / "into")
    assert (tmp_path / "into" / "MLmodel").exists()


def test_an_experiment_in_a_system_folder_opens_nothing(on_sqlite: Stock, tmp_path: Path) -> None:
    on_sqlite.client.create_experiment("greedy", artifact_location="/etc")
    ref = add_model(on_sqlite, "greedy", "/etc/ssl")
    with pytest.raises(NotDeployable):
        on_sqlite.registry.download(ref, tmp_path)


def test_a_folder_without_mlmodel_is_no_model(on_sqlite: Stock, tmp_path: Path) -> None:
    folder = write_files(on_sqlite.artifacts / "bare", {"weights.bin": "w"})
    ref = add_model(on_sqlite, "bare", str(folder))
    with pytest.raises(NotDeployable, match="no MLflow model"):
        on_sqlite.registry.download(ref, tmp_path)
    assert "no MLmodel" in on_sqlite.registry.details(ref).problems[0]


def test_mlflows_own_note_of_a_download_is_left_out(on_sqlite: Stock, tmp_path: Path) -> None:
    files = {**FILES, "registered_model_meta": "model_name: x"}
    ref = add_model(on_sqlite, "noted", str(write_files(on_sqlite.artifacts / "noted", files)))
    on_sqlite.registry.download(ref, tmp_path)
    assert not (tmp_path / "registered_model_meta").exists()


def test_copied_files_are_plain_and_ours(on_sqlite: Stock, tmp_path: Path) -> None:
    on_sqlite.registry.download(VersionRef("wine", 10), tmp_path)
    assert stat.S_ISREG((tmp_path / "MLmodel").lstat().st_mode)


def listing(files: list[dict[str, object]], place: str = "mlflow-artifacts:/0/m") -> Any:
    """A server with wine/1 at `place`, whose proxy lists `files` and sends 10 bytes for each."""

    def answer(path: str) -> servers.Answer:
        if "get-download-uri" in path:
            return 200, {"artifact_uri": place}
        if "experiments/get" in path:
            return 200, {"experiment": {"artifact_location": "mlflow-artifacts:/0"}}
        if "mlflow-artifacts/artifacts?" in path:
            return 200, {"files": files}
        return 200, b"0123456789"

    return servers.scripted(answer)


@pytest.mark.parametrize(
    "path", ["../../evil", "/etc/passwd", "a/../../evil", "..", "a\\..\\evil", "a\nb", "", "./x"]
)
def test_a_server_cannot_write_outside_the_folder(tmp_path: Path, path: str) -> None:
    files: list[dict[str, object]] = [{"path": path, "file_size": 10}, {"path": "MLmodel"}]
    with listing(files) as (address, _), pytest.raises(NotDeployable):
        MlflowRegistry(address).download(VersionRef("wine", 1), tmp_path / "into")
    assert not list(tmp_path.iterdir())


def test_a_server_cannot_send_more_than_it_announced(tmp_path: Path) -> None:
    files: list[dict[str, object]] = [{"path": "MLmodel", "file_size": 4}]
    with listing(files) as (address, _), pytest.raises(Unreachable, match="announced"):
        MlflowRegistry(address).download(VersionRef("wine", 1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_comes_short_is_not_kept(tmp_path: Path) -> None:
    files: list[dict[str, object]] = [{"path": "MLmodel", "file_size": 400}]
    with listing(files) as (address, _), pytest.raises(Unreachable, match="changed while"):
        MlflowRegistry(address).download(VersionRef("wine", 1), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "place",
    [
        "mlflow-artifacts://evil.example:5000/0/m",
        "/etc",
        "file:///etc",
        "gs://other/model",
        "http://169.254.169.254/x",
        "mlflow-artifacts:/0/m/../../etc",
        "",
    ],
)
def test_a_server_cannot_point_us_elsewhere(tmp_path: Path, place: str) -> None:
    with listing([], place) as (address, _), pytest.raises(NotDeployable):
        MlflowRegistry(address).download(VersionRef("wine", 1), tmp_path)


def test_an_endless_tree_of_folders_is_refused(tmp_path: Path) -> None:
    files: list[dict[str, object]] = [{"path": "deeper", "is_dir": True}]
    with listing(files) as (address, _), pytest.raises(NotDeployable):
        MlflowRegistry(address).download(VersionRef("wine", 1), tmp_path)


# ── Calls are counted ─────────────────────────────────────────────────────────────────────────


def test_the_number_of_calls_is_bounded_and_no_version_is_lost(server: tuple[str, Path]) -> None:
    address, folder = server
    versions, runs = 2_500, 1_100
    fill(folder / "mlflow.db", "crowd", versions, runs)
    with servers.counting_proxy(address) as (proxy, seen):
        found = MlflowRegistry(proxy, timeout_s=60).versions("crowd")
    assert [version.ref.number for version in found] == list(range(versions, 0, -1))
    assert sum("accuracy" in version.metrics for version in found) == runs
    assert found[1].aliases == ("champion",)
    assert len(seen) <= 2 + 3 + 3, seen


def test_one_version_costs_at_most_four_calls(on_server: Stock) -> None:
    with servers.counting_proxy(on_server.uri) as (proxy, seen):
        MlflowRegistry(proxy, timeout_s=60).version(AliasRef("wine", "champion"))
    assert len(seen) <= 4, seen


def test_models_cost_no_call_per_model(on_server: Stock) -> None:
    with servers.counting_proxy(on_server.uri) as (proxy, seen):
        registry = MlflowRegistry(proxy, timeout_s=60)
        registry.models()
        first = len(seen)
        registry.models()
    assert first <= 1 + 4, seen
    assert len(seen) == first + 1, seen


def test_details_are_read_once(on_server: Stock) -> None:
    with servers.counting_proxy(on_server.uri) as (proxy, seen):
        registry = MlflowRegistry(proxy, timeout_s=60)
        registry.details(VersionRef("wine", 10))
        first = len(seen)
        registry.details(VersionRef("wine", 10))
    assert len(seen) == first + 1, seen


# ── Faults ────────────────────────────────────────────────────────────────────────────────────

SILENCE_S = 0.5


def refused_by(address: str) -> SlipwayError:
    """What a registry at `address` says to each read; the same for all of them, in bounded time."""
    registry = MlflowRegistry(address, timeout_s=SILENCE_S)
    registry.check()  # pays for imports
    started = time.monotonic()
    raised: list[SlipwayError] = []
    for look in (registry.models, lambda: registry.versions("wine")):
        with pytest.raises(SlipwayError) as caught:
            look()
        raised.append(caught.value)
    took_s = time.monotonic() - started
    assert took_s < 2 * SILENCE_S * 5 + 10  # two calls, five silences each, and a busy machine
    assert raised[0].kind == raised[1].kind
    finding = registry.check()[0]
    assert finding.verdict is Verdict.FAIL
    assert all((raised[0].what, raised[0].why, raised[0].fix, finding.fix))
    assert str(raised[0]).isprintable()
    return raised[0]


def test_a_closed_port_is_unreachable() -> None:
    error = refused_by(f"http://127.0.0.1:{servers.free_port()}")
    assert isinstance(error, Unreachable)
    assert "refused" in error.why


def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    assert isinstance(refused_by("http://registry.invalid:5000"), Unreachable)


@pytest.mark.parametrize(
    "speak",
    [
        servers.black_hole,
        servers.dripping_headers,
        servers.dripping_body,
        servers.truncated,
        servers.hanging_up,
    ],
)
def test_a_broken_conversation_is_unreachable(speak: Any) -> None:
    with servers.raw(speak) as address:
        assert isinstance(refused_by(address), Unreachable)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((401, "Unauthorized"), Denied),
        ((403, {"error_code": "PERMISSION_DENIED", "message": "no\n\x1b[31mread"}), Denied),
        ((404, "<html>nothing here</html>"), Unreachable),
        ((500, "<html>oops</html>"), Unreachable),
        ((500, {"error_code": "INTERNAL_ERROR", "message": "db\ngone"}), Unreachable),
        ((503, ""), Unreachable),
        ((429, ""), Unreachable),
        ((302, ""), Unreachable),
        ((200, "<html>Log in</html>"), Unreachable),
        ((200, "[1, 2"), Unreachable),
        ((200, ""), Unreachable),
        ((200, "[]"), Unreachable),
        ((200, {"registered_models": [{"nom": "x"}], "registered_model": 3}), Unreachable),
        ((200, {"registered_models": 7, "registered_model": []}), Unreachable),
        ((200, b"\xff\xfe\x00"), Unreachable),
    ],
)
def test_an_answer_that_is_no_registrys_is_told(
    answer: servers.Answer, kind: type[SlipwayError]
) -> None:
    with servers.scripted(lambda _path: answer) as (address, _):
        assert isinstance(refused_by(address), kind)


def test_credentials_in_the_address_are_never_shown() -> None:
    error = refused_by(f"http://ann:hunter2@127.0.0.1:{servers.free_port()}")
    assert "hunter2" not in str(error)


def test_mlflows_own_variables_carry_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Recording(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization") or "")
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with servers.served(Recording) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
        MlflowRegistry(address).models()
        monkeypatch.delenv("MLFLOW_TRACKING_TOKEN")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
        MlflowRegistry(address).models()
    assert seen == ["Bearer t0ken", "Basic YW5uOmh1bnRlcjI="]


def test_a_sqlite_file_that_is_not_there_is_an_empty_registry(tmp_path: Path) -> None:
    registry = MlflowRegistry(f"sqlite:///{tmp_path / 'none.db'}")
    assert registry.models() == ()
    assert registry.check()[0].verdict is Verdict.WARN
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotFound):
        registry.versions("wine")


def test_a_file_that_is_no_database_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is no database" * 100)
    with pytest.raises(Unreachable):
        MlflowRegistry(f"sqlite:///{tmp_path / 'text.db'}").models()


def test_a_database_without_mlflows_tables_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    with pytest.raises(Unreachable, match="slipway demo"):
        MlflowRegistry(f"sqlite:///{tmp_path / 'empty.db'}").models()


def test_a_locked_database_is_unreachable_in_time(on_sqlite: Stock, tmp_path: Path) -> None:
    import shutil
    import sqlite3

    copy = tmp_path / "mlflow.db"
    shutil.copy(on_sqlite.uri.removeprefix("sqlite:///"), copy)
    holder = sqlite3.connect(copy, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    with pytest.raises(Unreachable, match="locked"):
        MlflowRegistry(f"sqlite:///{copy}", timeout_s=SILENCE_S).models()
    assert time.monotonic() - started < SILENCE_S * 5 + 5
    holder.close()


def test_a_postgresql_that_is_not_there_is_unreachable_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(Unreachable) as raised:
        MlflowRegistry(
            f"postgresql://ann:hunter2@127.0.0.1:{servers.free_port()}/mlflow", timeout_s=SILENCE_S
        ).models()
    assert time.monotonic() - started < 10
    assert "hunter2" not in str(raised.value)


def test_a_silent_postgresql_is_unreachable_in_time() -> None:
    with servers.raw(servers.black_hole) as address:
        port = address.rpartition(":")[2]
        started = time.monotonic()
        with pytest.raises(Unreachable):
            MlflowRegistry(
                f"postgresql://ann@127.0.0.1:{port}/mlflow", timeout_s=SILENCE_S
            ).models()
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("uri", ["", "nonsense", "redis://x", "http://", "databricks"])
def test_an_address_that_is_none_is_a_configuration_error(uri: str) -> None:
    with pytest.raises(ConfigError):
        MlflowRegistry(uri)


@pytest.mark.parametrize(
    ("status", "registration"),
    [
        ("PENDING_REGISTRATION", Registration.PENDING),
        ("FAILED_REGISTRATION", Registration.FAILED),
    ],
)
def test_a_registration_that_is_not_ready_is_listed_with_its_problem(
    on_sqlite: Stock, status: str, registration: Registration
) -> None:
    import sqlite3

    ref = add_model(on_sqlite, status.lower(), "s3://elsewhere/model")
    with sqlite3.connect(on_sqlite.uri.removeprefix("sqlite:///"), timeout=30) as database:
        database.execute(
            "UPDATE model_versions SET status = ?, status_message = ? WHERE name = ?",
            (status, "disk\nfull", ref.model),
        )
    database.close()
    (found,) = on_sqlite.registry.versions(ref.model)
    assert found.registration is registration
    assert "registration" in found.problems[0]
