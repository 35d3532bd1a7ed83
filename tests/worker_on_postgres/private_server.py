"""A server of a test's own, which it may kill and start again."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psycopg
import trio
from psycopg.conninfo import make_conninfo

from tests.fix_postgres import SETTINGS, apply_schema
from tests.waiting import wait_for_end
from trio_queue.embedded import EmbeddedServer
from trio_queue.embedded.binaries import find_binaries


def children(parent: int) -> list[int]:
    """The ids of a process's children, as the kernel tells them."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            # The name, in parentheses, may hold anything.
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                found.append(int(status.parent.name))
    return found


class PrivateServer:
    """A server that may be killed; its files stay.

    Args:
        tcp: Whether it listens for TCP too; then it listens elsewhere after each start. If not,
            its Unix socket stays where it was.
        **settings: Settings of the server.

    Attributes:
        host, port: Where it listens for TCP.
    """

    def __init__(self, *, tcp: bool = True, **settings: str | int) -> None:
        self._tcp = tcp
        # What was committed survives the server's death, which throw-away servers do not promise.
        self._settings = {**SETTINGS, "synchronous_commit": "on", **settings}
        self._first = self._server()
        self._first.start()
        self._current = self._first
        self.host = "127.0.0.1"
        with psycopg.connect(self._first.conninfo(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE queue")
        apply_schema(self.conninfo())

    def _server(self, directory: str | None = None) -> EmbeddedServer:
        return EmbeddedServer(
            directory,
            ephemeral=True,
            tcp=self._tcp,
            settings=self._settings,
            binaries=find_binaries(system=False),
        )

    @property
    def port(self) -> int:
        return self._current.state.port

    def conninfo(self, *, tcp: bool = False) -> str:
        return make_conninfo(
            self._current.conninfo("queue", tcp=tcp), password=self._current.password
        )

    def kill(self, number: signal.Signals, *, alone: bool = False) -> None:
        """Stop it; SIGKILL crashes it, SIGINT ends every session and stops.

        Args:
            number: SIGKILL or SIGINT.
            alone: Kill the postmaster only; its sessions notice when they next wait.
        """
        state = self._current.state
        sessions = children(state.postgres_pid)
        os.kill(state.postgres_pid, number)
        if number == signal.SIGKILL and not alone:
            # A session notices the death of its parent when it next waits: until then it commits.
            for pid in sessions:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        for pid in (state.postgres_pid, *sessions):
            wait_for_end(pid)
        wait_for_end(state.supervisor_pid)

    async def start_again(self) -> None:
        """Start it on the same files, of which the first user is still a user."""
        await trio.to_thread.run_sync(self.restart)

    def restart(self) -> None:
        """As `start_again`, from sync code."""
        again = self._server(str(self._first.directory))
        again.start()
        # In this order: the proxy asks for the port meanwhile, in another thread.
        last, self._current = self._current, again
        if last is not self._first:
            last.close()

    def close(self) -> None:
        self._current.close()
        self._first.close()
