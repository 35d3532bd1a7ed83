"""Wait for something real, where no event of the code under test says it."""

from __future__ import annotations

import fcntl
import os
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PATIENCE = 60.0
"""Seconds after which a wait fails; a bound against hanging, not an expectation."""


def wait_until(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition by asking: only where nothing signals its change.

    Args:
        condition: Asked every few milliseconds.
        what: What is waited for, for the message.
        patience: Seconds to wait at most.

    Raises:
        AssertionError: It did not come true.
    """
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def wait_for_end(pid: int) -> None:
    """Wait for the end of any process, not only of a child.

    Raises:
        AssertionError: It did not end.
    """
    if not hasattr(os, "pidfd_open"):
        wait_until(lambda: not _lives(pid), f"the end of process {pid}")
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        readable, _, _ = select.select([descriptor], [], [], PATIENCE)
        assert readable, f"process {pid} did not end"
    finally:
        os.close(descriptor)


def wait_for_unlock(path: Path) -> None:
    """Wait until nobody holds a file's lock. Nothing to wait for where the file is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
