"""The whole voyage by the program `slipway` itself: its exit codes and JSON, on a real cluster."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.cluster import Cluster
from services.domain import Json, Mode
from tests.browser.conftest import settings_free
from tests.cluster.account import CONTEXT, Account

SETTINGS = """\
default_target = "test"
registry.tracking_uri = "{registry}"
[targets.test]
kind = "kubernetes"
context = "{context}"
namespace = "{namespace}"
bucket = "{bucket}"
"""


@dataclass(frozen=True)
class Shell:
    """A folder with a slipway.toml, as an operator or a pipeline has one."""

    folder: Path
    environment: dict[str, str]
    service: str

    def run(self, *words: str) -> tuple[int, Json]:
        """A verb's exit code and its JSON document."""
        done = subprocess.run(
            [Path(sys.executable).with_name("slipway"), *words, "--json", "--yes"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        try:
            return done.returncode, json.loads(done.stdout)
        except ValueError:
            pytest.fail(f"slipway {' '.join(words)}: {done.stdout}\n{done.stderr}")

    def well(self, *words: str) -> Json:
        """The document of a verb that has to end well."""
        code, document = self.run(*words)
        assert code == 0, document
        return document

    def answers(self) -> int:
        """The version that answers a request, by its own word."""
        found = self.well("predict", self.service, "--example")
        assert found["http_status"] == 200
        version: int = found["answered_by"]["version"]
        return version


@pytest.fixture
def shell(  # noqa: PLR0917 (fixtures by name)
    admin: Cluster,
    account: Account,
    namespace: str,
    bucket: str,
    emulator: str,
    registry_server: str,
    tmp_path: Path,
) -> Iterator[Shell]:
    settings = SETTINGS.format(
        registry=registry_server, context=CONTEXT, namespace=namespace, bucket=bucket
    )
    (tmp_path / "slipway.toml").write_text(settings)
    told = {"KUBECONFIG": str(account.kubeconfig)}
    if emulator:
        told["STORAGE_EMULATOR_HOST"] = emulator
    name = f"program-{secrets.token_hex(3)}"
    made = Shell(tmp_path, {**settings_free(), **told}, name)
    yield made
    path = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices/{name}"
    admin.send("DELETE", path, doing="clean up", accept=(404,))


def rolled_back_to_each(shell: Shell, releases: dict[int, int]) -> None:
    """Roll back to every release, oldest first; each time its version answers."""
    for release, version in releases.items():
        done = shell.well("rollback", shell.service, "--to", str(release), "--reason", "a test")
        assert (done["outcome"], done["rolled_back_to"]) == ("verified", release)
        assert (done["version"], shell.answers()) == (version, version)


def stopped_and_started(shell: Shell) -> None:
    shell.well("stop", shell.service)
    (row,) = shell.well("status", shell.service)["services"]
    assert row["phase"] == "stopped"
    assert shell.run("predict", shell.service, "--example")[0] == 3
    shell.well("start", shell.service)
    (row,) = shell.well("status", shell.service)["services"]
    assert (row["phase"], row["verified"]) == ("ready", True)


def not_deleted_without_the_right(shell: Shell) -> None:
    """The shipped Role leaves deleting out: it is refused by name, and the service goes on."""
    code, refused = shell.run("delete", shell.service, "--confirm", shell.service)
    assert code == 4
    assert "delete" in json.dumps(refused["error"])
    assert shell.well("status", shell.service)["services"][0]["phase"] == "ready"


@pytest.mark.timeout(1200)  # a dozen roll-outs and as many processes
def test_the_program_carries_a_service_through_its_life_in_standard_mode(shell: Shell) -> None:
    deploy = ("deploy", "--name", shell.service, "--mode", Mode.STANDARD.value)
    first = shell.well(*deploy, "wine/1")
    assert (first["outcome"], first["release"], first["version"]) == ("verified", 1, 1)
    assert first["url"]
    assert shell.answers() == 1
    second = shell.well(*deploy, "wine/2")
    assert second["previous"] == {"release": 1, "version": 1}
    assert shell.answers() == 2
    code, refused = shell.run(*deploy, "wine/1", "--canary-percent", "30")
    assert code == 7, refused
    rolled_back_to_each(shell, {1: 1, 2: 2})
    code, again = shell.run("rollback", shell.service, "--to", "99")
    assert code in {5, 7}, again
    stopped_and_started(shell)
    not_deleted_without_the_right(shell)


@pytest.mark.timeout(1200)
def test_the_program_carries_a_service_through_its_life_in_knative_mode(shell: Shell) -> None:
    deploy = ("deploy", "--name", shell.service, "--mode", Mode.KNATIVE.value)
    assert shell.well(*deploy, "wine/1")["outcome"] == "verified"
    canary = shell.well(*deploy, "wine/2", "--canary-percent", "30")
    assert shares(canary) == {1: 70, 2: 30}
    measured = shell.well("predict", shell.service, "--example", "--requests", "300")
    assert not measured["failed"]
    (side,) = [row for row in measured["split"] if row["version"] == 2]
    assert side["configured_percent"] == 30
    assert side["low"] <= 0.3 <= side["high"]
    assert shares(shell.well("canary", shell.service, "--percent", "60")) == {1: 40, 2: 60}
    assert shares(shell.well("abort", shell.service)) == {1: 100}
    assert shell.answers() == 1
    shell.well(*deploy, "wine/2", "--canary-percent", "10")
    assert shares(shell.well("promote", shell.service)) == {2: 100}
    assert shell.answers() == 2
    rolled_back_to_each(shell, {1: 1, 6: 2})
    stopped_and_started(shell)
    not_deleted_without_the_right(shell)


def shares(document: Json) -> dict[int, int]:
    """Version → percent, as read back."""
    return {row["version"]: row["percent"] for row in document["traffic"]}
