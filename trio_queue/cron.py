"""Cron expressions: what they mean, the next and the last moment of one.

The dialect is croniter's, as users of Procrastinate write it; the moments are found by cronsim,
which handles the clock changes as Debian's cron does. The dialects differ: croniter has the seconds
last, ranges that wrap around (`22-4`, `FRI-MON`), and reads `*/2` beside a weekday as "or".
So an expression is read here, and handed to cronsim as plain lists of numbers.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import attrs
from cronsim import CronSim, CronSimError

from trio_queue.exceptions import InvalidOption

_ALIASES: Final = {
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS: Final = [
    "JAN",
    "FEB",
    "MAR",
    "APR",
    "MAY",
    "JUN",
    "JUL",
    "AUG",
    "SEP",
    "OCT",
    "NOV",
    "DEC",
]
_WEEKDAYS: Final = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
_RANGE: Final = re.compile(
    r"(?P<start>\*|\?|\d+|[A-Z]{3})(?:-(?P<end>\d+|[A-Z]{3}))?(?:/(?P<step>\d+))?", re.ASCII
)
# The last day of the month; the last or the n-th weekday of a month.
_LAST_DAY: Final = re.compile(r"L")
_NTH_WEEKDAY: Final = re.compile(r"L(?P<last>[0-7])|(?P<day>[0-7]|[A-Z]{3})#(?P<nth>[1-5])")
# Nobody looks at more occurrences of one expression to learn whether there are any.
_FIRST_MOMENT: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


@attrs.frozen
class _Field:
    name: str
    first: int
    last: int
    symbols: tuple[str, ...] = ()
    is_day: bool = False
    #: Sunday may be written 0 or 7.
    wraps_to_zero: bool = False
    special: re.Pattern[str] | None = None

    @property
    def size(self) -> int:
        return self.last - self.first + 1

    def number(self, text: str) -> int:
        if text in self.symbols:
            return self.first + self.symbols.index(text)
        if not text.isdigit():
            raise ValueError(f"the {self.name} is not {text!r}")
        number = int(text)
        if not self.first <= number <= self.last + self.wraps_to_zero:
            raise ValueError(f"the {self.name} is from {self.first} to {self.last}, not {text}")
        return number

    def numbers(self, term: str) -> list[int]:
        """What a term without commas means: `*`, `5`, `1-5`, `*/10`, `10/5`, `22-4/2`."""
        found = _RANGE.fullmatch(term)
        if not found:
            raise ValueError(f"the {self.name} is not {term!r}")
        start, end, step = found["start"], found["end"], int(found["step"] or 1)
        if step == 0:
            raise ValueError(f"the step of the {self.name} is not 0")
        if start in {"*", "?"}:
            if end or (start == "?" and not self.is_day):
                raise ValueError(f"the {self.name} is not {term!r}")
            low, high = self.first, self.last
        else:
            low = self.number(start)
            # A number with a step means: from there on.
            high = self.number(end) if end else self.last if found["step"] else low
        if low > high:
            high += self.size
        return [self.wrapped(number) for number in range(low, high + 1, step)]

    def wrapped(self, number: int) -> int:
        return (number - self.first) % self.size + self.first

    def translated(self, text: str) -> str:
        """The field in cronsim's dialect."""
        numbers: set[int] = set()
        specials: list[str] = []
        for term in text.split(","):
            if self.special and (found := self.special.fullmatch(term)):
                specials.append(self._special(term, found))
            else:
                numbers.update(self.numbers(term))
        if len(numbers) == self.size:
            return "*"
        terms = [*map(str, sorted(numbers)), *specials]
        # For an hour or a minute that begins with a star, cronsim counts real time through a
        # clock change; for any other the clock on the wall. So the star has to stay.
        if text.startswith("*") and not self.is_day:
            terms.insert(0, text.split(",", maxsplit=1)[0])
        return ",".join(terms)

    def _special(self, term: str, found: re.Match[str]) -> str:
        if self.special is _LAST_DAY:
            return term
        if found["last"]:
            return f"{self.wrapped(int(found['last']))}L"
        return f"{self.wrapped(self.number(found['day']))}#{found['nth']}"


_SECOND: Final = _Field("second", 0, 59)
_FIELDS: Final = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31, is_day=True, special=_LAST_DAY),
    _Field("month", 1, 12, symbols=tuple(_MONTHS)),
    _Field(
        "day of the week",
        0,
        6,
        symbols=tuple(_WEEKDAYS),
        is_day=True,
        wraps_to_zero=True,
        special=_NTH_WEEKDAY,
    ),
)


def _translate(expression: str) -> str:
    """The expression in cronsim's dialect: the seconds, where there are any, first."""
    parts = _ALIASES.get(expression.strip().lower(), expression).upper().split()
    if len(parts) not in {5, 6}:
        raise ValueError(
            "it has five fields (minute, hour, day of the month, month, day of the week) "
            "or six (and the second, last)"
        )
    fields = [field.translated(part) for field, part in zip(_FIELDS, parts, strict=False)]
    seconds = [_SECOND.translated(part) for part in parts[5:]]
    return " ".join([*seconds, *fields])


def get_timezone(timezone: datetime.tzinfo | str | None) -> datetime.tzinfo:
    """The time zone of this name (UTC for None).

    Raises:
        InvalidOption: There is no such time zone.
    """
    if timezone is None:
        return datetime.UTC
    if isinstance(timezone, datetime.tzinfo):
        return timezone
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise InvalidOption(
            f"there is no time zone {timezone!r}: "
            "give a name such as 'Europe/Berlin', or a datetime.tzinfo"
        ) from error


@attrs.frozen
class Cron:
    """A cron expression in a time zone. Moments are whole seconds since the epoch."""

    expression: str
    timezone: datetime.tzinfo
    _translated: str

    @classmethod
    def parse(cls, expression: str, timezone: datetime.tzinfo | str | None = None) -> Cron:
        """Read an expression.

        Args:
            expression: Five fields, or six with the seconds last, or an alias such as `@daily`.
            timezone: Where the clock hangs that it speaks of; None: UTC.

        Raises:
            InvalidOption: It is not a cron expression, its moment never comes, or there is no
                such time zone.
        """
        zone = get_timezone(timezone)
        try:
            cron = cls(expression, zone, _translate(expression))
            next(cron._forward(_FIRST_MOMENT))
        except ValueError as error:
            raise InvalidOption(f"{expression!r} is not a cron expression: {error}") from None
        except (CronSimError, StopIteration):
            raise InvalidOption(
                f"the cron expression {expression!r} means a moment that never comes"
            ) from None
        return cron

    def next(self, moment: float) -> int:
        """The first occurrence after this moment."""
        start = datetime.datetime.fromtimestamp(int(moment // 1), self.timezone)
        return next(found for found in self._forward(start) if found > moment)

    def last(self, moment: float) -> int:
        """The last occurrence that is not after this moment."""
        start = datetime.datetime.fromtimestamp(int(moment // 1), self.timezone)
        if start.fold:
            # In the hour that the clock shows twice, cronsim counts from its first showing.
            start = start.replace(tzinfo=None) + datetime.timedelta(hours=3)
            start = start.replace(tzinfo=self.timezone)
        # The microsecond makes cronsim count the second that it begins at.
        backward = CronSim(self._translated, start.replace(microsecond=1), reverse=True)
        return next(
            found for found in (round(each.timestamp()) for each in backward) if found <= moment
        )

    def between(self, after: float, until: float) -> Iterator[int]:
        """The occurrences after one moment, up to and with another, in order."""
        found = self.next(after)
        while found <= until:
            yield found
            found = self.next(found)

    def _forward(self, start: datetime.datetime) -> Iterator[int]:
        for found in CronSim(self._translated, start):
            yield round(found.timestamp())
