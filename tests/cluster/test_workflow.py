"""The example workflow and its action on a real cluster: every step that runs a command is run.

Not run here: checking out, Python, and Google's log-in, whose place the kubeconfig takes.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import settings_free
from tests.cluster.account import CONTEXT, Account
from tests.workflow import Job, load

EXAMPLE = Path(__file__).parents[2] / "examples" / "github-actions"
OTHERS = ("actions/checkout", "actions/setup-python", "google-github-actions/auth")
OURS = "your-org/slipway/examples/github-actions"
SETTINGS = """\
default_target = "test"
[targets.test]
kind = "kubernetes"
context = "{context}"
namespace = "{namespace}"
bucket = "{bucket}"
protected = true
"""


@pytest.fixture
def workflow() -> dict[str, Any]:
    """The example, with a load test of seconds instead of half a minute."""
    found = load(EXAMPLE / "deploy-model.yml")
    found["jobs"]["deploy"]["steps"][-1]["with"] |= {"duration": "3", "max-p99": "20"}
    return found


class Repository:
    """A repository that has the workflow, and a runner."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        """Its workspace is `folder`/workspace, which has slipway.toml and serving/."""
        self.workspace = folder / "workspace"
        self.temp = folder / "temp"
        self.temp.mkdir()
        self.environment = environment

    def run(self, workflow: dict[str, Any], trigger: str, **contexts: Any) -> Job:
        """One run for an event, to its end."""
        (self.temp / "summary").unlink(missing_ok=True)
        github = {"event_name": trigger, "event": contexts.pop("event", {})}
        job = Job(
            workspace=self.workspace,
            temp=self.temp,
            actions={OURS: EXAMPLE},
            skipped=OTHERS,
            contexts={"github": github, "inputs": {}, "secrets": {}, **contexts},
            environment=dict(self.environment),
        )
        return job.run(workflow, "deploy")


@pytest.fixture
def repository(
    account: Account,
    namespace: str,
    bucket: str,
    emulator: str,
    tmp_path: Path,
) -> Repository:
    """A workspace whose target is the test's namespace."""
    (tmp_path / "workspace" / "serving").mkdir(parents=True)
    settings = SETTINGS.format(context=CONTEXT, namespace=namespace, bucket=bucket)
    (tmp_path / "workspace" / "slipway.toml").write_text(settings)
    told = {"KUBECONFIG": str(account.kubeconfig)}
    if emulator:
        told["STORAGE_EMULATOR_HOST"] = emulator
    actions = {"GITHUB_ACTIONS": "true", "GITHUB_ACTOR": "ana", "GITHUB_RUN_ID": "7"}
    return Repository(tmp_path, {**settings_free(), **told, **actions})


@pytest.mark.timeout(1200)  # about fifteen commands, each a process of its own
def test_a_run_deploys_and_one_that_disappoints_goes_back(
    repository: Repository, workflow: dict[str, Any], registry_server: str
) -> None:
    name = f"wine-{secrets.token_hex(2)}"
    variables = {"SLIPWAY_SERVICE": name, "MLFLOW_TRACKING_URI": registry_server}

    # The registry's webhook, and a version that passes.
    payload = {"client_payload": {"reference": "wine/1", "name": name}}
    first = repository.run(workflow, "repository_dispatch", event=payload, vars=variables)
    assert not first.failed, first.output
    ran = {step for step, outcome in first.log if outcome == "success"}
    assert {"Publish", "Deploy and wait", "Send one request", "Test under load"} <= ran
    assert "verified" in first.summary
    assert "p99" in first.summary

    # A reference that is pushed, and an objective that no server meets.
    (repository.workspace / "serving" / name).write_text("wine/2\n")
    workflow["jobs"]["deploy"]["steps"][-1]["with"]["max-p99"] = "0.000001"
    second = repository.run(workflow, "push", vars=variables)
    assert second.failed
    assert second.log[-2:] == [("Test under load", "failure"), ("Roll back", "success")]
    assert "::error" in second.output


def test_a_run_without_a_service_says_which_variable_to_set(
    repository: Repository, workflow: dict[str, Any]
) -> None:
    run = repository.run(workflow, "push", vars={"SLIPWAY_SERVICE": "$(touch here)"})
    assert run.failed
    assert "set the variable SLIPWAY_SERVICE" in run.output
    assert not list(repository.workspace.glob("here"))
