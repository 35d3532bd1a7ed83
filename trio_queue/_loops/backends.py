"""Which asyncio loop serves the asyncio tasks of a Trio program."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import assert_never

from trio_queue._loops.on_trio import import_trio_asyncio, open_asyncio_on_trio
from trio_queue._loops.thread import open_asyncio_thread
from trio_queue.owners import AsyncioBackend, RunsAsyncio

logger: logging.Logger = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def open_backend(backend: AsyncioBackend | None) -> AsyncGenerator[RunsAsyncio]:
    """An asyncio loop while the block lasts.

    Args:
        backend: What runs it; None: trio-asyncio where it can be used, else a thread.

    Raises:
        ImportError: trio-asyncio was asked for, and cannot be imported.
    """
    if backend is None:
        usable = _can_use_trio_asyncio()
        backend = AsyncioBackend.TRIO_ASYNCIO if usable else AsyncioBackend.THREAD
    match backend:
        case AsyncioBackend.TRIO_ASYNCIO:
            opening = open_asyncio_on_trio()
        case AsyncioBackend.THREAD:
            opening = open_asyncio_thread()
        case _:
            assert_never(backend)
    async with opening as runner:
        yield runner


def _can_use_trio_asyncio() -> bool:
    try:
        import_trio_asyncio()
    except ImportError as error:
        logger.debug("asyncio tasks run in a thread: %s", error)
        return False
    return True
