"""An asyncio task awaits a Trio task of the guest."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import trio

T = TypeVar("T")


class Call(Generic[T]):
    """A Trio task that asyncio code waits for."""

    def __init__(
        self,
        function: Callable[[], Awaitable[T]],
        ended: asyncio.Future[None],
        let_go: Callable[[Call[Any]], None],
        *,
        for_job: bool,
    ) -> None:
        self._function = function
        self._let_go = let_go
        self.for_job = for_job
        #: Done when the task has ended.
        self.ended = ended
        self.scope = trio.CancelScope()
        self._value: list[T] = []
        self._error: BaseException | None = None

    async def run(self) -> None:
        """The task. Never raises, but for a cancel from outside of it."""
        try:
            with self.scope:
                self._value.append(await self._function())
        # Outside of the scope: it has taken its own Cancelled out of any group by now.
        except BaseException as error:  # it is raised in asyncio
            if isinstance(error, trio.Cancelled) and trio.current_effective_deadline() == -math.inf:
                raise  # the guest ends; any other Cancelled is a stray one, of the function's own
            self._error = error
        finally:
            self._let_go(self)
            if not self.ended.done() and not self.ended.get_loop().is_closed():
                self.ended.set_result(None)

    def result(self) -> T:
        """What the function returned. Raises what it raised; CancelledError where it was cancelled."""
        if self._error is not None:
            raise self._error
        if not self._value:
            raise asyncio.CancelledError("the Trio task was cancelled")
        return self._value[0]
