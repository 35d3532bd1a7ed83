"""The unmodified client of Procrastinate works on our schema as on its own, also while we take its database over."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import procrastinate
import pytest
from procrastinate import exceptions

from tests.sql.table import Connection, column, connect, fetch, register, rows, value
from trio_queue import schema
from trio_queue._storage.queries import query


class Tasks:
    """An App of Procrastinate's, and what its tasks have done."""

    def __init__(self, conninfo: str) -> None:
        self.app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))
        self.done: list[int] = []
        self.started = asyncio.Event()
        self.failures = 0

        @self.app.task(name="note", queue="q")
        async def note(number: int) -> None:
            self.done.append(number)

        @self.app.task(name="flaky", queue="q", retry=2)
        async def flaky() -> None:
            self.failures += 1
            if self.failures < 3:
                raise ValueError("not yet")

        @self.app.task(name="failing", queue="q")
        async def failing() -> None:
            raise ValueError("never")

        @self.app.task(name="endless", queue="q")
        async def endless() -> None:
            self.started.set()
            await asyncio.Event().wait()

        self.note, self.flaky, self.failing, self.endless = note, flaky, failing, endless

    async def work(self, **options: Any) -> None:
        """Run a worker until no job is left."""
        given: dict[str, Any] = {"wait": False, "install_signal_handlers": False, **options}
        await self.app.run_worker_async(**given)

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """Run a worker beside the block."""
        worker = asyncio.create_task(
            self.work(wait=True, listen_notify=True, fetch_job_polling_interval=0.05, concurrency=5)
        )
        try:
            yield
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    async def status(self, job_id: int) -> str:
        return (await self.app.job_manager.get_job_status_async(job_id=job_id)).value

    async def wait_status(self, job_id: int, status: str) -> None:
        while await self.status(job_id) != status:  # noqa: ASYNC110  # for a row
            await asyncio.sleep(0)


@pytest.fixture(params=["ours", "taken over"])
def conninfo(request: pytest.FixtureRequest) -> str:
    """A database with our schema: on an empty one, and on one that Procrastinate made."""
    if request.param == "ours":
        return str(request.getfixturevalue("queue_database"))
    found = str(request.getfixturevalue("stock_database"))
    with connect(found) as connection:
        schema.apply(connection)
    return found


def play(conninfo: str, scene: Callable[[Tasks], Awaitable[None]]) -> None:
    async def run() -> None:
        tasks = Tasks(conninfo)
        async with tasks.app.open_async():
            await asyncio.wait_for(scene(tasks), 60)

    asyncio.run(run())


def test_it_defers_and_works(conninfo: str) -> None:
    async def scene(tasks: Tasks) -> None:
        await tasks.note.defer_async(number=1)
        await tasks.note.configure(priority=5, lock="l").defer_async(number=2)
        await tasks.note.batch_defer_async({"number": 3}, {"number": 4})
        await tasks.work()
        assert tasks.done == [2, 1, 3, 4]
        listed = list(await tasks.app.job_manager.list_jobs_async())
        assert {job.status for job in listed} == {"succeeded"}
        queues = list(await tasks.app.job_manager.list_queues_async())
        assert [(queue["name"], queue["jobs_count"], queue["succeeded"]) for queue in queues] == [
            ("q", 4, 4)
        ]

    play(conninfo, scene)


def test_a_queueing_lock_is_told_by_its_index(conninfo: str) -> None:
    async def scene(tasks: Tasks) -> None:
        job = tasks.note.configure(queueing_lock="one")
        await job.defer_async(number=1)
        with pytest.raises(exceptions.AlreadyEnqueued):
            await job.defer_async(number=2)
        await tasks.work()
        await job.defer_async(number=3)

    play(conninfo, scene)


def test_it_retries_fails_and_retries_by_hand(conninfo: str) -> None:
    async def scene(tasks: Tasks) -> None:
        flaky = await tasks.flaky.defer_async()
        failing = await tasks.failing.defer_async()
        await tasks.work()
        assert (await tasks.status(flaky), await tasks.status(failing)) == ("succeeded", "failed")
        await tasks.app.job_manager.retry_job_by_id_async(
            failing, retry_at=datetime.datetime.now(tz=datetime.UTC)
        )
        assert await tasks.status(failing) == "todo"

    play(conninfo, scene)


def test_it_cancels_and_aborts(conninfo: str) -> None:
    async def scene(tasks: Tasks) -> None:
        waiting = await tasks.note.configure(queue="other").defer_async(number=1)
        assert await tasks.app.job_manager.cancel_job_by_id_async(waiting)
        assert await tasks.status(waiting) == "cancelled"
        running = await tasks.endless.defer_async()
        async with tasks.working():
            await tasks.started.wait()
            assert await tasks.app.job_manager.cancel_job_by_id_async(running, abort=True)
            await tasks.wait_status(running, "aborted")

    play(conninfo, scene)


def test_its_worker_hears_of_new_jobs_and_deletes_what_it_is_told_to(conninfo: str) -> None:
    async def scene(tasks: Tasks) -> None:
        options = {"wait": True, "fetch_job_polling_interval": 3600, "delete_jobs": "always"}
        worker = asyncio.create_task(tasks.work(**options))
        with connect(conninfo) as connection:
            deferred = 0
            # Again and again: its worker drops a notification that arrives while it fetches.
            while not tasks.done:
                await tasks.note.defer_async(number=deferred)
                deferred += 1
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
            left = value(connection, "SELECT count(*) FROM procrastinate_jobs")
            assert left == deferred - len(tasks.done)
            happened = column(connection, "SELECT DISTINCT type::text FROM procrastinate_events")
            assert set(happened) <= {"deferred"}

    play(conninfo, scene)


def test_its_workers_beat_and_are_found_stalled(conninfo: str) -> None:
    async def scene(tasks: Tasks) -> None:
        manager = tasks.app.job_manager
        await tasks.endless.defer_async()
        worker = await manager.register_worker()
        job = await manager.fetch_job(queues=None, worker_id=worker)
        assert job is not None
        await manager.update_heartbeat(worker)
        assert list(await manager.get_stalled_jobs()) == []
        with connect(conninfo) as connection:
            connection.execute(
                "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'"
            )
        assert [found.id for found in await manager.get_stalled_jobs()] == [job.id]
        assert list(await manager.prune_stalled_workers(30)) == [worker]
        assert [found.worker_id for found in await manager.list_jobs_async()] == [None]

    play(conninfo, scene)


def test_its_pruning_of_a_worker_of_ours_leaves_the_jobs_to_our_rescue(conninfo: str) -> None:
    async def scene(tasks: Tasks) -> None:
        job_id = await tasks.endless.defer_async()
        with connect(conninfo) as connection:
            dead, rescuer = register(connection), register(connection)
            assert fetch(connection, dead) == [job_id]
            connection.execute(
                "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour' WHERE id = %s",
                [dead],
            )
            assert list(await tasks.app.job_manager.prune_stalled_workers(30)) == [dead]
            noted = rows(connection, "SELECT job_id, attempts, worker_id FROM trio_queue_orphans")
            assert noted == [(job_id, 0, dead)]
            parameters = {"worker_id": rescuer, "stalled_after": 30.0, "turn": None, "limit": 1}
            [found] = rows(connection, query("adopt_orphans"), parameters)
            assert (found[0], found[-1]) == (job_id, 1)
            # In the eyes of its client it is a running job like any other.
            assert list(await tasks.app.job_manager.get_stalled_jobs()) == []

    play(conninfo, scene)


def test_it_deletes_old_jobs_and_defers_periodic_ones(conninfo: str) -> None:
    async def scene(tasks: Tasks) -> None:
        manager = tasks.app.job_manager
        await tasks.note.defer_async(number=1)
        await tasks.work()
        with connect(conninfo) as connection:
            connection.execute("UPDATE procrastinate_events SET at = at - interval '3 hours'")
            await manager.delete_old_jobs(nb_hours=2)
            assert column(connection, "SELECT id FROM procrastinate_jobs") == []
        deferrer = tasks.note.configure(task_kwargs={"number": 2, "timestamp": 1})
        first = await manager.defer_periodic_job(
            job=deferrer.job, periodic_id="p", defer_timestamp=1
        )
        assert first is not None
        again = await manager.defer_periodic_job(
            job=deferrer.job, periodic_id="p", defer_timestamp=1
        )
        assert again is None

    play(conninfo, scene)


@pytest.mark.parametrize("steps", [*range(1, len(schema.MIGRATIONS) + 1), None])
def test_it_goes_on_working_while_its_database_is_taken_over(
    stock: Connection, stock_database: str, steps: int | None
) -> None:
    def take_over() -> None:
        if steps is None:
            schema.apply(stock)
            return
        for migration in schema.MIGRATIONS[:steps]:
            for statement in migration.statements:
                stock.execute(statement.encode())
            stock.execute(migration.record.encode())

    async def scene(tasks: Tasks) -> None:
        for number in range(20):
            await tasks.note.defer_async(number=number)
        async with tasks.working():
            migrating = asyncio.create_task(asyncio.to_thread(take_over))
            number = 20
            while not migrating.done() or number < 40:
                await tasks.note.defer_async(number=number)
                number += 1
            await migrating
            await tasks.note.configure(priority=-1).defer_async(number=number)
            while len(tasks.done) <= number:  # noqa: ASYNC110  # for a row
                await asyncio.sleep(0)
        assert sorted(tasks.done) == list(range(number + 1))
        found = rows(
            stock, "SELECT type::text, count(*) FROM procrastinate_events GROUP BY 1 ORDER BY 1"
        )
        assert found == [
            ("deferred", number + 1),
            ("started", number + 1),
            ("succeeded", number + 1),
        ]

    play(stock_database, scene)
