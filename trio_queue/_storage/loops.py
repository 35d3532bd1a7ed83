"""Which event loop's connections serve the code that calls, and what would block a loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import sniffio
import trio

from trio_queue._pg.connection import TrioConnection
from trio_queue.connector import running_loop
from trio_queue.exceptions import AppNotOpen, ConnectorException

T = TypeVar("T")

_IN_A_LOOP = (
    "this is a sync call in the thread of an event loop, which it would block while the database "
    "is asked: await defer_async(), or the method whose name ends in _async. (Sync code in other "
    "threads may call it; and so may this, if you accept that, after app.open().)"
)


def in_trio() -> bool:
    """Whether Trio's connections serve the code that calls this: Trio code, or trio-asyncio's.

    psycopg was imported before trio-asyncio replaced what it needs of asyncio, and over Trio a query
    costs a third.
    """
    return trio.lowlevel.in_trio_task()


def trio_runs_this_code() -> bool:
    """Whether the code that calls this is Trio's, and not asyncio's inside Trio."""
    return in_trio() and sniffio.current_async_library() == "trio"


async def in_serving_loop(function: Callable[[], Awaitable[T]]) -> T:
    """Await a function in the loop whose connections serve the caller."""
    if not in_trio() or trio_runs_this_code():
        return await function()
    import asyncio

    loop: Any = asyncio.get_running_loop()  # trio-asyncio's, which has a way back
    result: T = await loop.trio_as_future(function)
    return result


def refuse_in_a_loop() -> None:
    """Refuse a sync call that would block the running event loop. Raises AppNotOpen."""
    if running_loop() is not None:
        raise AppNotOpen(_IN_A_LOOP)


def check_loop(connection: psycopg.AsyncConnection[Any]) -> None:
    """Refuse a connection of the other loop. Raises ConnectorException."""
    if isinstance(connection, TrioConnection) is not trio_runs_this_code():
        raise ConnectorException(
            "connection= belongs to another event loop: under Trio give a sync psycopg.Connection "
            "or a TrioConnection, under asyncio a psycopg.AsyncConnection"
        )
