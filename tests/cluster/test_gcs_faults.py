"""Publishing while things break: nothing live changes, and the next try sends what is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import urllib3

from services import gcs
from services.domain import Json, Mode, ModelVersion, Outcome, Package, Verdict, VersionRef
from services.errors import Denied, NotFound, SlipwayError, Unreachable
from services.gcs import GcsPackager
from services.kubepaths import Paths
from services.ports import Report, no_report
from tests.cluster.conftest import ClusterOps, Voyage
from tests.cluster.leak import Cut, Fault, Flipped, Leak, Lost, Refused, leaking
from tests.memory import MemoryRegistry

LARGE = 9 * 1024 * 1024
"""Above 8 MiB the library uploads in a session that can be resumed."""

FILES = {"MLmodel": b"flavors: {}", "model.skops": b"m" * 40_000, "weights": b"w" * LARGE}


@dataclass
class Publishing:
    """One version, one bucket, one pipe that leaks between them."""

    packager: GcsPackager
    leak: Leak
    registry: MemoryRegistry

    @property
    def version(self) -> ModelVersion:
        return self.registry.version(VersionRef("wine", 1))

    @property
    def package(self) -> Package:
        return self.packager.propose(self.version)

    def fails(self, kind: type[SlipwayError]) -> SlipwayError:
        """The error that publishing ends in. What is there then is no package."""
        with pytest.raises(kind) as caught:
            self.packager.make(self.version)
        assert caught.value.why
        assert caught.value.fix
        self.leak._rules.clear()
        assert "its manifest is gone" in self.packager.exists(self.package).detail
        return caught.value

    def goes_on(self) -> list[str]:
        """Publish again, now whole: exactly what was missing is sent. Gives its names."""
        self.leak.mend()
        there = self.packager._listed(self.package.uri.split("/", 3)[3].rstrip("/"))
        missing = sorted(set(FILES) - set(there))
        package = self.packager.make(self.version)
        assert self.packager.exists(package).verdict is Verdict.PASS
        sent = [name.rpartition("/")[2] for name in self.leak.uploaded]
        assert sent[:-1] == missing
        assert sent[-1].endswith(".json")
        return missing


@pytest.fixture
def leak(emulator: str) -> Iterator[Leak]:
    if not emulator:
        pytest.skip("faults are made in front of an emulator, and the bucket is a real one")
    with leaking(emulator) as made:
        yield made


@pytest.fixture
def publishing(
    leak: Leak, bucket: str, tmp_path: Path, request: Any, monkeypatch: pytest.MonkeyPatch
) -> Publishing:
    monkeypatch.setattr(gcs, "RETRY_FOR_S", 1.5)
    monkeypatch.setattr(gcs, "UPLOADS_AT_ONCE", 1)  # so that it is known what was before a fault
    registry = MemoryRegistry()
    registry.files[registry.add("wine")] = dict(FILES)
    root = f"{bucket}/{request.node.name}".replace("[", "-").replace("]", "")
    packager = GcsPackager(root, registry, tmp_path / "staging", emulator=leak.url)
    return Publishing(packager, leak, registry)


CUT = Cut(1024 * 1024)


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        (Cut(), Unreachable, "only what is missing is sent"),
        (Refused(503, "backendError"), Unreachable, "only what is missing is sent"),
        (Refused(507), Denied, "Have its quota raised"),
        (Refused(403, "storageQuotaExceeded"), Denied, "Have its quota raised"),
        (Refused(403, "forbidden"), Denied, "roles/storage.objectCreator"),
        (Refused(401, "authError"), Denied, "gcloud auth application-default login"),
        (Refused(404, "notFound"), NotFound, "gcloud storage buckets create"),
    ],
    ids=["cut", "503", "507", "quota", "403", "401", "404"],
)
def test_an_upload_that_fails_leaves_no_package_and_is_continued(
    publishing: Publishing, fault: Fault, kind: type[SlipwayError], said: str
) -> None:
    publishing.leak.leaks("(POST|PUT) .*/model.skops$", fault)
    error = publishing.fails(kind)
    assert said in error.fix
    assert "Nothing that serves was changed" in error.what
    sent = publishing.goes_on()
    # What was sent before the fault is not sent again; what came after it may have arrived.
    assert ("MLmodel" in sent, "model.skops" in sent) == (False, True)


@pytest.mark.parametrize("fault", [CUT, Refused(503)], ids=["cut", "503"])
def test_a_large_file_that_is_cut_in_the_middle_is_continued(
    publishing: Publishing, fault: Fault
) -> None:
    publishing.leak.leaks("PUT .*/weights$", fault)
    publishing.fails(Unreachable)
    assert publishing.goes_on() == ["weights"]


MANIFEST = "[0-9a-f]{64}.json"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("model.skops", CUT),
        ("model.skops", Lost()),
        ("model.skops", Refused(429)),
        ("weights", CUT),
        ("weights", Lost()),
        (MANIFEST, Lost()),
    ],
    ids=str,
)
def test_a_fault_that_passes_is_not_noticed(
    publishing: Publishing, monkeypatch: pytest.MonkeyPatch, name: str, fault: Fault
) -> None:
    monkeypatch.setattr(gcs, "RETRY_FOR_S", 30)
    publishing.leak.leaks(f"(POST|PUT) .*/{name}$", fault, times=1)
    package = publishing.packager.make(publishing.version)
    assert publishing.packager.exists(package).verdict is Verdict.PASS


def test_a_manifest_that_cannot_be_written_is_all_that_is_missing(publishing: Publishing) -> None:
    publishing.leak.leaks("POST .*[.]json$", Refused(503))
    publishing.fails(Unreachable)
    assert publishing.goes_on() == []


@pytest.mark.parametrize(
    ("method", "name"), [("POST", "model.skops"), ("PUT", "weights"), ("POST", MANIFEST)]
)
def test_bytes_that_change_on_the_way_are_refused_with_both_checksums(
    publishing: Publishing, method: str, name: str
) -> None:
    publishing.leak.leaks(f"{method} .*/{name}$", Flipped())
    error = publishing.fails(Unreachable)
    assert error.why.startswith("The bytes changed on the way: sent with crc32c ")
    assert error.why.count("==") == 2
    assert name == MANIFEST or f"/{name} " in error.what
    publishing.goes_on()


def test_a_manifest_that_changes_on_its_way_back_condemns_no_package(
    publishing: Publishing,
) -> None:
    package = publishing.packager.make(publishing.version)
    publishing.leak.leaks(f"GET .*/{MANIFEST}$", Flipped())
    found = publishing.packager.exists(package)
    assert (found.verdict, "changed on the way" in found.detail) == (Verdict.SKIP, True)
    publishing.leak.mend()
    assert publishing.packager.exists(package).verdict is Verdict.PASS


def test_a_bucket_that_is_away_is_told_and_not_waited_for(publishing: Publishing) -> None:
    publishing.leak.leaks("", Cut())
    with pytest.raises(Unreachable, match="Nothing that serves was changed"):
        publishing.packager.make(publishing.version)
    assert publishing.packager.exists(publishing.package).verdict is Verdict.SKIP


PUBLISHER = """
import sys
from pathlib import Path
from services import gcs
from services.domain import VersionRef
from services.gcs import GcsPackager
from tests.cluster.test_gcs_faults import FILES
from tests.memory import MemoryRegistry

gcs.UPLOADS_AT_ONCE = 1
registry = MemoryRegistry()
registry.files[registry.add("wine")] = dict(FILES)
packager = GcsPackager(sys.argv[1], registry, Path(sys.argv[2]), emulator=sys.argv[3])
packager.make(registry.version(VersionRef("wine", 1)))
"""


def test_a_publisher_that_is_killed_is_continued_by_another(
    publishing: Publishing, tmp_path: Path
) -> None:
    root = f"gs://{publishing.packager._bucket_name}/{publishing.packager._root}"
    started: list[subprocess.Popen[bytes]] = []

    def kill(count: int) -> None:
        if count == 1:
            os.kill(started[0].pid, signal.SIGKILL)

    publishing.leak.after_upload = kill
    line = [sys.executable, "-c", PUBLISHER, root, str(tmp_path / "other"), publishing.leak.url]
    started.append(subprocess.Popen(line, cwd=Path(__file__).parents[2]))
    assert started[0].wait(120) == -signal.SIGKILL
    publishing.leak.after_upload = lambda _count: None
    assert "its manifest is gone" in publishing.packager.exists(publishing.package).detail
    assert publishing.goes_on() == sorted(FILES)[1:]


class Vanishing(MemoryRegistry):
    """A registry whose files are gone in the middle of a download, until they are back."""

    gone = True

    def download(self, ref: VersionRef, into: Path, report: Report = no_report) -> None:
        if self.gone:
            (into / "MLmodel").write_bytes(self.files[ref]["MLmodel"])
            raise NotFound(f"The files of {ref} are gone.", why="No such key.", fix="Log it again.")
        super().download(ref, into, report)


def test_a_source_that_vanished_leaves_nothing_behind(
    leak: Leak, bucket: str, tmp_path: Path
) -> None:
    registry = Vanishing()
    registry.files[registry.add("wine")] = dict(FILES)
    staging = tmp_path / "staging"
    packager = GcsPackager(f"{bucket}/vanished", registry, staging, emulator=leak.url)
    with pytest.raises(NotFound, match="are gone"):
        packager.make(registry.version(VersionRef("wine", 1)))
    assert leak.uploaded == []
    assert [path for path in staging.rglob("*") if path.is_file()] == []
    registry.gone = False
    assert packager.make(registry.version(VersionRef("wine", 1))).digest


def test_a_deploy_whose_upload_fails_changes_nothing_that_serves(
    voyage: Callable[[Mode], Voyage], leak: Leak, ops: ClusterOps, tmp_path: Path, bucket: str
) -> None:
    journey = voyage(Mode.STANDARD)
    assert journey.deploy(1).outcome is Outcome.VERIFIED
    path = Paths(ops.namespace).service(journey.service)

    def wanted() -> Json:
        found = ops.serving._cluster.get(path, doing="look")
        assert found is not None
        return found["metadata"]["generation"], found["metadata"]["annotations"], found["spec"]

    before = wanted()
    # A root of its own: elsewhere version 2 is published already.
    packager = GcsPackager(f"{bucket}/faults", ops.registry, tmp_path / "mine", emulator=leak.url)
    journey.ops = replace(ops, packager=packager)
    leak.leaks("(POST|PUT) .*/MLmodel$", Refused(403, "storageQuotaExceeded", "The quota is full."))
    with pytest.raises(Denied, match="The quota is full"):
        journey.deploy(2)
    leak._rules.clear()
    leak.leaks("(POST|PUT) .*/MLmodel$", Flipped())
    with pytest.raises(Unreachable, match=r"MLmodel .* changed on the way"):
        journey.deploy(2)
    assert wanted() == before
    assert [release.number for release in journey.releases] == [1]
    assert journey.answer() == 1
    leak.mend()
    assert packager.make(ops.registry.version(VersionRef("wine", 2))).digest


def test_a_bucket_that_refuses_overwriting_and_deleting_is_never_asked_to(
    voyage: Callable[[Mode], Voyage], leak: Leak, ops: ClusterOps, tmp_path: Path, bucket: str
) -> None:
    leak.write_once = True
    root = f"{bucket}/write-once"
    packager = GcsPackager(root, ops.registry, tmp_path / "mine", emulator=leak.url)
    journey = voyage(Mode.STANDARD)
    journey.ops = replace(ops, packager=packager)
    journey.begin(1)
    place = packager.propose(ops.registry.version(VersionRef("wine", 1))).uri.split("/", 3)[3]
    published = packager._listed(place)
    packager.make(ops.registry.version(VersionRef("wine", 1)))
    packager.make(ops.registry.version(VersionRef("wine", 2)))

    # The pods of the first one load its bytes.
    assert journey.follow().outcome is Outcome.VERIFIED
    assert journey.settled_answer(1) == 1
    assert packager._listed(place) == published
    assert leak.denied == []
    for method in ("DELETE", "PUT", "PATCH"):  # such a bucket it was
        address = f"{leak.url}/storage/v1/b/{packager._bucket_name}/o/{place}%2FMLmodel"
        assert urllib3.request(method, address, retries=False).status == 403
    assert len(leak.denied) == 3
