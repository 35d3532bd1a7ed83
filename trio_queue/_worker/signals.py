"""SIGINT and SIGTERM ask the worker to stop: each one counts, however busy the loop is."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from trio_queue._worker.shutdown import Shutdown
from trio_queue.log import Action, fields

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def heard_signals(shutdown: Shutdown, logger: logging.Logger) -> Generator[None]:
    """While the block lasts, each signal asks the worker to stop; the handlers before are restored.

    Plain handlers, not `trio.open_signal_receiver`: that one coalesces, and of three SIGTERMs during
    a blocked loop one would be heard. Outside of the main thread, where Python runs no handlers,
    there are none, and a warning says so.
    """
    if threading.current_thread() is not threading.main_thread():
        logger.warning(
            "Signals are not heard: the worker does not run in the main thread. Stop it by "
            "worker.stop(), and pass install_signal_handlers=False to say that this is meant",
            extra=fields(Action.WORKER_NO_SIGNALS),
        )
        yield
        return

    def hear(number: int, _: FrameType | None) -> None:
        shutdown.post_from_signal(signal.Signals(number).name)

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            # Somebody may have put a handler of his own there meanwhile: it stays.
            if signal.getsignal(number) is hear:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
