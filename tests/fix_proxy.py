"""A TCP proxy before the server: it freezes the wire, cuts it, and stops it at a chosen message.

It runs in Trio, in the test's own run, and reads PostgreSQL's protocol as far as to know where a
message begins and of which kind it is.
"""

from __future__ import annotations

import contextlib
import struct
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs
import pytest
import trio
from psycopg.conninfo import make_conninfo

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


class Direction(Enum):
    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


@attrs.frozen
class Message:
    """A message of the protocol on its way.

    Attributes:
        direction: Where it goes.
        kind: Its letter (``Q``, ``P``, ``S``, ``Z``, ...); ``startup`` or ``cancel`` for the
            first one of a connection.
        number: Its place among the messages of its connection and direction, from 0.
        connection: The number of the connection, from 0.
        payload: What follows its length.
    """

    direction: Direction
    kind: str
    number: int
    connection: int
    payload: bytes


Hook: TypeAlias = "Callable[[Message], Awaitable[None]]"


class CutTheWire(Exception):  # noqa: N818 - an order, not an error
    """Raised by a hook: close both ends instead of forwarding the message."""


class _Server(Protocol):
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...


CANCEL_REQUEST_CODE = 80877102


class _Framer:
    """Splits one direction of one connection into messages."""

    def __init__(self, direction: Direction, connection: int) -> None:
        self._direction = direction
        self._connection = connection
        self._buffer = b""
        self._number = 0

    def feed(self, data: bytes) -> list[tuple[Message, bytes]]:
        self._buffer += data
        messages: list[tuple[Message, bytes]] = []
        while (cut := self._cut_one()) is not None:
            messages.append(cut)
        return messages

    def _cut_one(self) -> tuple[Message, bytes] | None:
        is_first = self._direction is Direction.TO_SERVER and self._number == 0
        head = 0 if is_first else 1
        if len(self._buffer) < head + 4:
            return None
        (length,) = struct.unpack_from("!I", self._buffer, head)
        end = head + length
        if len(self._buffer) < end:
            return None
        raw, self._buffer = self._buffer[:end], self._buffer[end:]
        payload = raw[head + 4 :]
        if not is_first:
            kind = raw[:1].decode()
        elif struct.unpack_from("!I", payload)[0] == CANCEL_REQUEST_CODE:
            kind = "cancel"
        else:
            kind = "startup"
        message = Message(self._direction, kind, self._number, self._connection, payload)
        self._number += 1
        return message, raw


class Proxy:
    """A proxy before a PostgreSQL server.

    Attributes:
        host, port: Where it listens.
        on_message: Awaited with each message before it is forwarded; it may wait, or raise
            `CutTheWire`. Whatever comes behind in the same direction waits too.
        accepted: How many connections were made to it.
        passes_on_the_end: Whether one end is closed when the other was; where not, the last
            message arrives and the end of the stream does not.
    """

    def __init__(self, server: _Server) -> None:
        self._server = server
        self.host = "127.0.0.1"
        self.port = 0
        self.on_message: Hook | None = None
        self.accepted = 0
        self.passes_on_the_end = True
        self._refusing = False
        self._flowing = trio.Event()
        self._flowing.set()
        self._connections: dict[trio.CancelScope, trio.Event] = {}

    def conninfo(self, conninfo: str) -> str:
        """Lead a connection string through the proxy. TLS would hide the messages: no TLS."""
        return make_conninfo(
            conninfo, host=self.host, port=self.port, sslmode="disable", gssencmode="disable"
        )

    def freeze(self) -> None:
        """Forward nothing; connections are accepted by the kernel and get no answer."""
        self._flowing = trio.Event()

    def thaw(self) -> None:
        """Forward what was held back, and all that follows."""
        self._flowing.set()

    async def cut(self) -> None:
        """Close the connections there are, and wait until both ends are closed.

        In a hook this ends the hook: its connection is one of them.
        """
        connections = dict(self._connections)
        for scope in connections:
            scope.cancel()
        for closed in connections.values():
            await closed.wait()

    async def refuse(self) -> None:
        """Cut, and close each new connection at once: the server is away."""
        self._refusing = True
        await self.cut()

    def accept(self) -> None:
        """Let connections through again."""
        self._refusing = False

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host=self.host)
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._handle, listeners)

    async def _handle(self, client: trio.SocketStream) -> None:
        number = self.accepted
        self.accepted += 1
        if self._refusing:
            client.socket.close()
            return
        try:
            server = await trio.open_tcp_stream(self._server.host, self._server.port)
        except OSError:  # the server is away
            client.socket.close()
            return
        with contextlib.suppress(CutTheWire), trio.CancelScope() as scope:
            self._connections[scope] = trio.Event()
            try:
                await self._pump_both(client, server, number)
            finally:
                client.socket.close()
                server.socket.close()
                self._connections.pop(scope).set()

    async def _pump_both(
        self, client: trio.SocketStream, server: trio.SocketStream, number: int
    ) -> None:
        async def pump(
            source: trio.SocketStream, target: trio.SocketStream, direction: Direction
        ) -> None:
            framer = _Framer(direction, number)
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for data in source:
                    for message, raw in framer.feed(bytes(data)):
                        if self.on_message is not None:
                            await self.on_message(message)
                        await self._flowing.wait()
                        await target.send_all(raw)
            if self.passes_on_the_end:
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, client, server, Direction.TO_SERVER)
                nursery.start_soon(pump, server, client, Direction.TO_CLIENT)
        except* CutTheWire:
            pass


@pytest.fixture
async def proxy(postgres_server: _Server) -> AsyncGenerator[Proxy, None]:
    """A proxy before the tests' server."""
    proxy = Proxy(postgres_server)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        yield proxy
        nursery.cancel_scope.cancel()
