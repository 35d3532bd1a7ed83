"""Start a server: prepare its programs, cluster and socket, and run the supervisor."""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from trio_queue.embedded import supervisor
from trio_queue.embedded.account import clean_environment, server_account
from trio_queue.embedded.binaries import Binaries, find_binaries
from trio_queue.embedded.cluster import major_version, make_cluster
from trio_queue.embedded.directories import (
    mark_throwaway,
    removable,
    remove_unfinished,
    socket_directory,
)
from trio_queue.embedded.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_queue.embedded.account import Account
    from trio_queue.embedded.locks import DirectoryLocks, ServerState

logger: logging.Logger = logging.getLogger(__name__)


def launch(
    locks: DirectoryLocks,
    *,
    binaries: Binaries | None,
    settings: dict[str, str],
    tcp: bool,
    ephemeral: bool,
    deadline: float,
    checkpoint: Callable[[], None],
) -> ServerState:
    """Start the server of a directory, making its cluster if there is none.

    Args:
        locks: The directory's locks. The caller holds all three, so nothing else moves in it.
        binaries: The programs; None means to search.
        settings: Settings of the server.
        tcp: Whether it listens on 127.0.0.1 too.
        ephemeral: Whether it is a throw-away server.
        deadline: When to give up, on the clock of `time.monotonic`.
        checkpoint: Called about twenty times a second; what it raises leaves.

    Returns:
        Where it listens.

    Raises:
        EmbeddedServerError: It did not start; says who must do what.
    """
    directory = locks.directory
    os.ftruncate(locks.supervisor, 0)  # what an earlier supervisor wrote is not true any more
    remove_unfinished(directory)
    account = server_account()
    programs, major = _usable_binaries(
        binaries or find_binaries(), directory, account, deadline, checkpoint
    )
    data = directory / f"postgresql-{major}"
    if not data.exists():
        others = sorted(path.name for path in directory.glob("postgresql-*") if path.is_dir())
        if others:
            logger.warning(
                "A new, empty cluster is made for PostgreSQL %s in %s; the data of %s stays where it is",
                major,
                directory,
                ", ".join(others),
            )
        if ephemeral:
            mark_throwaway(directory)
        make_cluster(
            programs,
            data,
            account,
            ephemeral=ephemeral,
            lock=locks.start,
            deadline=deadline,
            checkpoint=checkpoint,
        )
    sockets, outside = socket_directory(directory, account)
    options = supervisor.SupervisorOptions(
        directory=str(directory),
        data=str(data),
        postgres=programs.program("postgres"),
        log=f"{data}.log",
        socket_directory=str(sockets),
        remove_socket_directory=outside,
        settings=settings,
        tcp=tcp,
        uid=account.uid if account.switch else None,
        gid=account.gid if account.switch else None,
        ephemeral=ephemeral,
        remove=removable(directory),
        lock=locks.supervisor,
        timeout=max(deadline - time.monotonic(), 1.0),
    )
    answer = _run_supervisor(options, checkpoint)
    state = locks.read_state()
    if answer != "ready" or state is None:
        hint = (
            f"\nPostgreSQL runs as the account {account.name!r} here: it must be able to reach {directory}"
            if account.switch
            else ""
        )
        raise EmbeddedServerError(
            f"PostgreSQL did not start in {data}: {answer or 'its supervisor died'}\n(its log: {data}.log){hint}"
        )
    return state


def _usable_binaries(
    binaries: Binaries,
    directory: Path,
    account: Account,
    deadline: float,
    checkpoint: Callable[[], None],
) -> tuple[Binaries, int]:
    """Return programs that the server's account can run, and their major version.

    A virtual environment in /root, or made under a strict umask, is closed to that account. It is
    left as it is, and the programs are copied beside the data.
    """
    try:
        return binaries, major_version(binaries, account, deadline=deadline, checkpoint=checkpoint)
    except (PermissionError, EmbeddedServerError):
        if not account.switch or binaries.tree is None:
            raise
    copies = directory / "binaries"
    copies.mkdir(0o755, exist_ok=True)
    copies.chmod(0o755)
    target = copies / binaries.fingerprint()
    for earlier in copies.iterdir():
        if earlier != target:  # of an earlier version, and no server runs
            shutil.rmtree(earlier, ignore_errors=True)
    copied = binaries.copied_to(target)
    try:
        return copied, major_version(copied, account, deadline=deadline, checkpoint=checkpoint)
    except PermissionError:
        raise EmbeddedServerError(
            f"the account {account.name!r}, which runs PostgreSQL for root, cannot reach {directory}: choose a "
            "directory it can reach (outside /root), or give the connection string of a server that runs"
        ) from None


def _run_supervisor(options: supervisor.SupervisorOptions, checkpoint: Callable[[], None]) -> str:
    """Start the detached supervisor and return its answer: "ready", or why not.

    It goes on if `checkpoint` raises; the caller's lock is dropped with that, so it gives up by itself.
    """
    if not sys.executable:
        raise EmbeddedServerError(
            "Python does not know its own program (sys.executable), which must run the server's supervisor: "
            "start the embedded server from an ordinary Python"
        )
    process = subprocess.Popen(  # noqa: S603 - a list, no shell
        [
            *(sys.executable, "-I", "-S", "-X", "utf8"),
            supervisor.__file__,
            json.dumps(options._asdict()),
        ],
        pass_fds=[options.lock],
        cwd="/",
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    answer = b""
    assert process.stdout is not None
    with process.stdout as pipe:
        process.wait()  # it forks and ends, in milliseconds
        while True:
            readable, _, _ = select.select([pipe], [], [], 0.05)
            if readable:
                piece = os.read(pipe.fileno(), 65536)
                if not piece:
                    return answer.decode(errors="replace")
                answer += piece
            checkpoint()
