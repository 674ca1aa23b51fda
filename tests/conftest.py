"""Fixtures that every tier shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.memory import World


@pytest.fixture
def world() -> World:
    """The state behind the ports in memory."""
    return World()


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models, saved once by MLflow; a folder per version number."""
    from tests.machine import save_models

    return save_models(tmp_path_factory.mktemp("models"))
