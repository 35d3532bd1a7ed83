"""Worker processes, none of which is left after a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.fleet import Fleet


@pytest.fixture
def fleet(queue_database: str, tmp_path: Path) -> Iterator[Fleet]:
    """Worker processes on a fresh database."""
    fleet = Fleet(queue_database, tmp_path)
    yield fleet
    fleet.close()
