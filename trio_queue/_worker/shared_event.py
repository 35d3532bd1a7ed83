"""An event that Trio sets, and that asyncio tasks may wait for too, whatever their thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import sniffio
import trio


class SharedEvent:
    """A `trio.Event` for tasks of every loop. It is set on Trio's thread only."""

    def __init__(self) -> None:
        self._event = trio.Event()
        # Reentrant: a signal handler of the user's may stop the worker in the middle of this.
        self._lock = threading.RLock()
        self._waiting: set[asyncio.Future[None]] = set()

    def is_set(self) -> bool:
        """Whether it is set. From any thread."""
        return self._event.is_set()

    def set(self) -> None:
        """Set it, and wake who waits."""
        with self._lock:
            self._event.set()
            waiting, self._waiting = self._waiting, set()
        for future in waiting:
            # A loop that is closed by now has nobody who waits.
            with contextlib.suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_set, future)

    async def wait(self) -> None:
        """Wait until it is set, in the loop that runs this. Cancelled, nothing is lost."""
        if sniffio.current_async_library() == "trio":
            await self._event.wait()
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._event.is_set():
                return
            self._waiting.add(future)
        try:
            await future
        finally:
            with self._lock:
                self._waiting.discard(future)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
