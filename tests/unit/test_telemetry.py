"""Log lines: one JSON object each, bounded, without secrets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.telemetry import about, configure, redacted


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    before = list(logging.getLogger().handlers)
    yield
    for handler in set(logging.getLogger().handlers) - set(before):
        logging.getLogger().removeHandler(handler)
        handler.close()


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2-hunter2",
        '"authorization": "Basic hunter2"',
        "MLFLOW_TRACKING_PASSWORD=hunter2",
        'token: "hunter2"',
        "postgresql://ana:hunter2@db/slipway",
        "http://:hunter2@host/",
        "ya29.hunter2",
        "ghp_hunter2hunter2hunter2hunter2",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.hunter2",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_a_secret_is_not_written(text: str) -> None:
    assert "hunter2" not in redacted(text)


def test_ordinary_words_stay() -> None:
    text = "wine/3 was verified at http://127.0.0.1:1234/v2 in 12 ms"

    assert redacted(text) == text


def test_a_line_says_what_it_is_about(tmp_path: Path) -> None:
    path = configure(tmp_path)

    with about(operation="deploy", actor="ana"):
        logging.getLogger("slipway.test").info("line one\nline two")

    [line] = path.read_text().splitlines()
    found = json.loads(line)
    assert (found["operation"], found["actor"]) == ("deploy", "ana")
    assert found["message"] == "line one\nline two"


def test_configuring_twice_writes_each_line_once(tmp_path: Path) -> None:
    configure(tmp_path)
    path = configure(tmp_path)

    logging.getLogger("slipway.test").warning("once")

    assert len(path.read_text().splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    path = configure(tmp_path / "file" / "logs")
    logging.getLogger("slipway.test").warning("kept")

    assert "kept" in path.read_text()
    path.unlink()
    path.parent.rmdir()
