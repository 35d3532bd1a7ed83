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
_MONTHS: Final = (
    *("JAN", "FEB", "MAR", "APR", "MAY", "JUN"),
    *("JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
)
_WEEKDAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_RANGE: Final = re.compile(
    r"(?P<start>\*|\d+|[A-Z]{3})(?:-(?P<end>\d+|[A-Z]{3}))?(?:/(?P<step>\d+))?", re.ASCII
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
    special: re.Pattern[str] | None = None
    #: What is written 7 and means 0, as Sunday.
    alias_of_first: int | None = None

    def number(self, text: str) -> int:
        if text in self.symbols:
            return self.first + self.symbols.index(text)
        if not text.isdigit():
            raise ValueError(f"{text!r} is not a {self.name}")
        number = int(text)
        if number == self.alias_of_first:
            return self.first
        if not self.first <= number <= self.last:
            raise ValueError(f"the {self.name} is from {self.first} to {self.last}, not {text}")
        return number

    def numbers(self, term: str) -> set[int]:
        """What a term without commas means: `*`, `5`, `1-5`, `*/10`, `10/5`, `22-4/2`."""
        found = _RANGE.fullmatch(term)
        if not found:
            raise ValueError(f"{term!r} is not a {self.name}, nor several")
        start, end, step = found["start"], found["end"], int(found["step"] or 1)
        if step == 0:
            raise ValueError(f"the step of {term!r} is not 0")
        if start == "*":
            if end:
                raise ValueError(f"{term!r} is not a range")
            low, high = self.first, self.last
        else:
            low = self.number(start)
            if not end and (not found["step"] or low == self.last):
                return {low}
            # A number with a step means: from there on.
            high = self.number(end) if end else self.last
            if low == high:
                # Once around: `MON-MON` is every day.
                low, high = self.first, self.last
        values = self._around(low, high, step) if low > high else range(low, high + 1, step)
        return set(values)

    def _around(self, low: int, high: int, step: int) -> list[int]:
        """A range that wraps around, such as `22-4`. Where a step goes on is croniter's custom."""
        values = list(range(low, self.last + 1, step))
        left_out = self.last - values[-1]
        goes_past = values[-1] - self.first + step > self.last - self.first + 1
        skipped = step - left_out if goes_past and left_out < step else 0
        return [*values, *range(self.first + skipped, high + 1, step)]

    def parse(self, text: str) -> tuple[set[int], list[str]]:
        """The numbers that a field lists, and the terms that are no numbers, in cronsim's dialect.

        Raises:
            ValueError: It cannot be read.
        """
        numbers: set[int] = set()
        specials: list[str] = []
        for term in text.split(","):
            if self.special and (found := self.special.fullmatch(term)):
                specials.append(self._special(term, found))
            else:
                numbers |= self.numbers(term)
        return numbers, specials

    def _special(self, term: str, found: re.Match[str]) -> str:
        if self.special is _LAST_DAY:
            return term
        if found["last"]:
            return f"{self.number(found['last'])}L"
        return f"{self.number(found['day'])}#{found['nth']}"


_SECOND: Final = _Field("second", 0, 59)
_MINUTE: Final = _Field("minute", 0, 59)
_HOUR: Final = _Field("hour", 0, 23)
_DAY: Final = _Field("day of the month", 1, 31, special=_LAST_DAY)
_MONTH: Final = _Field("month", 1, 12, symbols=_MONTHS)
_WEEKDAY: Final = _Field(
    "day of the week", 0, 6, symbols=_WEEKDAYS, special=_NTH_WEEKDAY, alias_of_first=7
)


def _translate(expression: str) -> str:
    """The expression in cronsim's dialect: the seconds, where there are any, first.

    Raises:
        ValueError: It cannot be read.
    """
    parts = _ALIASES.get(expression.strip().lower(), expression).upper().split()
    if len(parts) not in {5, 6}:
        raise ValueError(
            "it has five fields (minute, hour, day of the month, month, day of the week) "
            "or six (and the second, last)"
        )
    minute, hour, day, month, weekday, *second = parts
    day, weekday = ("*" if field == "?" else field for field in (day, weekday))
    return " ".join(
        [
            *(_translate_time(_SECOND, field) for field in second),
            _translate_time(_MINUTE, minute),
            _translate_time(_HOUR, hour),
            _translate_day(_DAY, day, 31, other=weekday),
            _translate_time(_MONTH, month),
            _translate_day(_WEEKDAY, weekday, 7, other=day),
        ]
    )


def _translate_time(field: _Field, text: str) -> str:
    numbers, _ = field.parse(text)
    listed = ",".join(map(str, sorted(numbers)))
    if not text.startswith("*"):
        return listed
    # For an hour or a minute that begins with a star, cronsim counts real time through a clock
    # change; for any other the clock on the wall. So the star has to stay.
    first, _, others = text.partition(",")
    return f"{first},{listed}" if others else first


def _translate_day(field: _Field, text: str, days: int, *, other: str) -> str:
    # A day has to fit both fields where one of them is a star, and either of them otherwise.
    # cronsim takes `*/2` for a star too, croniter does not; and for croniter a list of every day
    # is one only beside a field that has a star in it, or one that has an n-th weekday.
    numbers, specials = field.parse(text)
    if "*" in text.split(",") or (len(numbers) == days and re.search(r"[*#]|L\d", other)):
        return "*"
    if field is _WEEKDAY and specials:
        # croniter wants both fields to fit then, or none of it; cronsim has no way to say so.
        if numbers:
            raise ValueError(f"{text!r} has days of every week and of one: it may have either")
        if len(_DAY.parse(other)[0]) < _DAY.last and other != "*":
            raise ValueError(
                f"the day of the month {other!r} cannot stand beside the weekday {text!r}: "
                "one of them is *"
            )
    return ",".join([*map(str, sorted(numbers)), *specials])


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
