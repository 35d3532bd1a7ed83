"""The App that a worker needs open: by whoever opened it, else by the workers that share it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import trio

from trio_queue.connector import BaseConnector

#: How many workers of each `trio.run` keep a connector open that was not open before them.
_keepers: WeakKeyDictionary[BaseConnector, Counter[trio.lowlevel.TrioToken]] = WeakKeyDictionary()


@asynccontextmanager
async def opened(connector: BaseConnector) -> AsyncGenerator[None]:
    """It is open while the block lasts.

    Whoever opened it before closes it. Opened by a worker, it is closed by the last of those that
    run by then: the jobs of the others defer over it.

    Raises:
        ConnectorException: The database is away, or refuses.
    """
    keepers = _keepers.setdefault(connector, Counter())
    loop = trio.lowlevel.current_trio_token()
    if connector.is_open() and not keepers[loop]:
        yield
        return
    keepers[loop] += 1
    try:
        await connector.open_async()
        yield
    finally:
        keepers[loop] -= 1
        if not keepers[loop]:
            del keepers[loop]
            await connector.close_async()
