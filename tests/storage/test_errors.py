"""What PostgreSQL says, in our words."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors as pg

from trio_queue._pg.errors import PoolTimeout
from trio_queue._storage.errors import is_transient, translate, translated
from trio_queue.exceptions import (
    AlreadyEnqueued,
    ConnectorException,
    JobNotFound,
    SchemaError,
    UniqueViolation,
    WorkerGone,
)


def raised(conninfo: str, statement: str) -> psycopg.Error:
    """What the server says to this."""
    with (
        psycopg.connect(conninfo, autocommit=True) as connection,
        pytest.raises(psycopg.Error) as caught,
    ):
        connection.execute(statement.encode())
    return caught.value


def test_the_queueing_lock_is_named_whatever_is_in_it(queue_database: str) -> None:
    lock = "a)=(b) ü\nc"
    insert = "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock) VALUES ('q', 't', 'a)=(b) ü\nc')"
    error = raised(queue_database, f"{insert}; {insert}")
    for locks in ([lock], [lock, "other"], []):
        told = translate(error, "there", "defer_jobs", locks)
        assert isinstance(told, AlreadyEnqueued)
        assert repr(lock) in str(told)
        assert told.queueing_locks == tuple(locks)


def test_other_unique_constraints(queue_database: str) -> None:
    insert = (
        "INSERT INTO procrastinate_periodic_defers (task_name, defer_timestamp) VALUES ('t', 1)"
    )
    told = translate(raised(queue_database, f"{insert}; {insert}"), "there")
    assert isinstance(told, UniqueViolation)
    assert told.constraint_name == "procrastinate_periodic_defers_unique"


def test_a_worker_that_is_gone(queue_database: str) -> None:
    error = raised(
        queue_database,
        "INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('q', 't');"
        "SELECT trio_queue_fetch_jobs_v2(NULL, 12345, 1)",
    )
    assert isinstance(translate(error, "there", "fetch_jobs"), WorkerGone)


def test_a_job_that_is_not_there(queue_database: str) -> None:
    error = raised(queue_database, "SELECT procrastinate_finish_job_v1(5, 'failed', false)")
    told = translate(error, "there", "finish_job")
    assert isinstance(told, JobNotFound)
    assert "5" in str(told)


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM not_there", "SELECT not_there()", "SELECT 1::not_there", "SELECT not_there"],
)
def test_a_schema_that_lacks_something(database: str, statement: str) -> None:
    told = translate(raised(database, statement), "there", "fetch_jobs")
    assert isinstance(told, SchemaError)
    assert "trio-queue schema --apply" in str(told)
    assert "there" in str(told)


def test_the_rest_names_the_statement_and_the_server(database: str) -> None:
    told = translate(raised(database, "SELECT 1/0"), "host=there", "fetch_jobs")
    assert type(told) is ConnectorException
    assert str(told) == "fetch_jobs failed at host=there: division by zero"
    refused = translate(pg.InsufficientPrivilege("no"), "there", "fetch_jobs")
    assert "GRANT" in str(refused)


def test_the_cause_is_kept() -> None:
    cause = PoolTimeout("all in use")
    with pytest.raises(ConnectorException, match="all in use") as caught, translated("there"):
        raise cause
    assert caught.value.__cause__ is cause
    assert is_transient(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.OperationalError("server closed the connection"), True),
        (pg.AdminShutdown(), True),
        (pg.DeadlockDetected(), True),
        (pg.LockNotAvailable(), True),
        (pg.QueryCanceled(), True),
        (pg.DiskFull(), True),
        (pg.OutOfMemory(), True),
        (pg.InsufficientResources(), True),
        (pg.ConfigurationLimitExceeded(), True),
        (pg.UniqueViolation(), False),
        (pg.UndefinedTable(), False),
        (pg.InsufficientPrivilege(), False),
        (pg.ForeignKeyViolation(), False),
        (psycopg.ProgrammingError(), False),
    ],
)
def test_which_may_pass(error: psycopg.Error, expected: bool) -> None:
    assert is_transient(error) is expected
    with pytest.raises(Exception) as caught, translated("there", statement="x"):  # noqa: PT011  # of several types
        raise error
    assert is_transient(caught.value) is expected
    assert not is_transient(ValueError())
    assert not is_transient(ConnectorException())


def test_two_fetchers_that_raced_for_a_lock(queue_database: str) -> None:
    insert = "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, status) VALUES ('q', 't', 'l', 'doing')"
    error = raised(queue_database, f"{insert}; {insert}")
    assert is_transient(error)
