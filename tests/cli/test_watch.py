"""`slipway watch`: what it does about an alias, look by look."""

from __future__ import annotations

from typing import Any

import pytest

from services import preparing, rollout
from services.domain import Cause, Outcome, VersionRef
from services.errors import Unreachable
from tests.cli.conftest import Cli
from tests.memory import World

WORDS = ("watch", "--model", "wine", "--alias", "champion", "--name", "wine", "--once", "--yes")


@pytest.fixture(autouse=True)
def registered(world: World) -> None:
    """wine/1 to wine/3; champion is on 1."""
    for number in (1, 2, 3):
        world.registry.add("wine", number)
    world.registry.aliases["wine"] = {"champion": 1}


def look(cli: Cli) -> tuple[int, Any]:
    ran = cli(*WORDS, "--json")
    return ran.code, ran.document


def test_a_roll_back_by_hand_stays(cli: Cli, world: World) -> None:
    look(cli)
    world.registry.aliases["wine"]["champion"] = 3
    look(cli)
    assert cli("rollback", "wine", "--yes").code == 0
    code, decision = look(cli)
    assert (code, decision["action"]) == (0, "skip")
    assert "took it back" in decision["why"]


def test_what_another_process_left_open_is_settled_and_not_begun_again(
    cli: Cli, world: World
) -> None:
    world.registry.aliases["wine"]["champion"] = 3
    prepared = preparing.prepare_deploy(world, "wine/3", name="wine")
    rollout.apply(prepared.plan, world, actor="ana", version=prepared.version)
    code, decision = look(cli)
    assert (code, decision["action"], decision["outcome"]) == (0, "none", "unchanged")
    newest = world.journal.history("wine")[0]
    assert (newest.actor, newest.outcome) == ("ana", Outcome.VERIFIED)


def test_a_registry_that_is_away_is_a_decision_with_its_reason(cli: Cli, world: World) -> None:
    world.registry.broken = Unreachable("The registry did not answer.", "It is down.")
    code, decision = look(cli)
    assert (code, decision["outcome"]) == (3, "Unreachable")
    assert decision["why"] == "The registry did not answer. It is down."


def test_a_failed_version_says_why_it_is_skipped(cli: Cli, world: World) -> None:
    world.registry.aliases["wine"]["champion"] = 3
    world.serving.fails[VersionRef("wine", 3)] = Cause("no such package")
    assert look(cli)[0] == 8
    ran = cli(*WORDS)
    assert "wine@champion → 3: skip, failed: release" in ran.out
    assert "no such package" in ran.out


def test_a_protected_target_wants_its_confirmation_at_once(cli: Cli, world: World) -> None:
    world.protected = True
    code, document = look(cli)
    assert (code, document["error"]["kind"]) == (2, "ConfigError")
    assert cli(*WORDS, "--confirm", "wine", "--json").code == 0


def test_the_alias_is_the_reason_that_is_kept(cli: Cli, world: World) -> None:
    world.registry.aliases["wine"]["champion"] = 3
    look(cli)
    assert world.journal.history("wine")[0].reason == "wine@champion points to wine/3"
