"""What a check of the packages' bucket tells, against a scripted one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from services.domain import Finding, Json, Verdict
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
