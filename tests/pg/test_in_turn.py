"""A statement sent several times in one transaction: all of it or nothing, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import psycopg
import pytest
import trio
from psycopg import errors, pq
from psycopg.adapt import AdaptersMap

from tests.fix_proxy import Direction, Message, Proxy
from tests.pg.helpers import (
    assert_frozen_wire_costs_the_connection,
    assert_usable,
    cancel_in_asyncio,
    cancelled_at,
    fetch_value,
    in_asyncio,
    terminate,
    wait_until_running,
)
from tests.waiting import PATIENCE
from trio_queue._pg import TrioConnection, in_turn
from trio_queue._pg.direct import Command
from trio_queue._pg.in_turn import can_send_in_turn, execute_in_turn, execute_in_turn_async
from trio_queue._pg.waiting import Pace

ADAPTERS = AdaptersMap(psycopg.adapters)
#: Two rows for each part, and the transaction that they are written in.
INSERT = Command(
    b"inserts",
    b"INSERT INTO t SELECT n FROM unnest($1::int[]) n RETURNING i, pg_current_xact_id()::text",
)


def parts(count: int = 4) -> Iterator[list[bytes | None]]:
    """Each with two numbers."""
    for number in range(count):
        yield [b"{%d,%d}" % (2 * number, 2 * number + 1)]


@pytest.fixture
def table(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE t (i int PRIMARY KEY)")


def check_answer(rows: Any, count: int = 4) -> None:
    assert [row[0] for row in rows] == list(range(2 * count))
    assert len({row[1] for row in rows}) == 1, "more than one transaction"


# -- every kind of connection ---------------------------------------------------------------------


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("count", [1, 2, 3, 20])
async def test_on_trio(connection: TrioConnection, count: int) -> None:
    check_answer(await execute_in_turn_async(connection, INSERT, parts(count), ADAPTERS), count)
    await assert_usable(connection)
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 2 * count


@pytest.mark.usefixtures("table")
def test_on_asyncio(database: str) -> None:
    async def use(connection: psycopg.AsyncConnection[Any]) -> None:
        check_answer(await execute_in_turn_async(connection, INSERT, parts(), ADAPTERS))
        assert connection.info.transaction_status == pq.TransactionStatus.IDLE

    in_asyncio(database, use)


@pytest.mark.usefixtures("table")
def test_in_sync_code(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        check_answer(execute_in_turn(connection, INSERT, parts(), ADAPTERS))
        assert connection.info.transaction_status == pq.TransactionStatus.IDLE


async def test_parts_larger_than_what_the_wire_holds(connection: TrioConnection) -> None:
    """The server cannot send its answer while we write: both have to be read and written."""
    size = 5_000_000
    echo = Command(b"echo", b"SELECT $1::text")
    large = [[b"%d" % number * size] for number in range(4)]
    rows = await execute_in_turn_async(connection, echo, large, ADAPTERS)
    assert [(len(text), text[0]) for (text,) in rows] == [(size, f"{n}") for n in range(4)]


async def test_where_it_can_be_sent(
    connection: TrioConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_send_in_turn(connection)
    async with connection.transaction():
        assert not can_send_in_turn(connection)
    monkeypatch.setattr(psycopg.Pipeline, "is_supported", lambda: False)  # libpq 13
    assert not can_send_in_turn(connection)


@pytest.mark.usefixtures("table")
async def test_the_next_is_made_while_the_server_works(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    """And no more than the next: each waits for the answer to the one before the last."""
    slow = Command(b"slow", b"SELECT pg_advisory_xact_lock($1::int)::text, $1::int")
    await admin.execute("SELECT pg_advisory_lock(0)")
    made: list[int] = []

    def numbers() -> Iterator[list[bytes | None]]:
        for number in range(4):
            made.append(number)
            yield [b"%d" % number]

    async def let_go() -> None:
        await wait_until_running(admin, connection.info.backend_pid)
        await trio.testing.wait_all_tasks_blocked()
        assert made == [0, 1]
        await admin.execute("SELECT pg_advisory_unlock(0)")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_go)
        with trio.fail_after(PATIENCE):
            rows = await execute_in_turn_async(connection, slow, numbers(), ADAPTERS)
    assert [row[1] for row in rows] == made == [0, 1, 2, 3]


# -- what fails -----------------------------------------------------------------------------------


def with_a_duplicate(place: int, count: int = 4) -> Iterator[list[bytes | None]]:
    for number, part in enumerate(parts(count)):
        yield [b"{1000,1000}"] if number == place else part


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("place", range(4))
async def test_one_that_the_server_refuses_undoes_all_on_trio(
    connection: TrioConnection, place: int
) -> None:
    with pytest.raises(errors.UniqueViolation) as caught:
        await execute_in_turn_async(connection, INSERT, with_a_duplicate(place), ADAPTERS)
    assert caught.value.diag.constraint_name == "t_pkey"
    await assert_usable(connection)
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 0
    check_answer(await execute_in_turn_async(connection, INSERT, parts(), ADAPTERS))


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("place", range(4))
def test_one_that_the_server_refuses_undoes_all_in_other_code(database: str, place: int) -> None:
    async def use(connection: psycopg.AsyncConnection[Any]) -> None:
        with pytest.raises(errors.UniqueViolation):
            await execute_in_turn_async(connection, INSERT, with_a_duplicate(place), ADAPTERS)
        assert connection.info.transaction_status == pq.TransactionStatus.IDLE

    in_asyncio(database, use)
    with psycopg.connect(database, autocommit=True) as connection:
        with pytest.raises(errors.UniqueViolation):
            execute_in_turn(connection, INSERT, with_a_duplicate(place), ADAPTERS)
        assert connection.info.transaction_status == pq.TransactionStatus.IDLE
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
async def test_one_that_cannot_be_made_undoes_all(
    connection: TrioConnection, database: str, place: int, kind: type[BaseException]
) -> None:
    def broken() -> Iterator[list[bytes | None]]:
        yield from parts(place)
        raise kind

    with pytest.raises(kind):
        await execute_in_turn_async(connection, INSERT, broken(), ADAPTERS)
    await assert_usable(connection)
    with psycopg.connect(database, autocommit=True) as other:
        with pytest.raises(kind):
            execute_in_turn(other, INSERT, broken(), ADAPTERS)
        assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)


@pytest.mark.usefixtures("table")
async def test_a_deferred_constraint_that_fails_at_the_commit(connection: TrioConnection) -> None:
    await connection.execute("ALTER TABLE t DROP CONSTRAINT t_pkey")
    await connection.execute("ALTER TABLE t ADD UNIQUE (i) DEFERRABLE INITIALLY DEFERRED")
    with pytest.raises(errors.UniqueViolation):
        await execute_in_turn_async(connection, INSERT, with_a_duplicate(2), ADAPTERS)
    await assert_usable(connection)
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 0


# -- a wire that is cut -----------------------------------------------------------------------------


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("number", range(1, 4))
@pytest.mark.parametrize("direction", list(Direction))
async def test_a_wire_that_is_cut_in_the_middle_leaves_nothing(
    proxy: Proxy, database: str, connection: TrioConnection, direction: Direction, number: int
) -> None:
    """At the given part of four, on its way there, or the answer to it on its way back."""
    kind = "B" if direction is Direction.TO_SERVER else "D"
    wanted = {"B": number + 1, "D": 2 * number}[kind]  # BEGIN is bound too; two rows of each part
    seen = 0
    cut_one = await TrioConnection.connect(proxy.conninfo(database))

    async def cut(message: Message) -> None:
        nonlocal seen
        await trio.lowlevel.checkpoint()
        if (message.direction, message.kind) == (direction, kind):
            seen += 1
            if seen == wanted:
                await proxy.cut()

    proxy.on_message = cut
    with trio.fail_after(PATIENCE), pytest.raises(psycopg.OperationalError):
        await execute_in_turn_async(cut_one, INSERT, parts(), ADAPTERS)
    assert cut_one.closed
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 0


@pytest.mark.usefixtures("table")
async def test_a_session_that_the_server_ends_leaves_nothing(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    slow = Command(b"slow", INSERT.text + b", pg_sleep(600)::text")

    async def end_it() -> None:
        await wait_until_running(admin, connection.info.backend_pid)
        await terminate(admin, connection.info.backend_pid)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_it)
        with pytest.raises(errors.AdminShutdown):
            await execute_in_turn_async(connection, slow, parts(), ADAPTERS)
    assert connection.closed
    assert await fetch_value(admin, "SELECT count(*) FROM t") == 0


@pytest.mark.usefixtures("table")
async def test_a_session_that_had_ended_before_tells_why(
    database: str, admin: TrioConnection
) -> None:
    # More than the wire holds, so that a write fails before anything is read.
    large = (part for part in [[b"1", b"x" * 4_000_000]] * 3)
    command = Command(b"large", b"SELECT $1::int, length($2::text)")
    with psycopg.connect(database, autocommit=True) as connection:
        await terminate(admin, connection.info.backend_pid)
        with pytest.raises(errors.AdminShutdown):
            execute_in_turn(connection, command, large, ADAPTERS)
        assert connection.closed


# -- cancelled --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("resuming", [False, True], ids=["while waiting", "when resuming"])
@pytest.mark.parametrize("busy", [False, True], ids=["quick", "yielding at each write"])
async def test_a_cancel_at_any_step_leaves_all_or_nothing(
    connection: TrioConnection, monkeypatch: pytest.MonkeyPatch, *, busy: bool, resuming: bool
) -> None:
    if busy:

        async def always_yield(_pace: Pace) -> None:
            await trio.lowlevel.checkpoint()

        monkeypatch.setattr(Pace, "yield_if_busy", always_yield)
    # Slow enough for the cancel to meet it on the server, most of the time.
    slow = Command(
        b"slow",
        b"WITH slept AS MATERIALIZED (SELECT pg_sleep(0.005)) "
        b"INSERT INTO t SELECT n FROM slept, unnest($1::int[]) n RETURNING i, pg_current_xact_id()::text",
    )
    ends: list[bool] = []
    for step in range(1, 25):
        returned = False
        with cancelled_at(step, resuming=resuming) as cancel:
            check_answer(await execute_in_turn_async(connection, slow, parts(), ADAPTERS))
            returned = True
        assert returned or cancel.scope.cancelled_caught
        assert not connection.closed, f"the connection was given up at step {step}"
        await assert_usable(connection)
        written = await fetch_value(connection, "SELECT count(*) FROM t")
        assert written == (8 if returned else 0), f"step {step}"
        await connection.execute("TRUNCATE t")
        ends.append(returned)
    assert not ends[0]
    assert ends[-1]


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("place", range(4))
async def test_in_a_cancelled_scope_nothing_more_is_sent(
    connection: TrioConnection, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    sent: list[Any] = []
    send = in_turn.InTurn.send

    def note(self: in_turn.InTurn, given: Any) -> Any:
        sent.append(given)
        return send(self, given)

    monkeypatch.setattr(in_turn.InTurn, "send", note)
    with trio.CancelScope() as scope:

        def cancelling() -> Iterator[list[bytes | None]]:
            for number, part in enumerate(parts()):
                if number == place:
                    scope.cancel()
                yield part

        await execute_in_turn_async(connection, INSERT, cancelling(), ADAPTERS)
    assert scope.cancelled_caught
    assert len(sent) == place
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 0


@pytest.mark.usefixtures("table")
async def test_a_frozen_wire_costs_the_connection_not_the_caller(
    proxy: Proxy, database: str, connection: TrioConnection
) -> None:
    """At the first answer: something is written by then."""
    await assert_frozen_wire_costs_the_connection(
        proxy,
        database,
        lambda frozen: execute_in_turn_async(frozen, INSERT, parts(), ADAPTERS),
        direction=Direction.TO_CLIENT,
    )
    await proxy.cut()
    assert await fetch_value(connection, "SELECT count(*) FROM t") == 0


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("sleeping", range(3))
def test_a_cancelled_asyncio_task_leaves_nothing(database: str, sleeping: int) -> None:
    slow = Command(
        b"slow",
        b"INSERT INTO t SELECT n FROM unnest($1::int[]) n, pg_sleep($2::int) RETURNING i",
    )
    given = (
        [part[0], b"600" if number == sleeping else b"0"] for number, part in enumerate(parts())
    )

    async def use(connection: psycopg.AsyncConnection[Any]) -> None:
        statement = execute_in_turn_async(connection, slow, given, ADAPTERS)
        await cancel_in_asyncio(database, connection, statement)
        assert not connection.closed
        cursor = await connection.execute("SELECT count(*) FROM t")
        assert await cursor.fetchone() == (0,)

    in_asyncio(database, use)


class InterruptedAtTheEnd:
    """A libpq connection whose user presses Ctrl-C when the answer to the sync has been read."""

    def __init__(self, pgconn: Any) -> None:
        self._pgconn = pgconn
        self._is_interrupted = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pgconn, name)

    def exit_pipeline_mode(self) -> None:
        if not self._is_interrupted:
            self._is_interrupted = True
            raise KeyboardInterrupt
        self._pgconn.exit_pipeline_mode()


@pytest.mark.usefixtures("table")
def test_ctrl_c_when_nothing_is_left_to_be_read(database: str) -> None:
    """The answer that ends the pipeline does not come again."""
    with psycopg.connect(database, autocommit=True) as connection:
        exchange = in_turn.InTurn(cast("Any", InterruptedAtTheEnd(connection.pgconn)), INSERT)
        for part in parts():
            connection.wait(exchange.send(part))
        with pytest.raises(KeyboardInterrupt):
            connection.wait(exchange.commit())
        connection.wait(exchange.undo())
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (8,)
