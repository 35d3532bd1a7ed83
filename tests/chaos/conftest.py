"""A story for each test of the check."""

from __future__ import annotations

import pytest

from tests.chaos.story import Story


@pytest.fixture
def story() -> Story:
    """Nothing has happened yet."""
    return Story()
