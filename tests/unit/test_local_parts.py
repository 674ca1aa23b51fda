"""The parts of target `local` that need no process: wishes, shares, files, log lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.domain import Intent, Mode, Package, PackageKind, VersionRef
from services.errors import NotFound
from services.local.environments import formats_of
from services.local.process import CappedLog, environment_of, free_ports, printable, run_files
from services.local.state import ServiceFolder, Share, Wish, create_once, write_whole


def intent(percent: int | None = None, *, stopped: bool = False) -> Intent:
    return Intent(
        "wine",
        VersionRef("wine", 3),
        Package(PackageKind.FOLDER, "/packages/3", "ab" * 32),
        Mode.LOCAL,
        canary_percent=percent,
        stopped=stopped,
        env=(("GREETING", "hello"),),
    )


def test_a_canary_leaves_the_rest_to_the_stable_one() -> None:
    wish = Wish("wine", 2, 2, intent(30), Share(1, intent(), 70))
    assert [(s.workload, s.percent) for s in wish.shares()] == [(2, 30), (1, 70)]


def test_a_canary_of_nothing_still_has_its_process() -> None:
    wish = Wish("wine", 2, 2, intent(0), Share(1, intent(), 100))
    assert [(s.workload, s.percent) for s in wish.shares()] == [(2, 0), (1, 100)]


@pytest.mark.parametrize("wished", [intent(stopped=True), None])
def test_a_stopped_or_removed_service_has_no_shares(wished: Intent | None) -> None:
    assert Wish("wine", 2, 2, wished).shares() == ()


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A", "prod\n", "x" * 60])
def test_foreign_text_is_no_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        ServiceFolder(tmp_path, name)


def test_a_file_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "000001.json"
    assert create_once(path, "first")
    assert not create_once(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", "text")
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600


def test_a_log_keeps_its_newest_lines_within_its_limit(tmp_path: Path) -> None:
    log = CappedLog(tmp_path / "log", limit_bytes=10_000)
    for at in range(2_000):
        log.write(f"line {at}")
    log.close()
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert sum(sizes) < 21_000
    kept = (tmp_path / "log.1").read_text() + (tmp_path / "log").read_text()
    assert "line 1999" in kept


def test_a_log_line_holds_no_escape_and_keeps_its_indentation() -> None:
    assert printable("    at \x1b[31mred\x07\r\n") == "    at  [31mred"


def test_a_model_server_gets_only_what_a_program_needs() -> None:
    own = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "MLFLOW_TRACKING_TOKEN": "y"}
    passed = environment_of(intent(), own)
    assert passed["PATH"] == "/bin"
    assert passed["GREETING"] == "hello"
    assert not {"AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_TOKEN"} & set(passed)


def test_a_model_server_listens_on_loopback_and_names_its_version() -> None:
    files = run_files(intent(), 1, 2, 3)
    assert json.loads(files["settings.json"])["host"] == "127.0.0.1"
    assert json.loads(files["model-settings.json"])["parameters"]["version"] == "3"


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


@pytest.mark.parametrize(
    ("text", "formats"),
    [
        ("flavors:\n  sklearn:\n    serialization_format: skops\n", ("skops",)),
        ("flavors: [1, 2]", ()),
        ("{", ()),
        ("", ()),
    ],
)
def test_the_formats_of_a_package_come_from_its_mlmodel(
    tmp_path: Path, text: str, formats: tuple[str, ...]
) -> None:
    (tmp_path / "MLmodel").write_text(text)
    assert formats_of(tmp_path) == formats
