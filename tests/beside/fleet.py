"""Processes of both applications, on one database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Literal, TypeAlias

from tests.beside.runs import CONNINFO

ROOT = Path(__file__).parents[2]

Library: TypeAlias = Literal["stock", "our"]


class Fleet:
    """Starts processes of both applications on a database."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._all: dict[subprocess.Popen[str], IO[str]] = {}

    def start(self, library: Library, *arguments: str) -> subprocess.Popen[str]:
        """Start a process of an application."""
        complaints = TemporaryFile("w+")  # noqa: SIM115  # closed when the fleet ends
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.beside.{library}_application", *arguments],
            cwd=ROOT,
            env={**os.environ, CONNINFO: self._conninfo},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
        )
        self._all[process] = complaints
        return process

    def complaints(self, process: subprocess.Popen[str]) -> str:
        """What it has said on stderr."""
        self._all[process].seek(0)
        return self._all[process].read()

    def kill_all(self) -> None:
        """Leave nothing behind."""
        for process, complaints in self._all.items():
            process.kill()
            process.communicate()
            complaints.close()


@contextmanager
def fleet(conninfo: str) -> Generator[Fleet]:
    """Processes for a block: killed, where they still run, when it ends."""
    made = Fleet(conninfo)
    try:
        yield made
    finally:
        made.kill_all()


def stop(process: subprocess.Popen[str], patience: float) -> int:
    """Ask a worker to stop; its exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(patience)


def kill(process: subprocess.Popen[str]) -> int:
    """End a worker as the kernel does that lacks memory. Its process id."""
    process.kill()
    process.wait()
    return process.pid
