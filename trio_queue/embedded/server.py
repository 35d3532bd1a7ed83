"""A user's side of the embedded server: become a user, start it or join it, say where it listens."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from trio_queue.embedded import supervisor
from trio_queue.embedded.account import clean_environment, server_account
from trio_queue.embedded.binaries import Binaries, find_binaries
from trio_queue.embedded.cluster import major_version, make_cluster, password_file
from trio_queue.embedded.directories import (
    claim_directory,
    default_directory,
    make_throwaway_directory,
    remove_unfinished,
    socket_directory,
)
from trio_queue.embedded.errors import EmbeddedServerError
from trio_queue.embedded.locks import (
    START_LOCK,
    SUPERVISOR_LOCK,
    USERS_LOCK,
    DirectoryLocks,
    ServerState,
    try_lock,
    wait_for_lock,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_queue.embedded.account import Account

logger = logging.getLogger(__name__)

_EPHEMERAL_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


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
        os.ftruncate(locks.supervisor, 0)
        return self._launch(locks, deadline, checkpoint)

    def _launch(
        self, locks: DirectoryLocks, deadline: float, checkpoint: Callable[[], None]
    ) -> ServerState:
        """Start the server. The caller holds all three locks, so nothing else moves in this directory."""
        account = server_account()
        remove_unfinished(self.directory)
        binaries, major = self._usable_binaries(account, deadline, checkpoint)
        data = self.directory / f"postgresql-{major}"
        if not data.exists():
            others = sorted(
                path.name for path in self.directory.glob("postgresql-*") if path.is_dir()
            )
            if others:
                logger.warning(
                    "A new, empty cluster is made for PostgreSQL %s in %s; the data of %s stays where it is",
                    major,
                    self.directory,
                    ", ".join(others),
                )
            make_cluster(
                binaries,
                data,
                account,
                ephemeral=self._ephemeral,
                deadline=deadline,
                checkpoint=checkpoint,
            )
        sockets, outside = socket_directory(self.directory, account)
        log = self.directory / f"{data.name}.log"
        options = supervisor.SupervisorOptions(
            directory=str(self.directory),
            data=str(data),
            postgres=binaries.program("postgres"),
            log=str(log),
            socket_directory=str(sockets),
            remove_socket_directory=outside,
            settings=(_EPHEMERAL_SETTINGS if self._ephemeral else {}) | self._settings,
            tcp=self._tcp,
            uid=account.uid if account.switch else None,
            gid=account.gid if account.switch else None,
            ephemeral=self._ephemeral,
            remove=self._removable(),
            lock=locks.supervisor,
            timeout=max(deadline - time.monotonic(), 1.0),
        )
        answer = _run_supervisor(options, checkpoint)
        state = locks.read_state()
        if answer != "ready" or state is None:
            raise EmbeddedServerError(
                f"PostgreSQL did not start in {data}: {answer or 'its supervisor died'}\n(its log: {log})"
            )
        return state

    def _usable_binaries(
        self, account: Account, deadline: float, checkpoint: Callable[[], None]
    ) -> tuple[Binaries, int]:
        """Return programs that the server's account can run, and their major version.

        A virtual environment in /root, or made under a strict umask, is closed to that account. It is left as it is,
        and the programs are copied beside the data.
        """
        binaries = self._binaries or find_binaries()
        copies = self.directory / "binaries"
        try:
            return binaries, major_version(
                binaries, account, deadline=deadline, checkpoint=checkpoint
            )
        except (PermissionError, EmbeddedServerError):
            if not account.switch or binaries.tree is None:
                raise
        target = copies / binaries.fingerprint()
        if copies.is_dir():
            for earlier in copies.iterdir():
                if earlier != target:  # of an earlier version, and no server runs
                    shutil.rmtree(earlier, ignore_errors=True)
        copies.mkdir(0o755, exist_ok=True)
        copies.chmod(0o755)
        copied = binaries.copied_to(target)
        try:
            return copied, major_version(copied, account, deadline=deadline, checkpoint=checkpoint)
        except PermissionError:
            raise EmbeddedServerError(
                f"the account {account.name!r}, which runs PostgreSQL for root, cannot reach {self.directory}: "
                "choose a directory it can reach (outside /root), or give the connection string of a server that runs"
            ) from None

    def _removable(self) -> list[str]:
        """Return what an ephemeral server's files are, the locks last: while they stand, nobody starts another."""
        names = ["socket", "binaries", START_LOCK, SUPERVISOR_LOCK, USERS_LOCK]
        made = [path.name for path in self.directory.glob("postgresql-*")]
        version_files = [name for name in made if name not in names]
        logs = [f"{name}.log" for name in made if not name.endswith((".log", ".password"))]
        return [str(self.directory / name) for name in [*version_files, *logs, *names]]

    def _remove_orphaned(self) -> None:
        """Remove a throw-away server's files where its supervisor was killed and we were the last user."""
        try:
            locks = DirectoryLocks.open(self.directory)
        except OSError:
            return
        try:
            alone = all(
                try_lock(lock, fcntl.LOCK_EX)
                for lock in (locks.start, locks.supervisor, locks.users)
            )
            if alone and locks.is_current():
                supervisor.remove_files(self._removable(), str(self.directory))
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


def _run_supervisor(options: supervisor.SupervisorOptions, checkpoint: Callable[[], None]) -> str:
    """Start the detached supervisor and return its answer: "ready", or why not.

    It goes on if `checkpoint` raises; our lock is dropped with that, so it gives up by itself.
    """
    if not sys.executable:
        raise EmbeddedServerError(
            "there is no Python program (sys.executable) to run the server's supervisor with"
        )
    process = subprocess.Popen(  # noqa: S603 - a list, no shell
        [
            sys.executable, "-I", "-S", "-X", "utf8", supervisor.__file__, json.dumps(options._asdict()),
        ],
        pass_fds=[options.lock],
        cwd="/",
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    answer = b""
    assert process.stdout is not None
    with process.stdout as pipe:
        process.wait()  # the first process forks and ends, in milliseconds
        while True:
            readable, _, _ = select.select([pipe], [], [], 0.05)
            if readable:
                piece = os.read(pipe.fileno(), 65536)
                if not piece:
                    return answer.decode(errors="replace")
                answer += piece
            checkpoint()
