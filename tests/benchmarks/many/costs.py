"""What is read off while something runs: the CPU of a server and of a process, memory, transactions."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.benchmarks.peers import Bench

Run = Callable[[Bench], Iterator[tuple[str, float]]]

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int | str) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used, and its children that have ended."""
    return sum(map(int, _stat(pid)[11:15])) / _TICK


def postmaster_of(conninfo: str) -> int:
    """The first process of a server on this machine."""
    with psycopg.connect(conninfo) as connection:
        return int(_stat(connection.info.backend_pid)[1])


def server_cpu(postmaster: int) -> float:
    """Seconds of CPU that a server's processes have used so far."""
    total = cpu_of(postmaster)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if int(_stat(folder.name)[1]) == postmaster:
                    total += sum(map(int, _stat(folder.name)[11:13])) / _TICK
            except OSError:  # it has ended
                continue
    return total


def memory_of(pid: int | None = None) -> float:
    """KiB of memory that a process holds; None: this one."""
    pages = int(Path(f"/proc/{pid or os.getpid()}/statm").read_text().split()[1])
    return pages * _PAGE / 1024


def peak_memory() -> float:
    """KiB of memory that this process held at most. (`ru_maxrss` begins with that of whoever started it.)"""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return float(found[1])


def transactions(conninfo: str, server: str) -> int:
    """How many transactions a database has seen, asked from another one: asking is not counted."""
    name = conninfo_to_dict(conninfo)["dbname"]
    with psycopg.connect(server, autocommit=True) as connection:
        row = connection.execute(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s", [name]
        ).fetchone()
    assert row is not None
    return int(row[0])
