"""Applications on a database of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.application import Application


@pytest.fixture
def application(queue_database: str) -> Iterator[Application]:
    """An asyncio application."""
    application = Application(queue_database)
    yield application
    application.close()
