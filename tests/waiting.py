"""Wait for something real, where no event of the code under test says it."""

from __future__ import annotations

import fcntl
import os
import select
import time
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

T = TypeVar("T")

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


async def eventually(
    condition: Callable[[], bool], what: str | Callable[[], str], patience: float = PATIENCE
) -> None:
    """As `wait_until`, while other Trio tasks run.

    Raises:
        AssertionError: It did not come true.
    """
    with trio.move_on_after(patience):
        while not condition():  # noqa: ASYNC110 - a row in a database signals nothing
            await trio.sleep(0.005)
        return
    raise AssertionError(f"waited in vain for {what if isinstance(what, str) else what()}")


async def within_patience(wait: Callable[[], Awaitable[T]], patience: float = PATIENCE) -> T:
    """Await something that must happen; fail rather than hang.

    Raises:
        trio.TooSlowError: It did not.
    """
    with trio.fail_after(patience):
        return await wait()
