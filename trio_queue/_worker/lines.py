"""Lines of the log that are written for every job: their records are made quickly."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any


class Line:
    """One kind of line of one logger.

    logging finds out anew for each record who called, in which file, thread and process: 8 µs, twice
    for each job, where running a job costs 18. For the lines of one kind that is always the same.
    So a record is a copy of the first one. Where logging was told to make other records (a factory,
    a Logger class), or another thread writes, logging makes it.
    """

    def __init__(self, logger: logging.Logger, level: int, message: str) -> None:
        """Make one.

        Args:
            logger: Whose line it is.
            level: Its level.
            message: With `%s` and the like, for `arguments`.
        """
        self._logger = logger
        self._level = level
        self._message = message
        self._first: dict[str, Any] | None = None
        self._started = 0.0

    @property
    def is_enabled(self) -> bool:
        """Whether anybody reads it."""
        return self._logger.isEnabledFor(self._level)

    def write(self, *arguments: object, extra: dict[str, Any]) -> None:
        """Write one, which is enabled.

        Args:
            *arguments: Of the message.
            extra: As of `logging.Logger.log`.
        """
        first = self._first
        if (
            first is None
            or first["thread"] != threading.get_ident()
            or logging.getLogRecordFactory() is not logging.LogRecord
            or type(self._logger) is not logging.Logger
        ):
            self._logger.log(self._level, self._message, *arguments, extra=extra, stacklevel=2)
            self._keep_first()
            return
        record = object.__new__(logging.LogRecord)
        now = time.time()
        vars(record).update(
            first,
            args=arguments,
            created=now,
            msecs=int(now * 1000) % 1000 + 0.0,
            relativeCreated=(now - self._started) * 1000,
            **extra,
        )
        if "taskName" in first:  # since Python 3.12
            record.taskName = _task_name()
        self._logger.handle(record)

    def _keep_first(self) -> None:
        path, number, function, _ = self._logger.findCaller(stacklevel=3)
        record = self._logger.makeRecord(
            self._logger.name, self._level, path, number, self._message, (), None, function
        )
        self._started = record.created - record.relativeCreated / 1000
        self._first = dict(vars(record))


def _task_name() -> str | None:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if task is None else task.get_name()
