"""Processes of both applications, on one database."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from tests.beside.runs import CONNINFO

ROOT = Path(__file__).parents[2]

Library: TypeAlias = Literal["stock", "our"]


class Fleet:
    """Starts processes, and knows which of ours it has killed."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._all: list[subprocess.Popen[str]] = []

    def start(self, library: Library, *arguments: str) -> subprocess.Popen[str]:
        """Start a process of an application."""
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.beside.{library}_application", *arguments],
            cwd=ROOT,
            env={**os.environ, CONNINFO: self._conninfo},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if library == "stock" else None,
            text=True,
        )
        self._all.append(process)
        return process

    def kill_all(self) -> None:
        """Leave nothing behind."""
        for process in self._all:
            process.kill()
            process.communicate()


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
