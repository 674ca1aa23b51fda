"""What folder packages promise: write-once, by content, whole or not there."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from services.domain import ModelVersion, Registration, Verdict, VersionRef
from services.errors import NotDeployable
from services.local.packager import FolderPackager
from services.ports import Report, no_report
from tests.memory import MemoryRegistry


class CountingRegistry(MemoryRegistry):
    """Counts what was downloaded."""

    def __init__(self) -> None:
        super().__init__()
        self.downloads = 0

    def download(self, ref: VersionRef, into: Path, report: Report = no_report) -> None:
        self.downloads += 1
        super().download(ref, into, report)


@pytest.fixture
def registry() -> CountingRegistry:
    made = CountingRegistry()
    made.add("wine")
    return made


@pytest.fixture
def packager(tmp_path: Path, registry: CountingRegistry) -> FolderPackager:
    return FolderPackager(tmp_path / "packages", registry)


def version(registry: MemoryRegistry, number: int = 1, model: str = "wine") -> ModelVersion:
    return registry.version(VersionRef(model, number))


def test_a_proposal_says_what_will_be_made(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    proposed = packager.propose(version(registry))
    assert len(proposed.digest) == 64
    assert not Path(proposed.uri).exists()
    assert packager.make(version(registry)) == proposed
    assert (Path(proposed.uri) / "MLmodel").read_bytes() == registry.files[VersionRef("wine", 1)][
        "MLmodel"
    ]


def test_files_are_read_from_the_registry_once(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    for _ in range(3):
        packager.propose(version(registry))
        packager.make(version(registry))
    assert registry.downloads == 1


def test_a_made_package_needs_no_registry(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    known = version(registry)
    packager.make(known)
    registry.calls = 0
    packager.make(known)
    assert registry.calls == 0


def test_another_source_under_the_same_number_is_another_package(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    first = packager.make(version(registry))
    registry.files[VersionRef("wine", 1)]["MLmodel"] = b"flavors: {} # other"
    second = packager.make(replace(version(registry), source="models:/m-other"))
    assert first.uri != second.uri
    assert packager.exists(first).verdict is Verdict.PASS


def test_a_package_is_whole_only_when_every_byte_is(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    made = packager.make(version(registry))
    assert packager.exists(made).verdict is Verdict.PASS
    file = Path(made.uri) / "MLmodel"
    file.write_bytes(file.read_bytes()[::-1])
    found = packager.exists(made)
    assert (found.verdict, "MLmodel" in found.detail) == (Verdict.FAIL, True)


def test_a_package_that_lost_a_file_is_made_anew(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    made = packager.make(version(registry))
    (Path(made.uri) / "MLmodel").unlink()
    assert packager.make(version(registry)) == made
    assert packager.exists(made).verdict is Verdict.PASS


def test_bytecode_that_a_server_writes_beside_a_models_code_damages_no_package(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    files = registry.files[VersionRef("wine", 1)]
    files["code/shipping.py"] = b"rate = 2\n"
    files["code/__pycache__/shipping.cpython-311.pyc"] = b"of whoever logged it"
    made = packager.make(version(registry))
    cache = Path(made.uri) / "code" / "__pycache__"
    assert not cache.exists()
    cache.mkdir()
    (cache / "shipping.cpython-311.pyc").write_bytes(b"of the server")

    assert packager.exists(made).verdict is Verdict.PASS
    assert packager.make(version(registry)) == made


def test_a_proposed_package_is_not_there_yet(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    assert packager.exists(packager.propose(version(registry))).verdict is Verdict.FAIL


def test_files_without_an_mlmodel_are_no_package(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    registry.files[VersionRef("wine", 1)] = {"readme.txt": b"hello"}
    with pytest.raises(NotDeployable, match="MLmodel"):
        packager.make(version(registry))


def test_a_version_that_is_not_registered_yet_is_refused(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    pending = replace(version(registry), registration=Registration.PENDING)
    with pytest.raises(NotDeployable):
        packager.propose(pending)


def test_what_a_killed_process_left_is_swept(
    packager: FolderPackager, registry: CountingRegistry, tmp_path: Path
) -> None:
    proposed = packager.propose(version(registry))
    staged = Path(proposed.uri).parent / "staged"
    (staged / f"{proposed.digest}.json").unlink()
    (staged / "part").mkdir()
    (staged / "part" / "half").write_text("half")
    made = packager.make(version(registry))
    assert made == proposed
    assert list(staged.iterdir()) == []


def test_two_that_make_at_once_read_once(
    packager: FolderPackager, registry: CountingRegistry
) -> None:
    threads = [threading.Thread(target=packager.make, args=(version(registry),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.downloads == 1


@pytest.mark.parametrize("model", ["../../etc", "a b\n{}", "ÄÖ", "x" * 250])
def test_a_models_name_is_no_path(
    packager: FolderPackager, registry: CountingRegistry, tmp_path: Path, model: str
) -> None:
    registry.add(model)
    made = Path(packager.make(version(registry, model=model)).uri)
    assert (tmp_path / "packages").resolve() in made.resolve().parents
