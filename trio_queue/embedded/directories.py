"""Where a server's files live, and whether that place may be trusted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trio_queue.embedded.errors import EmbeddedServerError
from trio_queue.embedded.locks import START_LOCK, SUPERVISOR_LOCK, USERS_LOCK

if TYPE_CHECKING:
    from trio_queue.embedded.account import Account

# sun_path holds 104 bytes on macOS and the BSDs (108 on Linux), its end included; the socket's name is
# "/.s.PGSQL." and up to five digits.
_LONGEST_SOCKET_DIRECTORY = 104 - 1 - len("/.s.PGSQL.65535")

# What needs no quoting in a list of directories, a connection string or a URL, and means nothing there.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_./+~-]*")

_THROWAWAY_MARK = "throw-away"

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the memory file system, used through mkdtemp
_ROOM_WANTED = 2 * 1024**3


def default_directory() -> Path:
    """Return where a lasting server lives: the user's data directory, `/var/lib/trio-queue` for root."""
    if os.geteuid() == 0:
        return Path("/var/lib/trio-queue")
    import platformdirs

    return Path(platformdirs.user_data_dir("trio-queue"))


def memory_directory() -> Path | None:
    """Return the directory in memory that has room for a server and lets programs run, if there is one."""
    with contextlib.suppress(OSError):
        room = os.statvfs(_SHARED_MEMORY)
        # Programs may be copied into the directory, so they must be allowed to run there.
        if (
            os.access(_SHARED_MEMORY, os.W_OK | os.X_OK)
            and room.f_bavail * room.f_frsize >= _ROOM_WANTED
            and not room.f_flag & getattr(os, "ST_NOEXEC", 0)
        ):
            return _SHARED_MEMORY
    return None


def make_throwaway_directory() -> Path:
    """Make an empty private directory for a throw-away server, in memory where there is room."""
    return Path(tempfile.mkdtemp(prefix="trio-queue-", dir=memory_directory()))


def claim_directory(directory: Path) -> None:
    """Make a directory ours, or make sure that it is.

    Raises:
        EmbeddedServerError: It cannot be made, belongs to somebody else, may be written by others, or holds
            files that are not a server's of ours.
    """
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise EmbeddedServerError(
            f"the directory {str(directory)!r} for the embedded server cannot be used ({error.strerror}): "
            "choose another one"
        ) from error
    if status.st_uid != os.geteuid():
        raise EmbeddedServerError(
            f"the directory {str(directory)!r} belongs to the user id {status.st_uid}, not to {os.geteuid()}: "
            "choose another one, or run as its owner"
        )
    if status.st_mode & 0o022:
        raise EmbeddedServerError(
            f"the directory {str(directory)!r} may be written by others: run chmod go-w on it, or choose another one"
        )
    names = [path.name for path in directory.iterdir()]
    if names and START_LOCK not in names:
        raise EmbeddedServerError(
            f"the directory {str(directory)!r} holds files that no embedded server made: choose an empty or a new one"
        )
    if os.geteuid() == 0 and not status.st_mode & 0o001:
        # Ours, and nothing but a server's files: the server's account must pass through (not look around).
        directory.chmod(stat.S_IMODE(status.st_mode) | 0o011)


def socket_directory(directory: Path, account: Account) -> tuple[Path, bool]:
    """Make the private directory for the Unix socket.

    Inside the server's directory, unless that path is too long for a socket or needs quoting anywhere; then a
    short one, whose name follows from the path, so that connection strings stay true.

    Returns:
        The directory, and whether it stands outside and must go away with the server.

    Raises:
        EmbeddedServerError: Something else is in the way.
    """
    inside = directory / "socket"
    if _PLAIN_PATH.fullmatch(str(inside)) and len(str(inside)) <= _LONGEST_SOCKET_DIRECTORY:
        _make_private(inside, account)
        return inside, False
    outside = _outside(directory)
    _make_private(outside, account)
    return outside, True


def _outside(directory: Path) -> Path:
    tag = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    return Path(f"/tmp/trio-queue-{os.geteuid()}-{tag}")  # noqa: S108 - checked for owner and mode


def _make_private(directory: Path, account: Account) -> None:
    # /tmp is sticky: once the directory is ours, nobody else can put another in its place.
    with contextlib.suppress(FileExistsError):
        directory.mkdir(0o700)
    status = directory.lstat()
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid not in {os.geteuid(), account.uid}
        or status.st_mode & 0o077
    ):
        raise EmbeddedServerError(
            f"{str(directory)!r} must be a private directory of {account.name!r} for the server's socket, and is not: "
            "remove it, or choose another directory for the server"
        )
    if status.st_uid != account.uid:
        os.chown(directory, account.uid, account.gid)


def remove_unfinished(directory: Path) -> None:
    """Remove what killed starters left half done."""
    for unfinished in directory.glob("init-*"):
        shutil.rmtree(unfinished, ignore_errors=True)


def check_kind(directory: Path, *, ephemeral: bool) -> None:
    """Refuse to take a lasting server's directory for a throw-away server, which would remove it, and the reverse.

    Raises:
        EmbeddedServerError: The directory holds a cluster of the other kind.
    """
    if not _clusters(directory) or is_throwaway(directory) == ephemeral:
        return
    if ephemeral:
        raise EmbeddedServerError(
            f"the directory {str(directory)!r} holds a lasting server's data, which a throw-away server would remove: "
            "choose another directory, or do not ask for ephemeral"
        )
    raise EmbeddedServerError(
        f"the directory {str(directory)!r} belongs to a throw-away server and will be removed: choose another one"
    )


def is_throwaway(directory: Path) -> bool:
    """Tell whether the files in a directory may be removed."""
    return (directory / _THROWAWAY_MARK).exists() or not _clusters(directory)


def mark_throwaway(directory: Path) -> None:
    """Say that everything in a directory may be removed. Before a cluster is made there."""
    (directory / _THROWAWAY_MARK).touch(0o600)


def removable(directory: Path) -> list[str]:
    """Return what a throw-away server's files are.

    The locks come last: while they stand, nobody starts another server between the removals.
    """
    files = [
        f"{name}{suffix}"
        for name in _clusters(directory)
        for suffix in ("", ".password", ".log", ".log.1")
    ]
    unfinished = [path.name for path in directory.glob("init-*")]
    names = [
        *files,
        *unfinished,
        "socket",
        "binaries",
        _THROWAWAY_MARK,
        START_LOCK,
        SUPERVISOR_LOCK,
        USERS_LOCK,
    ]
    return [str(_outside(directory)), *(str(directory / name) for name in names)]


def _clusters(directory: Path) -> list[str]:
    return [path.name for path in directory.glob("postgresql-*") if path.is_dir()]
