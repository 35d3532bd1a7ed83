"""A stand-in for PgBouncer in transaction mode, of versions before 1.21: `python -m tests.pooler CONNINFO SIZE`.

Between two transactions any connection to the server serves any client. What a session keeps (SET, LISTEN, prepared
statements, advisory locks, temporary tables) stays on the connection to the server: the client that made it finds it or
not, and others find it too.

As PgBouncer does:

- the startup packet may have the parameters that PgBouncer follows, and no others: `options` is refused;
- these (`TimeZone`, `application_name`, ...) are followed: whatever connection serves a client has the client's values;
- the client gets a key of the pooler's own, so that the number of its backend is not that of any server process;
- a connection comes back when the server says that no transaction is open and everything asked is answered; the one that
  came back last is lent first;
- a client that leaves in the middle of a transaction costs the connection.

Unlike PgBouncer it asks nobody for a password, has no limits in time, and no console.

A process of its own: a test may block its own one, with libpq holding the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from typing import Final

import attrs
import psycopg
import trio
from psycopg.conninfo import make_conninfo

#: What PgBouncer follows of a session, by what the server calls it.
FOLLOWED: Final = (
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "standard_conforming_strings",
    "application_name",
)
#: What else a startup packet may name.
_ADDRESS: Final = frozenset({"user", "database"})
_TOLD_TO_CLIENTS: Final = (*FOLLOWED, "server_version", "integer_datetimes", "server_encoding")
_CANCEL, _TLS, _GSS = 80877102, 80877103, 80877104
_GONE = (trio.EndOfChannel, trio.BrokenResourceError, trio.ClosedResourceError)


def _message(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("!I", len(payload) + 4) + payload


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _error(text: str) -> bytes:
    return _message(b"E", b"SFATAL\0VFATAL\0C08P01\0M" + _text(text) + b"\0")


class _Reader:
    """Messages of the protocol, one after the other."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    @property
    def has_more(self) -> bool:
        """Whether more has been received already."""
        return bool(self._buffer)

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = await self._stream.receive_some(65_536)
            if not data:
                raise trio.EndOfChannel
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    async def startup(self) -> tuple[int, bytes]:
        """The code of a first packet, and what follows it."""
        length, code = struct.unpack("!II", await self._exactly(8))
        return code, await self._exactly(length - 8)

    async def message(self) -> tuple[bytes, bytes]:
        """The letter of a message, and what follows its length."""
        kind, length = struct.unpack("!cI", await self._exactly(5))
        return kind, await self._exactly(length - 4)


@attrs.define(eq=False)
class _Client:
    """A client's connection."""

    stream: trio.SocketStream
    key: bytes
    followed: dict[str, str]
    server: _Server | None = None
    _sending: trio.Lock = attrs.field(factory=trio.Lock)

    async def send(self, data: bytes) -> None:
        """Send it something; nothing happens where it has gone."""
        # The connection that answered last and the one that answers now may both be about to.
        async with self._sending:
            with contextlib.suppress(*_GONE):
                await self.stream.send_all(data)


@attrs.define(eq=False)
class _Server:
    """A connection to the server."""

    #: Psycopg's: it logged in, and can cancel what runs. Its socket is read and written by us alone.
    connection: psycopg.Connection
    stream: trio.SocketStream
    followed: dict[str, str]
    client: _Client | None = None
    #: How many more times it has to say that it is ready, before all is answered.
    awaited: int = 0
    #: The answer to what the pooler itself sent is not for the client.
    is_own: bool = False
    own_done: trio.Event = attrs.field(factory=trio.Event)
    _sending: trio.Lock = attrs.field(factory=trio.Lock)

    async def send(self, data: bytes) -> None:
        """Send it something."""
        # It may have answered, and serve the next client, before the task that sent the question goes on.
        async with self._sending:
            await self.stream.send_all(data)


class _Pool:
    """The connections to one database."""

    def __init__(self, conninfo: str, size: int, nursery: trio.Nursery) -> None:
        self._conninfo = conninfo
        self._nursery = nursery
        self._places = trio.Semaphore(size)
        self._idle: list[_Server] = []
        self._servers: list[_Server] = []
        self._told: dict[str, str] = {}

    async def told(self) -> dict[str, str]:
        """What the first connection said, before anybody set anything: what clients begin with."""
        if not self._told:
            server = await self._take()
            known = server.connection.pgconn.parameter_status
            self._told = {name: (known(name.encode()) or b"").decode() for name in _TOLD_TO_CLIENTS}
            self._put(server)
        return self._told

    async def link(self, client: _Client) -> _Server:
        """Lend a client a connection, with the client's values of what is followed."""
        server = await self._take()
        wanted = {n: v for n, v in client.followed.items() if v != server.followed.get(n)}
        if wanted:
            server.is_own, server.own_done = True, trio.Event()
            quoted = {name: value.replace("'", "''") for name, value in wanted.items()}
            text = "".join(f"SET {name} = '{value}';" for name, value in quoted.items())
            await server.send(_message(b"Q", _text(text)))
            await server.own_done.wait()
            server.is_own = False
            server.followed.update(wanted)
        server.client, client.server = client, server
        return server

    def drop(self, server: _Server) -> None:
        """Close a connection that a client left, or the server closed, in the middle of something."""
        if server not in self._servers:
            return
        self._servers.remove(server)
        server.client = None
        server.stream.socket.close()
        server.connection.close()
        self._places.release()

    async def _take(self) -> _Server:
        await self._places.acquire()
        try:
            return self._idle.pop() if self._idle else await self._connect()
        except BaseException:
            self._places.release()
            raise

    def _put(self, server: _Server) -> None:
        self._idle.append(server)
        self._places.release()

    async def _connect(self) -> _Server:
        connection = await trio.to_thread.run_sync(
            lambda: psycopg.connect(self._conninfo, autocommit=True)
        )
        owned = socket.socket(fileno=os.dup(connection.fileno()))
        owned.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(owned))
        known = connection.pgconn.parameter_status
        followed = {name: (known(name.encode()) or b"").decode() for name in FOLLOWED}
        server = _Server(connection, stream, followed)
        self._servers.append(server)
        self._nursery.start_soon(self._read, server)
        return server

    async def _read(self, server: _Server) -> None:
        with contextlib.suppress(*_GONE):
            await self._pass_on(server)
        if server in self._idle:
            self._idle.remove(server)
            self._servers.remove(server)
            server.connection.close()
            return
        if (client := server.client) is not None:
            client.server = None
            client.stream.socket.close()
        self.drop(server)

    async def _pass_on(self, server: _Server) -> None:
        """Pass on what a server says, to whom it serves by then; while it serves nobody, it is lost."""
        reader = _Reader(server.stream)
        answer = bytearray()
        while True:
            kind, payload = await reader.message()
            if server.is_own:
                if kind == b"Z":
                    server.own_done.set()
                continue
            client = server.client
            answer += _message(kind, payload)
            if kind == b"S":
                self._follow(server, payload)
            if kind == b"Z":
                server.awaited -= 1
                if payload == b"I" and not server.awaited and client is not None:
                    # Before the answer is sent: what the client says next may be here at once.
                    server.client = client.server = None
                    self._put(server)
            if kind == b"Z" or not reader.has_more:
                if client is not None:
                    await client.send(bytes(answer))
                answer.clear()

    def _follow(self, server: _Server, payload: bytes) -> None:
        name, value = payload.decode().rstrip("\0").split("\0")
        if name in FOLLOWED:
            server.followed[name] = value
            if server.client is not None:
                server.client.followed[name] = value


class Pooler:
    """The pooler.

    Args:
        conninfo: The server; each database of it has a pool of its own.
        size: How many connections to each database there are at most.
        nursery: Its tasks run there.
    """

    def __init__(self, conninfo: str, size: int, nursery: trio.Nursery) -> None:
        self._conninfo = conninfo
        self._size = size
        self._nursery = nursery
        self._pools: dict[str, _Pool] = {}
        self._clients: dict[bytes, _Client] = {}

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve a client until it leaves."""
        with contextlib.suppress(*_GONE):
            try:
                await self._handle(stream)
            except psycopg.Error as error:  # the server refuses, or its database is gone
                await stream.send_all(_error(str(error)))
        stream.socket.close()

    async def _handle(self, stream: trio.SocketStream) -> None:
        reader = _Reader(stream)
        code, payload = await reader.startup()
        while code in {_TLS, _GSS}:
            await stream.send_all(b"N")
            code, payload = await reader.startup()
        if code == _CANCEL:
            found = self._clients.get(payload)
            if found is not None and found.server is not None:
                await trio.to_thread.run_sync(found.server.connection.cancel)
            return
        words = payload.decode().rstrip("\0").split("\0")
        asked = dict(zip(words[::2], words[1::2], strict=True))
        names = {name.lower(): name for name in FOLLOWED}
        if unknown := [n for n in asked if n.lower() not in names and n not in _ADDRESS]:
            await stream.send_all(_error(f"unsupported startup parameter: {unknown[0]}"))
            return
        pool = self._pool_of(asked["database"])
        told = {
            **await pool.told(),
            **{names[n.lower()]: v for n, v in asked.items() if n not in _ADDRESS},
        }
        client = _Client(stream, os.urandom(8), {name: told[name] for name in FOLLOWED})
        self._clients[client.key] = client
        await client.send(
            _message(b"R", struct.pack("!I", 0))
            + b"".join(_message(b"S", _text(name) + _text(told[name])) for name in told)
            + _message(b"K", client.key)
            + _message(b"Z", b"I")
        )
        try:
            await self._serve(pool, client, reader)
        finally:
            del self._clients[client.key]
            if client.server is not None:
                pool.drop(client.server)

    def _pool_of(self, database: str) -> _Pool:
        if database not in self._pools:
            conninfo = make_conninfo(self._conninfo, dbname=database)
            self._pools[database] = _Pool(conninfo, self._size, self._nursery)
        return self._pools[database]

    async def _serve(self, pool: _Pool, client: _Client, reader: _Reader) -> None:
        while True:
            kind, payload = await reader.message()
            if kind == b"X":
                return
            server = client.server or await pool.link(client)
            if kind in b"QSF":
                server.awaited += 1
            await server.send(_message(kind, payload))


async def main(conninfo: str, size: int) -> None:
    """Tell the port, and serve until the standard input is closed."""
    local = make_conninfo(conninfo, sslmode="disable", gssencmode="disable")
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4_096)
    async with trio.open_nursery() as nursery:
        pooler = Pooler(local, size, nursery)
        nursery.start_soon(trio.serve_listeners, pooler.handle, listeners)
        print(listeners[0].socket.getsockname()[1], flush=True)  # noqa: T201 - whoever started it reads it
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], int(sys.argv[2]))
