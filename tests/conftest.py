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


@pytest.fixture
def world() -> World:
    """The state behind the ports in memory."""
    return World()


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models, saved once by MLflow; a folder per version number."""
    from tests.machine import save_models

    return save_models(tmp_path_factory.mktemp("models"))
