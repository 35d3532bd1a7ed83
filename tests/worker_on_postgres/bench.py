"""An application whose jobs are counted, its worker, and a direct look at the database."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
import sniffio
import trio

from tests.waiting import eventually
from trio_queue import App, JobContext, PsycopgConnector
from trio_queue._worker.shared_event import SharedEvent
from trio_queue.log import Action
from trio_queue.worker import Worker

#: How workers run here, unless a test says otherwise: nothing comes by polling.
QUIET: dict[str, Any] = {
    "install_signal_handlers": False,
    "fetch_job_polling_interval": 3600.0,
    "abort_job_polling_interval": 3600.0,
}


def told(caplog: pytest.LogCaptureFixture, action: Action) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if getattr(record, "action", None) == action.value and record.levelno >= logging.INFO
    ]


async def give_way() -> None:
    """Let others run, on Trio or asyncio."""
    if sniffio.current_async_library() == "trio":
        await trio.lowlevel.checkpoint()
    else:
        await asyncio.sleep(0)


class Bench:
    """An application with tasks that a test holds, and what happened to its jobs.

    Its tasks run in whichever loop the worker's host has.

    Args:
        conninfo: The way of the application: through a proxy, where the test has one.
        direct: The way of the test itself; also where jobs are deferred.
    """

    def __init__(self, conninfo: str, direct: str) -> None:
        self.app = App(connector=PsycopgConnector(conninfo=conninfo))
        self.database = psycopg.connect(direct)
        self.look_at(direct)
        #: How often the body of each job was begun, and how often it ended.
        self.began: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        #: Jobs of the task `hold` end when this is set.
        self.gate = SharedEvent()
        #: What runs at this moment, by lock, and whether two of one lock ever did.
        self.running: Counter[str] = Counter()
        self.overlapped: set[str] = set()
        self.order: list[tuple[str | None, int]] = []

        @self.app.task(name="work", pass_context=True)
        async def work(context: JobContext, number: int = 0) -> None:
            with self._counted(context):
                await give_way()

        @self.app.task(name="hold", pass_context=True)
        async def hold(context: JobContext, number: int = 0) -> None:
            with self._counted(context):
                await self.gate.wait()

        @self.app.task(name="fail_once", pass_context=True, retry=1)
        async def fail_once(context: JobContext, number: int = 0) -> None:
            with self._counted(context):
                if context.job.attempts == 0:
                    raise ValueError("the first try")

    @contextmanager
    def _counted(self, context: JobContext) -> Generator[None]:
        job_id, lock = context.job.id, context.job.lock
        assert job_id is not None
        self.began[job_id] += 1
        self.order.append((lock, job_id))
        if lock is not None:
            self.running[lock] += 1
            if self.running[lock] > 1:
                self.overlapped.add(lock)
        try:
            yield
        finally:
            if lock is not None:
                self.running[lock] -= 1
        self.ended[job_id] += 1

    # -- the database -----------------------------------------------------------------------------

    def look_at(self, direct: str) -> None:
        """Connect the test itself, anew if its server is another process."""
        self.database.close()
        self.database = psycopg.connect(direct, autocommit=True, application_name="the test itself")

    def close(self) -> None:
        self.database.close()

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.database.execute(query.encode(), parameters).fetchall()

    def value(self, query: str, *parameters: Any) -> Any:
        return self.rows(query, *parameters)[0][0]

    def defer(
        self,
        task: str = "work",
        count: int = 1,
        *,
        queue: str = "default",
        lock: str | None = None,
        scheduled_in: float | None = None,
    ) -> list[int]:
        """Defer jobs as anybody's client would, over the test's own connection."""
        return [
            row[0]
            for row in self.rows(
                "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, args, scheduled_at)"
                " SELECT %s, %s, %s, '{}', now() + make_interval(secs => %s)"
                " FROM generate_series(1, %s) RETURNING id",
                queue,
                task,
                lock,
                scheduled_in,
                count,
            )
        ]

    def statuses(self, ids: Sequence[int] | None = None) -> dict[int, tuple[str, int]]:
        """The status and the attempts of each job."""
        return {
            row[0]: (row[1], row[2])
            for row in self.rows(
                "SELECT id, status::text, attempts FROM procrastinate_jobs"
                " WHERE id = ANY(%s) OR %s::bigint[] IS NULL ORDER BY id",
                ids,
                ids,
            )
        }

    def backends(self) -> list[tuple[int, str]]:
        """Who is connected to the database, but for the test itself: pid and last statement."""
        return [
            (row[0], row[1])
            for row in self.rows(
                "SELECT pid, query FROM pg_stat_activity WHERE datname = current_database()"
                " AND backend_type = 'client backend' AND application_name <> 'the test itself'"
            )
        ]

    async def all_ended(self, ids: Sequence[int] | None = None, status: str = "succeeded") -> None:
        """Wait until these jobs (None: all) have this status."""
        await eventually(
            lambda: all(found == status for found, _ in self.statuses(ids).values()),
            lambda: f"{status} everywhere, seen: {Counter(self.statuses(ids).values())}",
        )

    async def is_quiet(self) -> None:
        """Wait until nobody is connected; there is no worker's row and no job is `doing` then."""
        await eventually(lambda: not self.backends(), "the end of every connection")
        assert self.rows("SELECT id FROM procrastinate_workers") == []
        assert self.rows("SELECT id FROM procrastinate_jobs WHERE status = 'doing'") == []

    def each_ran_once(self, ids: Sequence[int]) -> None:
        """Each of these jobs succeeded at its first attempt, and its body ran once."""
        assert self.statuses(ids) == dict.fromkeys(ids, ("succeeded", 1))
        assert self.began == Counter(ids)
        assert self.ended == Counter(ids)

    def strays(self, worker: Worker) -> list[int]:
        """Jobs that are `doing` under the worker and that it does not run."""
        held = self.rows(
            "SELECT id FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = %s",
            worker.worker_id,
        )
        in_hands = self.in_hands(worker)
        return [row[0] for row in held if row[0] not in in_hands]

    def in_hands(self, worker: Worker) -> set[int]:
        """The jobs whose places the worker holds."""
        return {running.id for running in worker._running}  # pyright: ignore[reportPrivateUsage] - no user needs them

    # -- the worker -------------------------------------------------------------------------------

    def worker(self, **options: Any) -> Worker:
        return Worker(self.app, **{**QUIET, **options})

    @asynccontextmanager
    async def working(self, **options: Any) -> AsyncGenerator[Worker]:
        """A worker while the block lasts; stopped, and its end awaited, with it."""
        worker = self.worker(**options)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            try:
                yield worker
            finally:
                self.gate.set()
                worker.stop()
