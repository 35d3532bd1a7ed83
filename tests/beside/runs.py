"""Who ran which job, and when: noted by every process in a table of the test, by the server's clock."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import attrs
import psycopg

CONNINFO = "TRIO_QUEUE_TEST_CONNINFO"

_TABLE = """
CREATE TABLE runs (
    id bigserial PRIMARY KEY, job_id bigint NOT NULL, task text NOT NULL, lock text, attempt int NOT NULL, pid int NOT NULL,
    library text NOT NULL, started timestamptz NOT NULL DEFAULT clock_timestamp(), ended timestamptz
)
"""


@attrs.frozen
class Run:
    """One run of a job."""

    id: int
    job_id: int
    task: str
    lock: str | None
    attempt: int
    pid: int
    library: str
    started: datetime
    #: None: its process was killed before.
    ended: datetime | None


def make_table(connection: psycopg.Connection[Any]) -> None:
    """Make the table."""
    connection.execute(_TABLE.encode())


def read_runs(connection: psycopg.Connection[Any]) -> list[Run]:
    """Every run, in the order in which they began."""
    return [Run(*row) for row in connection.execute("SELECT * FROM runs ORDER BY started, id")]


class Notebook:
    """A process's way to write into it."""

    def __init__(self, library: str) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None

    @contextmanager
    def running(self, job: Any) -> Generator[None]:
        """Note that a job of either library begins, and that it ends, however it does."""
        run_id = self._send(
            "INSERT INTO runs (job_id, task, lock, attempt, pid, library)"
            " VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
            [job.id, job.task_name, job.lock, job.attempts, os.getpid(), self._library],
        )
        try:
            yield
        finally:
            self._send(
                "UPDATE runs SET ended = clock_timestamp() WHERE id = %s RETURNING id", [run_id]
            )

    def _send(self, text: str, parameters: list[Any]) -> int:
        with self._lock:
            if self._connection is None:
                self._connection = psycopg.connect(os.environ[CONNINFO], autocommit=True)
            ((run_id,),) = self._connection.execute(text.encode(), parameters).fetchall()
            return int(run_id)
