"""Moments as they are read: in UTC, and the nearest one in the place of those that PostgreSQL has and Python has not."""

from __future__ import annotations

import datetime
from typing import Final

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader

FIRST: Final = datetime.datetime.min.replace(tzinfo=datetime.UTC)
LAST: Final = datetime.datetime.max.replace(tzinfo=datetime.UTC)


class NearestTimestamptzLoader(TimestamptzLoader):
    """Reads what lies before the year 1 as its beginning, what lies after 9999 as its end.

    In UTC over the caller's connections, too, whatever zone they are set to: the same job looks the same over any.
    """

    def load(self, data: Buffer) -> datetime.datetime:
        """Read a moment. Never fails for one that the server has."""
        try:
            moment = super().load(data)
        except psycopg.DataError:
            text = bytes(data)
            return FIRST if text.startswith(b"-infinity") or text.endswith(b"BC") else LAST
        if moment.tzinfo is datetime.UTC:
            return moment
        try:
            return moment.astimezone(datetime.UTC)
        except OverflowError:
            return FIRST if moment.year == 1 else LAST
