"""What a run does not keep constant, and what is read off a machine while it runs."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psycopg

#: Settings of a server that figures depend on.
SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "wal_sync_method",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "autovacuum",
    "jit",
)
PROCESSES = Path("/proc")
PACKAGES = ("trio-queue", "procrastinate", "trio", "psycopg", "uvloop")


def load() -> list[float]:
    """The machine's load in the last 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def about(conninfo: str) -> dict[str, Any]:
    """The machine in neutral words, the server, the versions: what to say beside figures.

    Args:
        conninfo: Of the server.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        settings: dict[str, str] = dict(
            connection.execute(
                "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(%s)",
                [list(SETTINGS)],
            ).fetchall()
        )
        version = connection.execute("SHOW server_version").fetchone()
    assert version is not None
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "postgresql": version[0].split()[0],
        "settings": dict(sorted(settings.items())),
        "cpu_of_server": "read in /proc" if (PROCESSES / "self").exists() else "no /proc here",
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        if package == "trio-queue":
            from trio_queue import __version__

            return __version__
        return "not installed"


def server_pid(data: str) -> int:
    """The process that is the parent of all others of a server.

    Args:
        data: The directory of its data.
    """
    return int((Path(data) / "postmaster.pid").read_text().split("\n", 1)[0])


def server_cpu(pid: int) -> float | None:
    """Seconds of CPU that a server has used, its ended backends included.

    Args:
        pid: Of `server_pid`.

    Returns:
        None where there is no /proc to read it from.
    """
    if not (PROCESSES / str(pid) / "stat").exists():
        return None
    while True:
        # A backend that ends meanwhile would be missed, or counted twice: once more, then.
        before = _children(pid)
        # What its children used that have ended is counted for it.
        ticks = sum(_stat(pid)[11:15])
        after = _children(pid)
        if before.keys() == after.keys():
            return (ticks + sum(after.values())) / os.sysconf("SC_CLK_TCK")


def _children(parent: int) -> dict[int, int]:
    """The children of a process, and the ticks of CPU that each has used."""
    children: dict[int, int] = {}
    for process in PROCESSES.iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # it has just ended
                fields = _stat(int(process.name))
                if fields[1] == parent:
                    children[int(process.name)] = sum(fields[11:13])
    return children


def _stat(pid: int) -> list[int]:
    """The fields of /proc/*/stat after the name, which may have anything in it; the state as 0."""
    text = (PROCESSES / str(pid) / "stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return [0, *map(int, fields[1:])]
