"""The unmodified client of Procrastinate and ours, deferring and working on one database at once."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import procrastinate
import psycopg
import pytest
import trio

import trio_queue
from tests.fix_schemas import apply_stock_schema
from tests.waiting import eventually
from tests.worker_on_postgres.bench import give_way
from trio_queue import schema
from trio_queue.worker import Worker

EACH = 500
LOCKS = ["a", "b", "c", None, None]


class Record:
    """Who ran which job, and which locks were held by two at once. Told by two threads."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: Counter[str] = Counter()
        self.runs: Counter[int] = Counter()
        self.runners: Counter[str] = Counter()
        self.overlapped: set[str] = set()

    @contextmanager
    def running(self, runner: str, job: Any) -> Generator[None]:
        with self._guard:
            self.runs[job.id] += 1
            self.runners[runner] += 1
            if job.lock is not None:
                self._held[job.lock] += 1
                if self._held[job.lock] > 1:
                    self.overlapped.add(job.lock)
        yield
        with self._guard:
            if job.lock is not None:
                self._held[job.lock] -= 1


class StockWorker:
    """Procrastinate's App, which defers, and a worker of it, in a thread with a loop of its own."""

    def __init__(self, conninfo: str, record: Record) -> None:
        self._app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self.ids: list[int] = []
        self.error: BaseException | None = None

        @self._app.task(name="work", pass_context=True)
        async def work(context: procrastinate.JobContext, number: int) -> None:
            with record.running("stock", context.job):
                await asyncio.sleep(0)

        @self._app.task(name="fail_once", pass_context=True, retry=1)
        async def fail_once(context: procrastinate.JobContext, number: int) -> None:
            if context.job.attempts == 0:
                raise ValueError(number)
            with record.running("stock", context.job):
                await asyncio.sleep(0)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with self._app.open_async():
                worker = asyncio.create_task(
                    self._app.run_worker_async(
                        concurrency=10,
                        install_signal_handlers=False,
                        fetch_job_polling_interval=0.2,
                    )
                )
                for number in range(EACH):
                    task = "fail_once" if number % 10 == 0 else "work"
                    deferrer = self._app.configure_task(task, lock=LOCKS[number % 5])
                    self.ids.append(await deferrer.defer_async(number=number))
                self._ready.set()
                await self._stop.wait()
                worker.cancel()
                await asyncio.wait([worker])
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            self.error = error
            self._ready.set()

    @contextmanager
    def working(self) -> Generator[None]:
        self._thread.start()
        try:
            yield
        finally:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    @property
    def has_deferred(self) -> bool:
        assert self.error is None
        return self._ready.is_set()


@pytest.fixture(params=["ours", "taken over"])
def shared_database(request: pytest.FixtureRequest, database: str, queue_database: str) -> str:
    """A database that we made, and one that Procrastinate made and we took over."""
    if request.param == "ours":
        return queue_database
    apply_stock_schema(database)
    with psycopg.connect(database, autocommit=True) as connection:
        schema.apply(connection)
    return database


async def test_both_defer_and_both_work(shared_database: str) -> None:
    record = Record()
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=shared_database))

    @app.task(name="work", pass_context=True)
    async def work(context: trio_queue.JobContext, number: int) -> None:
        with record.running("ours", context.job):
            await give_way()

    @app.task(name="fail_once", pass_context=True, retry=1)
    async def fail_once(context: trio_queue.JobContext, number: int) -> None:
        if context.job.attempts == 0:
            raise ValueError(number)
        with record.running("ours", context.job):
            await give_way()

    stock = StockWorker(shared_database, record)
    ours: list[int] = []
    with psycopg.connect(shared_database, autocommit=True) as direct:

        def left() -> Sequence[Any]:
            return direct.execute(
                "SELECT id FROM procrastinate_jobs WHERE status <> 'succeeded' LIMIT 1"
            ).fetchall()

        worker = Worker(app, concurrency=10, install_signal_handlers=False)
        with stock.working():
            async with app.open_async(), trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                for number in range(EACH):
                    task = "fail_once" if number % 10 == 0 else "work"
                    deferrer = app.configure_task(task, lock=LOCKS[number % 5])
                    ours.append(await deferrer.defer_async(number=number))
                await eventually(lambda: stock.has_deferred, "the other client to defer")
                await eventually(lambda: not left(), "the end of the last job")
                worker.stop()
        assert stock.error is None
        attempts = direct.execute(
            "SELECT task_name, attempts, count(*) FROM procrastinate_jobs GROUP BY 1, 2 ORDER BY 1"
        ).fetchall()
    assert attempts == [("fail_once", 2, EACH // 5), ("work", 1, 2 * EACH - EACH // 5)]
    assert record.runs == Counter(ours + stock.ids)
    assert record.overlapped == set()
    assert set(record.runners) == {"ours", "stock"}
