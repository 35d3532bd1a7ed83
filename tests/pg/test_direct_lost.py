"""Statements without a cursor over connections that are lost meanwhile: an error that says why, and no wait for ever."""

from __future__ import annotations

import psycopg
import pytest
import trio
from psycopg import errors

from tests.fix_proxy import Direction, Message, Proxy
from tests.pg.helpers import (
    assert_frozen_wire_costs_the_connection,
    terminate,
    wait_until_running,
)
from tests.pg.test_direct import ADAPTERS, echo
from tests.waiting import PATIENCE
from trio_queue._pg import TrioConnection
from trio_queue._pg.direct import Command, execute_async


async def test_the_servers_last_words_are_the_reason(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    async def end_it() -> None:
        await wait_until_running(admin, connection.info.backend_pid)
        await terminate(admin, connection.info.backend_pid)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_it)
        with pytest.raises(errors.AdminShutdown):
            await execute_async(connection, Command(b"s", b"SELECT pg_sleep(600)"), [], ADAPTERS)
    assert connection.broken


async def test_a_connection_that_was_lost_while_idle(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    await terminate(admin, connection.info.backend_pid)
    with pytest.raises(psycopg.OperationalError):
        await echo(connection)
    assert connection.broken
    with pytest.raises(psycopg.OperationalError, match=r"lost|closed"):
        await echo(connection)


@pytest.mark.parametrize("threshold", [0, None])
@pytest.mark.parametrize("kind", ["1", "T", "D", "C", "Z"])
async def test_a_wire_that_is_cut(
    proxy: Proxy, database: str, kind: str, threshold: int | None
) -> None:
    connection = await TrioConnection.connect(proxy.conninfo(database), prepare_threshold=threshold)

    async def cut(message: Message) -> None:
        if message.kind == kind:
            await proxy.cut()
        await trio.lowlevel.checkpoint()

    proxy.on_message = cut
    with trio.fail_after(PATIENCE), pytest.raises(psycopg.OperationalError):
        await echo(connection)
    assert connection.broken


async def test_a_frozen_wire_costs_the_connection_not_the_caller(
    proxy: Proxy, database: str
) -> None:
    await assert_frozen_wire_costs_the_connection(
        proxy, database, echo, direction=Direction.TO_SERVER
    )
