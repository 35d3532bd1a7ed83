"""The App that a worker needs open: by whoever opened it, else by the workers that share it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from trio_queue.connector import BaseConnector

#: How many workers keep a connector open that was not open before them.
_keepers: WeakKeyDictionary[BaseConnector, int] = WeakKeyDictionary()


@asynccontextmanager
async def opened(connector: BaseConnector) -> AsyncGenerator[None]:
    """It is open while the block lasts.

    Whoever opened it before closes it. Opened by a worker, it is closed by the last of those that
    run by then: the jobs of the others defer over it.

    Raises:
        ConnectorException: The database is away, or refuses.
    """
    if connector.is_open() and connector not in _keepers:
        yield
        return
    _keepers[connector] = _keepers.get(connector, 0) + 1
    try:
        await connector.open_async()
        yield
    finally:
        _keepers[connector] -= 1
        if not _keepers[connector]:
            del _keepers[connector]
            await connector.close_async()
