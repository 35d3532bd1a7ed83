"""Kinds of values that a command line may hold, as functions for `type=`."""

from __future__ import annotations

import datetime
from typing import Final

import click

#: Jobs and workers are numbered by a `bigint`.
IDS: Final = range(-(2**63), 2**63)


def row_id(value: str | int) -> int:
    """Read the id of a job or a worker.

    Raises:
        click.BadParameter: It is not a whole number, or one that no row can have.
    """
    try:
        number = int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a whole number.") from None
    if number not in IDS:
        raise click.BadParameter(not_an_id(number))
    return number


def not_an_id(number: int) -> str:
    """What is said of a number that is not one of `IDS`."""
    return f"{number} is not an id: ids are whole numbers of 64 bits."


def moment(value: str | datetime.datetime) -> datetime.datetime:
    """Read a moment in ISO 8601.

    Raises:
        click.BadParameter: It is not one, or has no time zone.
    """
    if isinstance(value, datetime.datetime):
        return value
    try:
        read = datetime.datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a moment such as 2030-01-01T06:00:00+01:00."
        ) from None
    if read.utcoffset() is None:
        raise click.BadParameter(f"{value!r} has no time zone: add Z, or one such as +01:00.")
    return read


#: The units of a duration.
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(value: str | datetime.timedelta) -> datetime.timedelta:
    """Read a number with a unit: 45s, 90m, 12h, 30d, 4w.

    Raises:
        click.BadParameter: It is none, or longer than any calendar.
    """
    if isinstance(value, datetime.timedelta):
        return value
    number, unit = value[:-1], value[-1:]
    try:
        return datetime.timedelta(**{_UNITS[unit]: int(number)})
    except (KeyError, ValueError):
        raise click.BadParameter(
            f"{value!r} is not a duration such as 45s, 90m, 12h, 30d or 4w."
        ) from None
    except OverflowError:
        raise click.BadParameter(f"{value!r} is longer than any calendar.") from None


def names(value: str | list[str]) -> list[str]:
    """Read names with commas between them; none at all is an empty list."""
    if isinstance(value, list):
        return value
    return [name.strip() for name in value.split(",") if name.strip()]
