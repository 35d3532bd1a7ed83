"""What our encoders write is what the server would have got from psycopg's dumpers."""

from __future__ import annotations

import datetime
import math
from collections.abc import Generator, Mapping
from enum import IntEnum
from typing import Any

import psycopg
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trio_queue._pg.text_format import encoders_for

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00")) | st.sampled_from(
    [
        "",
        "NULL",
        "null",
        '"',
        "\\",
        '\\"',
        "{",
        "}",
        "{}",
        ",",
        " a ",
        "\n\t\r",
        "'",
        "a\\\\b",
        "é😀\u2028",
    ]
)
#: Offsets of whole minutes: the server takes seconds, too, and nothing finer.
ZONES = st.integers(-14 * 60, 14 * 60).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)
MOMENTS = st.datetimes(timezones=ZONES) | st.sampled_from(
    [
        datetime.datetime.min.replace(tzinfo=datetime.UTC),
        datetime.datetime.max.replace(tzinfo=datetime.UTC),
        datetime.datetime(
            1900, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(seconds=34 * 60 + 8))
        ),
    ]
)

VALUES: Mapping[str, st.SearchStrategy[Any]] = {
    "text": TEXTS,
    "varchar": TEXTS,
    "int": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "boolean": st.booleans(),
    "double precision": st.floats() | st.integers(-(2**53), 2**53),
    "timestamptz": MOMENTS,
    # As verbs give it.
    "jsonb": st.sampled_from(['{"a": "\\\\ \\" \'"}', "[]", "[1e400]", '"{}"']),
}


@pytest.fixture(scope="module")
def server(postgres_server: Any) -> Generator[psycopg.Connection[Any]]:
    name = postgres_server.create_database()
    with psycopg.connect(postgres_server.conninfo(name), autocommit=True) as connection:
        # The least moment is in the year 1 in no other zone.
        connection.execute("SET TimeZone TO 'UTC'")
        yield connection
    postgres_server.drop_database(name)


def as_read(connection: psycopg.Connection[Any], kind: str, encoded: bytes | None) -> Any:
    query = f"SELECT $1::{kind}::text".encode()
    result = connection.pgconn.exec_params(query, [encoded])
    assert not result.error_message, result.error_message
    return result.get_value(0, 0)


def as_read_of_psycopgs(connection: psycopg.Connection[Any], kind: str, value: Any) -> Any:
    cursor = connection.execute(f"SELECT %s::{kind}::text".encode(), [value])
    assert cursor.pgresult is not None
    return cursor.pgresult.get_value(0, 0)


def assert_alike(connection: psycopg.Connection[Any], kind: str, value: Any) -> None:
    encoded = encoders_for(kind)[type(value)](value)
    listed: Any = [*value] if type(value) in {tuple, set, frozenset} else value
    assert as_read(connection, kind, encoded) == as_read_of_psycopgs(connection, kind, listed)


@pytest.mark.parametrize("kind", VALUES)
def test_a_value(server: psycopg.Connection[Any], kind: str) -> None:
    @settings(max_examples=150)
    @example(value=None)
    @given(value=VALUES[kind])
    def check(value: Any) -> None:
        assert_alike(server, kind, value)

    check()


@pytest.mark.parametrize("kind", sorted(VALUES.keys() - {"jsonb"}))
def test_an_array(server: psycopg.Connection[Any], kind: str) -> None:
    # psycopg does not mix whole and broken numbers in an array.
    values = st.floats() if kind == "double precision" else VALUES[kind]

    @settings(max_examples=150)
    @example(value=None)
    @example(value=[None, None])
    @given(value=st.lists(values | st.none(), max_size=5))
    def check(value: Any) -> None:
        assert_alike(server, f"{kind}[]", value)
        if value is not None:
            assert_alike(server, f"{kind}[]", tuple(value))

    check()


def test_sets(server: psycopg.Connection[Any]) -> None:
    assert_alike(server, "bigint[]", {3, 1, 2})
    assert_alike(server, "text[]", frozenset({"a", "NULL"}))


def test_an_array_that_is_written_already(server: psycopg.Connection[Any]) -> None:
    assert_alike(server, "bigint[]", "{1,NULL,3}")


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, -0.0, 5e-324])
def test_numbers_that_are_seldom(server: psycopg.Connection[Any], number: float) -> None:
    assert_alike(server, "double precision", number)
    assert_alike(server, "double precision[]", [number, None])


@pytest.mark.parametrize("kind", ["text", "text[]"])
def test_a_nul_is_refused_as_psycopg_does(server: psycopg.Connection[Any], kind: str) -> None:
    # libpq would end the parameter there, in silence.
    value: Any = ["a\x00b"] if kind == "text[]" else "a\x00b"
    with pytest.raises(psycopg.DataError) as theirs:
        server.execute(f"SELECT %s::{kind}".encode(), [value])
    with pytest.raises(psycopg.DataError) as ours:
        encoders_for(kind)[type(value)](value)
    assert str(ours.value) == str(theirs.value)


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("int", 1.0),
        ("int", True),
        ("int", Number.ONE),
        ("int", [1]),
        ("text", b""),
        ("text", True),
        ("bigint[]", 1),
        ("timestamptz", datetime.date(2020, 1, 1)),
    ],
)
def test_what_is_left_to_psycopg(kind: str, value: Any) -> None:
    assert type(value) not in encoders_for(kind)


@pytest.mark.parametrize("value", [[1.0], [True], [[1]]])
def test_arrays_that_are_left_to_psycopg(value: list[Any]) -> None:
    with pytest.raises(KeyError):
        encoders_for("int[]")[list](value)
