"""A database that Procrastinate made and works: taken over, and given back, with all that is in it.

`TRIO_QUEUE_TEST_SCALE=5` tries it with 100,000 jobs of its own.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import procrastinate
import pytest
import trio

import trio_queue
from tests.beside.fleet import Fleet, fleet, kill, stop
from tests.beside.runs import make_table, read_runs
from tests.fix_schemas import SCALE
from tests.sql.table import Connection, column, connect, rows, value
from tests.sql.test_restore import CATALOG
from tests.waiting import eventually, wait_until
from trio_queue import schema
from trio_queue.worker import Worker

JOBS = 4_000 * SCALE**2
PATIENCE = 60.0 * SCALE

#: All that is told of the jobs that were there, one line of text each.
DUMPS = (
    "SELECT to_jsonb(j)::text FROM procrastinate_jobs j WHERE queue_name = 'old' ORDER BY id",
    (
        "SELECT e::text FROM procrastinate_events e JOIN procrastinate_jobs j ON j.id = e.job_id"
        " WHERE j.queue_name = 'old' ORDER BY e.id"
    ),
    "SELECT d::text FROM procrastinate_periodic_defers d ORDER BY id",
)

# Every statement is one that fires its own triggers, for many rows.
DEFER = """
SELECT count(*) FROM procrastinate_defer_jobs_v1((
    SELECT array_agg(ROW('old', 'task', n % 3, CASE WHEN n % 10 = 0 THEN 'lock ' || n END,
                         CASE WHEN n % 11 = 0 THEN 'queueing ' || n END, jsonb_build_object('n', n),
                         CASE WHEN n % 7 = 0 THEN now() - interval '1 hour' END)::procrastinate_job_to_defer_v1)
      FROM generate_series(1, {jobs}) n))
"""
LIVE = (
    "SELECT procrastinate_register_worker_v1()",
    "UPDATE procrastinate_workers SET last_heartbeat = now() + interval '1 hour'",
    "UPDATE procrastinate_jobs SET status = 'doing', worker_id = 1 WHERE id % 6 > 1",
    "UPDATE procrastinate_jobs SET abort_requested = true WHERE status = 'doing' AND id % 60 = 2",
    (
        "UPDATE procrastinate_jobs SET attempts = 1, abort_requested = false, status = (CASE id % 6 WHEN 3"
        " THEN 'succeeded' WHEN 4 THEN 'failed' ELSE 'aborted' END)::procrastinate_job_status WHERE id % 6 > 2"
    ),
    "UPDATE procrastinate_jobs SET status = 'cancelled' WHERE id % 6 = 1",
    "SELECT procrastinate_defer_periodic_job_v2('old', NULL, NULL, 'task', 0, n::text, n, '{}') FROM generate_series(1, 50) n",
)


def fill(connection: Connection) -> None:
    """Let Procrastinate's own functions and triggers make jobs of every status, and what happened to them."""
    connection.execute(DEFER.format(jobs=JOBS).encode())
    for statement in LIVE:
        connection.execute(statement.encode())
    statuses = column(connection, "SELECT DISTINCT status::text FROM procrastinate_jobs")
    assert set(statuses) == {"todo", "doing", "succeeded", "failed", "cancelled", "aborted"}


def dumped(connection: Connection) -> list[list[Any]]:
    return [column(connection, query) for query in DUMPS]


class Beside:
    """A worker of Procrastinate's, and a process that defers to it, beside a test."""

    def __init__(self, connection: Connection, processes: Fleet) -> None:
        self._connection = connection
        self._deferring = processes.start("stock", "defer_endlessly", "live")
        self._worker = processes.start("stock", "work", "live", "5")

    def wait_more(self) -> None:
        """Wait until it has run twenty more jobs."""
        goal = self._runs() + 20
        wait_until(lambda: self._runs() >= goal, f"run {goal}", PATIENCE)

    def _runs(self) -> int:
        assert (self._deferring.poll(), self._worker.poll()) == (None, None)
        return int(value(self._connection, "SELECT count(*) FROM runs WHERE ended IS NOT NULL"))

    def end(self) -> None:
        """Let it finish what was deferred."""
        kill(self._deferring)
        left = "SELECT count(*) FROM procrastinate_jobs WHERE queue_name = 'live' AND status IN ('todo', 'doing')"
        wait_until(lambda: value(self._connection, left) == 0, "its last job", PATIENCE)
        assert stop(self._worker, PATIENCE) == 0


@pytest.fixture
def stock(stock_database: str) -> Iterator[Connection]:
    with connect(stock_database) as connection:
        yield connection


@pytest.mark.timeout(PATIENCE * 5)
def test_nothing_changes_but_what_is_added_while_its_worker_works(
    stock: Connection, stock_database: str
) -> None:
    catalog = [rows(stock, query) for query in CATALOG]
    make_table(stock)
    fill(stock)
    before = dumped(stock)
    assert [len(each) > 40 for each in before] == [True] * 3
    with fleet(stock_database) as processes:
        beside = Beside(stock, processes)
        beside.wait_more()
        assert schema.apply(stock) == tuple(each.name for each in schema.MIGRATIONS)
        assert dumped(stock) == before
        beside.wait_more()
        schema.restore_procrastinate(stock)
        assert dumped(stock) == before
        assert [rows(stock, query) for query in CATALOG] == catalog
        beside.wait_more()
        schema.apply(stock)
        work_what_waits(stock, stock_database, before)
        beside.wait_more()
        beside.end()
    check_live(stock)


def work_what_waits(stock: Connection, conninfo: str, before: list[list[Any]]) -> None:
    """A worker of ours runs each job that waited, once, and leaves the others as they are."""
    waiting = column(
        stock,
        "SELECT id FROM procrastinate_jobs WHERE queue_name = 'old' AND status = 'todo' ORDER BY id",
    )
    others = "SELECT to_jsonb(j)::text FROM procrastinate_jobs j WHERE queue_name = 'old' AND NOT id = ANY (%s) ORDER BY id"
    expected = column(stock, others, [waiting])
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=conninfo))
    done: list[int] = []

    @app.task(name="task", pass_context=True)
    async def task(context: trio_queue.JobContext, /, **arguments: Any) -> None:
        assert context.job.id is not None
        done.append(context.job.id)

    app.run_worker(queues=["old"], wait=False, concurrency=50, install_signal_handlers=False)
    assert sorted(done) == waiting
    assert column(stock, others, [waiting]) == expected
    # What had happened before still stands before what happened now.
    assert column(stock, DUMPS[1])[: len(before[1])] == before[1]


def check_live(stock: Connection) -> None:
    """Each job of the worker that went on has run once, and has its events."""
    runs = [run.job_id for run in read_runs(stock)]
    live = column(stock, "SELECT id FROM procrastinate_jobs WHERE queue_name = 'live' ORDER BY id")
    assert sorted(runs) == live
    happened = rows(
        stock,
        "SELECT DISTINCT types FROM (SELECT array_agg(e.type::text ORDER BY e.id) AS types FROM procrastinate_events e"
        " JOIN procrastinate_jobs j ON j.id = e.job_id WHERE j.queue_name = 'live' GROUP BY j.id) of_job",
    )
    assert happened == [(["deferred", "started", "succeeded"],)]


# -- databases that are not as a fresh one of its ---------------------------------------------------


@pytest.fixture(params=["migrated from its oldest version", "with columns of somebody's own"])
def odd(request: pytest.FixtureRequest) -> str:
    """A database of Procrastinate's with other columns, or columns in another order."""
    if "migrated" in request.param:
        return str(request.getfixturevalue("migrated_database"))
    conninfo = str(request.getfixturevalue("stock_database"))
    with connect(conninfo) as connection:
        add_columns(connection)
    return conninfo


def add_columns(connection: Connection) -> None:
    for table in ("jobs", "events", "periodic_defers", "workers"):
        connection.execute(
            f"ALTER TABLE procrastinate_{table} ADD COLUMN tenant text NOT NULL DEFAULT 'a'".encode()
        )


async def live_together(conninfo: str) -> None:
    """Both libraries defer, work, retry, abort and list."""
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=conninfo))
    started = trio.Event()

    @app.task(name="flaky", retry=1, pass_context=True)
    async def flaky(context: trio_queue.JobContext) -> None:
        if context.job.attempts == 0:
            raise ValueError

    @app.task(name="until_aborted")
    async def until_aborted() -> None:
        started.set()
        await trio.sleep_forever()

    stock = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))
    done: list[str] = []

    @stock.task(name="flaky", retry=1, pass_context=True)
    async def stock_flaky(context: procrastinate.JobContext) -> None:
        done.append("stock")
        if context.job.attempts == 0:
            raise ValueError

    async def stock_life() -> None:
        async with stock.open_async():
            await stock_flaky.configure(queue="stock", lock="l").defer_async()
            await stock_flaky.configure(queue="ours", priority=-3).defer_async()
            await stock.run_worker_async(
                queues=["stock"], wait=False, install_signal_handlers=False
            )

    await trio.to_thread.run_sync(lambda: asyncio.run(stock_life()))
    assert done == ["stock", "stock"]
    async with app.open_async(), trio.open_nursery() as nursery:
        worker = Worker(app, queues=["ours"], concurrency=3, install_signal_handlers=False)
        await nursery.start(worker.run)
        await flaky.configure(queue="ours", lock="l", queueing_lock="q", priority=7).defer_async()
        aborted = await until_aborted.configure(queue="ours").defer_async()
        await started.wait()
        await app.job_manager.cancel_job_by_id_async(aborted, abort=True)
        with connect(conninfo) as connection:
            left = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
            await eventually(lambda: value(connection, left) == 0, "the end of the last job")
        worker.stop()
        jobs = await app.job_manager.list_jobs_async()
        told = {
            (job.task_name, job.queue, job.priority, job.lock, job.status, job.attempts)
            for job in jobs
        }
        assert told == {
            ("flaky", "stock", 0, "l", "succeeded", 2),
            ("flaky", "ours", -3, None, "succeeded", 2),
            ("flaky", "ours", 7, "l", "succeeded", 2),
            ("until_aborted", "ours", 0, None, "aborted", 1),
        }


async def test_both_live_on_an_odd_database(odd: str) -> None:
    with connect(odd) as connection:
        catalog = [rows(connection, query) for query in CATALOG]
        schema.apply(connection)
        await live_together(odd)
        schema.restore_procrastinate(connection)
        assert [rows(connection, query) for query in CATALOG] == catalog


async def test_a_column_that_is_added_while_a_worker_works(queue_database: str) -> None:
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=queue_database))
    done: list[int] = []

    @app.task(name="note")
    async def note(number: int) -> None:
        done.append(number)

    async with app.open_async(), trio.open_nursery() as nursery:
        worker = Worker(app, install_signal_handlers=False)
        await nursery.start(worker.run)
        # Often enough that every statement is prepared by then.
        for number in range(20):
            await note.defer_async(number=number)
            await eventually(lambda: len(done) > number, "its run")  # noqa: B023  # awaited at once
        with connect(queue_database) as connection:
            add_columns(connection)
        assert len(await app.job_manager.list_jobs_async()) == 20
        for number in range(20, 30):
            await note.defer_async(number=number)
            await eventually(lambda: len(done) > number, "its run")  # noqa: B023  # awaited at once
        worker.stop()
    assert done == list(range(30))
    with connect(queue_database) as connection:
        assert column(connection, "SELECT DISTINCT status::text FROM procrastinate_jobs") == [
            "succeeded"
        ]


def test_both_are_imported_in_one_process() -> None:
    code = """
import asyncio, procrastinate, procrastinate.testing
before = asyncio.get_event_loop_policy().__class__, asyncio.get_running_loop
import trio_queue, trio_queue.testing
for library in (procrastinate, trio_queue):
    app = library.App(connector=library.testing.InMemoryConnector())
    task = app.task(name="task")(lambda number: number)
    with app.open():
        task.defer(number=1)
    assert list(app.connector.jobs) == [1], library
assert not issubclass(trio_queue.exceptions.AppNotOpen, procrastinate.exceptions.AppNotOpen)
assert before == (asyncio.get_event_loop_policy().__class__, asyncio.get_running_loop)
"""
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True)
