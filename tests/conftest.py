"""Fixtures that every tier shares."""

from __future__ import annotations

import pytest

from tests.memory import World


@pytest.fixture
def world() -> World:
    """The state behind the ports in memory."""
    return World()
