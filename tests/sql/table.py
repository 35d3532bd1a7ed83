"""Short words for what tests do to the tables: defer, claim, look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import psycopg
from psycopg import sql

from trio_queue._storage.queries import query

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

#: The parameters of finish_jobs that may stay unsaid.
UNSAID = (
    "retries",
    "retry_at",
    "retry_in",
    "priorities",
    "queues",
    "locks",
    "if_abort_requested",
    "deletes",
    "reasons",
)


def connect(conninfo: str) -> Connection:
    return psycopg.connect(conninfo, autocommit=True)


def rows(connection: Connection, text: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    return connection.execute(text.encode(), parameters).fetchall()


def value(connection: Connection, text: str, parameters: Any = None) -> Any:
    (row,) = rows(connection, text, parameters)
    return row[0]


def column(connection: Connection, text: str, parameters: Any = None) -> list[Any]:
    return [row[0] for row in rows(connection, text, parameters)]


def insert(connection: Connection, **columns: Any) -> int:
    """A job, by hand. Defaults: queue q, task t."""
    given = {"queue_name": "q", "task_name": "t", **columns}
    statement = sql.SQL("INSERT INTO procrastinate_jobs ({}) VALUES ({}) RETURNING id").format(
        sql.SQL(", ").join(map(sql.Identifier, given)),
        sql.SQL(", ").join(map(sql.Placeholder, given)),
    )
    made: int = connection.execute(statement, given).fetchall()[0][0]
    return made


def register(connection: Connection, name: str = "worker") -> int:
    """A worker of ours."""
    made: int = value(
        connection,
        "SELECT trio_queue_register_worker_v1(%s, 'host', 1, '0', NULL, 10, 'running')",
        [name],
    )
    return made


def fetch(
    connection: Connection,
    worker: int,
    limit: int = 100,
    queues: Sequence[str] | None = None,
    max_bytes: int | None = None,
) -> list[int]:
    """Claim jobs; their ids in the order of the claim."""
    parameters = {
        "queues": queues,
        "worker_id": worker,
        "turn": None,
        "limit": limit,
        "max_bytes": max_bytes,
    }
    return claimed(connection, query("fetch_jobs"), parameters)


def claimed(connection: Connection, text: str, parameters: Any) -> list[int]:
    """The ids that a claim answers; its last row, of no job, tells when the next one is due."""
    return [job_id for job_id in column(connection, text, parameters) if job_id is not None]


def finish(
    connection: Connection,
    worker: int,
    job_ids: Sequence[int],
    statuses: Sequence[str] | str = "succeeded",
    attempts: Sequence[int] | int = 0,
    **said: Sequence[Any],
) -> list[str | None]:
    """Write what became of jobs; the answer's statuses, in the order of the jobs."""
    count = len(job_ids)
    parameters: dict[str, Any] = {
        "worker_id": worker,
        "job_ids": list(job_ids),
        "attempts": [attempts] * count if isinstance(attempts, int) else list(attempts),
        "statuses": [statuses] * count if isinstance(statuses, str) else list(statuses),
        **dict.fromkeys(UNSAID),
        **said,
    }
    # Told are those jobs whose row is not what was meant.
    other = rows(connection, query("finish_jobs"), parameters)
    assert [row[0] for row in other] == [made for made in job_ids if made in dict(other)]
    meant = dict(zip(job_ids, parameters["statuses"], strict=True))
    assert all(meant[job_id] != status for job_id, status in other)
    return [{**meant, **dict(other)}[job_id] for job_id in job_ids]


def release(connection: Connection, worker: int, keep: Sequence[int] = ()) -> dict[int, str]:
    """Give back what a worker does not run; the status of each by its id."""
    found = rows(
        connection, query("release_jobs"), {"worker_id": worker, "keep": list(keep), "turn": None}
    )
    return dict(found)


def job(connection: Connection, job_id: int) -> Mapping[str, Any]:
    """A job's row, by its columns."""
    cursor = connection.execute("SELECT * FROM procrastinate_jobs WHERE id = %s", [job_id])
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    return dict(zip(names, cursor.fetchall()[0], strict=True))


def events(connection: Connection, job_id: int) -> list[str]:
    """What happened to a job, in order."""
    text = "SELECT type::text FROM procrastinate_events WHERE job_id = %s ORDER BY id"
    return column(connection, text, [job_id])


def notified(connection: Connection) -> Iterator[tuple[str, str]]:
    """What this connection has heard by now: channel and payload."""
    for heard in connection.notifies(timeout=0):
        yield heard.channel, heard.payload


STATE = "SELECT id, status, worker_id FROM procrastinate_jobs ORDER BY id"


class Undo(Exception):  # noqa: N818  # not an error: it ends a transaction
    pass


def tried(connection: Connection, text: str, asked: dict[str, Any]) -> tuple[list[int], Any]:
    """What a claim takes and leaves behind, undone afterwards."""
    found: tuple[list[int], Any] = ([], None)
    try:
        with connection.transaction():
            found = claimed(connection, text, asked), rows(connection, STATE)
            raise Undo  # noqa: TRY301  # it rolls the transaction back
    except Undo:
        return found
