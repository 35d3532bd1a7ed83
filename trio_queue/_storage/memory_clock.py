"""What time it is in memory: the wall's time, or a Trio clock's, so that fake time moves schedules."""

from __future__ import annotations

import datetime

import trio

from trio_queue import utils


class MemoryClock:
    """Tells the moment: by the wall outside of Trio, by Trio's clock inside.

    Trio's clock counts from the moment by the wall at which it was first seen. A clock once seen
    goes on being asked from outside of Trio (a job's thread, a test's end), so that time never
    jumps back when a mock clock has run ahead.
    """

    def __init__(self) -> None:
        self._trio_clock: trio.abc.Clock | None = None
        self._begin = utils.utcnow()

    def __call__(self) -> datetime.datetime:
        """This moment, with its time zone."""
        try:
            current = trio.lowlevel.current_clock()
        except RuntimeError:
            current = None
        if current is not None and current is not self._trio_clock:
            begin = self._read()
            self._trio_clock = current
            self._begin = begin - datetime.timedelta(seconds=current.current_time())
        return self._read()

    def _read(self) -> datetime.datetime:
        if self._trio_clock is None:
            return utils.utcnow()
        return self._begin + datetime.timedelta(seconds=self._trio_clock.current_time())
