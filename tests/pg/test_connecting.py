from __future__ import annotations

import math
import socket
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import trio
import trio.testing
from psycopg.conninfo import make_conninfo

from tests.pg.helpers import assert_usable
from trio_queue._pg import TrioConnection, connecting
from trio_queue._pg.connecting import connect_timeout, connection_parameters

if TYPE_CHECKING:
    from tests.fix_proxy import Message, Proxy


def test_a_dead_wire_is_found_by_default() -> None:
    parameters = connection_parameters("dbname=app")
    assert parameters["tcp_user_timeout"] == 30_000
    assert parameters["keepalives_idle"] == 10
    assert parameters["keepalives_interval"] == 5
    assert parameters["keepalives_count"] == 3


def test_what_the_user_says_wins() -> None:
    parameters = connection_parameters(
        "dbname=app tcp_user_timeout=1000 keepalives_idle=7", keepalives_idle=8, user=None
    )
    assert parameters["tcp_user_timeout"] == "1000"
    assert parameters["keepalives_idle"] == 8
    assert "user" not in parameters


async def test_the_defaults_reach_the_socket(proxy: Proxy, database: str) -> None:
    async with await TrioConnection.connect(proxy.conninfo(database)) as connection:
        with socket.socket(fileno=socket.dup(connection.pgconn.socket)) as wire:
            assert wire.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # not on macOS
                assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
                assert wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


def test_a_string_that_cannot_be_read_is_refused_without_showing_it() -> None:
    with pytest.raises(psycopg.ProgrammingError, match="cannot be read") as caught:
        connection_parameters("alice:secret@db")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(psycopg.ProgrammingError, match="colour"):
        connection_parameters("dbname=app", colour="blue")


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), (0.5, 0.5), ("0", math.inf), (-1, math.inf), (0, math.inf)]
)
def test_the_connect_timeout(value: Any, seconds: float) -> None:
    assert connect_timeout({"connect_timeout": value}) == seconds


def test_the_connect_timeout_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    assert connect_timeout({}) == 10
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "4")
    assert connect_timeout({}) == 4


def test_a_connect_timeout_that_is_no_number() -> None:
    with pytest.raises(psycopg.ProgrammingError, match="number of seconds, not 'soon'"):
        connection_parameters("connect_timeout=soon")


async def test_the_second_host_answers(proxy: Proxy, database: str) -> None:
    conninfo = make_conninfo(
        proxy.conninfo(database), host="127.0.0.1,127.0.0.1", port=f"1,{proxy.port}"
    )
    async with await TrioConnection.connect(conninfo) as connection:
        await assert_usable(connection)


async def jump_when_accepted(proxy: Proxy, clock: trio.testing.MockClock) -> None:
    """Let a second pass once there is a connection to the proxy, and no time before and after."""
    while not proxy.accepted:
        await trio.testing.wait_all_tasks_blocked(0.001)
    clock.jump(1)


async def test_a_host_that_does_not_answer_is_given_up(
    proxy: Proxy, database: str, postgres_server: Any, mock_clock: trio.testing.MockClock
) -> None:
    proxy.freeze()
    conninfo = make_conninfo(
        proxy.conninfo(database),
        host="127.0.0.1,127.0.0.1",
        port=f"{proxy.port},{postgres_server.port}",
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jump_when_accepted, proxy, mock_clock)
        async with await TrioConnection.connect(conninfo, connect_timeout=0.1) as connection:
            await assert_usable(connection)


async def test_every_failure_is_in_the_error() -> None:
    with pytest.raises(psycopg.OperationalError) as caught:
        await TrioConnection.connect(
            "host=127.0.0.1,no-such-host.invalid,127.0.0.1 port=1,1,2 password=secret"
        )
    message = str(caught.value)
    assert "host=127.0.0.1 hostaddr=127.0.0.1 port=1:" in message
    assert "host=127.0.0.1 hostaddr=127.0.0.1 port=2:" in message
    assert "host=no-such-host.invalid: its name cannot be resolved" in message
    assert "secret" not in message
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


async def test_a_name_that_cannot_be_resolved() -> None:
    with pytest.raises(psycopg.OperationalError, match=r"no-such-host\.invalid"):
        await TrioConnection.connect("host=no-such-host.invalid")


async def test_a_resolver_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    released = trio.Event()

    def resolve(_parameters: Any) -> list[dict[str, Any]]:
        trio.from_thread.run(released.wait)
        return []

    monkeypatch.setattr(connecting, "conninfo_attempts", resolve)
    with pytest.raises(psycopg.errors.ConnectionTimeout, match=r"not resolved within 0\.05"):
        await TrioConnection.connect("host=slow.example", connect_timeout=0.05)
    released.set()


async def test_a_server_that_does_not_answer_is_named(
    proxy: Proxy, database: str, mock_clock: trio.testing.MockClock
) -> None:
    proxy.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(jump_when_accepted, proxy, mock_clock)
        with pytest.raises(psycopg.errors.ConnectionTimeout) as caught:
            await TrioConnection.connect(proxy.conninfo(database), connect_timeout=0.05)
    assert f"port={proxy.port}" in str(caught.value)
    assert "no connection within 0.05 seconds (connect_timeout)" in str(caught.value)


async def test_what_the_server_says_is_passed_on(database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        await TrioConnection.connect(database, dbname="nowhere")


async def test_connecting_can_be_cancelled(proxy: Proxy, database: str) -> None:
    proxy.freeze()
    with trio.move_on_after(0.02) as scope:
        await TrioConnection.connect(proxy.conninfo(database))
    assert scope.cancelled_caught


async def test_a_wire_that_is_cut_while_connecting(proxy: Proxy, database: str) -> None:
    async def cut(message: Message) -> None:
        if message.kind == "startup":
            await proxy.cut()
        await trio.lowlevel.checkpoint()

    proxy.on_message = cut
    with pytest.raises(psycopg.OperationalError, match="closed the connection unexpectedly"):
        await TrioConnection.connect(proxy.conninfo(database))


async def test_connecting_does_not_wait_for_a_users_threads(database: str) -> None:
    limiter = trio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    try:
        with trio.fail_after(30):
            await (await TrioConnection.connect(database)).close()
    finally:
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)


async def test_a_name_is_resolved(database: str, postgres_server: Any) -> None:
    conninfo = make_conninfo(database, host="localhost", port=postgres_server.port)
    async with await TrioConnection.connect(conninfo) as connection:
        await assert_usable(connection)
