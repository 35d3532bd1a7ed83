"""The caller's own connection, sync and async: it commits or rolls back with the caller's work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from trio_queue._pg.connection import TrioConnection
from trio_queue._storage.connector import PsycopgConnector
from trio_queue._storage.sync_connector import SyncPsycopgConnector
from trio_queue.exceptions import AlreadyEnqueued, AppNotOpen, ConnectorException
from trio_queue.jobs import Job
from trio_queue.store import DeferJobs, ListJobs

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
