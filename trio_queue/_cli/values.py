"""Kinds of values that a command line may hold."""

from __future__ import annotations

import datetime
from typing import Any

import click


class Moment(click.ParamType):
    """A moment in ISO 8601, with its time zone."""

    name = "moment"

    def convert(self, value: Any, param: Any, ctx: Any) -> datetime.datetime:
        """Read it; refuse one without a time zone."""
        if isinstance(value, datetime.datetime):
            return value
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a moment such as 2030-01-01T06:00:00+01:00.", param, ctx)
        if moment.utcoffset() is None:
            self.fail(
                f"{value!r} has no time zone: write 2030-01-01T06:00:00Z or +01:00.", param, ctx
            )
        return moment


class Names(click.ParamType):
    """Names with commas between them."""

    name = "name,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Read them; none at all is an empty list."""
        if isinstance(value, list):
            return [str(each) for each in value]
        return [name.strip() for name in str(value).split(",") if name.strip()]
