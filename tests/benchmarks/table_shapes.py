"""The tables that the hot statements are measured on: a few hundred plain jobs, and very many of one kind."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, TypeAlias

import attrs
import psycopg

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

#: The queue that is asked for where one is named.
QUEUE = "asked"
#: The plain jobs that can be claimed on every table: deferred last, unless a shape says otherwise.
PLAIN = 400


@attrs.define
class Filling:
    """A database that is being filled."""

    connection: Connection
    conninfo: str
    #: How many times the sizes that the shapes name.
    scale: float
    #: Whether vacuum and analyse come along, as they do after a while.
    is_tended: bool = True

    def size(self, count: int) -> int:
        """So many, at this scale."""
        return max(int(count * self.scale), 1)

    def insert(self, columns: str, values: str, count: int) -> None:
        """Insert `count` jobs, at this scale, as no trigger sees them; `n` counts from 1 in `values`."""
        self.connection.execute(
            f"INSERT INTO procrastinate_jobs (task_name, {columns})"
            f" SELECT 't', {values} FROM generate_series(1, {self.size(count)}) n".encode()
        )

    def plain(self, count: int = PLAIN) -> None:
        """Insert plain jobs in the queue that is asked for: so many at every scale."""
        self.connection.execute(
            f"INSERT INTO procrastinate_jobs (queue_name, task_name) SELECT '{QUEUE}', 't'"
            f" FROM generate_series(1, {count})".encode()
        )

    def bare(self, fill: Callable[[], None]) -> None:
        """Fill the table without its indexes, and build them again: three times as quick.

        That tells the planner how large they are: not where nobody tends the table.
        """
        if not self.is_tended:
            fill()
            return
        indexes = self.connection.execute(
            "SELECT indexname, indexdef FROM pg_indexes"
            " WHERE tablename = 'procrastinate_jobs' AND indexname <> 'procrastinate_jobs_pkey'"
        ).fetchall()
        for name, _ in indexes:
            self.connection.execute(f"DROP INDEX {name}".encode())
        fill()
        for _, definition in indexes:
            self.connection.execute(str(definition).encode())

    def settle(self) -> None:
        """What autovacuum does after a while."""
        if self.is_tended:
            self.connection.execute("VACUUM ANALYZE")


#: Fills, and yields the name of a state to measure; several where something changes between.
Fill: TypeAlias = Callable[[Filling], Generator[str]]


@attrs.frozen
class Shape:
    """A table, and how far from the plain one a claim may be on it."""

    fill: Fill
    #: How many times the plain table's cost the claim may cost.
    goal: float = 2.0


def _plain(filling: Filling) -> Generator[str]:
    filling.plain()
    filling.settle()
    yield "400 plain jobs"


def _finished(filling: Filling) -> Generator[str]:
    filling.bare(
        lambda: filling.insert(
            "queue_name, status",
            "'q' || n % 20, CASE WHEN n % 100 = 0 THEN 'failed' ELSE 'succeeded' END::procrastinate_job_status",
            5_000_000,
        )
    )
    # A fortnight of three events a job: deferred, started, ended.
    filling.connection.execute(
        b"INSERT INTO procrastinate_events (job_id, type, at)"
        b" SELECT j.id, t.type::procrastinate_job_event_type,"
        b" now() - interval '14 days' * (1 - j.id::float8 / (SELECT max(id) FROM procrastinate_jobs))"
        b" FROM procrastinate_jobs j CROSS JOIN unnest(ARRAY['deferred', 'started', 'succeeded']) t (type)"
    )
    filling.plain()
    filling.settle()
    yield "5 M finished, 15 M events"


def _waiting(filling: Filling) -> Generator[str]:
    def fill() -> None:
        filling.insert("queue_name, priority", f"'{QUEUE}', n % 3", 5_000_000)

    filling.bare(fill)
    filling.settle()
    yield "5 M waiting"


def _future(filling: Filling) -> Generator[str]:
    def fill() -> None:
        filling.insert(
            "queue_name, scheduled_at", f"'{QUEUE}', now() + n * interval '1 minute'", 1_000_000
        )

    filling.bare(fill)
    filling.plain()
    filling.settle()
    yield "1 M in the future"


def _queues(filling: Filling) -> Generator[str]:
    def fill() -> None:
        filling.insert("queue_name", "'q' || n % 1000", 1_000_000)

    filling.bare(fill)
    filling.plain()
    filling.settle()
    yield "1,000 queues of 1,000, the last one asked for"


def _deep_lock(filling: Filling) -> None:
    filling.bare(lambda: filling.insert("queue_name, lock", f"'{QUEUE}', 'deep'", 100_000))


def _deep_before_unlocked(filling: Filling) -> Generator[str]:
    _deep_lock(filling)
    filling.plain(1000)
    filling.settle()
    yield "one lock 100,000 deep, before 1,000 unlocked"


def _deep_beside_locks(filling: Filling) -> Generator[str]:
    _deep_lock(filling)
    filling.insert("queue_name, lock", f"'{QUEUE}', 'lock' || n", 1000)
    filling.settle()
    yield "one lock 100,000 deep, before 1,000 other locks"


def _deep_before_many(filling: Filling) -> Generator[str]:
    _deep_lock(filling)
    filling.bare(lambda: filling.insert("queue_name, lock", f"'{QUEUE}', 'lock' || n", 200_000))
    filling.settle()
    yield "one lock 100,000 deep, before 200,000 other locks"


def _locks(filling: Filling) -> Generator[str]:
    filling.bare(lambda: filling.insert("queue_name, lock", f"'{QUEUE}', 'lock' || n", 1_000_000))
    filling.settle()
    yield "1 M locks"


def _future_before_due(filling: Filling) -> Generator[str]:
    def fill() -> None:
        columns = "queue_name, priority, scheduled_at"
        filling.insert(columns, f"'{QUEUE}', 1, now() + n * interval '1 minute'", 300_000)
        filling.insert(columns, f"'{QUEUE}', 0, now() - n * interval '1 second'", 200_000)

    filling.bare(fill)
    filling.settle()
    yield "300,000 in the future, ranked before 200,000 due"


def _churned(filling: Filling) -> Generator[str]:
    """Jobs that came, ran and ended while a snapshot was held: no vacuum may take their old rows away."""
    filling.plain(1)
    filling.settle()
    filling.connection.execute(b"ALTER TABLE procrastinate_jobs SET (autovacuum_enabled = false)")
    with psycopg.connect(filling.conninfo) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM procrastinate_jobs")
        for _ in range(20):
            filling.insert("queue_name", f"'{QUEUE}'", 100_000)
            for before, after in (("todo", "doing"), ("doing", "succeeded")):
                filling.connection.execute(
                    f"UPDATE procrastinate_jobs SET status = '{after}' WHERE status = '{before}'".encode()
                )
        filling.plain()
        if filling.is_tended:
            filling.connection.execute(b"ANALYZE")
        yield "2 M churned behind a snapshot held open"
    yield "2 M churned, the snapshot closed, no vacuum yet"
    filling.settle()
    yield "2 M churned, vacuumed"


SHAPES: dict[str, Shape] = {
    "plain": Shape(_plain),
    "finished": Shape(_finished),
    "waiting": Shape(_waiting),
    "future": Shape(_future),
    "queues": Shape(_queues),
    "locks": Shape(_locks),
    "deep-unlocked": Shape(_deep_before_unlocked, 5),
    "deep-locks": Shape(_deep_beside_locks, 5),
    "deep-many": Shape(_deep_before_many, 5),
    "future-due": Shape(_future_before_due, 5),
    "churned": Shape(_churned),
}
