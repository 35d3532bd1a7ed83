"""The three locks of a server's directory, all dropped by the kernel with the process that held them.

    start.lock       exclusive: one starts or joins at a time
    users.lock       shared by every user; exclusive by the supervisor once they are gone
    supervisor.lock  exclusive, for the supervisor's whole life; its text says where the server listens

So no list of process ids is kept, nothing is left to an exit handler, and `kill -9` is as good an end
as any. A throw-away server's directory goes away with its locks, while another user may be waiting
for one of them: whoever gets a lock must ask `is_current` whether it still is the directory's.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from typing import TYPE_CHECKING

import attrs

from trio_queue.embedded.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

START_LOCK = "start.lock"
USERS_LOCK = "users.lock"
SUPERVISOR_LOCK = "supervisor.lock"


@attrs.frozen
class ServerState:
    """Where a server listens, as its supervisor wrote it down.

    Attributes:
        socket_directory: The directory of its Unix socket.
        port: The port in the socket's name, and its TCP port if it has one.
        tcp: Whether it listens on 127.0.0.1 too.
        data: The directory of its cluster.
        supervisor_pid: The supervisor's process id; for people and tests, nothing relies on it.
        postgres_pid: The server's process id; likewise.
    """

    socket_directory: str
    port: int
    tcp: bool
    data: str
    supervisor_pid: int
    postgres_pid: int


@attrs.frozen
class DirectoryLocks:
    """Open descriptors of the lock files of one directory. None is inherited by a program."""

    directory: Path
    start: int
    users: int
    supervisor: int

    @classmethod
    def open(cls, directory: Path, *, create: bool = True) -> DirectoryLocks:
        """Open the lock files.

        Args:
            directory: Where they are.
            create: Make them where needed.

        Raises:
            FileNotFoundError: The directory has just been removed, or there are none.
        """
        opened: list[int] = []
        try:
            for name in (START_LOCK, USERS_LOCK, SUPERVISOR_LOCK):
                flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
                opened.append(os.open(directory / name, flags, 0o600))
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            raise
        start, users, supervisor = opened
        return cls(directory, start, users, supervisor)

    def is_current(self) -> bool:
        """Tell whether these are still the directory's lock files, not those of one that was removed."""
        for name, descriptor in (
            (START_LOCK, self.start),
            (USERS_LOCK, self.users),
            (SUPERVISOR_LOCK, self.supervisor),
        ):
            try:
                if not os.path.samestat((self.directory / name).stat(), os.fstat(descriptor)):
                    return False
            except FileNotFoundError:
                return False
        return True

    def read_state(self) -> ServerState | None:
        """Return what the supervisor wrote, or None while it starts or stops.

        Means something only while the supervisor's lock is held: the text of one that was killed stays.
        """
        with contextlib.suppress(ValueError, TypeError):
            return ServerState(**json.loads(os.pread(self.supervisor, 65536, 0)))
        return None

    def close(self, *, keep_users: bool = False) -> None:
        """Close the descriptors, and with them drop the locks.

        Args:
            keep_users: Keep the one that makes the caller a user.
        """
        for descriptor in (
            (self.start, self.supervisor)
            if keep_users
            else (self.start, self.users, self.supervisor)
        ):
            os.close(descriptor)


def try_lock(descriptor: int, kind: int) -> bool:
    """Take a lock if it is free now."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(
    descriptor: int, kind: int, *, deadline: float, checkpoint: Callable[[], None], what: str
) -> None:
    """Take a lock, asking every twentieth of a second: a blocking flock has no deadline and no cancel.

    Args:
        descriptor: An open lock file.
        kind: `fcntl.LOCK_SH` or `fcntl.LOCK_EX`.
        deadline: When to give up, on the clock of `time.monotonic`.
        checkpoint: Called between two tries; what it raises leaves.
        what: What is waited for, for the message.

    Raises:
        EmbeddedServerError: The deadline has passed.
    """
    while not try_lock(descriptor, kind):
        checkpoint()
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"waited in vain for {what}: look which process hangs there, end it, and start again"
            )
        time.sleep(0.02)
