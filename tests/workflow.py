"""A small runner of GitHub Actions, for tests: runs the `run:` steps of a workflow as GitHub does.

It knows the expressions that our own files use, the files that a step writes ($GITHUB_OUTPUT,
$GITHUB_ENV, $GITHUB_PATH, $GITHUB_STEP_SUMMARY), composite actions, and `if:`. Other people's
actions are not run: a test says what each would have done.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
"""As GitHub starts `shell: bash`."""
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)


def load(path: Path) -> dict[str, Any]:
    """A workflow or action; `on` stays a word instead of YAML 1.1's true."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return {"on" if key is True else key: value for key, value in found.items()}


def value_of(expression: str, contexts: Mapping[str, Any]) -> Any:
    """`a || b`, `a && b`, `a == b`, `a != b`, failure(), 'text' and dotted names."""
    for operator in ("||", "&&"):
        parts = [part.strip() for part in expression.split(operator)]
        if len(parts) > 1:
            found = None
            for part in parts:
                found = value_of(part, contexts)
                if bool(found) == (operator == "||"):
                    return found
            return found
    for operator, equal in (("==", True), ("!=", False)):
        left, parted, right = expression.partition(operator)
        if parted:
            return (_text(value_of(left, contexts)) == _text(value_of(right, contexts))) is equal
    word = expression.strip()
    if word in {"failure()", "success()"}:
        return contexts["job"]["failed"] is (word == "failure()")
    if word.startswith("'"):
        return word.strip("'")
    assert re.fullmatch(r"[\w.-]+", word), f"the test's runner does not know {word!r}"
    found = contexts
    for part in word.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _text(value: object) -> str:
    return "" if value is None else str(value)


def filled(text: object, contexts: Mapping[str, Any]) -> str:
    """Text with its expressions replaced."""
    return _EXPRESSION.sub(lambda found: _text(value_of(found[1], contexts)), str(text))


@dataclass
class Job:
    """One run of a job's steps in a workspace."""

    workspace: Path
    temp: Path
    actions: Mapping[str, Path]
    """`uses` without its revision → the folder of a composite action to run."""
    skipped: Sequence[str]
    """`uses` that is somebody else's action."""
    contexts: dict[str, Any]
    environment: dict[str, str]
    failed: bool = False
    log: list[tuple[str, str]] = field(default_factory=list)
    """(step, outcome): success, failure or skipped."""
    output: str = ""

    def run(self, workflow: Mapping[str, Any], job: str) -> Job:
        """Run the steps of a job in order."""
        self.contexts["job"] = {"failed": False}
        shared = workflow.get("env") or {}
        self.environment |= {name: filled(text, self.contexts) for name, text in shared.items()}
        self._steps(workflow["jobs"][job]["steps"], self.contexts)
        return self

    @property
    def summary(self) -> str:
        """What the run's page shows."""
        path = self.temp / "summary"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def _steps(self, steps: Sequence[Mapping[str, Any]], contexts: dict[str, Any]) -> None:
        contexts["steps"] = {}
        for step in steps:
            contexts["job"] = {"failed": self.failed}
            name = str(step.get("name") or step.get("uses"))
            condition = str(step.get("if", "success()"))
            if "failure()" not in condition and self.failed:
                wanted = False
            else:
                wanted = bool(value_of(condition, contexts))
            if not wanted:
                self.log.append((name, "skipped"))
                continue
            outputs: dict[str, str] = {}
            if "run" in step:
                outputs = self._ran(name, step, contexts)
            else:
                self._used(name, step, contexts)
            if "id" in step:
                contexts["steps"][step["id"]] = {"outputs": outputs}

    def _used(self, name: str, step: Mapping[str, Any], contexts: Mapping[str, Any]) -> None:
        action = str(step["uses"]).partition("@")[0]
        if action in self.skipped:
            self.log.append((name, "skipped"))
            return
        folder = self.actions[action]
        made = load(folder / "action.yml")
        given = {key: filled(text, contexts) for key, text in (step.get("with") or {}).items()}
        assert given.keys() <= made["inputs"].keys(), given
        inputs = {key: given.get(key, spec.get("default")) for key, spec in made["inputs"].items()}
        github = {**contexts["github"], "action_path": str(folder)}
        self._steps(made["runs"]["steps"], {"inputs": inputs, "github": github})

    def _ran(
        self, name: str, step: Mapping[str, Any], contexts: Mapping[str, Any]
    ) -> dict[str, str]:
        files = {
            key: self.temp / key.lower() for key in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH")
        }
        for path in files.values():
            path.write_text("")
        own = {key: filled(text, contexts) for key, text in (step.get("env") or {}).items()}
        done = subprocess.run(
            [*SHELL, "-c", step["run"]],
            cwd=self.workspace,
            env={
                **self.environment,
                **own,
                **{key: str(path) for key, path in files.items()},
                "GITHUB_STEP_SUMMARY": str(self.temp / "summary"),
                "RUNNER_TEMP": str(self.temp),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=400,
        )
        self.output += f"── {name}\n{done.stdout}"
        self.failed = self.failed or done.returncode != 0
        self.log.append((name, "failure" if done.returncode else "success"))
        self.environment |= pairs(files["GITHUB_ENV"].read_text(encoding="utf-8"))
        for line in files["GITHUB_PATH"].read_text(encoding="utf-8").splitlines():
            self.environment["PATH"] = f"{line}{os.pathsep}{self.environment['PATH']}"
        return pairs(files["GITHUB_OUTPUT"].read_text(encoding="utf-8"))


def pairs(text: str) -> dict[str, str]:
    """NAME=value and NAME<<MARK blocks, as GitHub reads them."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        name, parted, mark = line.partition("<<")
        if parted and "=" not in name:
            block = []
            for inner in lines:
                if inner == mark:
                    break
                block.append(inner)
            found[name] = "\n".join(block)
        else:
            name, _, value = line.partition("=")
            found[name] = value
    return found
