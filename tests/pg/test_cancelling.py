"""A cancel at any point: the server stops, nothing is left behind, nothing done is denied."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
from psycopg import errors
from psycopg.adapt import AdaptersMap

from tests.fix_proxy import Direction
from tests.pg.helpers import (
    assert_frozen_wire_costs_the_connection,
    assert_usable,
    cancelled_at,
    fetch_value,
    wait_until_gone,
    wait_until_idle,
    wait_until_running,
)
from tests.waiting import PATIENCE
from trio_queue._pg import TrioConnection, cancelling
from trio_queue._pg.direct import Command, execute_async
from trio_queue._pg.waiting import Pace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from psycopg.pq.abc import PGconn

    from tests.fix_proxy import Proxy

STEPS = range(1, 20)
ADAPTERS = AdaptersMap(psycopg.adapters)


@pytest.fixture(params=["libpq 17", "older libpq"])
def any_libpq(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "older libpq":
        monkeypatch.setattr(psycopg.capabilities, "has_cancel_safe", lambda: False)


async def cancel_when_running(
    scope: trio.CancelScope, admin: TrioConnection, connection: TrioConnection
) -> None:
    await wait_until_running(admin, connection.info.backend_pid)
    scope.cancel()


@pytest.mark.usefixtures("any_libpq")
async def test_a_cancelled_query_stops_on_the_server(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_running, scope, admin, connection)
            await connection.execute("SELECT pg_sleep(600)")
    assert scope.cancelled_caught
    await wait_until_idle(admin, connection.info.backend_pid)
    await assert_usable(connection)


async def test_a_deadline_ends_a_query(connection: TrioConnection) -> None:
    with trio.move_on_after(0.05) as scope:
        await connection.execute("SELECT pg_sleep(600)")
    assert scope.cancelled_caught
    await assert_usable(connection)


async def test_in_a_cancelled_scope_nothing_is_sent(connection: TrioConnection) -> None:
    await connection.execute("CREATE TABLE t (i int)")

    async def transact() -> None:
        async with connection.transaction():
            raise AssertionError("entered")

    async def pipe() -> None:
        async with connection.pipeline():
            raise AssertionError("entered")

    operations: list[Callable[[], Awaitable[Any]]] = [
        lambda: connection.execute("INSERT INTO t VALUES (1)"),
        lambda: connection.cursor().executemany("INSERT INTO t VALUES (%s)", [(1,)]),
        lambda: execute_async(
            connection, Command(b"inserts", b"INSERT INTO t VALUES (1)"), [], ADAPTERS
        ),
        connection.commit,
        connection.wait_notifies,
        connection.cancel_safe,
        transact,
        pipe,
    ]
    with trio.CancelScope() as scope:
        scope.cancel()
        for operation in operations:
            with pytest.raises(trio.Cancelled):
                await operation()
    await assert_usable(connection)
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 0


async def test_rows_in_memory_can_be_read_in_a_cancelled_scope(connection: TrioConnection) -> None:
    # They may be the only trace of what the statement did: jobs that it claimed.
    cursor = await connection.execute("SELECT generate_series(1, 3)")
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await cursor.fetchone() == (1,)
        assert await cursor.fetchall() == [(2,), (3,)]


async def test_a_fetch_from_a_pipeline_is_a_statement(connection: TrioConnection) -> None:
    async with connection.pipeline():
        cursor = await connection.execute("SELECT 1")
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(trio.Cancelled):
                await cursor.fetchone()
        assert await cursor.fetchone() == (1,)


async def test_the_result_of_a_command_that_had_completed_is_returned(
    connection: TrioConnection, admin: TrioConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute("CREATE TABLE t (i int)")
    await admin.execute("SELECT pg_advisory_lock(1)")
    cancel_on_server = cancelling.cancel_on_server

    async def cancel_too_late(pgconn: PGconn) -> None:
        await admin.execute("SELECT pg_advisory_unlock(1)")
        await wait_until_idle(admin, connection.info.backend_pid)
        await cancel_on_server(pgconn)

    monkeypatch.setattr(cancelling, "cancel_on_server", cancel_too_late)
    monkeypatch.setattr(cancelling, "CANCEL_AGAIN_AFTER", PATIENCE)
    row = None
    reached_end = False
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_running, scope, admin, connection)
            cursor = await connection.execute(
                "WITH locked AS MATERIALIZED (SELECT pg_advisory_lock(1)), "
                "inserted AS (INSERT INTO t SELECT 7 FROM locked RETURNING i) "
                "SELECT i FROM inserted"
            )
            row = await cursor.fetchone()
            await trio.lowlevel.checkpoint()
            reached_end = True
    assert row == (7,)
    assert scope.cancelled_caught
    assert not reached_end
    await assert_usable(connection)
    assert await fetch_value(admin, "SELECT count(*) FROM t") == 1


async def test_an_error_of_its_own_beats_the_cancel(
    connection: TrioConnection, admin: TrioConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await admin.execute("SELECT pg_advisory_lock(1)")

    async def cancel_too_late(_pgconn: PGconn) -> None:
        await admin.execute("SELECT pg_advisory_unlock(1)")
        await wait_until_idle(admin, connection.info.backend_pid)

    monkeypatch.setattr(cancelling, "cancel_on_server", cancel_too_late)
    monkeypatch.setattr(cancelling, "CANCEL_AGAIN_AFTER", PATIENCE)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_running, scope, admin, connection)
            with pytest.raises(errors.DivisionByZero):
                await connection.execute(
                    "SELECT 1 / (CASE WHEN pg_advisory_lock(1) IS NULL THEN 1 ELSE 0 END)"
                )
    await assert_usable(connection)


async def test_a_request_to_cancel_that_is_lost_is_repeated(
    connection: TrioConnection, admin: TrioConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel_on_server = cancelling.cancel_on_server
    requests = 0

    async def lose_the_first(pgconn: PGconn) -> None:
        nonlocal requests
        requests += 1
        if requests == 2:
            raise psycopg.OperationalError("the server has no place for it")
        if requests >= 3:  # how long one takes is the server's: it may be given up, too
            await cancel_on_server(pgconn)

    monkeypatch.setattr(cancelling, "cancel_on_server", lose_the_first)
    monkeypatch.setattr(cancelling, "CANCEL_AGAIN_AFTER", 0.05)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_running, scope, admin, connection)
            await connection.execute("SELECT pg_sleep(600)")
    assert scope.cancelled_caught
    assert requests >= 3
    await assert_usable(connection)


async def test_a_query_that_ignores_the_cancel_costs_its_connection(
    connection: TrioConnection,
    admin: TrioConnection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def ignore(_pgconn: PGconn) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(cancelling, "cancel_on_server", ignore)
    connection.cancel_timeout = 0.1
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_running, scope, admin, connection)
            await connection.execute("SELECT pg_sleep(600)")
    assert scope.cancelled_caught
    assert connection.closed
    assert connection.broken
    assert "could not be brought to rest: no answer within 0.1 seconds" in caplog.text


async def test_a_frozen_server_costs_the_connection_not_the_caller(
    proxy: Proxy, database: str
) -> None:
    await assert_frozen_wire_costs_the_connection(
        proxy,
        database,
        lambda connection: connection.execute("SELECT 1"),
        direction=Direction.TO_SERVER,
    )


async def test_clean_up_on_a_frozen_server_is_bounded(proxy: Proxy, database: str) -> None:
    connection = await TrioConnection.connect(proxy.conninfo(database))
    connection.cancel_timeout = connection.cleanup_timeout = 0.1
    with trio.CancelScope() as scope:
        async with connection.transaction():
            await connection.execute("SELECT 1")
            proxy.freeze()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert connection.closed


async def test_a_cancel_that_waits_for_the_lock_sends_nothing(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await admin.execute("SELECT pg_advisory_lock(1)")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch_value, connection, "SELECT pg_advisory_lock(1)")
        await wait_until_running(admin, connection.info.backend_pid)
        with trio.move_on_after(0.01) as scope:
            await connection.execute("SELECT 1")
        assert scope.cancelled_caught
        await admin.execute("SELECT pg_advisory_unlock(1)")
    await assert_usable(connection)


async def test_a_cancelled_transaction_is_rolled_back(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await connection.execute("CREATE TABLE t (i int)")
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_running, scope, admin, connection)
            async with connection.transaction():
                await connection.execute("INSERT INTO t SELECT 1 FROM pg_sleep(600)")
    assert scope.cancelled_caught
    await assert_usable(connection)
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 0


async def test_a_transaction_cancelled_outside_of_a_statement_is_rolled_back(
    connection: TrioConnection,
) -> None:
    await connection.execute("CREATE TABLE t (i int)")
    with trio.CancelScope() as scope:
        async with connection.transaction():
            await connection.execute("INSERT INTO t VALUES (1)")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await assert_usable(connection)
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 0


async def test_clean_up_is_not_itself_cancelled(proxy: Proxy, database: str) -> None:
    connection = await TrioConnection.connect(proxy.conninfo(database))
    with trio.CancelScope() as scope:
        async with connection.transaction():
            await connection.execute("SELECT 1")
            scope.cancel()
            await trio.sleep_forever()
    await assert_usable(connection)
    await connection.close()
    assert proxy.accepted == 1  # no request to cancel the ROLLBACK


async def test_a_cancelled_savepoint_leaves_the_transaction_alone(
    connection: TrioConnection,
) -> None:
    await connection.execute("CREATE TABLE t (i int)")
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES (1)")
        with trio.move_on_after(0.05) as scope:
            async with connection.transaction():
                await connection.execute("INSERT INTO t VALUES (2)")
                await connection.execute("SELECT pg_sleep(600)")
        assert scope.cancelled_caught
        await connection.execute("INSERT INTO t VALUES (3)")
    assert await fetch_value(connection, "SELECT array_agg(i ORDER BY i) FROM t") == [1, 3]


async def test_without_autocommit_a_cancel_leaves_the_rollback_to_the_caller(
    database: str, admin: TrioConnection
) -> None:
    async with (
        await TrioConnection.connect(database, autocommit=False) as connection,
        trio.open_nursery() as nursery,
    ):
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_running, scope, admin, connection)
            await connection.execute("SELECT pg_sleep(600)")
        assert scope.cancelled_caught
        assert connection.info.transaction_status.name == "INERROR"
        await connection.rollback()
        assert connection.info.transaction_status.name == "IDLE"


async def test_leaving_the_connections_block_cancelled_rolls_back_and_closes(
    database: str, admin: TrioConnection
) -> None:
    connection = await TrioConnection.connect(database, autocommit=False)
    with trio.CancelScope() as scope:
        async with connection:
            await connection.execute("CREATE TABLE never (i int)")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert connection.closed
    assert not connection.broken
    assert await fetch_value(admin, "SELECT to_regclass('never')") is None


async def test_leaving_the_connections_block_closes_it_when_the_commit_is_cancelled(
    database: str, admin: TrioConnection
) -> None:
    connection = await TrioConnection.connect(database, autocommit=False)
    with trio.CancelScope() as scope:
        async with connection:
            await connection.execute("CREATE TABLE never (i int)")
            scope.cancel()
    assert scope.cancelled_caught
    assert connection.closed
    assert await fetch_value(admin, "SELECT to_regclass('never')") is None


async def test_a_cancelled_pipeline_leaves_no_results_behind(connection: TrioConnection) -> None:
    with trio.move_on_after(0.05) as scope:
        async with connection.pipeline():
            await connection.execute("SELECT 1")
            cursor = await connection.execute("SELECT pg_sleep(600)")
            await connection.execute("SELECT 2")
            await cursor.fetchone()
    assert scope.cancelled_caught
    await assert_usable(connection)


@pytest.mark.parametrize("rows", [1, 50, 20_000])
async def test_a_cancelled_executemany_writes_all_or_nothing(
    connection: TrioConnection, rows: int
) -> None:
    await connection.execute("CREATE TABLE t (i int)")
    for deadline in (0.001, 0.01, 0.05, 0.2):
        returned = False
        with trio.move_on_after(deadline):
            await connection.cursor().executemany(
                "INSERT INTO t SELECT %s FROM pg_sleep(0.001)", [(i,) for i in range(rows)]
            )
            returned = True
        await assert_usable(connection)
        written = await fetch_value(connection, "SELECT count(*) FROM t")
        assert written == (rows if returned else 0)
        await connection.execute("TRUNCATE t")


async def test_a_cancelled_executemany_ends_before_its_statements_would(
    connection: TrioConnection,
) -> None:
    with trio.move_on_after(0.05) as scope:
        await connection.cursor().executemany("SELECT pg_sleep(%s)", [(600,)] * 3)
    assert scope.cancelled_caught
    await assert_usable(connection)


async def test_results_equal_what_was_committed(connection: TrioConnection) -> None:
    """600 inserts race their deadlines; the statement that follows is never the victim."""
    await connection.execute("CREATE TABLE t (i int)")
    returned = cancelled = 0
    for i in range(600):
        with trio.move_on_after(random.uniform(0, 0.006)) as scope:
            cursor = await connection.execute(
                "WITH x AS (INSERT INTO t VALUES (%s) RETURNING i) "
                "SELECT i, pg_sleep(0.003) FROM x",
                (i,),
            )
            row = await cursor.fetchone()
            assert row is not None
            assert row[0] == i
            returned += 1
        cancelled += scope.cancelled_caught
        assert await fetch_value(connection, "SELECT %s::int", i) == i
    assert returned
    assert cancelled
    assert await fetch_value(connection, "SELECT count(*) FROM t") == returned


# Slow enough for the cancel to meet it on the server, most of the time.
INSERT = "INSERT INTO t SELECT 1 FROM pg_sleep(0.01)"


async def insert(connection: TrioConnection) -> None:
    await connection.execute(INSERT)


async def insert_without_cursor(connection: TrioConnection) -> None:
    # Prepared at the third step, and used as such from then on.
    connection.prepare_threshold = 2
    command = Command(b"inserts", f"{INSERT} WHERE $1::boolean RETURNING i".encode())
    assert await execute_async(connection, command, [b"t"], ADAPTERS) == [(1,)]


async def insert_in_transaction(connection: TrioConnection) -> None:
    async with connection.transaction():
        await connection.execute(INSERT)


async def insert_in_savepoint(connection: TrioConnection) -> None:
    async with connection.transaction(), connection.transaction():
        await connection.execute(INSERT)


async def insert_many(connection: TrioConnection) -> None:
    await connection.cursor().executemany(f"{INSERT} WHERE %s", [(True,), (False,)])


async def insert_many_returning(connection: TrioConnection) -> None:
    cursor = connection.cursor()
    await cursor.executemany(f"{INSERT} WHERE %s RETURNING i", [(True,)], returning=True)
    assert await cursor.fetchone() == (1,)


async def insert_in_pipeline_transaction(connection: TrioConnection) -> None:
    async with connection.pipeline(), connection.transaction():
        cursor = await connection.execute(f"{INSERT} RETURNING i")
        await cursor.fetchone()


WAYS = [
    insert,
    insert_without_cursor,
    insert_in_transaction,
    insert_in_savepoint,
    insert_many,
    insert_many_returning,
    insert_in_pipeline_transaction,
]


@pytest.mark.parametrize("resuming", [False, True], ids=["while waiting", "when resuming"])
@pytest.mark.parametrize("busy", [False, True], ids=["quick", "yielding at each write"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_cancel_at_any_step_is_consistent(
    connection: TrioConnection,
    way: Callable[[TrioConnection], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    busy: bool,
    resuming: bool,
) -> None:
    """Returned means written, cancelled means not; the connection stays usable, whenever."""
    if busy:

        async def always_yield(_pace: Pace) -> None:
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(Pace, "yield_if_busy", always_yield)
    await connection.execute("CREATE TABLE t (i int)")
    completed = 0
    for step in STEPS:
        returned = False
        with cancelled_at(step, resuming=resuming) as cancel:
            await way(connection)
            returned = True
        assert returned or cancel.scope.cancelled_caught
        if connection.closed:
            pytest.fail(f"the connection was given up at step {step}")
        await assert_usable(connection)
        assert await fetch_value(connection, "SELECT count(*) FROM t") == int(returned), step
        await connection.execute("TRUNCATE t")
        completed += returned
    assert completed
    assert not caplog.text  # neither we nor psycopg had an error to swallow


@pytest.mark.parametrize("resuming", [False, True], ids=["while waiting", "when resuming"])
async def test_a_cancel_at_any_step_of_connecting_leaves_no_connection(
    database: str, admin: TrioConnection, *, resuming: bool
) -> None:
    for step in STEPS:
        connected: list[TrioConnection] = []
        with cancelled_at(step, resuming=resuming):
            connected.append(await TrioConnection.connect(database, application_name="cancelled"))
        for connection in connected:
            await connection.close()
        pids = await fetch_value(
            admin,
            "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity "
            "WHERE application_name = 'cancelled'",
        )
        for pid in pids:  # the server may take a moment to notice; what leaked would stay
            await wait_until_gone(admin, pid)
