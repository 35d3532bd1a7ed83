"""Which connections serve which event loop: each loop has a pool of its own.

A pool belongs to the loop that it was opened in, whatever other loops run in other threads. asyncio
code that trio-asyncio runs inside a Trio task is served by Trio's pool: psycopg was imported before
trio-asyncio replaced what it needs of asyncio, and over Trio a query costs a third.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import attrs
import sniffio
import trio

from trio_queue.connector import running_loop

T = TypeVar("T")

Close = Callable[[], Awaitable[None]]


@attrs.frozen
class _OpenPool:
    pool: Any
    #: None: the caller's, who closes it.
    close: Close | None


class LoopPools:
    """The pools of one connector, by event loop. A loop that has died takes its own along."""

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[object, _OpenPool] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._pools)

    def get(self) -> Any:
        """The pool of the running loop, or None."""
        found = self._pools.get(running_loop())
        return None if found is None else found.pool

    def add(self, pool: Any, close: Close | None) -> bool:
        """Take a pool for the running loop. Answers False where it has one already."""
        loop = running_loop()
        if loop in self._pools:
            return False
        self._pools[loop] = _OpenPool(pool, close)
        return True

    def pop(self) -> Close | None:
        """Forget the pool of the running loop. What closes it, if it is to be closed."""
        found = self._pools.pop(running_loop(), None)
        return None if found is None else found.close


def in_trio() -> bool:
    """Whether Trio's connections serve the code that calls this: Trio code, or trio-asyncio's."""
    return trio.lowlevel.in_trio_task()


def trio_runs_this_code() -> bool:
    """Whether the code that calls this is Trio's, and not asyncio's inside Trio."""
    return in_trio() and sniffio.current_async_library() == "trio"


async def on_trio(function: Callable[[], Awaitable[T]]) -> T:
    """Await Trio code where `in_trio()` holds, from asyncio code too."""
    if trio_runs_this_code():
        return await function()
    import asyncio

    loop: Any = asyncio.get_running_loop()  # trio-asyncio's, which has a way back
    result: T = await loop.trio_as_future(function)
    return result
