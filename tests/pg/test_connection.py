from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
import trio.testing
from psycopg import errors
from psycopg.rows import dict_row
from psycopg.types import TypeInfo

from tests.pg.helpers import (
    assert_usable,
    fetch_value,
    terminate,
    wait_until_gone,
    wait_until_running,
)
from trio_queue._pg import TrioConnection, TrioCursor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fix_proxy import Message, Proxy


async def test_a_statement_is_its_own_transaction(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    assert connection.autocommit
    await connection.execute("CREATE TABLE t (i int)")
    assert await fetch_value(admin, "SELECT to_regclass('t') IS NOT NULL")


async def test_without_autocommit(database: str, admin: TrioConnection) -> None:
    async with await TrioConnection.connect(database, autocommit=False) as connection:
        await connection.execute("CREATE TABLE t (i int)")
        assert await fetch_value(admin, "SELECT to_regclass('t') IS NULL")
    assert connection.closed
    assert await fetch_value(admin, "SELECT to_regclass('t') IS NOT NULL")


async def test_an_error_in_the_block_rolls_back(database: str, admin: TrioConnection) -> None:
    async def fail() -> None:
        async with await TrioConnection.connect(database, autocommit=False) as connection:
            await connection.execute("CREATE TABLE t (i int)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await fetch_value(admin, "SELECT to_regclass('t') IS NULL")


async def test_the_block_of_a_connection_that_was_lost(
    database: str, admin: TrioConnection, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await TrioConnection.connect(database, autocommit=False)

    async def fail() -> None:
        async with connection:
            await connection.execute("SELECT 1")
            await terminate(admin, connection.info.backend_pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert "cannot roll back" in caplog.text
    assert connection.closed


async def test_the_options_of_connecting(database: str) -> None:
    class Cursor(TrioCursor):
        __slots__ = ()

    async with await TrioConnection.connect(
        database,
        row_factory=dict_row,
        cursor_factory=Cursor,
        prepare_threshold=None,
        application_name="asked for",
    ) as connection:
        cursor = await connection.execute("SHOW application_name")
        assert isinstance(cursor, Cursor)
        assert await cursor.fetchone() == {"application_name": "asked for"}
        assert connection.prepare_threshold is None


async def test_a_cursor_that_ignores_cancels_is_refused(database: str) -> None:
    with pytest.raises(psycopg.ProgrammingError, match="subclass of TrioCursor"):
        await TrioConnection.connect(
            database,
            cursor_factory=psycopg.AsyncCursor,  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - the mistake
        )


async def test_what_psycopg_offers_on_top_works(connection: TrioConnection) -> None:
    notices: list[str | None] = []
    connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
    await connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    assert notices == ["hello"]
    info = await TypeInfo.fetch(connection, "int4")
    assert info is not None
    assert info.oid == 23
    for i in range(8):
        assert await fetch_value(connection, "SELECT %s::int + 1", i) == i + 1
    assert await fetch_value(connection, "SELECT count(*) FROM pg_prepared_statements")


async def test_a_large_statement_and_a_large_result(connection: TrioConnection) -> None:
    text = "x" * 5_000_000  # more than any socket buffer holds
    assert await fetch_value(connection, "SELECT %s::text", text) == text


async def test_a_pipeline(connection: TrioConnection) -> None:
    async with connection.pipeline():
        cursors = [await connection.execute("SELECT %s::int", (i,)) for i in range(500)]
        assert [await cursor.fetchone() for cursor in cursors] == [(i,) for i in range(500)]
    await assert_usable(connection)


async def test_a_pipeline_larger_than_the_buffers(connection: TrioConnection) -> None:
    # The server answers while we still send; whoever does not read meanwhile waits for ever.
    text = "x" * 100_000
    async with connection.pipeline():
        cursors = [await connection.execute("SELECT %s::text", (text,)) for _ in range(100)]
        assert {await cursor.fetchone() for cursor in cursors} == {(text,)}
    await assert_usable(connection)


async def test_an_error_in_a_pipeline_leaves_it_usable(connection: TrioConnection) -> None:
    async def fail() -> None:
        async with connection.pipeline():
            await connection.execute("SELECT 1 / 0")
            await connection.execute("SELECT 1")

    with pytest.raises(errors.DivisionByZero):
        await fail()
    await assert_usable(connection)


async def test_executemany_with_and_without_results(connection: TrioConnection) -> None:
    await connection.execute("CREATE TABLE t (i int)")
    cursor = connection.cursor()
    await cursor.executemany("INSERT INTO t VALUES (%s)", [(i,) for i in range(1000)])
    assert cursor.rowcount == 1000
    await cursor.executemany("SELECT %s::int", [(1,), (2,)], returning=True)
    assert await cursor.fetchone() == (1,)
    assert cursor.nextset()
    assert await cursor.fetchone() == (2,)


async def test_a_long_executemany_lets_others_run(connection: TrioConnection) -> None:
    await connection.execute("CREATE TABLE t (i int)")
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await connection.cursor().executemany(
            "INSERT INTO t VALUES (%s)", [(i,) for i in range(20_000)]
        )
        nursery.cancel_scope.cancel()
    assert turns > 3


async def test_a_failed_begin_is_no_open_block(
    connection: TrioConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute("CREATE TABLE t (i int)")
    with monkeypatch.context() as patch:
        patch.setattr(connection, "_get_tx_start_command", lambda: b"BEGIN NONSENSE")
        with pytest.raises(errors.SyntaxError):
            async with connection.transaction():
                raise AssertionError("entered")
    assert connection._num_transactions == 0  # pyright: ignore[reportPrivateUsage] - psycopg has no public count
    async with connection.transaction():
        await connection.execute("INSERT INTO t VALUES (1)")
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 1


async def test_a_transaction_block_never_leaves_its_transaction_open(
    connection: TrioConnection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse_to_roll_back(*_args: Any) -> Any:
        raise psycopg.OperationalError("no")

    monkeypatch.setattr(psycopg.AsyncTransaction, "_rollback_gen", refuse_to_roll_back)

    async def fail() -> None:
        async with connection.transaction():
            await connection.execute("SELECT 1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert connection.closed
    assert "left its transaction open" in caplog.text


REFUSED: dict[str, Callable[[TrioConnection], object]] = {
    "stream": lambda connection: connection.cursor().stream("SELECT 1"),
    "copy": lambda connection: connection.cursor().copy("COPY t TO STDOUT"),
    "server-side cursor": lambda connection: connection.cursor("named"),
    "notifies": lambda connection: connection.notifies(),
}


@pytest.mark.parametrize("use", REFUSED.values(), ids=REFUSED)
async def test_what_does_not_work_on_trio_is_refused(
    connection: TrioConnection, use: Callable[[TrioConnection], object]
) -> None:
    with pytest.raises(psycopg.NotSupportedError, match="on Trio"):
        use(connection)
    await assert_usable(connection)


async def test_two_phase_commit_is_refused(connection: TrioConnection) -> None:
    with pytest.raises(psycopg.NotSupportedError, match="on Trio"):
        await connection.tpc_begin("x")


async def test_many_tasks_share_a_connection(connection: TrioConnection) -> None:
    results: list[int] = []

    async def ask(number: int) -> None:
        results.append(await fetch_value(connection, "SELECT %s::int FROM pg_sleep(0.001)", number))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(ask, number)
    assert sorted(results) == list(range(20))


# -- the end of a connection ----------------------------------------------------------------------


async def test_a_backend_terminated_while_a_query_runs(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    pid = connection.info.backend_pid

    async def kill() -> None:
        await wait_until_running(admin, pid)
        await terminate(admin, pid)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        with pytest.raises(errors.AdminShutdown):
            await connection.execute("SELECT pg_sleep(600)")
    assert connection.closed
    assert connection.broken


async def test_a_backend_terminated_while_idle(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await terminate(admin, connection.info.backend_pid)
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("SELECT 1")
    assert connection.broken


async def test_a_backend_terminated_while_listening(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await connection.execute("LISTEN c")

    async def kill() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await admin.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill)
        with pytest.raises(psycopg.OperationalError, match="administrator command"):
            await connection.wait_notifies()
    assert connection.broken


async def test_a_wire_that_is_cut(proxy: Proxy, database: str) -> None:
    connection = await TrioConnection.connect(proxy.conninfo(database))

    async def cut_before_the_answer(message: Message) -> None:
        if message.kind == "C":
            await proxy.cut()
        await trio.lowlevel.checkpoint()

    proxy.on_message = cut_before_the_answer
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("SELECT 1")
    assert connection.broken


@pytest.mark.parametrize("waiting_for", ["a query", "a notification"])
async def test_closing_wakes_whoever_waits(
    connection: TrioConnection, admin: TrioConnection, waiting_for: str
) -> None:
    pid = connection.info.backend_pid

    async def close() -> None:
        if waiting_for == "a query":
            await wait_until_running(admin, pid)
        else:
            await trio.testing.wait_all_tasks_blocked()
        await connection.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        operation: Awaitable[object] = (
            connection.execute("SELECT pg_sleep(600)")
            if waiting_for == "a query"
            else connection.wait_notifies()
        )
        with pytest.raises(psycopg.OperationalError, match="closed"):
            await operation
    assert connection.closed
    assert not connection.broken
    await admin.execute("SELECT pg_terminate_backend(%s)", (pid,))  # it still sleeps
    await wait_until_gone(admin, pid)


async def test_closing_twice_and_in_a_cancelled_scope(connection: TrioConnection) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await connection.close()
        await connection.close()
    assert connection.closed
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="closed"):
        await connection.wait_notifies(0)
    await connection.cancel_safe()


async def test_cancel_safe_stops_what_another_task_runs(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    async def cancel() -> None:
        await wait_until_running(admin, connection.info.backend_pid)
        await connection.cancel_safe()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        with pytest.raises(errors.QueryCanceled):
            await connection.execute("SELECT pg_sleep(600)")
    await assert_usable(connection)


async def test_cancel_safe_is_bounded(proxy: Proxy, database: str) -> None:
    async with await TrioConnection.connect(proxy.conninfo(database)) as connection:
        proxy.freeze()
        with pytest.raises(errors.CancellationTimeout, match=r"within 0\.02 seconds"):
            await connection.cancel_safe(timeout=0.02)
        proxy.thaw()


async def test_a_statement_timeout_is_no_cancel(connection: TrioConnection) -> None:
    await connection.execute("SET statement_timeout = '10ms'")
    with pytest.raises(errors.QueryCanceled):
        await connection.execute("SELECT pg_sleep(600)")
    await assert_usable(connection)


# -- notifications --------------------------------------------------------------------------------


async def test_notifications_arrive_in_their_order(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await connection.execute("LISTEN c")
    assert await connection.wait_notifies(timeout=0) == []

    async def notify() -> None:
        await trio.testing.wait_all_tasks_blocked()
        await admin.execute("SELECT pg_notify('c', 'a'), pg_notify('c', 'b')")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(notify)
        arrived = await connection.wait_notifies(30)
    assert [(each.channel, each.payload) for each in arrived] == [("c", "a"), ("c", "b")]
    assert arrived[0].pid == admin.info.backend_pid


async def test_a_notification_during_a_query_is_kept(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await connection.execute("LISTEN c")
    await admin.execute("NOTIFY c, 'kept'")
    await assert_usable(connection)
    assert [each.payload for each in await connection.wait_notifies(0)] == ["kept"]
    assert await connection.wait_notifies(0) == []


async def test_no_notification_is_lost_by_a_cancel(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await connection.execute("LISTEN c")
    with trio.move_on_after(0.01) as scope:
        await connection.wait_notifies()
    assert scope.cancelled_caught
    await assert_usable(connection)
    await admin.execute("NOTIFY c, 'later'")
    assert [each.payload for each in await connection.wait_notifies(30)] == ["later"]


async def test_no_notification_is_lost_in_a_race_with_deadlines(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await connection.execute("LISTEN c")
    heard: list[str] = []

    async def notify() -> None:
        for i in range(300):
            await admin.execute("SELECT pg_notify('c', %s)", (str(i),))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(notify)
        with trio.fail_after(30):
            while len(heard) < 300:
                with trio.move_on_after(0.0005):
                    heard.extend(each.payload for each in await connection.wait_notifies())
    assert heard == [str(i) for i in range(300)]


async def test_own_handlers_hear_too(connection: TrioConnection, admin: TrioConnection) -> None:
    handled: list[str] = []
    connection.add_notify_handler(lambda each: handled.append(each.payload))
    await connection.execute("LISTEN c")
    await admin.execute("NOTIFY c, 'x'")
    assert [each.payload for each in await connection.wait_notifies(30)] == ["x"]
    assert handled == ["x"]


# -- Ctrl-C ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_stops_the_query_and_leaves_the_connection_at_rest(
    database: str, interrupts: int
) -> None:
    program = textwrap.dedent(
        f"""
        import os, signal, sys, trio
        from trio_queue._pg import TrioConnection, cancelling

        async def main():
            connection = await TrioConnection.connect({database!r})
            if {interrupts} == 2:
                async def interrupt_again(pgconn):
                    os.kill(os.getpid(), signal.SIGINT)
                    await trio.sleep_forever()
                cancelling.cancel_on_server = interrupt_again
            print(connection.info.backend_pid, flush=True)
            try:
                await connection.execute("SELECT pg_sleep(600)")
            finally:
                with trio.CancelScope(shield=True):
                    print("closed" if connection.closed else
                          (await (await connection.execute("SELECT 'idle'")).fetchone())[0])

        try:
            trio.run(main)
        except KeyboardInterrupt:
            print("interrupted")
        """
    )
    with (
        subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        ) as process,
        psycopg.connect(database, autocommit=True) as admin,
    ):
        try:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            while not admin.execute(
                "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state = 'active'", (pid,)
            ).fetchone():
                assert process.poll() is None
            os.kill(process.pid, signal.SIGINT)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
    assert output.split() == ["idle" if interrupts == 1 else "closed", "interrupted"]
