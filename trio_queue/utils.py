"""Small helpers that several floors and Procrastinate's users need."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

from trio_queue.types import TimeDeltaParams


def utcnow() -> datetime.datetime:
    """This moment, with its time zone."""
    return datetime.datetime.now(tz=datetime.UTC)


def utcmax() -> datetime.datetime:
    """The last moment that can be told: what is scheduled for it never comes."""
    return datetime.datetime.max.replace(tzinfo=datetime.UTC)


def timedelta_from_params(params: TimeDeltaParams) -> datetime.timedelta:
    """The duration; the longest there is where it would be longer."""
    try:
        return datetime.timedelta(**params)
    except OverflowError:
        return datetime.timedelta.max


def after(delay: datetime.timedelta, moment: datetime.datetime | None = None) -> datetime.datetime:
    """The moment so long after another (after now); the last one where there is none such."""
    try:
        return (moment or utcnow()) + delay
    except OverflowError:
        return utcmax()


def datetime_from_timedelta_params(params: TimeDeltaParams) -> datetime.datetime:
    """The moment so long from now."""
    return after(timedelta_from_params(params))


def add_namespace(name: str, namespace: str) -> str:
    """`namespace:name`, or the name where there is no namespace."""
    return f"{namespace}:{name}" if namespace else name


def queues_display(queues: Iterable[str] | None) -> str:
    """The queues as a log line names them."""
    return f"queues {', '.join(queues)}" if queues is not None else "all queues"
