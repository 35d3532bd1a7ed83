from __future__ import annotations

import datetime
import itertools
from zoneinfo import ZoneInfo

import croniter  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]  it has no types
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from trio_queue.cron import Cron, get_timezone
from trio_queue.exceptions import InvalidOption

MONTHS = ["jan", "FEB", "mar", "dec"]
WEEKDAYS = ["sun", "MON", "fri", "sat"]


def terms(low: int, high: int, symbols: list[str] | None = None) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    named = number | st.sampled_from(symbols) if symbols else number
    step = st.integers(1, 12)
    return st.one_of(
        st.just("*"),
        st.builds("*/{}".format, step),
        named,
        st.builds("{}-{}".format, named, named),
        st.builds("{}-{}/{}".format, named, named, step),
        st.builds("{}/{}".format, number, step),
    )


def lists(low: int, high: int, symbols: list[str] | None = None) -> st.SearchStrategy[str]:
    return st.just("*") | st.lists(terms(low, high, symbols), min_size=1, max_size=3).map(",".join)


expressions = st.builds(
    lambda *fields: " ".join(fields).strip(),
    lists(0, 59),
    lists(0, 23),
    lists(1, 31) | st.just("L") | st.just("?"),
    lists(1, 12, MONTHS),
    lists(0, 7, WEEKDAYS) | st.sampled_from(["5#3", "mon#1", "L5", "L0", "7#2"]),
    st.just("") | lists(0, 59),
)
moments = st.integers(1_500_000_000, 1_900_000_000)


@settings(max_examples=500)
@given(expression=expressions, moment=moments)
def test_in_utc_the_moments_are_croniters(expression: str, moment: int) -> None:
    try:
        oracle = croniter.croniter(expression)
        expected = (
            round(oracle.get_next(float, start_time=moment)),
            round(oracle.get_prev(float, start_time=moment)),
        )
    except croniter.CroniterError:
        # What croniter refuses may mean something to us; a test below names what we refuse.
        reject()
    try:
        cron = Cron.parse(expression)
    except InvalidOption as error:
        # The one thing that croniter takes and we do not, a test below shows why.
        assert "cannot stand beside the weekday" in str(error)  # noqa: PT017  only then
        return
    assert (cron.next(moment), cron.last(moment - 1)) == expected


@pytest.mark.parametrize(
    "alias", ["@midnight", "@hourly", "@daily", "@weekly", "@monthly", "@yearly", "@annually"]
)
def test_aliases(alias: str) -> None:
    oracle = croniter.croniter(alias)
    assert Cron.parse(alias).next(1_700_000_000) == round(
        oracle.get_next(float, start_time=1_700_000_000)
    )


ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "UTC"]


@settings(max_examples=300)
@given(
    expression=st.sampled_from(
        [
            "30 2 * * *",
            "*/20 * * * *",
            "*/15 2 * * *",
            "0 * * * *",
            "0,30 1-3 * * *",
            "30 2,3 * * *",
            "15 1 * * SUN",
            "0 0 * * *",
            "30 2 * * * 30",
        ]
    ),
    zone=st.sampled_from(ZONES),
    change=st.sampled_from(
        ["2024-03-31", "2024-10-27", "2024-03-10", "2024-11-03", "2024-04-06", "2024-10-05"]
    ),
    offset=st.integers(-36 * 60, 36 * 60),
    second=st.floats(0, 59.9),
)
def test_backward_and_forward_tell_the_same_moments(
    expression: str, zone: str, change: str, offset: int, second: float
) -> None:
    cron = Cron.parse(expression, zone)
    day = datetime.datetime.fromisoformat(change).replace(tzinfo=datetime.UTC)
    moment = day.timestamp() + offset * 60 + second
    forward = list(cron.between(moment - 9 * 86_400, moment))
    assert forward == sorted(set(forward))
    assert cron.last(moment) == forward[-1]
    assert cron.next(moment) > moment
    assert next(cron.between(forward[-1], cron.next(moment))) == cron.next(moment)


def wall(timestamp: int, zone: str) -> str:
    return datetime.datetime.fromtimestamp(timestamp, ZoneInfo(zone)).isoformat()


def test_when_the_clocks_go_back_a_daily_moment_comes_once() -> None:
    cron = Cron.parse("30 2 * * *", "Europe/Berlin")
    start = datetime.datetime(2024, 10, 26, 12, tzinfo=datetime.UTC).timestamp()
    found = [wall(each, "Europe/Berlin") for each in cron.between(start, start + 3 * 86_400)]
    assert found == [
        "2024-10-27T02:30:00+02:00",
        "2024-10-28T02:30:00+01:00",
        "2024-10-29T02:30:00+01:00",
    ]


def test_when_the_clocks_go_forward_a_daily_moment_in_the_gap_comes_after_it() -> None:
    cron = Cron.parse("30 2 * * *", "Europe/Berlin")
    start = datetime.datetime(2024, 3, 30, 12, tzinfo=datetime.UTC).timestamp()
    assert wall(cron.next(start), "Europe/Berlin") == "2024-03-31T03:00:00+02:00"


def test_an_hourly_moment_keeps_real_time_through_a_change() -> None:
    cron = Cron.parse("*/30 * * * *", "Europe/Berlin")
    start = datetime.datetime(2024, 10, 26, 22, tzinfo=datetime.UTC).timestamp()
    found = list(cron.between(start, start + 4 * 3600))
    assert [later - earlier for earlier, later in itertools.pairwise(found)] == [1800] * 7


def test_moments_between_leave_out_the_first_and_keep_the_last() -> None:
    assert list(Cron.parse("* * * * *").between(60, 180)) == [120, 180]


def test_the_last_moment_may_be_this_very_second() -> None:
    cron = Cron.parse("* * * * *")
    assert (cron.last(120), cron.last(120.5), cron.last(119.9)) == (120, 120, 60)


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * * 2030", "five fields"),
        ("@reboot", "five fields"),
        ("60 * * * *", "minute is from 0 to 59, not 60"),
        ("* 24 * * *", "hour is from 0 to 23, not 24"),
        ("* * 0 * *", "day of the month is from 1 to 31, not 0"),
        ("* * * 13 *", "month is from 1 to 12"),
        ("* * * * 8", "day of the week is from 0 to 6"),
        ("* * * * * 60", "second is from 0 to 59"),
        ("*/0 * * * *", "step"),
        ("*-5 * * * *", "not a range"),
        ("x * * * *", "'X' is not a minute"),
        ("ABC * * * *", "'ABC' is not a minute"),
        ("* * 15W * *", "not a day of the month"),
        ("* * * * 5#6", "not a day of the week"),
        ("H * * * *", "not a minute"),
        ("1,,2 * * * *", "not a minute"),
        ("-1 * * * *", "not a minute"),
        ("٣ * * * *", "not a minute"),
        ("* * 1 * 5#3", "cannot stand beside the weekday"),
        ("* * * * 5#3,1", "either"),
        ("0 0 30 2 *", "never comes"),
        ("0 0 31 4,6 *", "never comes"),
    ],
)
def test_what_it_refuses(expression: str, complaint: str) -> None:
    with pytest.raises(InvalidOption, match=complaint):
        Cron.parse(expression)


def test_a_rare_moment_is_no_never() -> None:
    found = Cron.parse("0 0 29 2 *").next(1_710_000_000)
    assert wall(found, "UTC") == "2028-02-29T00:00:00+00:00"


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "Europe/Berlin\0"])
def test_unknown_time_zones_are_refused(zone: str) -> None:
    with pytest.raises(InvalidOption, match="there is no time zone"):
        get_timezone(zone)


def test_time_zones_come_as_names_and_as_objects() -> None:
    assert get_timezone(None) is datetime.UTC
    zone = ZoneInfo("Asia/Tokyo")
    assert get_timezone(zone) is zone
    assert get_timezone("Asia/Tokyo") == zone
