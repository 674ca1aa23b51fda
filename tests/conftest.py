"""Fixtures that every tier shares."""

from __future__ import annotations

import signal
from pathlib import Path

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
_VOYAGES = ("program", "images", "workflow", "inside", "gke", "asleep", "coldstart", "stream")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest tiers; with `--dist loadgroup` each of them is one worker's.

    The tests of a tier share a cluster's namespace, a browser, a demo: made once, by one worker.
    The other tests go file by file to whoever is free.
    """
    here = Path(__file__).parent

    def group(item: pytest.Item) -> str:
        parts = item.path.relative_to(here).parts
        if item.path.stem.removeprefix("test_") in _VOYAGES and parts[0] == "cluster":
            return "voyages"
        return parts[0] if parts[0] in _FIRST else "/".join(parts)

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    names = [*_FIRST]
    items.sort(key=lambda item: names.index(g) if (g := group(item)) in names else len(names))


@pytest.fixture
def world() -> World:
    """The state behind the ports in memory."""
    return World()


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models, saved once by MLflow; a folder per version number."""
    from tests.machine import save_models

    return save_models(tmp_path_factory.mktemp("models"))
