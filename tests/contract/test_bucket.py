"""What a check of the packages' bucket tells, and a plan of a package in it; scripted buckets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from services import gcs
from services.domain import Finding, Json, ModelVersion, Verdict, VersionRef
from services.errors import Denied, NotDeployable, NotFound, Unreachable
from services.gcs import GcsPackager
from tests.memory import MemoryRegistry

RIGHTS = ["storage.objects.create", "storage.objects.get", "storage.objects.list"]


class Bucket:
    """Answers a list, and which rights are held; statuses outside 200 as errors."""

    def __init__(self) -> None:
        self.listed: tuple[int, Json] = (200, {"items": []})
        self.rights: tuple[int, Json] = (200, {"permissions": RIGHTS})
        self.writes = 0
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = bucket.rights if "/iam/" in self.path else bucket.listed
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_POST(self) -> None:
                bucket.writes += 1

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    made = Bucket()
    yield made
    made.close()


def checked(url: str, folder: Path) -> Finding:
    packager = GcsPackager("gs://models/slipway", MemoryRegistry(), folder, emulator=url)
    [finding] = packager.check()
    return finding


def refusal(status: int, message: str) -> tuple[int, Json]:
    return status, {"error": {"code": status, "message": message}}


def test_a_bucket_that_may_be_written_to_passes_and_nothing_is_written(
    bucket: Bucket, tmp_path: Path
) -> None:
    found = checked(bucket.url, tmp_path)
    assert found.verdict is Verdict.PASS
    assert "gs://models answered in" in found.detail
    assert "this account may write there" in found.detail
    assert bucket.writes == 0


def test_rights_that_publishing_lacks_are_named(bucket: Bucket, tmp_path: Path) -> None:
    bucket.rights = (200, {"permissions": RIGHTS[1:]})
    found = checked(bucket.url, tmp_path)
    assert found.verdict is Verdict.FAIL
    assert "this account lacks storage.objects.create" in found.detail
    assert "roles/storage.objectCreator" in found.fix


def test_a_bucket_that_tells_no_rights_is_not_said_to_be_writable(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.rights = refusal(404, "Not Found")
    found = checked(bucket.url, tmp_path)
    assert found.verdict is Verdict.PASS
    assert "it does not tell" in found.detail


@pytest.mark.parametrize(
    ("status", "fix"),
    [(404, "gcloud storage buckets create"), (403, "roles/storage.objectCreator")],
)
def test_a_bucket_that_refuses_fails_with_what_to_do(
    bucket: Bucket, tmp_path: Path, status: int, fix: str
) -> None:
    bucket.listed = refusal(status, "No.")
    found = checked(bucket.url, tmp_path)
    assert found.verdict is Verdict.FAIL
    assert "No." in found.detail
    assert fix in found.fix


def test_a_bucket_that_nothing_answers_for_fails_with_the_fact(tmp_path: Path) -> None:
    found = checked("http://127.0.0.1:9", tmp_path)
    assert found.verdict is Verdict.FAIL
    assert found.detail == "gs://models: The connection was refused: nothing listens there."
    assert "STORAGE_EMULATOR_HOST" in found.fix


# ── What a plan says of the package ───────────────────────────────────────────────────────────


FILES = {"MLmodel": b"flavors: {}", "model.pkl": b"x" * 1000}


def packager_at(url: str, folder: Path, bucket: str = "gs://models/slipway") -> GcsPackager:
    registry = MemoryRegistry()
    registry.files[registry.add("wine")] = dict(FILES)
    return GcsPackager(bucket, registry, folder, emulator=url)


def version_of(packager: GcsPackager, source: str = "") -> ModelVersion:
    found = packager._staging._registry.version(VersionRef("wine", 1))
    return replace(found, source=source) if source else found


def outlook(url: str, folder: Path, source: str = "") -> Finding:
    packager = packager_at(url, folder)
    return packager.outlook(version_of(packager, source))


def holding(bucket: Bucket, folder: Path, *names: str) -> None:
    """The bucket lists these of the version's files; ".json" is the manifest beside them."""
    manifest = packager_at(bucket.url, folder)._staging.staged(
        version_of(packager_at(bucket.url, folder))
    )[0]
    prefix = f"slipway/wine/1/{manifest.digest}"
    facts = {f"/{file.path}": (file.size_bytes, file.crc32c) for file in manifest.files}
    facts[".json"] = (1, "AAAAAA==")
    items = [
        {"name": f"{prefix}{name}", "size": str(facts[name][0]), "crc32c": facts[name][1]}
        for name in names
    ]
    bucket.listed = (200, {"items": items})


def test_a_plan_says_how_much_would_be_published(bucket: Bucket, tmp_path: Path) -> None:
    found = outlook(bucket.url, tmp_path)
    assert (found.verdict, found.detail) == (
        Verdict.PASS,
        "Will be published: 2 files, 1,011 bytes.",
    )
    assert bucket.writes == 0


def test_a_plan_says_that_a_version_is_published(bucket: Bucket, tmp_path: Path) -> None:
    holding(bucket, tmp_path, "/MLmodel", "/model.pkl", ".json")
    found = outlook(bucket.url, tmp_path)
    assert found.detail == "Published already: 2 files, all there."


def test_a_plan_says_that_a_published_version_lost_a_file(bucket: Bucket, tmp_path: Path) -> None:
    holding(bucket, tmp_path, "/model.pkl", ".json")
    found = outlook(bucket.url, tmp_path)
    assert "1 of 2 files are gone, for example MLmodel" in found.detail
    assert "sent again: 11 bytes" in found.detail


def test_a_plan_says_what_an_earlier_try_has_sent(bucket: Bucket, tmp_path: Path) -> None:
    holding(bucket, tmp_path, "/model.pkl")
    found = outlook(bucket.url, tmp_path)
    assert found.detail == "Will be published: 1 files, 11 bytes. 1 files are there."


def test_other_bytes_under_a_name_fail_the_plan(bucket: Bucket, tmp_path: Path) -> None:
    holding(bucket, tmp_path, "/MLmodel", ".json")
    bucket.listed[1]["items"][0]["size"] = "12"
    found = outlook(bucket.url, tmp_path)
    assert (found.verdict, found.refusal) == (Verdict.FAIL, NotDeployable)
    assert "holds other bytes" in found.detail


@pytest.mark.parametrize(("status", "kind"), [(404, NotFound), (403, Denied), (500, Unreachable)])
def test_a_bucket_that_refuses_fails_the_plan_as_publishing_would(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, kind: object
) -> None:
    monkeypatch.setattr(gcs, "_LOOKING", gcs._Patience(1, 0))
    bucket.listed = _no(status)
    found = outlook(bucket.url, tmp_path)
    assert (found.verdict, found.refusal) == (Verdict.FAIL, kind)
    assert found.fix


def _no(status: int) -> tuple[int, Json]:
    return refusal(status, "No.")


def test_rights_that_publishing_lacks_fail_the_plan(bucket: Bucket, tmp_path: Path) -> None:
    bucket.rights = (200, {"permissions": RIGHTS[1:]})
    found = outlook(bucket.url, tmp_path)
    assert (found.verdict, found.refusal) == (Verdict.FAIL, Denied)
    assert "storage.objects.create" in found.detail


def test_what_is_published_needs_no_right_to_write(bucket: Bucket, tmp_path: Path) -> None:
    holding(bucket, tmp_path, "/MLmodel", "/model.pkl", ".json")
    bucket.rights = (200, {"permissions": RIGHTS[1:]})
    assert outlook(bucket.url, tmp_path).verdict is Verdict.PASS


def test_a_bucket_that_never_answers_fails_the_plan_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "_LOOKING", gcs._Patience(0.3, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        found = outlook(url, tmp_path)
    assert time.monotonic() - began < 5
    assert (found.verdict, found.refusal) == (Verdict.FAIL, Unreachable)
    assert url in found.fix


def test_a_source_that_is_used_as_it_is_has_to_be_there(bucket: Bucket, tmp_path: Path) -> None:
    source = "gs://elsewhere/models/wine"
    found = outlook(bucket.url, tmp_path, source)
    assert (found.verdict, found.refusal) == (Verdict.FAIL, NotFound)
    assert f"{source}, to be used as it is, has no MLmodel" in found.detail
    items = [{"name": "models/wine/MLmodel", "size": "1", "crc32c": "AAAAAA=="}]
    bucket.listed = (200, {"items": items})
    found = outlook(bucket.url, tmp_path, source)
    assert (found.verdict, found.detail) == (Verdict.PASS, f"{source}, used as it is: 1 files.")


def test_a_source_that_only_the_pods_may_read_is_not_judged(bucket: Bucket, tmp_path: Path) -> None:
    bucket.listed = _no(403)
    found = outlook(bucket.url, tmp_path, "gs://elsewhere/models/wine")
    assert found.verdict is Verdict.SKIP
    assert "gs://elsewhere" in found.detail


def test_a_missing_bucket_is_told_without_the_request(bucket: Bucket, tmp_path: Path) -> None:
    bucket.listed = refusal(404, "Not Found")
    found = outlook(bucket.url, tmp_path)
    assert "There is no such bucket" in found.detail
    assert "http" not in found.detail


def test_an_emulator_that_is_dead_is_named_when_publishing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is asked before anything is sent is not waited for as long as an upload.
    monkeypatch.setattr(gcs, "_BEGINNING", replace(gcs._BEGINNING, retry_s=0.1))
    packager = packager_at("http://127.0.0.1:9", tmp_path)
    with pytest.raises(Unreachable) as caught:
        packager.make(version_of(packager))
    assert "STORAGE_EMULATOR_HOST: http://127.0.0.1:9" in caught.value.fix
