"""What is open for which event loop: a pool serves the loop that it was opened in, and no other.

asyncio code that trio-asyncio runs inside a Trio task is served by Trio's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any, Final

import attrs
import trio

from trio_queue._pg.pool import Pool
from trio_queue._storage.parameters import Parameters
from trio_queue.connector import running_loop
from trio_queue.exceptions import AppNotOpen

_OTHER_LOOP = (
    "the App was opened in another event loop, whose connections cannot serve this one: open it "
    "here too, `async with app.open_async():`"
)
_ENDED_LOOP = (
    "the App was opened in an event loop that has ended, and was not closed there: open it in "
    "this one, `async with app.open_async():`"
)


#: Seconds that closing a pool of psycopg_pool's waits for its threads or tasks.
CLOSE_TIMEOUT: Final = 5.0


def pool_sizes(pool_args: Mapping[str, Any]) -> dict[str, int]:
    """The sizes of a pool: it keeps one connection and has four at most, where the user's arguments say nothing else.

    Who names how many it keeps, and no more, has as many at most, as with psycopg_pool.

    psycopg_pool keeps four connections and lends the one that has rested longest: each statement then meets another process
    of the server, whose caches are cold. One by one a defer took a quarter longer over four than over one (asyncio 404
    and 311 µs).
    """
    most = pool_args.get("max_size")
    if most is None:
        most = pool_args.get("min_size") or 4
    return {"min_size": pool_args.get("min_size", 1), "max_size": most}


@attrs.frozen
class OpenPool:
    """A pool, and who has to close it."""

    pool: Any
    parameters: Parameters
    is_ours: bool = True

    async def close(self) -> None:
        """Close it, unless it is the caller's; in a cancelled scope too."""
        if not self.is_ours:
            return
        if isinstance(self.pool, Pool):
            await self.pool.close()
        else:
            await self.pool.close(CLOSE_TIMEOUT)


class Pools:
    """The open pool of each event loop, in whatever thread it runs. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_loop: dict[object, OpenPool] = {}

    def __bool__(self) -> bool:
        """Whether one is open, for whatever loop."""
        return bool(self._of_loop)

    @property
    def current(self) -> OpenPool | None:
        """That of the running loop."""
        return self._of_loop.get(running_loop())

    def require(self) -> Any:
        """The pool of the running loop. Raises AppNotOpen, which tells why there is none."""
        found = self.current
        if found is not None:
            return found.pool
        if not self:
            raise AppNotOpen
        raise AppNotOpen(_ENDED_LOOP if all(map(_has_ended, list(self._of_loop))) else _OTHER_LOOP)

    def add(self, made: OpenPool) -> bool:
        """Take a pool for the running loop; False where it has one already."""
        with self._lock:
            self._forget_ended()
            return self._of_loop.setdefault(running_loop(), made) is made

    def pop(self) -> OpenPool | None:
        """Give up that of the running loop."""
        with self._lock:
            self._forget_ended()
            return self._of_loop.pop(running_loop(), None)

    def _forget_ended(self) -> None:
        """Throw away what was left open in a loop that has ended: nobody can close it any more."""
        for ended in [loop for loop in self._of_loop if _has_ended(loop)]:
            left = self._of_loop.pop(ended)
            if left.is_ours:
                _throw_away(left.pool)


def _has_ended(loop: object) -> bool:
    if isinstance(loop, asyncio.AbstractEventLoop):
        return loop.is_closed()
    assert isinstance(loop, trio.lowlevel.TrioToken)
    try:
        loop.run_sync_soon(_do_nothing)
    except trio.RunFinishedError:
        return True
    return False


def _do_nothing() -> None: ...


def _throw_away(pool: Any) -> None:
    """Close the sockets of a pool whose loop has ended: awaiting its close() is not possible."""
    idle: Any
    if isinstance(pool, Pool):
        pool.throw_away()
        return
    # Not documented of psycopg_pool's; without it they are closed when they are collected.
    for idle in list(getattr(pool, "_pool", ())):
        idle.pgconn.finish()
