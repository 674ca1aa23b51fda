"""What images promise: one text for one content, built once, brought once, failures in words.

The builder is a real program on the PATH: a small one that does what docker does with tags and
says what docker says when it fails. The words were copied from docker 28, podman 4.3 and pip 24.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.domain import ModelVersion, Package, PackageKind, Registration, Verdict, VersionRef
from services.errors import ConfigError, Denied, NotDeployable, NotFound, SlipwayError, Unreachable
from services.images import EnvironmentPackager, ImageOptions, ImagePackager, Server, chosen
from services.images.builders import Builder, EngineBuilder, LoadCommand, MinikubeBuilder, Push
from services.images.recipe import component, libraries_for, model_recipe
from tests.memory import MemoryPackager, MemoryRegistry

ENGINE = '''#!{python}
"""Stands in for docker: tags are files below $ENGINE_HOME, and every call is noted there."""
import json, os, pathlib, sys, time
home = pathlib.Path(os.environ["ENGINE_HOME"])
with open(home / "calls", "a") as calls:
    calls.write(json.dumps([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
fails = home / "fails"
known = home / "images"
known.mkdir(exist_ok=True)
def place(image): return known / image.replace("/", "%")
verb = sys.argv[1] if sys.argv[1] != "--profile" else " ".join(sys.argv[3:5])
if verb in ("image", "manifest"):
    image = sys.argv[-1]
    if place("pushed/" + image if verb == "manifest" else image).exists():
        print(json.dumps(dict(Id="sha256:" + "ab" * 32)))
        raise SystemExit(0)
    print("Error response from daemon: No such image: " + image, file=sys.stderr)
    raise SystemExit(1)
if fails.exists():
    print(fails.read_text())
    raise SystemExit(1)
if verb == "build":
    context = pathlib.Path(sys.argv[-1])
    seen = {{str(p.relative_to(context)): p.read_text() for p in context.rglob("*") if p.is_file()}}
    (home / "context").write_text(json.dumps(seen))
    print("Step 1/9", flush=True)
    if (home / "slow").exists():
        (home / "pid").write_text(str(os.getpid()))
        time.sleep(60)
    place(sys.argv[3]).touch()
if verb == "push":
    place("pushed/" + sys.argv[2]).touch()
if verb == "save":
    pathlib.Path(sys.argv[3]).write_bytes(b"archive")
'''


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where docker, kind and a loader are, and what they were called with."""
    home = tmp_path / "engine"
    home.mkdir()
    for name in ("docker", "podman", "kind", "loader"):
        program = home / name
        program.write_text(ENGINE.format(python=sys.executable))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    monkeypatch.setenv("ENGINE_HOME", str(home))
    return home


def calls(engine: Path, *verbs: str) -> list[list[str]]:
    """What was called, of the given verbs (or all), questions left out."""
    lines = (engine / "calls").read_text().splitlines() if (engine / "calls").exists() else []
    found = [json.loads(line) for line in lines]
    asking = {"image", "manifest"}
    return [c for c in found if (c[1] in verbs if verbs else c[1] not in asking)]


@pytest.fixture
def registry() -> MemoryRegistry:
    made = MemoryRegistry()
    for number in (1, 2):
        ref = made.add("wine", number)
        made.details_of[ref] = replace(
            made.details_of[ref],
            requirements=("mlflow==3.17.2", "scikit-learn==1.9.1"),
            python_version="3.11.7",
        )
        made.files[ref] = {"MLmodel": b"flavors: {}", "model.skops": str(number).encode()}
    return made


Make = Callable[..., ImagePackager]


@pytest.fixture
def packager(registry: MemoryRegistry, tmp_path: Path, engine: Path) -> Make:
    """A packager with docker and a loader, unless told otherwise."""

    def make(builder: Builder | None = None, **options: object) -> ImagePackager:
        known: set[str] = options.pop("nodes", set())  # type: ignore[assignment]
        used = builder or EngineBuilder("docker", LoadCommand("loader {archive} {image}"))
        return ImagePackager(
            registry,
            tmp_path / "work",
            lambda: used,
            ImageOptions(**options),  # type: ignore[arg-type]
            on_nodes=lambda: frozenset(known),
        )

    return make


def version(registry: MemoryRegistry, number: int = 1) -> ModelVersion:
    return registry.version(VersionRef("wine", number))


# ── The recipe ────────────────────────────────────────────────────────────────────────────────


def test_the_same_version_gives_the_same_text_and_tag(
    packager: Make, registry: MemoryRegistry
) -> None:
    first, second = (packager().recipe(version(registry)) for _ in range(2))
    assert first == second
    assert first.image == f"dev.local/slipway/wine:1-{first.digest[:12]}"


def test_other_files_are_another_tag_and_share_every_layer_before_them(
    packager: Make, registry: MemoryRegistry
) -> None:
    first, second = (packager().recipe(version(registry, n)) for n in (1, 2))
    assert first.image.split("-")[-1] != second.image.split("-")[-1]
    before = first.dockerfile.partition("ENV MLSERVER_MODEL_NAME")[0]
    assert second.dockerfile.startswith(before)
    assert first.requirements == second.requirements


def test_the_image_serves_v2_on_8080_without_rights(
    packager: Make, registry: MemoryRegistry
) -> None:
    text = packager().recipe(version(registry)).dockerfile
    assert text.index("pip install") < text.index("USER 1000") < text.index("COPY model/")
    assert "EXPOSE 8080" in text
    assert 'CMD ["mlserver", "start", "/mnt/models"]' in text
    assert "FROM python:3.11-slim\n" in text


def test_mlflows_own_server_is_an_option(packager: Make, registry: MemoryRegistry) -> None:
    recipe = packager(server=Server.MLFLOW).recipe(version(registry))
    assert 'CMD ["mlflow", "models", "serve"' in recipe.dockerfile
    assert "mlserver" not in recipe.requirements


def test_a_base_of_ones_own_may_name_the_python(packager: Make, registry: MemoryRegistry) -> None:
    recipe = packager(base="mirror.acme/python:{python}").recipe(version(registry))
    assert "FROM mirror.acme/python:3.11\n" in recipe.dockerfile


def test_skops_is_installed_for_a_model_that_is_saved_as_such(registry: MemoryRegistry) -> None:
    details = replace(
        registry.details(VersionRef("wine", 1)),
        flavors={"sklearn": {"serialization_format": "skops"}},
    )
    assert "skops" in libraries_for(details).requirements


def test_a_requirement_that_chooses_where_packages_come_from_is_refused(
    registry: MemoryRegistry,
) -> None:
    details = replace(
        registry.details(VersionRef("wine", 1)),
        requirements=("--index-url http://elsewhere",),
    )
    with pytest.raises(NotDeployable, match="requirements cannot be used"):
        libraries_for(details)


HOSTILE = ('a "b" $HOME \\ `id`', "x\nRUN touch /tmp/owned", "ÄÖ", "A" * 250)


@pytest.mark.parametrize("model", HOSTILE)
def test_a_models_name_stays_one_word_of_the_dockerfile(
    registry: MemoryRegistry, model: str
) -> None:
    libraries = libraries_for(registry.details(VersionRef("wine", 1)))
    recipe = model_recipe(
        VersionRef(model, 1), libraries, files_digest="ab", prefix="dev.local/slipway"
    )
    plain = model_recipe(
        VersionRef("wine", 1), libraries, files_digest="ab", prefix="dev.local/slipway"
    )
    # As many lines as ever: no name begins an instruction of its own.
    assert len(recipe.dockerfile.splitlines()) == len(plain.dockerfile.splitlines())
    repository, _, tag = recipe.image.rpartition(":")
    assert repository.replace("/", "").replace(".", "").replace("-", "").isalnum()
    assert repository == repository.lower()
    assert len(tag) < 128


def test_names_that_have_to_change_do_not_meet() -> None:
    assert len({component(name) for name in ("Wine", "wine", "wine!", "w/ine")}) == 4


# ── Building and bringing ─────────────────────────────────────────────────────────────────────


def test_a_proposal_builds_nothing_and_names_who_will(
    packager: Make, registry: MemoryRegistry, engine: Path
) -> None:
    proposed = packager().propose(version(registry))
    assert calls(engine) == []
    assert proposed.kind is PackageKind.IMAGE
    assert "built by docker" in proposed.made_by
    assert "loader" in proposed.made_by
    assert packager().make(version(registry)) == proposed


def test_the_built_folder_holds_dockerfile_requirements_and_files(
    packager: Make, registry: MemoryRegistry, engine: Path, tmp_path: Path
) -> None:
    packager().make(version(registry))
    context = json.loads((engine / "context").read_text())
    assert set(context) == {
        "Dockerfile",
        "requirements.txt",
        "model/MLmodel",
        "model/model.skops",
    }
    assert list((tmp_path / "work" / "builds").iterdir()) == []


def test_what_is_built_is_not_built_again_and_what_is_there_is_not_brought_again(
    packager: Make, registry: MemoryRegistry, engine: Path
) -> None:
    nodes: set[str] = set()
    made = packager(nodes=nodes).make(version(registry))
    assert [c[1] for c in calls(engine)][:2] == ["build", "save"]
    assert calls(engine)[-1][0] == "loader"
    assert calls(engine)[-1][2] == made.uri

    (engine / "calls").unlink()
    packager(nodes=nodes).make(version(registry))
    assert [c[1] for c in calls(engine, "build")] == []

    nodes.add(made.uri)
    (engine / "calls").unlink()
    assert packager(nodes=nodes).make(version(registry)) == made
    assert calls(engine) == []


def test_an_image_that_was_just_brought_is_not_brought_again_before_the_nodes_tell_it(
    packager: Make, registry: MemoryRegistry, engine: Path
) -> None:
    mine = packager(nodes=set())
    made = mine.make(version(registry))
    (engine / "calls").unlink()
    assert mine.make(version(registry)) == made
    assert calls(engine) == []


def test_the_images_own_digest_is_kept_with_the_package(
    packager: Make, registry: MemoryRegistry
) -> None:
    assert packager().make(version(registry)).image_digest == "sha256:" + "ab" * 32


def test_a_push_names_the_registry_and_sends_the_tag(
    packager: Make, registry: MemoryRegistry, engine: Path
) -> None:
    builder = EngineBuilder("podman", Push("registry.acme/ml"))
    made = packager(builder, prefix="registry.acme/ml").make(version(registry))
    assert made.uri.startswith("registry.acme/ml/wine:1-")
    assert calls(engine, "push") == [["podman", "push", made.uri]]

    assert packager(builder, prefix="registry.acme/ml").make(version(registry)) == made
    assert len(calls(engine, "push")) == len(calls(engine, "build")) == 1
    assert packager(builder).exists(made).verdict is Verdict.PASS


def test_a_push_that_failed_is_tried_again_without_another_build(
    packager: Make, registry: MemoryRegistry, engine: Path
) -> None:
    pushes = packager(EngineBuilder("docker", Push("registry.acme/ml")), prefix="registry.acme/ml")
    made = pushes.make(version(registry))
    (engine / "images" / f"pushed%{made.uri.replace('/', '%')}").unlink()
    (engine / "fails").write_text("unauthorized: authentication required")
    with pytest.raises(Denied, match="push"):
        pushes.make(version(registry))
    assert pushes.exists(made).verdict is Verdict.FAIL
    (engine / "fails").unlink()
    pushes.make(version(registry))
    assert len(calls(engine, "build")) == 1


def test_a_load_command_is_no_shell(packager: Make, registry: MemoryRegistry, engine: Path) -> None:
    builder = EngineBuilder("docker", LoadCommand("loader '{image}; touch owned' $(id)"))
    made = packager(builder).make(version(registry))
    assert calls(engine)[-1] == ["loader", f"{made.uri}; touch owned", "$(id)"]


def test_a_build_ends_with_whoever_stops_reading(
    packager: Make, registry: MemoryRegistry, engine: Path
) -> None:
    (engine / "slow").touch()

    def stop(line: str, _ratio: float | None = None) -> None:
        if line.startswith("Step"):
            until = time.monotonic() + 10
            while not (engine / "pid").exists() and time.monotonic() < until:
                time.sleep(0.02)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packager().make(version(registry), stop)
    pid = int((engine / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# ── What an earlier release needs ─────────────────────────────────────────────────────────────


def test_an_image_that_is_gone_is_said_with_what_makes_it_again(
    packager: Make, registry: MemoryRegistry, engine: Path
) -> None:
    made = packager().make(version(registry))
    for image in (engine / "images").iterdir():
        image.unlink()
    found = packager().exists(made)
    assert (found.verdict, "slipway image" in found.fix) == (Verdict.FAIL, True)
    assert packager(nodes={made.uri}).exists(made).verdict is Verdict.PASS


def test_an_image_that_only_this_machine_has_is_told(
    packager: Make, registry: MemoryRegistry
) -> None:
    made = packager().make(version(registry))
    assert packager().exists(made).verdict is Verdict.WARN


def test_a_package_of_another_kind_is_not_judged(packager: Make) -> None:
    found = packager().exists(Package(PackageKind.GCS, "gs://b/x"))
    assert found.verdict is Verdict.SKIP


# ── Environments ──────────────────────────────────────────────────────────────────────────────


class Runtimes:
    """Notes what was offered."""

    def __init__(self) -> None:
        self.offered: list[str] = []

    def offer_environment(self, environment: str) -> None:
        self.offered.append(environment)

    def offers_environment(self, environment: str) -> bool:
        return environment in self.offered


@pytest.fixture
def environments(registry: MemoryRegistry, tmp_path: Path, engine: Path) -> EnvironmentPackager:
    return EnvironmentPackager(
        MemoryPackager(),
        registry,
        tmp_path / "work",
        lambda: EngineBuilder("docker", LoadCommand("loader {image}")),
        runtimes=Runtimes(),
    )


def test_versions_with_the_same_requirements_build_one_environment(
    environments: EnvironmentPackager, registry: MemoryRegistry, engine: Path
) -> None:
    first, second = (environments.make(version(registry, n)) for n in (1, 2))
    assert first.environment == second.environment
    assert first.uri != second.uri
    assert len(calls(engine, "build")) == 1
    assert "model" not in json.loads((engine / "context").read_text())


def test_another_requirement_is_another_environment(
    environments: EnvironmentPackager, registry: MemoryRegistry
) -> None:
    first = environments.propose(version(registry))
    ref = VersionRef("wine", 2)
    registry.details_of[ref] = replace(registry.details_of[ref], requirements=("mlflow==3.1.0",))
    assert environments.propose(version(registry, 2)).environment != first.environment


def test_an_environment_whose_runtime_is_gone_is_said(
    environments: EnvironmentPackager, registry: MemoryRegistry
) -> None:
    made = environments.make(version(registry))
    assert environments.exists(made).verdict is not Verdict.FAIL
    environments._runtimes.offered.clear()  # type: ignore[attr-defined]
    assert "runtime" in environments.exists(made).detail


# ── Choosing a builder ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"context": "minikube", "flavour": "minikube"}, "`minikube image build`"),
        ({"context": "kind-dev", "flavour": "kind"}, "nodes of dev by kind"),
        ({"context": "x", "flavour": "gke", "repository": "eu.acme/ml"}, "pushed to eu.acme/ml"),
        ({"context": "x", "flavour": "", "load_command": "loader {archive}"}, "`loader {archive}`"),
        (
            {"context": "minikube", "flavour": "minikube", "builder": "podman"},
            "built by podman, then brought onto the node of minikube",
        ),
    ],
)
def test_the_builder_follows_from_target_and_settings(
    engine: Path, settings: dict[str, str], words: str
) -> None:
    assert words in chosen(target="mini", **settings).words


def test_a_cluster_that_no_image_can_reach_is_told_which_setting_helps(engine: Path) -> None:
    with pytest.raises(ConfigError, match="no way for images") as caught:
        chosen(target="prod", context="elsewhere", flavour="")
    assert "[targets.prod.image]" in caught.value.fix


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="minikube is not on the PATH"):
        MinikubeBuilder("minikube").digest("x")


# ── Failures in words ─────────────────────────────────────────────────────────────────────────

SAID: list[tuple[str, type[SlipwayError], str]] = [
    (
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
            " Is the docker daemon running?"
        ),
        Unreachable,
        "No Docker daemon answers",
    ),
    (
        "ERROR: permission denied while trying to connect to the Docker daemon socket at unix:///x",
        Denied,
        "may not use the Docker daemon",
    ),
    (
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
        NotDeployable,
        "disk is full",
    ),
    (
        (
            "ERROR: Could not find a version that satisfies the requirement scikit-learn==9.9 (from"
            " versions: 1.0)\nERROR: No matching distribution found for scikit-learn==9.9"
        ),
        NotDeployable,
        "no release of scikit-learn==9.9",
    ),
    (
        (
            "ERROR: Cannot install numpy==1 and pandas==3 because these package versions have"
            " conflicting dependencies.\nERROR: ResolutionImpossible: for help visit"
        ),
        NotDeployable,
        "do not go together",
    ),
    (
        (
            "pull access denied for nothere, repository does not exist or may require 'docker"
            " login': denied: requested access to the resource is denied"
        ),
        NotFound,
        "base image is not there",
    ),
    (
        "denied: Permission 'artifactregistry.repositories.uploadArtifacts' denied on resource",
        Denied,
        "registry did not let you",
    ),
    ("Something nobody has seen", NotDeployable, "Something nobody has seen"),
]


@pytest.mark.parametrize(("said", "kind", "words"), SAID, ids=[words for _, _, words in SAID])
def test_a_failed_build_is_told_by_its_cause_with_a_fix(  # noqa: PLR0917 (fixtures by name)
    packager: Make,
    registry: MemoryRegistry,
    engine: Path,
    said: str,
    kind: type[SlipwayError],
    words: str,
) -> None:
    (engine / "fails").write_text(said)
    with pytest.raises(kind) as caught:
        packager().make(version(registry))
    assert words in caught.value.why
    assert caught.value.fix
    assert "Nothing that serves was changed" in caught.value.what


def test_a_version_that_is_not_registered_yet_is_refused(
    packager: Make, registry: MemoryRegistry
) -> None:
    pending = replace(version(registry), registration=Registration.PENDING)
    with pytest.raises(NotDeployable, match="registration"):
        packager().propose(pending)
