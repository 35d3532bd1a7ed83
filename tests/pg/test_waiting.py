from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import os
import socket
from typing import TYPE_CHECKING

import psycopg
import pytest
import trio
import trio.testing
from psycopg.waiting import Ready, Wait

from tests.pg.helpers import terminate
from trio_queue._pg import TrioConnection, waiting
from trio_queue._pg.bounded import BoundedConnection
from trio_queue._pg.waiting import (
    PSYCOPG_INTERNALS,
    ConnectionLock,
    Exchange,
    Pace,
    in_cancelled_scope,
    is_readable_now,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.fix_proxy import Proxy


# -- psycopg's internals ------------------------------------------------------------------------


@pytest.mark.parametrize("name", PSYCOPG_INTERNALS)
async def test_psycopg_still_has_what_is_relied_on(
    name: str, connection: TrioConnection, database: str
) -> None:
    if name.startswith("psycopg.AsyncConnection."):
        plain = psycopg.AsyncConnection(connection.pgconn)
        plain._pool = None  # pyright: ignore[reportPrivateUsage] - silences its ResourceWarning
        assert hasattr(plain, name.rpartition(".")[2])
    elif name.startswith("psycopg.Connection."):
        with psycopg.connect(database) as sync:
            assert hasattr(sync, name.rpartition(".")[2])
    elif name.startswith("psycopg.AsyncCursor."):
        assert inspect.iscoroutinefunction(getattr(psycopg.AsyncCursor, name.rpartition(".")[2]))
    else:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


def test_the_values_that_generators_speak() -> None:
    assert [int(each) for each in (Wait.R, Wait.W, Wait.RW)] == [1, 2, 3]
    assert [int(each) for each in (Ready.R, Ready.W, Ready.RW)] == [1, 2, 3]


def test_wait_is_called_with_keywords_that_are_understood() -> None:
    known = set(inspect.signature(TrioConnection.wait).parameters)
    assert set(inspect.signature(psycopg.AsyncConnection.wait).parameters) <= known
    known = set(inspect.signature(BoundedConnection.wait).parameters)
    assert set(inspect.signature(psycopg.Connection.wait).parameters) <= known


ITERATION = "__anext__" if hasattr(psycopg.AsyncCursor, "__anext__") else "__aiter__"  # until 3.2


@pytest.mark.parametrize("name", ["fetchone", "fetchmany", "fetchall", ITERATION])
def test_every_fetch_passes_the_hook(name: str) -> None:
    assert "_fetch_pipeline" in inspect.getsource(getattr(psycopg.AsyncCursor, name))


@pytest.mark.parametrize("name", ["commit", "rollback", "set_autocommit"])
def test_every_exchange_takes_the_lock_and_waits(name: str) -> None:
    source = inspect.getsource(getattr(psycopg.AsyncConnection, name))
    assert "self.lock" in source
    assert "self.wait(" in source


# -- an exchange, on a socket of our own ----------------------------------------------------------


@pytest.fixture
def ends() -> Generator[tuple[socket.socket, socket.socket], None, None]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def ask(*wanted: Wait) -> Generator[Wait, Ready | int, list[int]]:
    answers: list[int] = []
    for each in wanted:
        answer = yield each
        answers += [int(answer)]
    return answers


def fill(ours: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(b"x" * 65536)


def drain(theirs: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            theirs.recv(1 << 20)


async def test_a_writable_socket_costs_no_turn(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_BUSY", math.inf)  # the process may stand still meanwhile
    exchange = Exchange(ask(Wait.W, Wait.RW), ends[0].fileno(), Pace())
    with trio.testing.assert_no_checkpoints():
        assert await exchange.run() == [Ready.W, Ready.W]


async def test_a_busy_connection_yields_by_time(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_BUSY", -1.0)
    exchange = Exchange(ask(Wait.W, Wait.W, Wait.W), ends[0].fileno(), Pace())
    with trio.testing.assert_checkpoints():
        await exchange.run()


async def test_a_busy_connection_can_be_cancelled_and_goes_on_where_it_was(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_BUSY", -1.0)
    exchange = Exchange(ask(*[Wait.W] * 5), ends[0].fileno(), Pace())
    with trio.CancelScope() as scope:
        scope.cancel()
        await exchange.run()
    assert scope.cancelled_caught
    assert await exchange.run() == [Ready.W] * 5


async def test_an_exchange_is_resumed_after_a_cancel(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    exchange = Exchange(ask(Wait.R), ends[0].fileno(), Pace())
    with trio.move_on_after(0) as scope:
        await exchange.run()
    assert scope.cancelled_caught
    ends[1].send(b"x")
    assert await exchange.run() == [Ready.R]


@pytest.mark.parametrize(
    ("wanted", "event"), [(Wait.RW, Ready.R), (Wait.RW, Ready.W), (Wait.W, Ready.W)]
)
async def test_a_full_socket_waits_for_what_comes_first(
    ends: tuple[socket.socket, socket.socket], wanted: Wait, event: Ready
) -> None:
    ours, theirs = ends
    fill(ours)
    results: list[int] = []

    async def run() -> None:
        results.extend(await Exchange(ask(wanted), ours.fileno(), Pace()).run())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        assert not results
        if event is Ready.R:
            theirs.send(b"x")
        else:
            drain(theirs)
    assert results == [event]


@pytest.mark.parametrize("wanted", [Wait.R, Wait.W, Wait.RW])
async def test_a_socket_closed_by_another_task_is_an_operational_error(
    ends: tuple[socket.socket, socket.socket], wanted: Wait
) -> None:
    ours, _ = ends
    fill(ours)

    async def close() -> None:
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.notify_closing(ours)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(close)
        with pytest.raises(psycopg.OperationalError, match="closed while a command"):
            await Exchange(ask(wanted), ours.fileno(), Pace()).run()


async def test_a_cancel_of_a_wait_for_both_is_no_group(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    fill(ends[0])
    exchange = Exchange(ask(Wait.RW), ends[0].fileno(), Pace())
    with trio.move_on_after(0), pytest.raises(trio.Cancelled):
        await exchange.run()
    ends[1].send(b"x")
    assert await exchange.run() == [Ready.R]


# -- an idle connection ---------------------------------------------------------------------------


async def test_a_terminated_connection_is_found_without_a_round_trip(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    assert not connection.has_hung_up()
    await terminate(admin, connection.info.backend_pid)
    assert connection.has_hung_up()


async def test_the_servers_last_words_are_a_hang_up(
    proxy: Proxy, database: str, admin: TrioConnection
) -> None:
    proxy.passes_on_the_end = False
    async with await TrioConnection.connect(proxy.conninfo(database)) as connection:
        assert not connection.has_hung_up()
        await terminate(admin, connection.info.backend_pid)
        await trio.lowlevel.wait_readable(connection.pgconn.socket)
        assert connection.has_hung_up()
        assert not connection.closed  # nothing but words came
        await connection.close()


def test_a_descriptor_that_fails_is_libpqs_to_find_out() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    assert is_readable_now(reader)


async def test_a_notification_is_no_hang_up(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await connection.execute("LISTEN c")
    await admin.execute("NOTIFY c, 'hello'")
    await trio.lowlevel.wait_readable(connection.pgconn.socket)
    assert not connection.has_hung_up()
    assert [each.payload for each in await connection.wait_notifies(0)] == ["hello"]


# -- the lock -------------------------------------------------------------------------------------


async def test_a_free_lock_costs_no_turn() -> None:
    lock = ConnectionLock(cleanup_timeout=5)
    with trio.testing.assert_no_checkpoints():
        async with lock:
            assert lock.locked()
    assert not lock.locked()


async def test_the_lock_is_fair_and_a_cancelled_waiter_leaves_the_queue() -> None:
    lock = ConnectionLock(cleanup_timeout=5)
    order: list[int] = []
    scopes: list[trio.CancelScope] = []

    async def take(number: int) -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            async with lock:
                order.append(number)
                await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery, lock:
        for number in range(4):
            nursery.start_soon(take, number)
            await trio.testing.wait_all_tasks_blocked()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
    assert order == [0, 2, 3]
    assert not lock.locked()


async def test_a_lock_handed_over_and_cancelled_in_one_turn_is_passed_on() -> None:
    lock = ConnectionLock(cleanup_timeout=5)
    entered: list[str] = []
    first = trio.CancelScope()

    async def take(name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with lock:
                entered.append(name)

    async with trio.open_nursery() as nursery:
        async with lock:
            nursery.start_soon(take, "first", first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(take, "second", trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
        first.cancel()  # the first owns the lock by now, and has not run yet
    assert entered == ["second"]
    assert not lock.locked()


async def test_clean_up_waits_for_the_lock_in_a_cancelled_scope() -> None:
    lock = ConnectionLock(cleanup_timeout=5)
    events: list[str] = []

    async def clean_up() -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with lock:
                events.append("entered")

    async with trio.open_nursery() as nursery, lock:
        nursery.start_soon(clean_up)
        await trio.testing.wait_all_tasks_blocked()
        events.append("left")
    assert events == ["left", "entered"]
    assert not lock.locked()


async def test_clean_up_does_not_wait_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lock = ConnectionLock(cleanup_timeout=5)
    async with lock:
        begun = trio.current_time()
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(psycopg.OperationalError, match="in use by another task"):
                await lock.__aenter__()
        assert trio.current_time() - begun == 5
    assert not lock.locked()


async def test_whether_a_scope_is_cancelled() -> None:
    assert not in_cancelled_scope()
    with trio.CancelScope() as scope:
        scope.cancel()
        assert in_cancelled_scope()
        with trio.CancelScope(shield=True):
            assert not in_cancelled_scope()
            await trio.lowlevel.checkpoint()
