"""Publishing against the cluster's emulator: written once, verified, resumed, never overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.domain import Package, PackageKind, Verdict, VersionRef
from services.errors import NotDeployable, NotFound, SlipwayError
from services.gcs import GcsPackager
from tests.memory import MemoryRegistry

FILES = {"MLmodel": b"flavors: {}", "model.pkl": b"x" * 1000, "data": b"y" * 70_000}


@pytest.fixture
def packager(bucket: str, emulator: str, tmp_path: Path, request: Any) -> GcsPackager:
    """A packager with a root of its own, over wine/1 with FILES."""
    registry = MemoryRegistry()
    ref = registry.add("wine")
    registry.files[ref] = dict(FILES)
    root = f"{bucket}/{request.node.name}"
    return GcsPackager(root, registry, tmp_path / "staging", emulator=emulator)


def version_of(packager: GcsPackager) -> Any:
    return packager._staging._registry.version(VersionRef("wine", 1))


def uploads(packager: GcsPackager, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that are sent from now on."""
    sent: list[str] = []
    put = packager._put

    def counted(name: str, file: Any, path: Path) -> None:
        sent.append(file.path)
        put(name, file, path)

    monkeypatch.setattr(packager, "_put", counted)
    return sent


def test_a_version_is_published_once_and_found_whole(
    packager: GcsPackager, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = version_of(packager)
    proposed = packager.propose(version)
    assert packager.exists(proposed).verdict is Verdict.FAIL
    assert packager.make(version) == proposed
    assert packager.exists(proposed).verdict is Verdict.PASS
    sent = uploads(packager, monkeypatch)
    assert packager.make(version) == proposed
    assert sent == []


def test_a_copy_that_was_cut_short_is_resumed_with_what_is_missing(
    packager: GcsPackager, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = version_of(packager)
    manifest, folder = packager._staging.staged(version)
    first = manifest.files[0]
    packager._put(f"{packager._prefix(manifest)}/{first.path}", first, folder / first.path)
    assert packager.exists(packager.propose(version)).verdict is Verdict.FAIL
    sent = uploads(packager, monkeypatch)
    packager.make(version)
    assert sorted(sent) == sorted(file.path for file in manifest.files[1:])


def test_other_bytes_under_a_name_are_refused_with_both_checksums(packager: GcsPackager) -> None:
    version = version_of(packager)
    manifest, _ = packager._staging.staged(version)
    name = f"{packager._prefix(manifest)}/MLmodel"
    packager._bucket.blob(name).upload_from_string(b"somebody else's")
    with pytest.raises(NotDeployable, match="Nothing was overwritten") as caught:
        packager.make(version)
    assert caught.value.why.count("crc32c") == 2
    assert packager._bucket.blob(name).download_as_bytes() == b"somebody else's"


def test_an_upload_whose_answer_was_lost_is_a_success(packager: GcsPackager) -> None:
    version = version_of(packager)
    manifest, folder = packager._staging.staged(version)
    for _ in range(2):  # the second time the bucket answers 412
        for file in manifest.files:
            packager._put(f"{packager._prefix(manifest)}/{file.path}", file, folder / file.path)
    assert packager.make(version).digest == manifest.digest


def test_a_file_that_was_added_is_refused(packager: GcsPackager) -> None:
    package = packager.make(version_of(packager))
    prefix = package.uri.removeprefix(f"gs://{packager._bucket_name}/")
    packager._bucket.blob(f"{prefix}/extra").upload_from_string(b"!")
    assert "extra was added" in packager.exists(package).detail
    with pytest.raises(NotDeployable, match="not the version's"):
        packager.make(version_of(packager))


def test_a_package_that_lost_a_file_is_mended_by_publishing_again(
    packager: GcsPackager, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = version_of(packager)
    package = packager.make(version)
    prefix = package.uri.removeprefix(f"gs://{packager._bucket_name}/")
    packager._bucket.blob(f"{prefix}/MLmodel").delete()
    assert "1 of 3 files are gone" in packager.outlook(version).detail
    sent = uploads(packager, monkeypatch)
    assert packager.make(version) == package
    assert sent == ["MLmodel"]
    assert packager.exists(package).verdict is Verdict.PASS
    assert packager.outlook(version).detail == "Published already: 3 files, all there."


def test_a_bucket_that_does_not_exist_is_named(emulator: str, tmp_path: Path) -> None:
    registry = MemoryRegistry()
    registry.add("wine")
    packager = GcsPackager("gs://nobody-has-this/x", registry, tmp_path, emulator=emulator)
    with pytest.raises(SlipwayError, match="nobody-has-this") as caught:
        packager.make(version_of(packager))
    assert isinstance(caught.value, NotFound)


def test_a_package_elsewhere_is_not_judged(packager: GcsPackager) -> None:
    found = packager.exists(Package(PackageKind.GCS, "gs://other/x", "ab"))
    assert found.verdict is Verdict.SKIP
