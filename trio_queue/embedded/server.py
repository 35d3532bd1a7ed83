"""A user's side of the embedded server: become a user, start it or join it, say where it listens."""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from trio_queue.embedded.account import server_account
from trio_queue.embedded.binaries import Binaries, find_binaries
from trio_queue.embedded.cluster import password_file
from trio_queue.embedded.directories import (
    check_kind,
    claim_directory,
    default_directory,
    is_throwaway,
    make_throwaway_directory,
    removable,
)
from trio_queue.embedded.errors import EmbeddedServerError
from trio_queue.embedded.launch import launch
from trio_queue.embedded.locks import (
    SUPERVISOR_LOCK,
    DirectoryLocks,
    ServerState,
    try_lock,
    wait_for_lock,
)
from trio_queue.embedded.supervisor import remove_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_EPHEMERAL_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # In the data directory, so that even a killed server's shared memory goes away with that.
    "dynamic_shared_memory_type": "mmap",
}


def _no_checkpoint() -> None:
    pass


class EmbeddedServer:
    """A PostgreSQL server of ours, shared by every process that names the same directory.

    A context manager: entering makes the process a user of the server, and starts the server where it does not
    run. It stops soon after its last user has left or died. Everything here blocks (a first start takes a second
    or three); under Trio use `open_embedded_server`.

    A process forked while this one is a user is a user as well, until it ends or runs another program.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        ephemeral: bool = False,
        tcp: bool = False,
        settings: Mapping[str, str | int] | None = None,
        binaries: Binaries | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        """Describe a server; nothing is started yet.

        Args:
            directory: Where its files live, an empty, new or earlier used directory. None means the user's data
                directory (`/var/lib/trio-queue` for root), or a temporary one if `ephemeral`.
            ephemeral: A throw-away server: fast, safe against nothing, its directory removed after its last user.
            tcp: Listen on a free port of 127.0.0.1 too; such connections need the password.
            settings: Further settings of the server. A server that runs already keeps those it was started with.
            binaries: The programs; None means to search as `find_binaries` does, when they are needed.
            start_timeout: Seconds that starting may take altogether.
        """
        self._directory = None if directory is None else Path(directory).absolute()
        self._ephemeral = ephemeral
        self._tcp = tcp
        self._settings = {name: str(value) for name, value in (settings or {}).items()}
        self._binaries = binaries
        self._start_timeout = start_timeout
        self._users: int | None = None
        self._state: ServerState | None = None

    def __enter__(self) -> Self:
        if self._users is None:  # one that was started by `start()` is only ended by the block
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def directory(self) -> Path:
        """Where the server's files live."""
        if self._directory is None:
            self._directory = make_throwaway_directory() if self._ephemeral else default_directory()
        return self._directory

    @property
    def state(self) -> ServerState:
        """Where the server listens.

        Raises:
            EmbeddedServerError: It has not been started.
        """
        if self._state is None:
            raise EmbeddedServerError(
                "the embedded server has not been started: enter its context manager first"
            )
        return self._state

    def conninfo(self, dbname: str = "postgres", *, tcp: bool = False) -> str:
        """Return the connection string of one of its databases, as the superuser.

        Args:
            dbname: The database.
            tcp: Through 127.0.0.1 instead of the Unix socket.

        Raises:
            EmbeddedServerError: It has not been started, or does not listen on TCP.
        """
        state = self.state
        parts = {
            "host": state.socket_directory,
            "port": str(state.port),
            "user": "postgres",
            "dbname": dbname,
        }
        if tcp:
            if not state.tcp:
                raise EmbeddedServerError(
                    "the embedded server does not listen on TCP: start it with tcp=True"
                )
            parts |= {"host": "127.0.0.1", "password": self.password}
        return " ".join(f"{name}={_quoted(value)}" for name, value in parts.items())

    @property
    def password(self) -> str:
        """The superuser's password, needed on TCP connections only."""
        return password_file(Path(self.state.data)).read_text()

    def psql_command(self, dbname: str = "postgres") -> str:
        """Return a command line for a shell that opens psql on one of its databases."""
        binaries = self._binaries or find_binaries()
        own = binaries.directory / "psql"
        return shlex.join([str(own) if own.exists() else "psql", self.conninfo(dbname)])

    def start(self, checkpoint: Callable[[], None] = _no_checkpoint) -> None:
        """Become a user of the server, starting it where it does not run.

        Args:
            checkpoint: Called about twenty times a second; when it raises, nothing half-made stays, and the
                exception leaves.

        Raises:
            EmbeddedServerError: It cannot be started; says who must do what.
        """
        if self._users is not None:
            raise EmbeddedServerError(
                "this EmbeddedServer has been started already: make one for each use"
            )
        deadline = time.monotonic() + self._start_timeout
        server_account()  # a caller that cannot run a server hears that, not what its missing home leads to
        while True:
            claim_directory(self.directory)
            try:
                locks = DirectoryLocks.open(self.directory)
            except FileNotFoundError:  # removed since, with a throw-away server
                continue
            joined = False
            try:
                what = f"the embedded server in {self.directory}"
                wait_for_lock(
                    locks.start,
                    fcntl.LOCK_EX,
                    deadline=deadline,
                    checkpoint=checkpoint,
                    what=f"another start of {what}",
                )
                wait_for_lock(
                    locks.users,
                    fcntl.LOCK_SH,
                    deadline=deadline,
                    checkpoint=checkpoint,
                    what=f"the end of {what}",
                )
                if locks.is_current():
                    self._state = self._join_or_launch(locks, deadline, checkpoint)
                    self._users = locks.users
                    joined = True
                    return
            finally:
                locks.close(keep_users=joined)
                if self._ephemeral and not joined:
                    self._remove_orphaned()

    def close(self) -> None:
        """Stop being a user. The supervisor stops the server if this was the last; not waited for.

        May be called twice.
        """
        if self._users is None:
            return
        os.close(self._users)
        self._users = None
        self._state = None
        if self._ephemeral:
            self._remove_orphaned()

    def _join_or_launch(
        self, locks: DirectoryLocks, deadline: float, checkpoint: Callable[[], None]
    ) -> ServerState:
        check_kind(self.directory, ephemeral=self._ephemeral)
        while not try_lock(locks.supervisor, fcntl.LOCK_EX):
            # A supervisor lives. We are a user, so it will not stop the server; but it may be still starting it for
            # somebody who was killed, or be about to go because the server died.
            state = locks.read_state()
            if state is not None and _accepts_connections(state):
                if self._tcp and not state.tcp:
                    raise EmbeddedServerError(
                        f"the embedded server in {self.directory} runs without TCP, and TCP is asked for: "
                        "end its other users first, or do not ask for it"
                    )
                return state
            checkpoint()
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"the embedded server in {self.directory} neither runs nor stops: end its supervisor "
                    f"({SUPERVISOR_LOCK} in that directory is locked by it)"
                )
            time.sleep(0.02)
        return launch(
            locks,
            binaries=self._binaries,
            settings=(_EPHEMERAL_SETTINGS if self._ephemeral else {}) | self._settings,
            tcp=self._tcp,
            ephemeral=self._ephemeral,
            deadline=deadline,
            checkpoint=checkpoint,
        )

    def _remove_orphaned(self) -> None:
        """Remove a throw-away server's files where no supervisor does it: it was killed, or never came to be."""
        try:
            # Made anew they would keep a supervisor that removes the directory just now from doing so.
            locks = DirectoryLocks.open(self.directory, create=False)
        except OSError:
            return
        try:
            # A killed initdb's children hold this one for some milliseconds.
            soon = time.monotonic() + 1.0
            wait_for_lock(
                locks.start, fcntl.LOCK_EX, deadline=soon, checkpoint=_no_checkpoint, what="initdb"
            )
            alone = all(try_lock(lock, fcntl.LOCK_EX) for lock in (locks.supervisor, locks.users))
            if alone and locks.is_current() and is_throwaway(self.directory):
                remove_files(removable(self.directory), str(self.directory))
        except EmbeddedServerError:
            return  # somebody else starts a server here, who will remove the files
        finally:
            locks.close()


def _quoted(value: str) -> str:
    if value and not any(character in value for character in " \t\n'\\"):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _accepts_connections(state: ServerState) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(f"{state.socket_directory}/.s.PGSQL.{state.port}")
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True
