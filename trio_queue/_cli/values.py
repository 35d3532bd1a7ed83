"""Kinds of values that a command line may hold, as functions for `type=`."""

from __future__ import annotations

import datetime

import click


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
