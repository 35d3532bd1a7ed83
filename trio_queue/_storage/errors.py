"""What PostgreSQL says went wrong, in our words: who must do what. The original is the cause."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Sequence

import psycopg
from psycopg import errors as pg

from trio_queue._pg.errors import is_transient as is_transient_on_postgres
from trio_queue.exceptions import (
    AlreadyEnqueued,
    ConnectorException,
    JobNotFound,
    SchemaError,
    TrioQueueException,
    UniqueViolation,
    WorkerGone,
)

#: The unique indexes and the (former) foreign key, whose names are Procrastinate's.
QUEUEING_LOCK_INDEX = "procrastinate_jobs_queueing_lock_idx_v1"
LOCK_INDEX = "procrastinate_jobs_lock_idx_v1"
WORKER_KEY = "procrastinate_jobs_worker_id_fkey"

_NO_SCHEMA = (pg.UndefinedTable, pg.UndefinedFunction, pg.UndefinedObject, pg.UndefinedColumn)
#: One client's prepared statements are another's.
_MIXED_UP = (pg.InvalidSqlStatementName, pg.DuplicatePreparedStatement)
#: Beside what the driver takes for transient: somebody else held a lock, or a timeout of the
#: server's struck, or it lacks room until somebody makes some; the same statement may succeed later.
_ALSO_TRANSIENT = (
    pg.LockNotAvailable,
    pg.QueryCanceled,
    pg.InsufficientResources,
    pg.DiskFull,
    pg.OutOfMemory,
    pg.ConfigurationLimitExceeded,
)


@contextlib.contextmanager
def translated(
    address: str, *, statement: str = "", queueing_locks: Sequence[str | None] = ()
) -> Generator[None]:
    """Raise our exceptions in the place of psycopg's.

    Args:
        address: Names the server, without a password.
        statement: The name of what was sent, for messages; empty while connecting.
        queueing_locks: Of the jobs that were to be deferred.

    Raises:
        ConnectorException: Or one of its kind; AlreadyEnqueued; SchemaError.
    """
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, address, statement, queueing_locks) from error


def translate(
    error: psycopg.Error,
    address: str,
    statement: str = "",
    queueing_locks: Sequence[str | None] = (),
) -> TrioQueueException:
    """The exception of ours that says what this error means. See `translated`."""
    if isinstance(error, pg.UniqueViolation):
        return _unique_violation(error, queueing_locks)
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None and not statement:
        return _unreachable(error, address)
    if isinstance(error, pg.ForeignKeyViolation) and error.diag.constraint_name == WORKER_KEY:
        return WorkerGone()
    if isinstance(error, pg.RaiseException) and statement in {"retry_job", "finish_job"}:
        return JobNotFound(_primary(error))
    return _refused(error, address, statement)


def _refused(error: psycopg.Error, address: str, statement: str) -> TrioQueueException:
    what = statement or "connecting"
    if isinstance(error, _NO_SCHEMA):
        return SchemaError(
            f"the database at {address} lacks what {what} needs ({_primary(error)}): "
            "run `trio-queue schema --apply`"
        )
    if isinstance(error, pg.InsufficientPrivilege):
        return ConnectorException(
            f"the user of the database at {address} may not do this ({_primary(error)}): "
            "GRANT it, or connect as the owner of the tables"
        )
    told = f"{what} failed at {address}: {_primary(error)}"
    if isinstance(error, _MIXED_UP):
        told += (
            ". A pooler in transaction mode lends a connection to many clients: give the connector no "
            "prepare_threshold, or None"
        )
    return ConnectorException(told)


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: the server is away, or two transactions met."""
    cause = error.__cause__ if isinstance(error, TrioQueueException) else error
    if cause is None:
        return False
    if isinstance(cause, pg.UniqueViolation):
        # Two fetchers raced for the successor of one lock.
        return cause.diag.constraint_name == LOCK_INDEX
    return isinstance(cause, _ALSO_TRANSIENT) or is_transient_on_postgres(cause)


def _unique_violation(
    error: pg.UniqueViolation, queueing_locks: Sequence[str | None]
) -> TrioQueueException:
    name = error.diag.constraint_name
    if name != QUEUEING_LOCK_INDEX:
        return UniqueViolation(_primary(error), constraint_name=name)
    taken = _taken_lock(error, queueing_locks)
    named = "same queueing lock" if taken is None else f"queueing lock {taken!r}"
    return AlreadyEnqueued(
        f"a job with the {named} is already waiting", queueing_locks=queueing_locks
    )


def _taken_lock(error: pg.UniqueViolation, queueing_locks: Sequence[str | None]) -> str | None:
    """Which lock is taken: the only one given, or what the server's detail says in any language."""
    given = {lock for lock in queueing_locks if lock is not None}
    if len(given) == 1:
        return given.pop()
    found = re.search(r"\(queueing_lock\)=\((.*)\)", error.diag.message_detail or "", re.DOTALL)
    return found[1] if found else None


def _unreachable(error: psycopg.OperationalError, address: str) -> ConnectorException:
    reason = str(error).strip() or type(error).__name__
    message = f"cannot connect to PostgreSQL at {address}: {reason}"
    if any(
        sign in reason for sign in ("refused", "No such file", "timeout", "not known", "resolve")
    ):
        message += (
            "\nStart the server, or give the conninfo of one that runs. For a server without "
            'installing one: pip install "trio-queue[embedded]" and run `trio-queue embedded`.'
        )
    return ConnectorException(message)


def _primary(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error).strip() or type(error).__name__
