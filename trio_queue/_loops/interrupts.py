"""Ctrl-C during one of Trio's turns in an asyncio loop comes after the turn.

`asyncio.Runner` raises the second Ctrl-C where it strikes, and Python's own handler, which is back while the Runner ends the loop, each. In the code of asyncio that ends the loop, and its tasks are cancelled; in
Trio's, or in ours, it tore what had to be whole: a body had ended, and its outcome was written by nobody. On its own Trio protects such
code, by a handler that looks whom it strikes; in a loop of asyncio's that handler is not there.

So while a turn lasts, and only where the handler is one of these two, another one counts what comes. It is changed twice a turn, and not
once for the length of a worker: the Runner has to find its own handler when it ends, and the next one none. That is 1.3 µs a turn, 0.1
beneath any other handler; of busy jobs one turn serves many. (By the functions beneath those of `signal`, which look up an enum's member for each handler: 15 µs.)
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports]  # it has no types
import asyncio
import functools
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, TypeGuard, cast

_SIGINT: Final = int(signal.SIGINT)
_get_handler = cast("Callable[[int], Any]", _signal.getsignal)  # pyright: ignore[reportUnknownMemberType]  # the same
_set_handler = cast("Callable[[int, Any], Any]", _signal.signal)  # pyright: ignore[reportUnknownMemberType]  # the same


class _Held:
    """A handler of SIGINT that counts while a turn lasts, in the place of one that raises."""

    __slots__ = ("_count", "_process", "handler", "in_turn")

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self.handler = handler
        self.in_turn = False
        self._count = 0
        self._process = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # Somebody may have kept it, to put it back; and a process forked in a turn never sees its end.
        if self.in_turn and os.getpid() == self._process:
            self._count += 1
        else:
            self.handler(number, frame)

    def end_turn(self) -> None:
        """From here on it passes on what comes; first what came. Raises what the handler does."""
        self.in_turn = False
        came, self._count = self._count, 0
        for _ in range(came):
            self.handler(_SIGINT, None)


def _raises(handler: Any) -> TypeGuard[Callable[[int, FrameType | None], object]]:
    return handler is signal.default_int_handler or (
        type(handler) is functools.partial
        and isinstance(getattr(handler.func, "__self__", None), asyncio.Runner)
    )


def _may_set() -> bool:
    return threading.current_thread() is threading.main_thread()


class Interrupts:
    """Those of one loop. Who looks for the handler in two of its turns finds the same."""

    def __init__(self) -> None:
        self._held: _Held | None = None

    def _hold(self, handler: Callable[[int, FrameType | None], object]) -> _Held:
        if self._held is None or self._held.handler is not handler:
            self._held = _Held(handler)
        return self._held

    def call_whole(self, function: Callable[[], object]) -> None:
        """Call it. A Ctrl-C that would be raised meanwhile is raised when that has returned."""
        held = None
        before = _get_handler(_SIGINT)
        if _raises(before) and _may_set():
            held = self._hold(before)
            held.in_turn = True
            _set_handler(_SIGINT, held)
        try:
            function()
        finally:
            after = _get_handler(_SIGINT)
            # A worker that began to hear signals in an earlier turn, and ended in this one, has put back that turn's.
            if type(after) is _Held and (after is held or not after.in_turn) and _may_set():
                _set_handler(_SIGINT, after.handler)
            if held is not None:
                held.end_turn()
