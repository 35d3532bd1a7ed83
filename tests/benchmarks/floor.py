"""The floor: our statements and a loop around them, and nothing that makes it a worker.

No context, no outcome, no heartbeat, no stop, nothing is given back: what a drain costs that nobody
can take away. Where the log is written, it has the two lines of a job, as logging writes them. Claims
and writes overlap on a connection each; each job is a Trio task with a shielded scope.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import trio

from tests.benchmarks.peers import QUEUE, registration
from trio_queue._pg.connection import TrioConnection
from trio_queue._storage.queries import QUERIES
from trio_queue._storage.statements import parameters_of
from trio_queue._worker.pace import MAX_AHEAD
from trio_queue.verbs import FetchJobs, FinishJobs

logger = logging.getLogger(__name__)

#: Claimed ahead of the places, as a worker does at this pace.
AHEAD = MAX_AHEAD


async def noop(number: int) -> None:
    """The body of a job."""


async def _run(connection: TrioConnection, verb: Any, **changed: Any) -> list[tuple[Any, ...]]:
    parameters = parameters_of(verb, None) | changed
    cursor = await connection.execute(QUERIES[verb.name].text.encode(), parameters)
    return await cursor.fetchall()


@attrs.define
class _Loop:
    """What runs, what waits for a place, what is to be written."""

    concurrency: int
    start: Callable[[Any], None]
    running: int = 0
    claims_end: bool = False
    waiting: deque[Any] = attrs.field(factory=deque[Any])
    ended: list[Any] = attrs.field(factory=list[Any])
    room: trio.Event = attrs.field(factory=trio.Event)
    done: trio.Event = attrs.field(factory=trio.Event)

    def take(self, rows: list[Any]) -> None:
        """Run these as there are places."""
        self.waiting.extend(rows)
        while self.waiting and self.running < self.concurrency:
            self.running += 1
            self.start(self.waiting.popleft())

    def end(self, row: Any) -> None:
        """A body has ended."""
        self.ended.append(row)
        self.done.set()
        if self.waiting:
            self.start(self.waiting.popleft())
        else:
            self.running -= 1
        if len(self.waiting) <= AHEAD // 2:
            self.room.set()


async def drain(conninfo: str, concurrency: int) -> None:
    """Drain a queue, and end when a claim finds less than it asked for."""
    async with (
        await TrioConnection.connect(conninfo) as claims,
        await TrioConnection.connect(conninfo) as writes,
    ):
        [[worker_id]] = await _run(claims, registration(concurrency))
        async with trio.open_nursery() as nursery:

            async def body(row: Any) -> None:
                logger.info("Starting job %s[%s](%s)", row[2], row[0], row[6])
                with trio.CancelScope(shield=True):
                    await noop(**row[6])
                logger.info("Job %s[%s](%s) succeeded", row[2], row[0], row[6])
                loop.end(row)

            loop = _Loop(concurrency, lambda row: nursery.start_soon(body, row))
            nursery.start_soon(_write, loop, writes, worker_id)
            await _claim(loop, claims, worker_id)


async def _claim(loop: _Loop, connection: TrioConnection, worker_id: int) -> None:
    fetch = FetchJobs(worker_id, [QUEUE], 0)
    while True:
        limit = loop.concurrency - loop.running + AHEAD - len(loop.waiting)
        rows = await _run(connection, fetch, limit=limit)
        jobs = [row for row in rows if row[0] is not None]
        loop.take(jobs)
        if len(jobs) < limit:
            break
        while len(loop.waiting) > AHEAD // 2:
            loop.room = trio.Event()
            await loop.room.wait()
    loop.claims_end = True
    loop.done.set()


async def _write(loop: _Loop, connection: TrioConnection, worker_id: int) -> None:
    finish = FinishJobs(worker_id, [])
    while not (loop.claims_end and not loop.running and not loop.ended):
        await loop.done.wait()
        loop.done = trio.Event()
        batch, loop.ended = loop.ended, []
        if batch:
            await _run(
                connection,
                finish,
                job_ids=f"{{{','.join(str(row[0]) for row in batch)}}}",
                attempts=f"{{{','.join(str(row[9]) for row in batch)}}}",
                statuses=f"{{{','.join(['succeeded'] * len(batch))}}}",
            )
