"""The workflows and the action: lint, injection, pins, and that their commands exist."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboard.cli import parser
from tests.workflow import load, pairs, value_of

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "github-actions"
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), EXAMPLE / "deploy-model.yml"]
ACTION = EXAMPLE / "action.yml"
FILES = [*WORKFLOWS, ACTION]
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.7"


def steps_of(path: Path) -> Iterator[dict[str, Any]]:
    found = load(path)
    jobs = found["jobs"].values() if "jobs" in found else [found["runs"]]
    return (step for job in jobs for step in job["steps"])


def actionlint(*paths: Path) -> str:
    """What actionlint finds; a skip where neither it nor Go is there."""
    if shutil.which("actionlint"):
        command = ["actionlint"]
    elif shutil.which("go"):
        command = ["go", "run", ACTIONLINT]
    else:
        pytest.skip("neither actionlint nor Go is on this machine")
    done = subprocess.run(
        [*command, "-no-color", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=paths[0].parent,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


def test_actionlint_has_nothing_to_say_of_the_workflows() -> None:
    assert actionlint(*WORKFLOWS) == ""


def test_actionlint_has_nothing_to_say_of_the_actions_steps(tmp_path: Path) -> None:
    # It reads workflows only: the action's inputs and steps as a workflow with the same ones.
    action = load(ACTION)
    path = tmp_path / "action.yml"
    inputs = {name: {**spec, "type": "string"} for name, spec in action["inputs"].items()}
    wrapped = {
        "on": {"workflow_call": {"inputs": inputs}},
        "jobs": {"action": {"runs-on": "ubuntu-latest", "steps": action["runs"]["steps"]}},
    }
    path.write_text(yaml.safe_dump(wrapped, sort_keys=False))
    assert actionlint(path) == ""


def test_actionlint_would_have_something_to_say(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text(WORKFLOWS[-1].read_text().replace("steps.wanted", "steps.wnated"))
    assert "wnated" in actionlint(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_expression_reaches_a_shell(path: Path) -> None:
    runs = [str(step["run"]) for step in steps_of(path) if "run" in step]
    assert runs
    assert [run for run in runs if "${{" in run] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_action_names_its_revision(path: Path) -> None:
    used = [str(step["uses"]) for step in steps_of(path) if "uses" in step]
    assert [name for name in used if not re.search(r"@v?\d", name)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_workflow_asks_for_the_least(path: Path) -> None:
    permissions = load(path)["permissions"]
    assert permissions["contents"] == "read"
    assert set(permissions) <= {"contents", "id-token"}


def test_the_action_calls_commands_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for step in steps_of(ACTION):
        text = str(step.get("run", "")).replace("\\\n", " ")
        for line in re.findall(r"^ *slipway (.*)$", text, re.MULTILINE):
            words = shlex.split(line.partition(" > ")[0])
            # What is checked as it is read; every other variable stands for itself.
            numbers = ("$RATE", "$DURATION", "$MAX_P99", "$MAX_ERROR_RATIO", "$TIMEOUT")
            values = {"$NAME": "wine", **dict.fromkeys(numbers, "1")}
            args = parser().parse_args([values.get(word, word) for word in words])
            called.append(args.verb)
    assert called == ["show", "publish", "deploy", "predict", "bench", "rollback"]


def test_the_workflow_gives_the_action_only_inputs_that_it_has() -> None:
    [step] = [s for s in steps_of(WORKFLOWS[-1]) if "slipway" in str(s.get("uses"))]
    assert step["with"].keys() <= load(ACTION)["inputs"].keys()


@pytest.mark.parametrize(
    ("failed", "wish", "outcome", "expected"),
    [
        (True, "rollback", "verified", True),
        (True, "rollback", "failed", True),
        (True, "rollback", "unchanged", False),
        (True, "stop", "verified", False),
        (False, "rollback", "verified", False),
        (True, "rollback", "", False),
    ],
)
def test_only_what_a_run_changed_is_rolled_back(
    failed: bool, wish: str, outcome: str, expected: bool
) -> None:
    condition = next(str(step["if"]) for step in steps_of(ACTION) if step["name"] == "Roll back")
    contexts = {
        "job": {"failed": failed},
        "inputs": {"on-failure": wish},
        "steps": {"deploy": {"outputs": {"outcome": outcome, "release": "3" if outcome else ""}}},
    }
    assert value_of(condition, contexts) is expected


def test_this_repositorys_ci_is_the_one_script() -> None:
    runs = [
        step["run"] for step in steps_of(ROOT / ".github" / "workflows" / "ci.yml") if "run" in step
    ]
    assert runs == ["bash .ci/run"]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("inputs.a || inputs.b", "two"),
        ("inputs.b == 'two' && inputs.c != ''", True),
        ("failure() && inputs.b == 'two'", False),
        ("inputs.missing.deeper", None),
    ],
)
def test_the_runner_of_these_tests_reads_expressions(expression: str, expected: object) -> None:
    contexts = {"inputs": {"a": "", "b": "two", "c": "3"}, "job": {"failed": False}}
    assert value_of(expression, contexts) == expected


def test_the_runner_of_these_tests_reads_what_steps_write() -> None:
    assert pairs("a=1\nb<<END\nx=y\nEND\nc=d<<e\n") == {"a": "1", "b": "x=y", "c": "d<<e"}
