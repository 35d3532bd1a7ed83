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


def names(value: str | list[str]) -> list[str]:
    """Read names with commas between them; none at all is an empty list."""
    if isinstance(value, list):
        return value
    return [name.strip() for name in value.split(",") if name.strip()]
