"""A signal wakes an idle asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Generator


@contextlib.contextmanager
def woken_by_signals(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """While the block lasts, a signal that comes while the loop waits for events wakes it.

    Python runs a signal's handler in the main thread, when that next runs Python code. The kernel
    may hand the signal to any thread, Trio's that waits for events among them, and then nothing
    wakes the main thread but the descriptor that `signal.set_wakeup_fd` names. Where somebody has
    set one (uvloop, `loop.add_signal_handler`), it does that already.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.set_wakeup_fd(-1)
    if before != -1:
        signal.set_wakeup_fd(before)
        yield
        return
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        loop.add_reader(reading, _drain, reading)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            present = signal.set_wakeup_fd(-1)
            if present != writing.fileno():  # somebody set another one meanwhile
                signal.set_wakeup_fd(present)
            if not loop.is_closed():
                loop.remove_reader(reading)


def _drain(reading: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        reading.recv(4096)
