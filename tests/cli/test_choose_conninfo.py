from __future__ import annotations

import pytest

from trio_queue._cli.conninfo import (
    MISSING_DATABASE,
    ConninfoChoice,
    InvalidConninfoError,
    choose_conninfo,
)

EVERYTHING = {
    "TRIO_QUEUE_DATABASE_URL": "postgresql:///ours",
    "DATABASE_URL": "postgresql:///theirs",
    "PGHOST": "db",
}


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in EVERYTHING.items() if name not in names}


@pytest.mark.parametrize(
    ("option", "app", "environ", "expected"),
    [
        ("dbname=option", "dbname=app", EVERYTHING, ("dbname=option", "--database")),
        (None, "dbname=app", EVERYTHING, ("dbname=app", "the App")),
        (None, None, EVERYTHING, ("postgresql:///ours", "TRIO_QUEUE_DATABASE_URL")),
        (None, None, without("TRIO_QUEUE_DATABASE_URL"), ("postgresql:///theirs", "DATABASE_URL")),
        (None, None, {"PGDATABASE": "d", "PGHOST": "db"}, ("", "PGHOST, PGDATABASE")),
        (None, None, {"PGSERVICE": "jobs"}, ("", "PGSERVICE")),
        # Empty is not given.
        ("", " ", EVERYTHING | {"TRIO_QUEUE_DATABASE_URL": ""}, ("postgresql:///theirs", "DATABASE_URL")),
        (" dbname=x\n", None, {}, ("dbname=x", "--database")),
    ],
)  # fmt: skip  # one case a line
def test_the_first_that_says_it_counts(
    option: str | None, app: str | None, environ: dict[str, str], expected: tuple[str, str]
) -> None:
    choice = choose_conninfo(option, app, environ)
    assert choice is not None
    assert choice.conninfo == expected[0]
    assert set(choice.source.split(", ")) == set(expected[1].split(", "))


@pytest.mark.parametrize(
    "environ", [{}, {"PGHOST": ""}, {"PGDATA": "/data", "PGROOT": "/x", "HOME": "/"}]
)
def test_nothing_says_it(environ: dict[str, str]) -> None:
    assert choose_conninfo(None, None, environ) is None


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DATABASE_URL", "sqlite:///jobs.db", "sqlite:// is not PostgreSQL's"),
        ("DATABASE_URL", "postgresql+asyncpg://user:secret@host/db", "postgresql+asyncpg:// is not PostgreSQL's"),
        ("TRIO_QUEUE_DATABASE_URL", "no such thing", "TRIO_QUEUE_DATABASE_URL is not a connection string"),
    ],
)  # fmt: skip  # one case a line
def test_one_that_cannot_be_read_is_an_error_not_passed_over(
    name: str, value: str, said: str
) -> None:
    with pytest.raises(InvalidConninfoError) as caught:
        choose_conninfo(None, None, {name: value, "PGHOST": "db"})
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_password_in_a_log() -> None:
    assert "secret" not in repr(ConninfoChoice("password=secret", "--database"))


def test_the_error_names_every_way() -> None:
    for way in ("--database", "App", "TRIO_QUEUE_DATABASE_URL", "DATABASE_URL", "PGHOST"):
        assert way in MISSING_DATABASE
