"""The types that tasks' arguments and durations are made of."""

from __future__ import annotations

from typing import Literal, TypeAlias, TypedDict

JSONValue: TypeAlias = (
    'dict[str, "JSONValue"] | list["JSONValue"] | str | int | float | bool | None'
)
JSONDict: TypeAlias = dict[str, JSONValue]

#: The event loop whose primitives an async task uses.
Flavor: TypeAlias = Literal["trio", "asyncio"]


class TimeDeltaParams(TypedDict, total=False):
    """Keyword arguments of `datetime.timedelta`, for `schedule_in=` and `retry_in=`."""

    weeks: float
    days: float
    hours: float
    minutes: float
    seconds: float
    milliseconds: float
    microseconds: float
