"""SIGINT and SIGTERM ask the worker to stop: each one counts, however busy the loop is."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from trio_queue._worker.shutdown import Shutdown
from trio_queue.log import Action, fields

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Hearer:
    """A worker that hears signals, and how often it did."""

    def __init__(self, shutdown: Shutdown, exit_process: Callable[[int], None] | None) -> None:
        self._shutdown = shutdown
        self._exit_process = exit_process
        self._signals = 0

    def hear(self, number: signal.Signals) -> None:
        """Ask once; the third time leave, where that is wanted. Runs in the signal's handler."""
        self._signals += 1
        self._shutdown.post_from_signal(number.name)
        # Not by the stages: the loop may be blocked, and the first two not be heard yet.
        if self._signals == 3 and self._exit_process is not None:
            self._exit_process(128 + number)


# One handler for all workers of the process, in its main thread: each with one of its own would
# hide the others from the signal, and bring back a dead one when they end in another order.
_heard_by: list[_Hearer] = []
_before: dict[signal.Signals, Any] = {}


@contextmanager
def heard_signals(
    shutdown: Shutdown,
    logger: logging.Logger,
    exit_process: Callable[[int], None] | None = None,
) -> Generator[None]:
    """While the block lasts, each signal asks the worker to stop; the last worker restores the handlers.

    Plain handlers, not `trio.open_signal_receiver`: that one coalesces, and of three SIGTERMs during
    a blocked loop one would be heard. Outside of the main thread, where Python runs no handlers,
    there are none, and a warning says so.

    Args:
        shutdown: Whom to ask.
        logger: Where the warning goes.
        exit_process: Called with the exit status at the third signal, from its handler.
    """
    if threading.current_thread() is not threading.main_thread():
        logger.warning(
            "Signals are not heard: the worker does not run in the main thread. Stop it by "
            "worker.stop(), and pass install_signal_handlers=False to say that this is meant",
            extra=fields(Action.WORKER_NO_SIGNALS),
        )
        yield
        return

    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is not _hear:
            _before[number] = handler
            signal.signal(number, _hear)
    hearer = _Hearer(shutdown, exit_process)
    _heard_by.append(hearer)
    try:
        yield
    finally:
        _heard_by.remove(hearer)
        if not _heard_by:
            _restore()


def _hear(number: int, _: FrameType | None) -> None:
    for hearer in tuple(_heard_by):
        hearer.hear(signal.Signals(number))


def _restore() -> None:
    for number in SIGNALS:
        handler = _before.pop(number)
        # Somebody may have put a handler of his own there meanwhile: it stays.
        if signal.getsignal(number) is _hear:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


# A process that a job forks is nobody's worker: with our handlers SIGTERM would not end it, and
# `Process.terminate()` of multiprocessing wait for ever. Python forgets in the child what came before
# its hooks; so nothing comes until ours has run.

_mask = threading.local()


def _before_fork() -> None:
    if _heard_by:
        _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    if (before := vars(_mask).pop("before", None)) is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_child() -> None:
    if _heard_by:
        _heard_by.clear()
        _restore()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
