"""Which way a statement goes; the caller's own connection, which commits or rolls back with the caller's work."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import psycopg
import psycopg_pool
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from tests.colours import run_in_asyncio, run_in_trio
from trio_queue._pg.connection import TrioConnection
from trio_queue._storage.connector import PsycopgConnector
from trio_queue._storage.parameters import Parameters
from trio_queue._storage.pools import pool_sizes
from trio_queue._storage.store import HeartbeatLine
from trio_queue._storage.sync_connector import SyncPsycopgConnector
from trio_queue.exceptions import AlreadyEnqueued, AppNotOpen, ConnectorException
from trio_queue.jobs import Job
from trio_queue.management import ListJobs
from trio_queue.verbs import DeferJobs

T = TypeVar("T")
JOB = DeferJobs([Job(task_name="t", queueing_lock="q", task_kwargs={"a": [1.5]})])


def count(conninfo: str) -> int:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT count(*) FROM procrastinate_jobs").fetchone()
    assert row is not None
    return int(row[0])


def in_asyncio(conninfo: str, use: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]) -> T:
    """Use an AsyncConnection under asyncio."""

    async def main() -> T:
        async with await psycopg.AsyncConnection.connect(conninfo) as connection:
            return await use(connection)

    return asyncio.run(main())


@pytest.mark.parametrize("commits", [True, False])
def test_with_the_callers_sync_transaction(queue_database: str, commits: bool) -> None:
    connector = PsycopgConnector(conninfo="host=nowhere.invalid")
    with psycopg.Connection[dict[str, Any]].connect(
        queue_database, row_factory=dict_row
    ) as connection:
        ids = connector.run(JOB, connection)
        assert count(queue_database) == 0
        [job] = connector.run(ListJobs(), connection)
        assert [job.id] == ids
        assert job.task_kwargs == {"a": [1.5]}
        if not commits:
            connection.rollback()
    assert count(queue_database) == commits


@pytest.mark.parametrize("commits", [True, False])
def test_with_the_callers_asyncio_transaction(queue_database: str, commits: bool) -> None:
    connector = PsycopgConnector(conninfo="host=nowhere.invalid")

    async def use(connection: psycopg.AsyncConnection[Any]) -> None:
        await connector.run_async(JOB, connection)
        assert count(queue_database) == 0
        if not commits:
            await connection.rollback()

    in_asyncio(queue_database, use)
    assert count(queue_database) == commits


@pytest.mark.parametrize("commits", [True, False])
async def test_with_the_callers_trio_transaction(queue_database: str, commits: bool) -> None:
    connector = PsycopgConnector(conninfo="host=nowhere.invalid")
    async with await TrioConnection.connect(queue_database, autocommit=False) as connection:
        await connector.run_async(JOB, connection)
        assert count(queue_database) == 0
        if not commits:
            await connection.rollback()
    assert count(queue_database) == commits


async def test_a_sync_connection_in_an_event_loop(queue_database: str) -> None:
    with psycopg.connect(queue_database) as connection:
        await PsycopgConnector().run_async(JOB, connection)
        await SyncPsycopgConnector().run_async(ListJobs(), connection)
    assert count(queue_database) == 1


@pytest.mark.parametrize("work_before", [True, False])
def test_a_refused_job_leaves_the_callers_transaction_alive(
    queue_database: str, work_before: bool
) -> None:
    connector = SyncPsycopgConnector()
    with psycopg.connect(queue_database, autocommit=True) as connection:
        connector.run(JOB, connection)
        connection.execute("CREATE TABLE mine (x int)")
    with psycopg.connect(queue_database) as connection:
        if work_before:
            connection.execute("INSERT INTO mine VALUES (1)")
        with pytest.raises(AlreadyEnqueued, match="'q'"):
            connector.run(JOB, connection)
        connection.execute("INSERT INTO mine VALUES (2)")
    with psycopg.connect(queue_database) as connection:
        kept = connection.execute("SELECT x FROM mine ORDER BY x").fetchall()
    assert kept == ([(1,), (2,)] if work_before else [(2,)])


@pytest.mark.parametrize("work_before", [True, False])
def test_a_refused_job_leaves_the_callers_asyncio_transaction_alive(
    queue_database: str, work_before: bool
) -> None:
    connector = PsycopgConnector()
    with psycopg.connect(queue_database, autocommit=True) as connection:
        connector.run(JOB, connection)

    async def use(connection: psycopg.AsyncConnection[Any]) -> TransactionStatus:
        if work_before:
            await connection.execute("SELECT 1")
        with pytest.raises(AlreadyEnqueued):
            await connector.run_async(JOB, connection)
        return connection.info.transaction_status

    left = in_asyncio(queue_database, use)
    assert left == (TransactionStatus.INTRANS if work_before else TransactionStatus.IDLE)


@pytest.mark.parametrize("factory", [psycopg.ClientCursor, psycopg.RawCursor, psycopg.Cursor])
@pytest.mark.parametrize("autocommit", [True, False])
def test_whatever_cursors_the_callers_connection_makes(
    queue_database: str, factory: Any, autocommit: bool
) -> None:
    connector = SyncPsycopgConnector()
    with psycopg.connect(queue_database, autocommit=autocommit, cursor_factory=factory) as mine:
        assert connector.run(JOB, mine) == [1]
        [job] = connector.run(ListJobs(), mine)
        assert job.task_kwargs == {"a": [1.5]}
    assert count(queue_database) == 1


def test_inside_the_callers_transaction_block_and_pipeline(queue_database: str) -> None:
    connector = SyncPsycopgConnector()
    with psycopg.connect(queue_database) as connection:
        with connection.transaction():
            connector.run(JOB, connection)
        with connection.pipeline():
            assert connector.run(ListJobs(), connection)[0].queueing_lock == "q"
    assert count(queue_database) == 1


def test_connections_that_do_not_fit(queue_database: str) -> None:
    connector = PsycopgConnector()
    with pytest.raises(ConnectorException, match="psycopg 3 connection"):
        connector.run(JOB, object())

    async def use(connection: psycopg.AsyncConnection[Any]) -> None:
        with pytest.raises(ConnectorException, match="defer_async"):
            connector.run(JOB, connection)

    in_asyncio(queue_database, use)


async def test_a_trio_connection_under_asyncio(queue_database: str) -> None:
    connector = PsycopgConnector()
    async with await TrioConnection.connect(queue_database) as connection:
        with pytest.raises(ConnectorException, match="another event loop"):
            await _in_helper_thread(connector, connection)


async def _in_helper_thread(connector: PsycopgConnector, connection: TrioConnection) -> None:
    import trio

    await trio.to_thread.run_sync(lambda: asyncio.run(connector.run_async(JOB, connection)))


def test_a_closed_connection(queue_database: str) -> None:
    connection = psycopg.connect(queue_database)
    connection.close()
    with pytest.raises(ConnectorException):
        SyncPsycopgConnector().run(JOB, connection)


def test_without_any_connection() -> None:
    with pytest.raises(AppNotOpen):
        PsycopgConnector().run(JOB)
    with pytest.raises(AppNotOpen):
        asyncio.run(PsycopgConnector().run_async(JOB))


# -- the way without a cursor -------------------------------------------------------------------

#: More than it takes until a statement is prepared.
OFTEN = 7
PREPARED = "SELECT name FROM pg_prepared_statements WHERE name LIKE 'trio_queue%'"
ONE: dict[str, Any] = {"min_size": 1, "max_size": 1}


def in_trio_and_asyncio(conninfo: str, **arguments: Any) -> list[Any]:
    """What is prepared in the pool of either loop."""

    async def main() -> Any:
        connector = PsycopgConnector(conninfo=conninfo, **ONE, **arguments)
        await connector.open_async()
        for number in range(OFTEN):
            await connector.run_async(DeferJobs([Job(task_name="t", task_kwargs={"a": number})]))
        prepared = await connector.fetch_async(PREPARED)
        await connector.close_async()
        return prepared

    return [run_in_trio(main), run_in_asyncio(main)]


def in_sync_code(conninfo: str, **arguments: Any) -> Any:
    connector = SyncPsycopgConnector(conninfo=conninfo, **ONE, **arguments)
    connector.open()
    for number in range(OFTEN):
        connector.run(DeferJobs([Job(task_name="t", task_kwargs={"a": number})]))
    prepared = connector.fetch(PREPARED)
    connector.close()
    return prepared


def test_our_connections_need_no_cursor(queue_database: str) -> None:
    ours = [("trio_queue_defer_jobs",)]
    assert in_trio_and_asyncio(queue_database) == [ours, ours]
    assert in_sync_code(queue_database) == ours
    assert count(queue_database) == 3 * OFTEN


def test_where_nothing_is_to_be_prepared_nothing_is(queue_database: str) -> None:
    keywords = {"prepare_threshold": None}
    assert in_trio_and_asyncio(queue_database, kwargs=keywords) == [[], []]
    assert in_sync_code(queue_database, kwargs=keywords) == []
    assert count(queue_database) == 3 * OFTEN


@pytest.mark.parametrize(
    "keywords", [{"client_encoding": "LATIN1"}, {"options": "-c DateStyle=German"}], ids=str
)
def test_where_texts_or_moments_look_different_a_cursor_does_it(
    queue_database: str, keywords: dict[str, Any]
) -> None:
    # Ours are set to what we read.
    ours = [("trio_queue_defer_jobs",)]
    assert in_trio_and_asyncio(queue_database, kwargs=keywords) == [ours, ours]
    keywords["autocommit"] = True
    connector = SyncPsycopgConnector()
    with psycopg_pool.ConnectionPool(
        queue_database, kwargs=keywords, min_size=1, max_size=1
    ) as pool:
        connector.open(pool)
        for number in range(OFTEN):
            connector.run(DeferJobs([Job(task_name="t", task_kwargs={"a": number})]))
        assert connector.fetch(PREPARED) == []
        connector.close()
    assert count(queue_database) == 3 * OFTEN


def test_without_autocommit_nothing_is_lost(queue_database: str) -> None:
    keywords = {"autocommit": False}
    ours = [("trio_queue_defer_jobs",)]
    # The driver's connections for Trio have no choice: their pool would roll back.
    assert in_trio_and_asyncio(queue_database, kwargs=keywords) == [ours, []]
    assert in_sync_code(queue_database, kwargs=keywords) == []
    assert count(queue_database) == 3 * OFTEN


def test_the_users_client_cursors_are_kept_to(queue_database: str) -> None:
    assert in_sync_code(queue_database, kwargs={"cursor_factory": psycopg.ClientCursor}) == []
    client = {"cursor_factory": psycopg.AsyncClientCursor}
    # The driver's for Trio have no choice.
    _, asyncios = in_trio_and_asyncio(queue_database, kwargs=client)
    assert asyncios == []
    assert count(queue_database) == 3 * OFTEN


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (psycopg.AsyncClientCursor, psycopg.ClientCursor),
        (psycopg.AsyncRawCursor, psycopg.Cursor),
        (psycopg.ClientCursor, psycopg.ClientCursor),
    ],
)
def test_sync_connections_make_sync_cursors(
    queue_database: str, given: Any, expected: type[psycopg.Cursor[Any]]
) -> None:
    """The keywords are for every colour; the pool that looks after a connection uses its cursors, too."""
    connector = PsycopgConnector(conninfo=queue_database, kwargs={"cursor_factory": given}, **ONE)
    connector.open()
    connector.run(JOB)
    connector.close()
    with connector.connect() as connection:
        assert connection.cursor_factory is expected
    line = HeartbeatLine(Parameters(queue_database, {"cursor_factory": given}))
    with line.connect() as beats:
        assert beats.cursor_factory is expected


@pytest.mark.parametrize("autocommit", [True, False], ids=["without a cursor", "with a cursor"])
def test_either_way_says_the_same(queue_database: str, autocommit: bool) -> None:
    connector = SyncPsycopgConnector(
        conninfo=queue_database, kwargs={"autocommit": autocommit}, **ONE
    )
    connector.open()
    lock = 'a"b\\c{d},NULL é😀'
    jobs = [
        Job(
            task_name="t",
            lock=lock if number else None,
            queueing_lock=f"{lock}{number}",
            scheduled_at=datetime.datetime.max.replace(tzinfo=datetime.UTC) if number else None,
            task_kwargs={"a": [number, None, lock]},
        )
        for number in range(3)
    ]
    assert connector.run(DeferJobs(jobs)) == [1, 2, 3]
    found = connector.run(ListJobs())
    assert [job.evolve(id=None, status=None) for job in found] == jobs
    assert [job.id for job in connector.run(ListJobs(lock=lock))] == [2, 3]
    with pytest.raises(AlreadyEnqueued, match="NULL") as taken:
        connector.run(DeferJobs(jobs[:1]))
    assert taken.value.queueing_locks == (f"{lock}0",)
    with pytest.raises(ConnectorException, match=r"list_jobs failed at .*NUL"):
        connector.run(ListJobs(queue="a\x00b"))
    # The value is psycopg's to write: 2.0 is rounded by the server, its text would not be read.
    assert len(connector.run(ListJobs(limit=cast("Any", 2.0)))) == 2
    connector.close()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1, 4)),
        ({"max_size": 9}, (1, 9)),
        ({"min_size": 2}, (2, 2)),
        ({"min_size": 9}, (9, 9)),
        ({"min_size": 2, "max_size": None}, (2, 2)),
        ({"max_size": None}, (1, 4)),
        ({"min_size": 0}, (0, 4)),
        ({"min_size": 0, "max_size": 2}, (0, 2)),
    ],
)
def test_the_sizes_of_a_pool(given: dict[str, Any], expected: tuple[int, int]) -> None:
    assert tuple(pool_sizes(given).values()) == expected
