"""What Trio wants to be called by its host, in order, also when the host is gone."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
from collections.abc import Callable
from typing import Any

from trio_queue._loops.interrupts import Interrupts


class HostQueue:
    """Callbacks on their way to an asyncio loop.

    They wait here and not in the loop, which forgets its own when it is closed: whoever ends the
    guest then calls them by hand.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, interrupts: Interrupts) -> None:
        self._loop = loop
        self._interrupts = interrupts
        #: The last call that the loop was asked for.
        self._asked: asyncio.Handle | None = None
        self._callbacks: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._hooks: Any = None

    def keep_hooks(self) -> None:
        """Trio runs from now on: what it has installed for async generators is to stay.

        A loop that is stopped and run again installs its own anew, which would take those of Trio's
        tasks for the loop's, and close them under Trio.
        """
        self._hooks = sys.get_asyncgen_hooks()

    def _restore_hooks(self) -> None:
        hooks = self._hooks
        if hooks is not None and sys.get_asyncgen_hooks().firstiter is not hooks.firstiter:
            sys.set_asyncgen_hooks(*hooks)

    def soon(self, callback: Callable[[], Any]) -> None:
        """Let the loop call this; from its own thread."""
        self._callbacks.put(callback)
        if not self._loop.is_closed():
            self._asked = self._loop.call_soon(self._call_next)

    def soon_threadsafe(self, callback: Callable[[], Any]) -> None:
        """Let the loop call this; from any thread."""
        self._callbacks.put(callback)
        # Closed at this very moment, perhaps.
        with contextlib.suppress(RuntimeError):
            self._asked = self._loop.call_soon_threadsafe(self._call_next)

    def resume(self) -> None:
        """Ask the loop again for what waits here: a Ctrl-C may have ended it with such a call in its hands, and forgotten that."""
        if not self._callbacks.empty() and not self._loop.is_closed():
            if self._asked is not None:
                # Not forgotten, it would be one too many in the loop for as long as Trio has something to do.
                self._asked.cancel()
            self._asked = self._loop.call_soon(self._call_next)

    def _call_next(self) -> None:
        self._interrupts.call_whole(self._call_one)

    def _call_one(self) -> None:
        try:
            callback = self._callbacks.get_nowait()
        except queue.Empty:
            return  # it was called by hand
        self._restore_hooks()
        callback()

    def call_until(self, is_over: Callable[[], bool]) -> None:
        """Call what comes, instead of the loop, which is closed. A Ctrl-C is raised when the next call has returned."""
        hooks = sys.get_asyncgen_hooks()
        try:
            while not is_over():
                self._interrupts.call_whole(self._wait_one)
        finally:
            sys.set_asyncgen_hooks(*hooks)  # Trio puts back the closed loop's

    def _wait_one(self) -> None:
        # As a part of the turn: one that was taken, and not called, would be Trio's last.
        callback = self._callbacks.get()
        self._restore_hooks()
        callback()
