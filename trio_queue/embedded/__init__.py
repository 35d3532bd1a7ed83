"""An embedded PostgreSQL server, for demos, development and tests.

    with EmbeddedServer() as server:
        psycopg.connect(server.conninfo())

    async with open_embedded_server(ephemeral=True) as server:
        ...

How it lives: every process that uses a directory's server holds a shared lock there; one detached supervisor, the
parent of PostgreSQL, waits for the exclusive lock and stops the server when it gets it. See `locks.py`.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

if sys.platform == "win32":
    raise ImportError(
        "the embedded server runs on POSIX systems only: on Windows install PostgreSQL, and give its connection string"
    )

from trio_queue.embedded.binaries import Binaries, find_binaries
from trio_queue.embedded.directories import default_directory
from trio_queue.embedded.errors import EmbeddedServerError
from trio_queue.embedded.locks import ServerState
from trio_queue.embedded.server import EmbeddedServer

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Mapping

__all__ = [
    "Binaries",
    "EmbeddedServer",
    "EmbeddedServerError",
    "ServerState",
    "default_directory",
    "find_binaries",
    "open_embedded_server",
]


@contextlib.asynccontextmanager
async def open_embedded_server(
    directory: str | os.PathLike[str] | None = None,
    *,
    ephemeral: bool = False,
    tcp: bool = False,
    settings: Mapping[str, str | int] | None = None,
    binaries: Binaries | None = None,
    start_timeout: float = 60.0,
) -> AsyncGenerator[EmbeddedServer]:
    """Use an embedded server from Trio.

    When cancelled while it starts, `initdb` is killed, nothing half-made stays, and a server that was just starting
    stops by itself. Leaving does not wait for the server's end.

    Args:
        directory: Where its files live; see `EmbeddedServer`.
        ephemeral: A throw-away server, removed after its last user.
        tcp: Listen on a free port of 127.0.0.1 too.
        settings: Further settings of the server.
        binaries: The programs; None means to search.
        start_timeout: Seconds that starting may take altogether.

    Yields:
        The started server; ask it for `conninfo()`.

    Raises:
        EmbeddedServerError: It cannot be started; says who must do what.
    """
    import trio

    server = EmbeddedServer(
        directory,
        ephemeral=ephemeral,
        tcp=tcp,
        settings=settings,
        binaries=binaries,
        start_timeout=start_timeout,
    )
    try:
        await trio.to_thread.run_sync(server.start, trio.from_thread.check_cancelled)
        yield server
    finally:
        server.close()
