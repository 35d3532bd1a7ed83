"""Which asyncio loop serves the asyncio tasks of a Trio program."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import AsyncGenerator
from typing import assert_never

from trio_queue._loops.on_trio import open_asyncio_on_trio
from trio_queue._loops.thread import open_asyncio_thread
from trio_queue.owners import AsyncioBackend, RunsAsyncio


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
    # Its import fails on Python 3.14: asyncio's policies, which it subclasses, are gone.
    return sys.version_info < (3, 14) and importlib.util.find_spec("trio_asyncio") is not None
