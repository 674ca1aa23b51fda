"""Fixtures that every tier shares."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.memory import World

# A property holds or does not; how long an example takes says what else the machine is doing.
settings.register_profile("slipway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slipway")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with interrupts ignored, and children inherit that: a suite
    # run in the background would wait for ever on a command that it interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


_FIRST = ("cluster", "voyages", "browser", "local")
"""Tiers that mostly wait for others' processes, the longest first; `voyages` is half of the cluster
tier: two workers have a namespace each there, so that one computes while the other waits."""
_VOYAGES = ("program", "images", "workflow", "inside", "asleep", "coldstart")


def _group(nodeid: str) -> str:
    """What one worker runs: a tier whose tests share a namespace, a browser, a demo; or a file."""
    file = Path(nodeid.partition("::")[0])
    tier = file.parts[1] if len(file.parts) > 1 else ""
    if tier == "cluster" and file.stem.removeprefix("test_") in _VOYAGES:
        return "voyages"
    return tier if tier in _FIRST else str(file)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tiers."""
    places = {tier: place for place, tier in enumerate(_FIRST)}
    items.sort(key=lambda item: places.get(_group(item.nodeid), len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`: a tier is one worker's, which makes what its tests share once; files go to others.

    pytest-xdist's own groups say nothing when they do not work: 3.8 writes them where pytest 9.2
    reads no more, and every worker makes everything.
    """
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # as below

    class Tiers(LoadScopeScheduling):  # type: ignore[misc]  # the plugin has no types
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return Tiers(config, log)


@pytest.fixture
def world() -> World:
    """The state behind the ports in memory."""
    return World()


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models, saved once by MLflow; a folder per version number."""
    from tests.machine import save_models

    return save_models(tmp_path_factory.mktemp("models"))
