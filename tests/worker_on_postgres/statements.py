"""Which message of which statement passes the proxy: to cut or to hold the wire at any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs
import trio

from tests.fix_proxy import CutTheWire, Direction, Message, Proxy

CLAIM = "trio_queue_fetch_jobs_v2"
WRITE = "trio_queue_finish_jobs_v1"
RELEASE = "trio_queue_release_jobs_v1"


@attrs.frozen
class Step:
    """A message that belongs to a statement.

    Attributes:
        statement: The function that the statement calls.
        run: Which run of this statement, from 0, over all connections.
        number: Its place among the statement's messages of its direction, from 0.
    """

    statement: str
    run: int
    number: int
    message: Message


Action: TypeAlias = "Callable[[Step], Awaitable[None]]"


class Watch:
    """Tells a proxy's messages apart by the statement they belong to.

    A statement is an extended query from Parse or Bind to Sync, and what answers it up to
    ReadyForQuery. Prepared ones are known by their names.
    """

    def __init__(self, proxy: Proxy, *functions: str) -> None:
        self._functions = functions
        self._prepared: dict[tuple[int, bytes], str | None] = {}
        #: The statement under way on each connection, and which run of it.
        self._under_way: dict[int, tuple[str, int] | None] = {}
        self._numbers: dict[tuple[int, Direction], int] = defaultdict(int)
        #: How many runs of each statement have begun, and how many were answered.
        self.runs: dict[str, int] = defaultdict(int)
        self.answered: dict[str, int] = defaultdict(int)
        self.action: Action | None = None
        #: Requests to cancel that were seen; with `lose_cancels` they do not arrive.
        self.cancels = 0
        self.lose_cancels = False
        proxy.on_message = self._on_message

    async def _on_message(self, message: Message) -> None:
        number = message.connection
        if message.kind == "cancel":
            self.cancels += 1
            if self.lose_cancels:
                raise CutTheWire
        if message.direction is Direction.TO_SERVER:
            self._notice_begin(message)
        current = self._under_way.get(number)
        if current is None:
            return
        place = self._numbers[number, message.direction]
        self._numbers[number, message.direction] += 1
        if message.direction is Direction.TO_CLIENT and message.kind == "Z":
            self._under_way[number] = None
            self.answered[current[0]] += 1
        if self.action is not None:
            await self.action(Step(current[0], current[1], place, message))

    def _notice_begin(self, message: Message) -> None:
        number = message.connection
        if message.kind == "P":
            name, query, _ = message.payload.split(b"\0", 2)
            function = next((f for f in self._functions if f.encode() in query), None)
            self._prepared[number, name] = function
            self._begin(number, function)
        elif message.kind == "B" and self._under_way.get(number) is None:
            _, name, _ = message.payload.split(b"\0", 2)
            self._begin(number, self._prepared.get((number, name)))

    def _begin(self, number: int, function: str | None) -> None:
        if function is None:
            self._under_way[number] = None
            return
        self._under_way[number] = (function, self.runs[function])
        self.runs[function] += 1
        for direction in Direction:
            self._numbers[number, direction] = 0


class CutAt:
    """Cuts the wire at one message of the first run of a statement."""

    def __init__(self, statement: str, direction: Direction, number: int) -> None:
        self._where = statement, direction, number
        self._done = False
        self.reached = trio.Event()

    async def __call__(self, step: Step) -> None:
        where = step.statement, step.message.direction, step.number
        if where == self._where and not self._done:
            self._done = True
            self.reached.set()
            raise CutTheWire


class HoldAt(CutAt):
    """Holds the wire at one message of a statement, until told to let go; other connections flow."""

    def __init__(self, statement: str, direction: Direction, number: int) -> None:
        super().__init__(statement, direction, number)
        self.let_go = trio.Event()

    async def __call__(self, step: Step) -> None:
        where = step.statement, step.message.direction, step.number
        if where == self._where and not self._done:
            self._done = True
            self.reached.set()
            await self.let_go.wait()
