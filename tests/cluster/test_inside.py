"""Slipway as deploy/ runs it: in the cluster that it deploys to, under its own account."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from services.cluster import Cluster
from tests import waiting
from tests.browser.conftest import FLAGS, find_chromium, tab
from tests.browser.hands import SLOW_MS, answered_by, button, verified, visit
from tests.cluster.inside import Installed, applied, kubeconfig, kubectl, overlay

SETTINGS = """\
default_target = "cluster"
[registry]
tracking_uri = "{registry}"
timeout_s = 30
[targets.cluster]
kind = "kubernetes"
context = "in-cluster"
bucket = "{bucket}"
"""


@pytest.fixture(scope="module")
def installed(  # noqa: PLR0917 (fixtures by name)
    admin: Cluster,
    namespace: str,
    bucket: str,
    emulator: str,
    registry_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installed]:
    """deploy/ and two watchers in the run's namespace, up."""
    suffix = f"t{secrets.token_hex(2)}"  # with a letter first: YAML takes 12e4 for a number
    objects = overlay(
        tmp_path_factory.mktemp("overlay"),
        admin,
        namespace,
        suffix,
        SETTINGS.format(registry=registry_server, bucket=bucket),
        {"STORAGE_EMULATOR_HOST": emulator} if emulator else {},
        watch=[
            *("--model=wine", "--alias=champion", f"--name={watched(suffix)}"),
            *("--interval=2", "--json", "--yes"),
        ],
        watchers=2,
    )
    with applied(admin, objects):
        made = Installed(admin, namespace, suffix)
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{made.dashboard}"

        def status_now() -> Any:
            return (admin.get(path, doing="wait for the dashboard") or {}).get("status", {})

        status = waiting.seen(status_now, lambda now: now.get("readyReplicas"), within_s=180)
        assert status.get("readyReplicas") == 1, status
        yield made


def watched(suffix: str) -> str:
    """The service of the two watchers."""
    return f"champion-{suffix}"


@contextmanager
def proxied() -> Iterator[str]:
    """The API server at an address of this machine, as `kubectl proxy` offers it."""
    command = [kubectl(), "proxy", "--port=0"]
    environment = {**os.environ, "KUBECONFIG": kubeconfig()}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        try:
            yield f"http://{address}"
        finally:
            process.terminate()


def test_its_account_finds_everything_it_needs(installed: Installed) -> None:
    code, document = installed.slipway("doctor")
    failed = [check for check in document["checks"] if check["outcome"] == "failed"]
    assert (code, failed) == (0, [])
    assert any(installed.account in check["detail"] for check in document["checks"])


def test_a_model_is_deployed_in_a_browser_through_the_service_proxy(installed: Installed) -> None:
    chromium = find_chromium()
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    name = f"wine-{secrets.token_hex(2)}"
    service = f"/api/v1/namespaces/{installed.namespace}/services/{installed.dashboard}:http/proxy"
    with proxied() as api, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        with tab(browser) as page:
            visit(page, api + service, "deploy", model="wine", version=1, service=name)
            # Nothing navigates; Playwright would wait for it as long as the script's run is slow.
            button(page, "Deploy wine/1").click(no_wait_after=True, timeout=SLOW_MS)
            verified(page, 1)
            answered_by(page, name, api + service, "wine/1")
        browser.close()
    _, found = installed.slipway("history", name)
    assert [release["outcome"] for release in found["releases"]] == ["verified"]
    _, told = installed.slipway("predict", name, "--example")
    assert told["via"] == "in-cluster"


def test_of_two_watchers_one_deploys_whenever_the_alias_moves(
    installed: Installed, registry_server: str
) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=registry_server, registry_uri=registry_server)
    for number in (1, 2):
        client.set_registered_model_alias("wine", "champion", str(number))
        assert settled_on(installed, number) == [
            (done, "verified") for done in range(number, 0, -1)
        ]
    lines = installed.lines("watch")
    deployed = [line["version"] for line in lines if line.get("action") == "deploy"]
    assert sorted(deployed) == [1, 2]
    assert len({line["pod"] for line in lines}) == 2


def settled_on(installed: Installed, number: int) -> list[tuple[int, str]]:
    """(version, outcome) of the watched service's releases, once both watchers have seen the last.

    Waits until each pod has found nothing to do about that version: then none is about to begin.
    """

    def content() -> set[str]:
        return {
            line["pod"]
            for line in installed.lines("watch")
            if (line.get("version"), line.get("action")) == (number, "none")
        }

    waiting.seen(content, lambda pods: len(pods) == 2, within_s=120, every_s=1)
    _, found = installed.slipway("history", watched(installed.suffix))
    return [(release["version"], release["outcome"]) for release in found["releases"]]
