"""Opening and closing, in every colour; what a user is told when it fails."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import pytest
import trio
from psycopg import sql
from psycopg.rows import dict_row

from tests.colours import Run, in_both_loops
from trio_queue._storage.connector import PsycopgConnector
from trio_queue._storage.sync_connector import SyncPsycopgConnector
from trio_queue.connector import BaseConnector
from trio_queue.exceptions import (
    AppNotOpen,
    ConnectorException,
    SchemaError,
    SyncConnectorConfigurationError,
)
from trio_queue.jobs import Job
from trio_queue.management import CheckConnection, ListJobs
from trio_queue.schema import SchemaManager
from trio_queue.verbs import DeferJobs

JOB = DeferJobs([Job(task_name="t")])
#: A port on which nothing listens.
NOBODY = "host=127.0.0.1 port=1 user=me password=secret dbname=db"


async def test_trio(queue_database: str) -> None:
    connector = PsycopgConnector(conninfo=queue_database, max_size=2)
    assert not connector.is_open()
    await connector.open_async()
    await connector.open_async()
    assert connector.is_open()
    assert await connector.run_async(JOB) == [1]
    await connector.close_async()
    await connector.close_async()
    assert not connector.is_open()
    with pytest.raises(AppNotOpen):
        await connector.run_async(JOB)
    await connector.open_async()
    assert await connector.run_async(CheckConnection())
    with trio.CancelScope() as scope:
        scope.cancel()
        await connector.close_async()
    assert not connector.is_open()


def test_asyncio(queue_database: str) -> None:
    async def main() -> None:
        connector = PsycopgConnector(conninfo=queue_database, min_size=1)
        assert not connector.is_open()
        await connector.open_async()
        assert connector.is_open()
        assert await connector.run_async(JOB) == [1]
        # Sync code, in a thread as the jobs of sync tasks are.
        assert await asyncio.to_thread(connector.run, JOB) == [2]
        await connector.close_async()
        assert not connector.is_open()
        with pytest.raises(AppNotOpen):
            await connector.run_async(JOB)

    asyncio.run(main())


@pytest.mark.parametrize("kind", [PsycopgConnector, SyncPsycopgConnector])
def test_sync(queue_database: str, kind: type[PsycopgConnector | SyncPsycopgConnector]) -> None:
    connector = kind(conninfo=queue_database, min_size=1)
    assert not connector.is_open()
    connector.open()
    connector.open()
    assert connector.is_open()
    assert connector.run(JOB) == [1]
    connector.close()
    connector.close()
    assert not connector.is_open()
    with pytest.raises(AppNotOpen):
        connector.run(JOB)


async def test_sync_code_of_a_connector_that_is_open_on_trio(queue_database: str) -> None:
    connector = PsycopgConnector(conninfo=queue_database)
    await connector.open_async()

    def in_thread() -> list[int]:
        assert connector.is_open()
        return connector.run(JOB)

    assert await trio.to_thread.run_sync(in_thread) == [1]
    await connector.close_async()
    with pytest.raises(AppNotOpen):
        await trio.to_thread.run_sync(connector.run, JOB)


def test_the_callers_sync_pool(queue_database: str) -> None:
    connector = PsycopgConnector()
    with psycopg_pool.ConnectionPool(queue_database, min_size=1, open=True) as pool:
        connector.open(pool)
        assert connector.run(JOB) == [1]
        connector.close()
        with pool.connection() as connection:
            connection.execute("SELECT 1")


def test_the_callers_asyncio_pool_and_the_store_by_its_conninfo(queue_database: str) -> None:
    connector = PsycopgConnector()

    async def main() -> None:
        async with psycopg_pool.AsyncConnectionPool(queue_database, min_size=1, open=False) as pool:
            await connector.open_async(pool)
            # Committed, although the pool's connections are not in autocommit.
            assert await connector.run_async(JOB) == [1]
            trio_jobs = await asyncio.to_thread(trio.run, worker)
            assert trio_jobs == 1
            await connector.close_async()
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")

    async def worker() -> int:
        async with connector.open_store() as store:
            return len(await store.run(ListJobs()))

    asyncio.run(main())


async def test_a_pool_for_another_loop() -> None:
    with pytest.raises(ConnectorException, match="cannot serve Trio"):
        await PsycopgConnector().open_async(object())


@pytest.mark.parametrize("colour", ["trio", "asyncio", "sync", "store"])
@pytest.mark.parametrize("conninfo", [NOBODY, "postgresql://me:secret@127.0.0.1:1/db"])
def test_a_server_that_is_not_there(colour: str, conninfo: str) -> None:
    connector = PsycopgConnector(conninfo=conninfo)

    async def open_store() -> None:
        async with connector.open_store():
            pass

    openers: dict[str, Callable[[], None]] = {
        "trio": lambda: trio.run(connector.open_async),
        "asyncio": lambda: asyncio.run(connector.open_async()),
        "store": lambda: trio.run(open_store),
        "sync": connector.open,
    }
    with pytest.raises(ConnectorException) as caught:
        openers[colour]()
    told = str(caught.value)
    assert "127.0.0.1" in told
    assert "port=1" in told
    assert "secret" not in told
    assert "trio-queue[embedded]" in told
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert not connector.is_open()


@pytest.mark.parametrize("conninfo", ["host", "postgresql://me:secret@[::1", "secret"])
def test_a_conninfo_that_cannot_be_read(conninfo: str) -> None:
    with pytest.raises(ConnectorException, match="conninfo") as caught:
        PsycopgConnector(conninfo=conninfo).open()
    assert "secret" not in str(caught.value)


def test_a_database_that_is_not_there(queue_database: str) -> None:
    connector = PsycopgConnector(conninfo=queue_database, kwargs={"dbname": "not_there"})
    with pytest.raises(ConnectorException, match="not_there"):
        trio.run(connector.open_async)


async def test_a_database_without_a_schema(database: str) -> None:
    connector = PsycopgConnector(conninfo=database)
    with pytest.raises(SchemaError, match="trio-queue schema --apply"):
        async with connector.open_store():
            pass
    await connector.open_async()
    with pytest.raises(SchemaError, match="trio-queue schema --apply"):
        await connector.run_async(ListJobs())
    assert await connector.run_async(CheckConnection()) is False
    await connector.close_async()


@pytest.mark.parametrize("kind", [PsycopgConnector, SyncPsycopgConnector])
def test_a_connection_apart(
    database: str, kind: type[PsycopgConnector | SyncPsycopgConnector]
) -> None:
    with kind(conninfo=database, kwargs={"autocommit": False}).connect() as connection:
        assert connection.autocommit
        connection.execute("SELECT 1")
    with pytest.raises(ConnectorException, match=r"127\.0\.0\.1"):
        kind(conninfo=NOBODY).connect()


def test_every_connection_finds_a_peer_that_vanished(queue_database: str) -> None:
    """As the driver's own do, unless the user says otherwise."""
    connector = PsycopgConnector(
        conninfo=f"{queue_database} keepalives_count=9", kwargs={"keepalives_idle": 7}
    )
    with connector.connect() as connection:
        said = connection.info.get_parameters()
    names = ("tcp_user_timeout", "keepalives_interval", "keepalives_count", "keepalives_idle")
    assert [said.get(name) for name in names] == ["30000", "5", "9", "7"]


async def test_a_schema_that_is_applied_through_the_connector(database: str) -> None:
    connector = PsycopgConnector(conninfo=database)
    await SchemaManager(connector).apply_schema_async()
    async with connector.open_store() as store:
        assert await store.run(CheckConnection())


async def test_scripts_of_several_statements(database: str) -> None:
    connector = PsycopgConnector(conninfo=database)
    await connector.open_async()
    await connector.run_script_async("CREATE TABLE x (y text); INSERT INTO x VALUES ('100 %(s');")
    assert await connector.fetch_async("SELECT y FROM x WHERE y LIKE %s", ["100%"]) == [
        ("100 %(s",)
    ]
    with pytest.raises(ConnectorException):
        await connector.run_script_async("DELETE FROM x; SELECT 1/0")
    assert await connector.fetch_async("SELECT y FROM x") == [("100 %(s",)]
    await trio.to_thread.run_sync(connector.run_script, "DROP TABLE x; SELECT 1")
    await connector.close_async()


async def test_what_connections_are_set_to(queue_database: str) -> None:
    asked = (
        "SELECT current_setting('default_transaction_isolation'),"
        " current_setting('application_name'), current_setting('TimeZone'),"
        " current_setting('DateStyle'), current_setting('client_encoding')"
    )
    with psycopg.connect(queue_database, autocommit=True) as admin:
        name = sql.Identifier(admin.info.dbname)
        for setting in (
            "TimeZone = 'Asia/Tokyo'",
            "DateStyle = 'SQL, DMY'",
            "client_encoding = 'LATIN1'",
            "default_transaction_isolation = 'serializable'",
        ):
            admin.execute(
                sql.SQL("ALTER DATABASE {} SET ").format(name).as_bytes() + setting.encode()
            )
    connector = PsycopgConnector(conninfo=queue_database, configure=set_work_mem)
    await connector.open_async()
    expected = [("read committed", "trio_queue", "UTC", "ISO, DMY", "UTF8")]
    assert await connector.fetch_async(asked) == expected
    assert await connector.fetch_async("SELECT current_setting('work_mem')") == [("3MB",)]
    assert await trio.to_thread.run_sync(connector.fetch, asked) == expected
    await connector.close_async()

    named = PsycopgConnector(conninfo=queue_database, kwargs={"application_name": "mine"})
    await named.open_async()
    assert (await named.fetch_async(asked))[0][1] == "mine"
    await named.close_async()


def answers_in_both_colours(run: Run, connector: PsycopgConnector) -> None:
    """In an event loop, and in sync code after it."""

    async def main() -> None:
        await connector.open_async()
        assert await connector.fetch_async("SELECT 1") == [(1,)]
        assert await connector.run_async(JOB) == [1]
        await connector.close_async()

    run(main)
    connector.open()
    assert connector.fetch("SELECT 1") == [(1,)]
    connector.close()


@in_both_loops
@pytest.mark.parametrize("sizes", [{"min_size": 5}, {"min_size": 0}, {"max_size": None}])
def test_whatever_sizes_the_user_names(
    run: Run, queue_database: str, sizes: dict[str, Any]
) -> None:
    answers_in_both_colours(run, PsycopgConnector(conninfo=queue_database, **sizes))


@in_both_loops
def test_rows_are_tuples_to_us_whatever_they_are_to_the_user(run: Run, queue_database: str) -> None:
    kwargs = {"row_factory": dict_row}
    answers_in_both_colours(run, PsycopgConnector(conninfo=queue_database, kwargs=kwargs))


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Lima", "UTC"])
def test_moments_are_read_in_utc_over_the_users_connections_too(
    queue_database: str, zone: str, autocommit: bool
) -> None:
    moments = [
        datetime.datetime(2000, 1, 2, 3, 4, 5, 6, datetime.UTC),
        datetime.datetime.min.replace(tzinfo=datetime.UTC),
        datetime.datetime.max.replace(tzinfo=datetime.UTC),
    ]
    kwargs = {"autocommit": autocommit, "options": f"-c TimeZone={zone}"}
    connector = PsycopgConnector()
    with psycopg_pool.ConnectionPool(queue_database, kwargs=kwargs, min_size=1) as pool:
        connector.open(pool)
        connector.run(DeferJobs([Job(task_name="t", scheduled_at=moment) for moment in moments]))
        found = [job.scheduled_at for job in connector.run(ListJobs())]
        connector.close()
    assert found == moments
    assert {moment.tzinfo for moment in found if moment} == {datetime.UTC}


async def set_work_mem(connection: psycopg.AsyncConnection[Any]) -> None:
    await connection.execute("SET work_mem = '3MB'")


async def test_json_of_ones_own(queue_database: str) -> None:
    def dumps(value: Any) -> str:
        return json.dumps(value, default=lambda moment: {"moment": moment.isoformat()})

    def loads(text: str | bytes) -> Any:
        return json.loads(text, object_hook=lambda found: found.get("moment", found))

    connector = PsycopgConnector(conninfo=queue_database, json_dumps=dumps, json_loads=loads)
    await connector.open_async()
    moment: Any = datetime.date(2000, 1, 1)
    await connector.run_async(DeferJobs([Job(task_name="t", task_kwargs={"day": moment})]))
    [job] = await connector.run_async(ListJobs())
    assert job.task_kwargs == {"day": "2000-01-01"}
    async with connector.open_store() as store:
        assert await store.run(ListJobs()) == [job]
    await connector.close_async()


def test_what_tells_the_conninfo(queue_database: str) -> None:
    async def tell() -> str:
        await asyncio.sleep(0)
        return queue_database

    connector = PsycopgConnector(conninfo=tell, min_size=1)

    async def main() -> None:
        await connector.open_async()
        assert await connector.run_async(JOB) == [1]
        await connector.close_async()

    asyncio.run(main())
    with pytest.raises(ConnectorException, match="async function"):
        connector.open()
    sync = PsycopgConnector(conninfo=lambda: queue_database, min_size=1)
    sync.open()
    assert sync.run(JOB) == [2]
    sync.close()


async def test_a_sync_connector_in_an_event_loop() -> None:
    connector: BaseConnector = SyncPsycopgConnector()
    for refused in (connector.open_async, connector.close_async):
        with pytest.raises(SyncConnectorConfigurationError):
            await refused()
    with pytest.raises(SyncConnectorConfigurationError):
        await connector.run_async(JOB)
    with pytest.raises(SyncConnectorConfigurationError):
        connector.open_store()
