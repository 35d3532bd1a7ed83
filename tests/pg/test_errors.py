from __future__ import annotations

import psycopg
import pytest
import trio
from psycopg import errors

from tests.pg.helpers import wait_until_running
from trio_queue._pg import (
    PoolClosed,
    PoolTimeout,
    TrioConnection,
    describe_conninfo,
    is_transient,
)
from trio_queue._pg.errors import describe_parameters


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("the connection is closed"),
        errors.ConnectionTimeout("no answer"),
        errors.CancellationTimeout("no answer"),
        PoolTimeout("nothing"),
        errors.ConnectionFailure("08006"),
        errors.ConnectionDoesNotExist("08003"),
        errors.AdminShutdown("57P01"),
        errors.CrashShutdown("57P02"),
        errors.CannotConnectNow("57P03"),
        errors.TooManyConnections("53300"),
        errors.SerializationFailure("40001"),
        errors.DeadlockDetected("40P01"),
        errors.ReadOnlySqlTransaction("25006"),
        errors.IdleInTransactionSessionTimeout("25P03"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_passes_by_itself_is_transient(error: psycopg.Error) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        PoolClosed("closed"),
        errors.PipelineAborted("an earlier statement failed"),
        errors.QueryCanceled("57014"),
        errors.DatabaseDropped("57P04"),
        errors.UniqueViolation("23505"),
        errors.UndefinedTable("42P01"),
        errors.DiskFull("53100"),
        psycopg.ProgrammingError("a mistake"),
        psycopg.InterfaceError("a mistake"),
        psycopg.NotSupportedError("not on Trio"),
        ValueError("a mistake"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_stays_wrong_is_not(error: BaseException) -> None:
    assert not is_transient(error)


async def test_what_the_server_says_when_it_ends_a_session(
    connection: TrioConnection, admin: TrioConnection
) -> None:
    pid = connection.info.backend_pid
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _terminate() -> None:
            await wait_until_running(admin, pid)
            await admin.execute("SELECT pg_terminate_backend(%s)", (pid,))

        with pytest.raises(psycopg.OperationalError) as caught:
            await connection.execute("SELECT pg_sleep(600)")
    assert is_transient(caught.value)


def test_a_server_is_described_without_its_password() -> None:
    url = "postgresql://alice:secret@db.example:5433/app?sslpassword=hidden"
    description = describe_conninfo(url)
    assert description == "host=db.example port=5433 user=alice dbname=app"
    assert describe_conninfo("host=a password='se cret' user=b port=1 dbname=c") == (
        "host=a port=1 user=b dbname=c"
    )


def test_keywords_win_over_the_string() -> None:
    description = describe_conninfo("host=a port=1 user=b dbname=c", host="x", password="secret")
    assert description == "host=x port=1 user=b dbname=c"


def test_the_environment_fills_the_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "elsewhere")
    monkeypatch.setenv("PGPASSWORD", "secret")
    assert "host=elsewhere" in describe_conninfo("dbname=app")
    assert "secret" not in describe_conninfo("dbname=app")


def test_a_string_that_cannot_be_read_is_not_shown() -> None:
    assert "secret" not in describe_conninfo("alice:secret@host")


def test_no_parameters_at_all() -> None:
    assert describe_parameters({"password": "secret"}) == "libpq's default server"
