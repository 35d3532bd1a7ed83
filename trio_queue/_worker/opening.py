"""The App that a worker needs open: by whoever opened it, else by the workers that share it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from trio_queue.connector import BaseConnector, keep_open, let_close


@asynccontextmanager
async def opened(connector: BaseConnector) -> AsyncGenerator[None]:
    """It is open for Trio while the block lasts.

    Whoever opened it before closes it. Opened by a worker, it is closed by the last of those that
    run by then: the jobs of the others defer over it.

    Raises:
        ConnectorException: The database is away, or refuses.
    """
    kept = await keep_open(connector)
    try:
        yield
    finally:
        if kept:
            await let_close(connector)
