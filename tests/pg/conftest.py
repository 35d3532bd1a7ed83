"""Connections for the driver's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.waiting import PATIENCE
from trio_queue._pg import TrioConnection

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@pytest.fixture
async def connection(database: str) -> AsyncGenerator[TrioConnection, None]:
    """The connection under test. It is patient: a server that is slow is not one that is gone."""
    connection = await TrioConnection.connect(database)
    connection.cancel_timeout = connection.cleanup_timeout = PATIENCE
    yield connection
    await connection.close()


@pytest.fixture
async def admin(database: str) -> AsyncGenerator[TrioConnection, None]:
    """A second connection to the same database, to look at the first and to disturb it."""
    connection = await TrioConnection.connect(database)
    yield connection
    await connection.close()
