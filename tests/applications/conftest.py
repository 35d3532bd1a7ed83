"""The example applications, none of which is left running after a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.applications.program import Program


@pytest.fixture
def program(queue_database: str) -> Iterator[Program]:
    """An example application on a fresh database with the queue's tables."""
    program = Program(queue_database)
    yield program
    program.close()
