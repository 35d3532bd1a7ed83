"""What Trio wants to be called by its host, in order, also when the host is gone."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Callable
from typing import Any


class HostQueue:
    """Callbacks on their way to an asyncio loop.

    They wait here and not in the loop, which forgets its own when it is closed: whoever ends the
    guest then calls them by hand.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._callbacks: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()

    def soon(self, callback: Callable[[], Any]) -> None:
        """Let the loop call this; from its own thread."""
        self._callbacks.put(callback)
        if not self._loop.is_closed():
            self._loop.call_soon(self._call_next)

    def soon_threadsafe(self, callback: Callable[[], Any]) -> None:
        """Let the loop call this; from any thread."""
        self._callbacks.put(callback)
        # Closed at this very moment, perhaps.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._call_next)

    def _call_next(self) -> None:
        try:
            callback = self._callbacks.get_nowait()
        except queue.Empty:
            return  # it was called by hand
        callback()

    def wait_and_call_next(self) -> None:
        """Wait for a callback and call it, instead of the loop."""
        self._callbacks.get()()
