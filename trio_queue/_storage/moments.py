"""Moments that PostgreSQL has and Python has not: the nearest one is read in their place."""

from __future__ import annotations

import datetime
from typing import Final

import psycopg
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestamptzLoader

FIRST: Final = datetime.datetime.min.replace(tzinfo=datetime.UTC)
LAST: Final = datetime.datetime.max.replace(tzinfo=datetime.UTC)


class NearestTimestamptzLoader(TimestamptzLoader):
    """Reads what lies before the year 1 as its beginning, what lies after 9999 as its end."""

    def load(self, data: Buffer) -> datetime.datetime:
        """Read a moment. Never fails for one that the server has."""
        try:
            return super().load(data)
        except psycopg.DataError:
            text = bytes(data)
            return FIRST if text.startswith(b"-infinity") or text.endswith(b"BC") else LAST
