"""The documentation names all that there is: verbs, options, exit codes, settings, errors."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from dashboard.cli import READER_GONE, VERBS, parser
from dashboard.commands.session import INTERRUPTED
from services import errors, groundwork
from services.errors import SlipwayError
from services.settings import PREFIX, Settings, TargetSettings

ROOT = Path(__file__).parent.parent
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
ERRORS = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    found = re.search(rf"(?ms)^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", text)
    return found[1] if found else ""


def options_of(found: argparse.ArgumentParser) -> set[str]:
    return {
        option
        for action in found._actions
        for option in action.option_strings
        if option.startswith("--")
    }


def verbs() -> dict[str, argparse.ArgumentParser]:
    [choices] = [
        action.choices
        for action in parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    ]
    return dict(choices)


GLOBALS = options_of(parser())
# Verbs that repeat another's options say so instead of listing them again.
AS_ANOTHER = {
    "plan": "deploy",
    "render": "deploy",
    "canary": "deploy",
    "promote": "deploy",
    "abort": "deploy",
    "rollback": "deploy",
    "stop": "deploy",
    "start": "deploy",
    "delete": "deploy",
    "adopt": "deploy",
    "bench": "predict",
}


@pytest.mark.parametrize("option", sorted(GLOBALS))
def test_every_global_option_has_a_row(option: str) -> None:
    assert f"`{option}" in section(CLI, "Global options")


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_a_section_with_its_options(verb: str) -> None:
    text = section(CLI, verb) + section(CLI, AS_ANOTHER.get(verb, verb))

    missing = {option for option in options_of(verbs()[verb]) - GLOBALS if option not in text} | (
        {verb} if not section(CLI, verb) else set()
    )

    assert missing == set()


def test_every_section_of_a_verb_is_a_verb() -> None:
    assert set(re.findall(r"(?m)^### (\w+)$", CLI)) == {verb.name for verb in VERBS}


def _kinds() -> list[type[SlipwayError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, SlipwayError) and kind is not SlipwayError
    ]


@pytest.mark.parametrize(
    "code",
    sorted({0, READER_GONE, INTERRUPTED, SlipwayError.exit_code, *(k.exit_code for k in _kinds())}),
)
def test_every_exit_code_has_a_row(code: int) -> None:
    assert f"\n| {code} |" in section(CLI, "Exit codes")


@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_section_with_its_exit_code(kind: type[SlipwayError]) -> None:
    assert f"Exit {kind.exit_code}." in section(ERRORS, kind.__name__)


def settings_of(
    section_type: type[BaseModel], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    for name, found in section_type.model_fields.items():
        annotation = found.annotation
        if section_type is Settings and name == "targets":
            yield from settings_of(TargetSettings, (*path, name, "NAME"))
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from settings_of(annotation, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", settings_of(Settings), ids=".".join)
def test_every_setting_has_a_row_with_its_variable(path: tuple[str, ...]) -> None:
    variable = PREFIX + "__".join(part.upper() for part in path)

    assert f"| `{'.'.join(path)}` | `{variable}` |" in CONFIGURATION


@pytest.mark.parametrize("path", settings_of(Settings), ids=".".join)
def test_every_setting_is_in_the_example_file(path: tuple[str, ...]) -> None:
    example = (ROOT / "slipway.toml.example").read_text(encoding="utf-8")

    assert re.search(rf"(?m)^#? ?{re.escape(path[-1])} *=", example)


def test_every_setting_in_the_docs_exists() -> None:
    documented = set(re.findall(r"(?m)^\| `([\w.]+)` \| `SLIPWAY_", CONFIGURATION))

    assert documented == {".".join(path) for path in settings_of(Settings)}


# ── Blocks that are meant to be typed ─────────────────────────────────────────────────────────

PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks(path: Path, kind: str) -> list[str]:
    """The fenced blocks of a page that are of one kind."""
    return re.findall(rf"(?ms)^```{kind}\n(.*?)^```", path.read_text(encoding="utf-8"))


def typed(path: Path) -> list[str]:
    """The `slipway` lines of a page's shell blocks, with continued lines joined."""
    lines = "\n".join(blocks(path, "sh")).replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("slipway ")]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_in_a_page_is_one_that_there_is(path: Path) -> None:
    for line in typed(path):
        parser().parse_args(shlex.split(line)[1:])  # ConfigError names what there is not


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_configuration_in_a_page_can_be_loaded(path: Path) -> None:
    for block in blocks(path, "toml"):
        Settings.model_validate(tomllib.loads(block))


@pytest.mark.parametrize("name", ["minikube.md", "kind.md"])
def test_the_way_from_nothing_leads_over_every_step(name: str) -> None:
    page = ROOT / "docs" / name
    verbs = {shlex.split(line)[1] for line in typed(page)}
    assert {"demo", "doctor", "image", "deploy", "predict"} <= verbs
    assert blocks(page, "toml")
    assert groundwork.INSTALL_KSERVE in "".join(blocks(page, "sh"))


PROMISES = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", (ROOT / "docs" / "promises.md").read_text())


@pytest.mark.parametrize(("file", "name"), sorted(set(PROMISES)))
def test_a_promise_names_a_test_that_is_there(file: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8")


DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_to_a_file_of_ours_leads_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", text)
    assert [link for link in linked if not (path.parent / link).exists()] == []
