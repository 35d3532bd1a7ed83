"""Which account the server runs as, and how its programs are run."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, TypedDict

import attrs

from trio_queue.embedded.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# A server must behave alike on every machine. An uninstalled locale in LANG stops initdb; PG* would
# reach both programs; a server told of systemd's socket would say that *its* start is our service's.
_DROPPED_PREFIXES = ("PG", "LC_")
_DROPPED_NAMES = frozenset({"LANG", "LANGUAGE", "TZ", "NOTIFY_SOCKET"})


class _Credentials(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@attrs.frozen
class Account:
    """An account of the system that a server is run as.

    Attributes:
        name: Its name.
        uid: Its user id.
        gid: Its group id.
        switch: Whether a program must be switched to it (the caller is root).
    """

    name: str
    uid: int
    gid: int
    switch: bool

    @property
    def credentials(self) -> _Credentials:
        """The arguments of `subprocess.Popen` that start a program as this account."""
        if not self.switch:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def server_account() -> Account:
    """Return the account a server of ours runs as.

    PostgreSQL refuses to run as root: root runs it as `postgres`, else as `nobody`, whichever is
    already there. No account is made.

    Raises:
        EmbeddedServerError: The caller's uid has no entry in the user database, which PostgreSQL insists on,
            or the caller is root and neither account exists.
    """
    uid = os.geteuid()
    if uid != 0:
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise EmbeddedServerError(
                f"the user id {uid} has no entry in the user database (/etc/passwd), and PostgreSQL does not "
                "run without one: add an entry (or run as a user who has one), or give the connection string "
                "of a server that runs"
            ) from None
        return Account(entry.pw_name, uid, entry.pw_gid, switch=False)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid, switch=True)
    raise EmbeddedServerError(
        "PostgreSQL does not run as root, and there is neither an account 'postgres' nor 'nobody' to run it as: "
        "run as another user, or give the connection string of a server that runs"
    )


def clean_environment() -> dict[str, str]:
    """Return the process's environment without what would change a server's behaviour."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_DROPPED_PREFIXES) and name not in _DROPPED_NAMES
    }
    return kept | {"LC_ALL": "C"}


def run_program(
    command: Sequence[str],
    account: Account,
    *,
    deadline: float,
    checkpoint: Callable[[], None],
    lock: int | None = None,
) -> str:
    """Run one of PostgreSQL's programs to its end, without a shell.

    Args:
        command: The program and its arguments.
        account: Whom it runs as.
        deadline: When it is killed, on the clock of `time.monotonic`.
        checkpoint: Called about twenty times a second; when it raises, the program is killed and its
            end awaited before the exception leaves.
        lock: A lock's descriptor that the program holds too, so that the lock outlives a killed caller until the
            program has ended.

    Returns:
        What it wrote.

    Raises:
        OSError: It cannot be executed (`PermissionError` where the account may not).
        EmbeddedServerError: It failed, or was not done at the deadline.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(  # noqa: S603 - a list, no shell; the programs were searched for
            command,
            cwd="/",
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
            **account.credentials,
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
                    break
                checkpoint()
                if time.monotonic() > deadline:
                    raise EmbeddedServerError(
                        f"{command[0]} did not end in time: give it more (start_timeout)"
                    )
        finally:
            if process.poll() is None:
                # Its children too: initdb runs postgres.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode != 0:
        hint = (
            f"\nPostgreSQL runs as the account {account.name!r} here: that account must be able to reach the "
            "server's directory and the programs; choose a directory it can reach (outside /root)"
            if account.switch
            else ""
        )
        raise EmbeddedServerError(
            f"{' '.join(command)} failed ({process.returncode}):\n{text.strip()}{hint}"
        )
    return text
