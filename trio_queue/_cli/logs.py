"""What the log looks like: text that a person reads, or a line of JSON for each record."""

from __future__ import annotations

import datetime
import json
import logging
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TextIO, cast

TEXT = "text"
JSON = "json"

#: What every record has; anything else is a field of its own.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}


class TextFormatter(logging.Formatter):
    """A line for a person: the time, the level, what happened; a traceback below it."""

    def __init__(self, *, dated: bool, colour: bool) -> None:
        """Make one.

        Args:
            dated: Whether the date stands before the time of day.
            colour: Whether warnings and errors stand out by ANSI colours.
        """
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")
        self._dated = dated
        self._colour = colour

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's signature
        """The local time in milliseconds, with the date where it is wanted: 2030-01-02T03:04:05.678."""
        moment = datetime.datetime.fromtimestamp(record.created).astimezone().replace(tzinfo=None)
        told = moment if self._dated else moment.time()
        return told.isoformat(timespec="milliseconds")

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        text = super().format(record)
        colour = _COLOURS.get(record.levelname)
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour and colour else text


class JsonFormatter(logging.Formatter):
    """A JSON object on one line: the standard facts, and every field that the record carries.

    `action` names what the record is about. A record about a job has it whole as `job`, and its
    `job_id`, `task` and `queue` beside it; one of a worker has `worker`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        moment = datetime.datetime.fromtimestamp(record.created, tz=datetime.UTC)
        told: dict[str, Any] = {
            "timestamp": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if isinstance(told.get("job"), dict):
            job = cast("dict[str, Any]", told["job"])
            for name, key in (("job_id", "id"), ("task", "task_name"), ("queue", "queue")):
                told.setdefault(name, job.get(key))
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            told["stack"] = self.formatStack(record.stack_info)
        return json.dumps(told, default=repr, ensure_ascii=False)


def make_formatter(format: str, style: str, stream: TextIO) -> logging.Formatter:
    """The formatter for a log format.

    Args:
        format: "text", "json", or a format of the logging module's.
        style: The style of such a format: "%", "{" or "$".
        stream: Where the lines go. A terminal gets colours, unless NO_COLOR is set, and no date:
            its reader knows that.

    Raises:
        ValueError: It is not a format of this style, or has a field that not every record has.
    """
    match format:
        case "text":
            at_terminal = stream.isatty()
            colour = at_terminal and not os.environ.get("NO_COLOR")
            return TextFormatter(dated=not at_terminal, colour=colour)
        case "json":
            return JsonFormatter()
        case _:
            formatter = logging.Formatter(format, style=style)  # type: ignore[arg-type]  # checked by logging itself
            _try(formatter)
            return formatter


def _try(formatter: logging.Formatter) -> None:
    """Format what every record has: a field that is not known would fail with each line of the log.

    Raises:
        ValueError: It cannot be formatted; the message has the field.
    """
    trial = logging.LogRecord(__name__, logging.INFO, __file__, 1, "a trial", (), None, "_try")
    try:
        formatter.format(trial)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from error


@contextmanager
def logging_to_stderr(level: int, format: str, style: str) -> Generator[None]:
    """While the block lasts, records of this level and above go to stderr; nowhere where it is closed.

    Args:
        level: The least level.
        format: See `make_formatter`.
        style: See `make_formatter`.

    Raises:
        ValueError: See `make_formatter`.
    """
    stderr = cast("TextIO | None", sys.stderr)
    if stderr is None:
        yield
        return
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(make_formatter(format, style, stderr))
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def chosen_level(
    *, log_level: str | None, verbose: int, quiet: int, default: int = logging.INFO
) -> int:
    """The least level to show.

    Args:
        log_level: A level's name; it wins.
        verbose: How often `-v` was given: once or more shows everything.
        quiet: How often `-q` was given: once leaves warnings, twice errors.
        default: Where none of them is given.
    """
    if log_level is not None:
        return logging.getLevelNamesMapping()[log_level.upper()]
    if verbose:
        return logging.DEBUG
    if quiet:
        return logging.WARNING if quiet == 1 else logging.ERROR
    return default
