"""Statements without a cursor: prepared when it is time, prepared anew when they are gone, and nothing lost on the way."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import pytest
import trio
from psycopg import errors
from psycopg.adapt import AdaptersMap, Loader
from psycopg.waiting import Wait

from tests.pg.helpers import assert_usable, cancel_in_asyncio, fetch_value, in_asyncio
from trio_queue._pg import TrioConnection
from trio_queue._pg.bounded import BoundedConnection
from trio_queue._pg.direct import Command, can_send, execute, execute_async, get_result

ADAPTERS = AdaptersMap(psycopg.adapters)
#: Tells as well which of our statements the connection has prepared.
ECHO = Command(
    b"trio_queue_echo",
    b"SELECT $1::text, $2::int, ARRAY(SELECT name FROM pg_prepared_statements WHERE name ~ 'trio_queue')",
)


async def echo(connection: psycopg.AsyncConnection[Any]) -> list[str]:
    """What is prepared."""
    [(text, number, prepared)] = await execute_async(
        connection, ECHO, ["é😀".encode(), b"7"], ADAPTERS
    )
    assert (text, number) == ("é😀", 7)
    return cast("list[str]", prepared)


# -- every kind of connection -------------------------------------------------------------------


async def test_on_trio(connection: TrioConnection) -> None:
    assert await echo(connection) == []
    await assert_usable(connection)


def test_on_asyncio(database: str) -> None:
    assert in_asyncio(database, echo) == []


@pytest.mark.parametrize("kind", [psycopg.Connection, BoundedConnection])
def test_in_sync_code(database: str, kind: type[psycopg.Connection[Any]]) -> None:
    with kind.connect(database, autocommit=True) as connection:
        assert execute(connection, ECHO, [b"a", None], ADAPTERS) == [("a", None, [])]


async def test_no_rows_and_many(connection: TrioConnection) -> None:
    command = Command(b"many", b"SELECT n, n::text FROM generate_series(1, $1::int) n")
    assert await execute_async(connection, command, [b"0"], ADAPTERS) == []
    rows = await execute_async(connection, command, [b"20000"], ADAPTERS)
    assert rows == [(n, str(n)) for n in range(1, 20_001)]


async def test_a_large_parameter_and_a_large_value(connection: TrioConnection) -> None:
    # Larger than any buffer: sending has to wait, too.
    command = Command(b"large", b"SELECT $1::text")
    large = "x" * 30_000_000
    [(value,)] = await execute_async(connection, command, [large.encode()], ADAPTERS)
    assert value == large


async def test_rows_are_read_by_the_adapters_given(connection: TrioConnection) -> None:
    class Shout(Loader):
        def load(self, data: Any) -> str:
            return bytes(data).decode().upper()

    shouting = AdaptersMap(psycopg.adapters)
    shouting.register_loader("text", Shout)
    command = Command(b"text", b"SELECT $1::text")
    for _ in range(2):
        assert await execute_async(connection, command, [b"a"], shouting) == [("A",)]
        assert await execute_async(connection, command, [b"a"], ADAPTERS) == [("a",)]


# -- preparing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0, 1, 5])
async def test_it_is_prepared_after_so_many_runs(
    connection: TrioConnection, threshold: int
) -> None:
    connection.prepare_threshold = threshold
    for _ in range(threshold):
        assert await echo(connection) == []
    for _ in range(3):
        assert await echo(connection) == ["trio_queue_echo"]


async def test_it_is_never_prepared(connection: TrioConnection) -> None:
    connection.prepare_threshold = None
    for _ in range(8):
        assert await echo(connection) == []


def test_it_is_prepared_on_asyncio_and_in_sync_code_too(database: str) -> None:
    async def use(connection: psycopg.AsyncConnection[Any]) -> None:
        connection.prepare_threshold = 1
        assert await echo(connection) == []
        assert await echo(connection) == ["trio_queue_echo"]

    in_asyncio(database, use)
    with psycopg.connect(database, autocommit=True, prepare_threshold=0) as connection:
        [(_, _, prepared)] = execute(connection, ECHO, [None, None], ADAPTERS)
        assert prepared == ["trio_queue_echo"]


@pytest.mark.parametrize("forget", ["DISCARD ALL", "DEALLOCATE ALL", "DEALLOCATE trio_queue_echo"])
async def test_what_is_no_longer_prepared_is_sent_all_the_same(
    connection: TrioConnection, forget: str
) -> None:
    connection.prepare_threshold = 1
    await echo(connection)
    assert await echo(connection) == ["trio_queue_echo"]
    await connection.execute(forget.encode(), prepare=False)
    assert await echo(connection) == []
    # As if it were new: where that happens all the time, there is no use preparing.
    assert await echo(connection) == []
    assert await echo(connection) == ["trio_queue_echo"]


async def test_one_that_is_prepared_though_it_was_taken_for_gone_is_made_anew(
    connection: TrioConnection,
) -> None:
    one = Command(b"trio_queue_one", b"SELECT 1")
    connection.prepare_threshold = 0
    await execute_async(connection, one, [], ADAPTERS)
    await echo(connection)
    await connection.execute(b"DEALLOCATE trio_queue_one", prepare=False)
    # With one gone, the others are taken for gone.
    assert await execute_async(connection, one, [], ADAPTERS) == [(1,)]
    assert await echo(connection) == []
    assert "trio_queue_echo" in await echo(connection)


async def test_one_that_somebody_else_prepared_is_not_touched(connection: TrioConnection) -> None:
    connection.prepare_threshold = 0
    await connection.execute(b"PREPARE trio_queue_echo AS SELECT 1", prepare=False)
    with pytest.raises(errors.DuplicatePreparedStatement):
        await echo(connection)
    await assert_usable(connection)


async def test_a_plan_whose_result_changed_is_made_anew(connection: TrioConnection) -> None:
    connection.prepare_threshold = 1
    await connection.execute("CREATE TABLE t (i int)")
    await connection.execute("INSERT INTO t VALUES (1)")
    command = Command(b"trio_queue_t", b"SELECT * FROM t WHERE i = $1::int")
    for _ in range(3):
        assert await execute_async(connection, command, [b"1"], ADAPTERS) == [(1,)]
    await connection.execute("ALTER TABLE t ADD COLUMN more text")
    for _ in range(3):
        assert await execute_async(connection, command, [b"1"], ADAPTERS) == [(1, None)]
    assert (await echo(connection)) == ["trio_queue_t"]


async def test_another_feature_that_is_not_supported_is_said(connection: TrioConnection) -> None:
    connection.prepare_threshold = 0
    await connection.execute(
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$BEGIN"
        " RAISE EXCEPTION 'not here' USING ERRCODE = '0A000'; END$$"
    )
    command = Command(b"trio_queue_f", b"SELECT f()")
    for _ in range(2):
        with pytest.raises(errors.FeatureNotSupported, match="not here"):
            await execute_async(connection, command, [], ADAPTERS)
        await assert_usable(connection)


async def test_what_is_not_supported_before_it_is_prepared_is_said(
    connection: TrioConnection,
) -> None:
    connection.prepare_threshold = 0
    command = Command(b"trio_queue_count", b"SELECT count(*) FROM pg_class FOR UPDATE")
    with pytest.raises(errors.FeatureNotSupported, match="FOR UPDATE"):
        await execute_async(connection, command, [], ADAPTERS)
    await assert_usable(connection)


async def test_what_cannot_be_prepared_is_said_and_tried_again(connection: TrioConnection) -> None:
    connection.prepare_threshold = 0
    command = Command(b"trio_queue_later", b"SELECT i FROM later")
    for _ in range(2):
        with pytest.raises(errors.UndefinedTable):
            await execute_async(connection, command, [], ADAPTERS)
    await connection.execute("CREATE TABLE later (i int)")
    assert await execute_async(connection, command, [], ADAPTERS) == []
    assert "trio_queue_later" in await echo(connection)


# -- where a cursor is needed -------------------------------------------------------------------


async def test_where_it_can_be_sent(connection: TrioConnection) -> None:
    assert can_send(connection)
    await connection.execute("BEGIN")
    assert not can_send(connection)
    await connection.execute("ROLLBACK")
    async with connection.pipeline():
        assert not can_send(connection)
    assert can_send(connection)
    for setting, usual in [
        ("client_encoding TO LATIN1", "client_encoding TO UTF8"),
        ("DateStyle TO German", "DateStyle TO ISO"),
    ]:
        await connection.execute(f"SET {setting}".encode())
        assert not can_send(connection)
        await connection.execute(f"SET {usual}".encode())
        assert can_send(connection)
    await connection.set_autocommit(False)
    assert not can_send(connection)
    await connection.close()
    assert not can_send(connection)


def test_client_cursors_are_respected(database: str) -> None:
    with psycopg.connect(
        database, autocommit=True, cursor_factory=psycopg.ClientCursor
    ) as connection:
        assert not can_send(connection)

    async def use(connection: psycopg.AsyncConnection[Any]) -> None:
        assert can_send(connection)
        connection.cursor_factory = psycopg.AsyncClientCursor
        assert not can_send(connection)

    in_asyncio(database, use)


# -- what arrives meanwhile ---------------------------------------------------------------------


async def test_notices_and_notifications_reach_their_handlers(connection: TrioConnection) -> None:
    heard: list[str | None] = []
    connection.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
    await connection.execute("LISTEN c")
    command = Command(b"notify", b"SELECT pg_notify('c', $1::text)")
    await execute_async(connection, command, [b"kept"], ADAPTERS)
    assert [each.payload for each in await connection.wait_notifies(0)] == ["kept"]
    # At this level everybody is told what the planner read.
    command = Command(b"notice", b"SELECT set_config('client_min_messages', 'debug1', false)")
    await execute_async(connection, command, [], ADAPTERS)
    await connection.execute(
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS"
        " $$BEGIN RAISE NOTICE 'look'; RETURN 1; END$$"
    )
    assert await execute_async(connection, Command(b"f", b"SELECT f()"), [], ADAPTERS) == [(1,)]
    assert "look" in heard


def test_a_notification_reaches_its_handler_with_the_answer(database: str) -> None:
    command = Command(b"notify", b"SELECT pg_notify('c', $1::text)")
    heard: list[str] = []
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("LISTEN c")
        connection.add_notify_handler(lambda notify: heard.append(notify.payload))
        execute(connection, command, [b"a"], ADAPTERS)
        assert heard == ["a"]


async def test_an_error_has_what_the_server_told(connection: TrioConnection) -> None:
    await connection.execute("CREATE TABLE t (i int CONSTRAINT positive CHECK (i > 0))")
    command = Command(b"insert", b"INSERT INTO t VALUES ($1::int) RETURNING i")
    with pytest.raises(errors.CheckViolation, match="positive") as caught:
        await execute_async(connection, command, [b"-1"], ADAPTERS)
    assert caught.value.sqlstate == "23514"
    assert caught.value.diag.constraint_name == "positive"
    await assert_usable(connection)


# -- cancelled ----------------------------------------------------------------------------------


def test_a_cancelled_asyncio_task_leaves_the_connection_usable(database: str) -> None:
    sleep = Command(b"sleep", b"SELECT pg_sleep(600)")

    async def use(connection: psycopg.AsyncConnection[Any]) -> None:
        await cancel_in_asyncio(
            database, connection, execute_async(connection, sleep, [], ADAPTERS)
        )
        assert await echo(connection) == []

    in_asyncio(database, use)


def test_an_exchange_is_resumed_by_psycopg_while_it_still_writes() -> None:
    """After a cancel, its `wait` of asyncio begins again with whatever the generator was about to do."""

    class FullWire:
        def flush(self) -> int:
            return 1

    exchange = get_result(cast("Any", FullWire()))
    assert next(exchange) == Wait.RW
    assert next(exchange) == Wait.RW


async def test_others_wait_for_their_turn(connection: TrioConnection) -> None:
    rows: list[Any] = []
    command = Command(b"number", b"SELECT $1::int")

    async def ask(number: int) -> None:
        rows.extend(await execute_async(connection, command, [b"%d" % number], ADAPTERS))

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(ask, number)
    assert sorted(rows) == [(number,) for number in range(100)]
    assert await fetch_value(connection, "SELECT 1") == 1
