"""The same random history on Procrastinate's schema and on ours: the same rows, events, errors and messages.

Both databases are told the same statements in the same order. What may differ is listed here:

- a statement that inserts jobs sends one `job_inserted` per queue, and one to all, with its highest id,
  where Procrastinate sends one per job (its client only wakes up);
- ours wakes workers for retried jobs and for the successor of a lock, too;
- a worker that is deleted is cleared from the jobs that it runs only. Procrastinate clears it from those
  that wait or have ended too, and writes another `scheduled` for those that wait for their time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import psycopg
import pytest

from tests.fix_schemas import SCALE, apply_stock_schema
from tests.sql.table import Connection, connect, notified, rows
from trio_queue import schema

Statement: TypeAlias = tuple[str, list[Any]]

STEPS = 40
JOBS = (
    "SELECT j.id, queue_name, task_name, priority, lock, queueing_lock, args, status::text, scheduled_at, attempts,"
    # Deviation: what does not run keeps the id of its worker.
    " abort_requested, (SELECT w.id FROM procrastinate_workers w WHERE w.id = j.worker_id)"
    " FROM procrastinate_jobs j ORDER BY j.id"
)
EVENTS = (
    "SELECT job_id, array_agg(type::text ORDER BY id), array_agg(at ORDER BY id) FILTER (WHERE type = 'scheduled')"
    " FROM procrastinate_events GROUP BY job_id ORDER BY job_id"
)
#: Deviation: what is compared from the moment on when a worker has been deleted.
UNSCHEDULED_EVENTS = (
    "SELECT job_id, array_agg(type::text ORDER BY id) FROM procrastinate_events WHERE type <> 'scheduled'"
    " GROUP BY job_id ORDER BY job_id"
)
OTHERS = (
    "SELECT task_name, periodic_id, defer_timestamp, job_id FROM procrastinate_periodic_defers ORDER BY id",
    "SELECT id FROM procrastinate_workers ORDER BY id",
    "SELECT last_value FROM procrastinate_jobs_id_seq",
)
#: Years apart from now: what is due, and what is not, is the same on both.
PAST, FUTURE = "2020-01-01 00:00:00+00", "2222-01-01 00:00:00+00"


class History:
    """Draws statements, for ids that may or may not be there."""

    def __init__(self, seed: str) -> None:
        self.r = random.Random(seed)
        self.deferred = 0

    def draw(self) -> Statement:
        kinds: list[tuple[int, Callable[[], Statement]]] = [
            (6, self.defer),
            (2, self.defer_periodic),
            (8, self.fetch),
            (6, self.finish),
            (3, self.retry),
            (4, self.cancel),
            (2, self.register),
            (1, self.unregister),
            (1, self.prune),
            (1, self.beat),
            (4, self.by_hand),
            (1, self.delete_old),
        ]
        weights, makers = zip(*kinds, strict=True)
        make: Callable[[], Statement] = self.r.choices(makers, weights)[0]
        return make()

    def job(self) -> int:
        return self.r.randint(max(1, self.deferred - 15), self.deferred + 1)

    def worker(self) -> int:
        return self.r.randint(1, 6)

    def maybe(self, *values: Any) -> Any:
        return self.r.choice([None, *values])

    def queue(self) -> str:
        return self.r.choice(["a", "b"])

    def defer(self) -> Statement:
        count = self.r.choice([1, 1, 1, 2, 5])
        self.deferred += count
        made: list[Any] = []
        for _ in range(count):
            made += [
                self.queue(),
                self.r.randint(-1, 2),
                self.maybe("x", "y"),
                self.maybe(None, None, "k", "m"),
                self.maybe(None, None, PAST, FUTURE),
            ]
        row = "(%s, 't', %s, %s, %s, '{}', %s)::procrastinate_job_to_defer_v1"
        return f"SELECT procrastinate_defer_jobs_v1(ARRAY[{', '.join([row] * count)}])", made

    def defer_periodic(self) -> Statement:
        self.deferred += 1
        return (
            "SELECT procrastinate_defer_periodic_job_v2(%s, %s, %s, 'p', 0, %s, %s, '{}')",
            [
                self.queue(),
                self.maybe("x"),
                self.maybe(None, "k"),
                self.r.choice(["", "i"]),
                self.r.randint(1, 20),
            ],
        )

    def fetch(self) -> Statement:
        return (
            "SELECT (f).id FROM procrastinate_fetch_job_v2(%s::varchar[], %s) f",
            [self.maybe(["a"], ["a", "b"]), self.worker()],
        )

    def finish(self) -> Statement:
        status = self.r.choice(["succeeded", "failed", "aborted", "cancelled"])
        return (
            "SELECT procrastinate_finish_job_v1(%s, %s::procrastinate_job_status, %s)",
            [self.job(), status, self.r.random() < 0.3],
        )

    def retry(self) -> Statement:
        version = self.r.choice(["1", "2", "2"])
        return (
            f"SELECT procrastinate_retry_job_v{version}(%s, %s::timestamptz, %s, %s, %s)",
            [self.job(), self.maybe(PAST, FUTURE), self.maybe(4), self.maybe("b"), self.maybe("z")],
        )

    def cancel(self) -> Statement:
        return (
            "SELECT procrastinate_cancel_job_v1(%s, %s, %s)",
            [self.job(), self.r.random() < 0.5, self.r.random() < 0.3],
        )

    def register(self) -> Statement:
        return "SELECT procrastinate_register_worker_v1()", []

    def unregister(self) -> Statement:
        return "SELECT procrastinate_unregister_worker_v1(%s)", [self.worker()]

    def prune(self) -> Statement:
        return "SELECT procrastinate_prune_stalled_workers_v1(%s)", [self.r.choice([1800.5, 100.0])]

    def beat(self) -> Statement:
        if self.r.random() < 0.5:
            return "SELECT procrastinate_update_heartbeat_v1(%s)", [self.worker()]
        # An hour goes by for one of them.
        return (
            "UPDATE procrastinate_workers SET last_heartbeat = last_heartbeat - interval '1 hour' WHERE id = %s",
            [self.worker()],
        )

    def by_hand(self) -> Statement:
        statements: list[Statement] = [
            (
                "UPDATE procrastinate_jobs SET abort_requested = true WHERE id = %s",
                [self.job()],
            ),
            (
                "UPDATE procrastinate_jobs SET status = 'todo' WHERE id = %s AND NOT abort_requested",
                [self.job()],
            ),
            (
                "UPDATE procrastinate_jobs SET priority = priority + 1 WHERE queue_name = %s",
                [self.queue()],
            ),
            (
                "UPDATE procrastinate_jobs SET worker_id = %s WHERE id = %s",
                [self.worker(), self.job()],
            ),
            (
                "UPDATE procrastinate_jobs SET status = 'cancelled' WHERE status = 'todo' AND priority > %s",
                [1],
            ),
            (
                "DELETE FROM procrastinate_jobs WHERE id BETWEEN %s AND %s",
                [self.job(), self.job()],
            ),
            # Many rows at once, to which the same happens, and nearly the same.
            (
                "UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE status = 'todo' AND id %% 3 <> 0",
                [self.worker()],
            ),
            (
                "UPDATE procrastinate_jobs SET status = 'doing', worker_id = 1 + id %% 2 WHERE status IN ('todo', %s)",
                [self.r.choice(["todo", "failed"])],
            ),
            (
                (
                    "UPDATE procrastinate_jobs SET status = CASE id %% 3 WHEN 0 THEN 'failed' WHEN 1 THEN 'succeeded' ELSE %s END"
                    "::procrastinate_job_status WHERE status = 'doing' AND (worker_id = %s OR %s)"
                ),
                [
                    self.r.choice(["aborted", "todo", "cancelled", "doing"]),
                    self.worker(),
                    self.r.random() < 0.3,
                ],
            ),
            (
                "UPDATE procrastinate_jobs SET status = 'succeeded', worker_id = %s WHERE status = 'doing'",
                [self.maybe(self.worker())],
            ),
            (
                "INSERT INTO procrastinate_events (job_id, type) VALUES (%s, 'started')",
                [self.job()],
            ),
        ]
        return self.r.choice(statements)

    def delete_old(self) -> Statement:
        return (
            "DELETE FROM procrastinate_jobs WHERE id < %s AND status = 'succeeded'",
            [self.job()],
        )


def tell(connection: Connection, statement: Statement) -> Any:
    """A statement's rows, or the state of its error."""
    text, parameters = statement
    try:
        cursor = connection.execute(text.encode(), parameters)
        return cursor.fetchall() if cursor.description else cursor.rowcount
    except psycopg.Error as error:
        return error.sqlstate, error.diag.constraint_name


def heard(connection: Connection) -> tuple[list[tuple[str, str]], set[str]]:
    """The abort requests in order, and the channels that told of new jobs, since the last look."""
    connection.execute("SELECT 1")
    told = list(notified(connection))
    aborts = [(channel, payload) for channel, payload in told if "abort_job_requested" in payload]
    inserted = {channel for channel, payload in told if '"job_inserted"' in payload}
    assert len(told) == len(aborts) + sum('"job_inserted"' in payload for _, payload in told)
    return aborts, inserted


def state(connection: Connection, events: str) -> list[Any]:
    return [rows(connection, text) for text in (JOBS, events, *OTHERS)]


@pytest.fixture(params=["fresh", "taken over"])
def ours(
    request: pytest.FixtureRequest, connection: Connection, queue_database: str, database: str
) -> Iterator[Connection]:
    """Our schema on an empty database, and on one that Procrastinate made."""
    if request.param == "taken over":
        apply_stock_schema(database)
        with connect(database) as taken_over:
            schema.apply(taken_over)
            yield taken_over
    else:
        assert queue_database
        yield connection


def test_the_same_history_leaves_the_same_behind(ours: Connection, stock: Connection) -> None:
    for connection in (ours, stock):
        for channel in (
            "procrastinate_queue_v1#a",
            "procrastinate_queue_v1#b",
            "procrastinate_any_queue_v1",
        ):
            connection.execute(f'LISTEN "{channel}"'.encode())
    outcomes: dict[Any, int] = {}
    for number in range(8 * SCALE):
        history = History(f"history {number}")
        for connection in (ours, stock):
            connection.execute(
                "TRUNCATE procrastinate_jobs, procrastinate_events, procrastinate_periodic_defers, procrastinate_workers"
                " RESTART IDENTITY"
            )
            connection.execute(
                "SELECT procrastinate_register_worker_v1() FROM generate_series(1, 3)"
            )
        events = EVENTS
        for step in range(STEPS):
            statement = history.draw()
            if "unregister" in statement[0] or "prune" in statement[0]:
                events = UNSCHEDULED_EVENTS
            told = tell(ours, statement)
            expected = tell(stock, statement)
            assert told == expected, (number, step, statement)
            outcomes[type(told)] = outcomes.get(type(told), 0) + 1
            (aborts, inserted), (stock_aborts, stock_inserted) = heard(ours), heard(stock)
            assert aborts == stock_aborts, (number, step, statement)
            assert inserted >= stock_inserted, (number, step, statement)
            woken_more = "INSERT" in statement[0] or "defer" in statement[0]
            if woken_more:
                assert inserted == stock_inserted, (number, step, statement)
            assert state(ours, events) == state(stock, events), (number, step, statement)
    # Of answers and of errors there were enough.
    assert outcomes[list] > 150
    assert outcomes[tuple] > 15


def changed_at_once(number: int) -> tuple[list[list[Any]], list[list[Any]]]:
    """Rows of jobs, and what a single statement makes of them; often the same of all."""
    r = random.Random(f"at once {number}")
    statuses = ["todo", "doing", "succeeded", "failed", "aborted", "cancelled"]

    def few(values: list[Any]) -> list[Any]:
        return r.sample(values, r.choice([1, 1, 1, 2, 3]))

    size = r.randint(1, 6)
    # Claims, ends, and anything.
    old_statuses, new_statuses = r.choice(
        [(["todo"], ["doing"]), (["doing"], few(statuses[2:5])), (few(statuses), few(statuses))]
    )
    # There are workers 1 to 3, and no worker 9.
    old_workers, new_workers = few([1, 1, 2, 3, None]), few([1, 2, 9, None])
    paired = r.random() < 0.3
    old, new = list[list[Any]](), list[list[Any]]()
    for place in range(size):
        worker = r.choice(old_workers)
        old.append([place + 1, r.choice(old_statuses), worker, r.choice([None, f"lock{place}"])])
        new.append([place + 1, r.choice(new_statuses), worker if paired else r.choice(new_workers)])
    return old, new


def test_what_happens_to_many_rows_at_once_happens_to_each(
    connection: Connection, stock: Connection
) -> None:
    outcomes: dict[Any, int] = {}
    for number in range(300 * SCALE):
        old, new = changed_at_once(number)
        told: list[Any] = []
        for each in (connection, stock):
            each.execute(
                "TRUNCATE procrastinate_jobs, procrastinate_events, procrastinate_periodic_defers, procrastinate_workers"
                " RESTART IDENTITY"
            )
            each.execute("SELECT procrastinate_register_worker_v1() FROM generate_series(1, 3)")
            each.execute("SET session_replication_role = replica")
            each.cursor().executemany(
                "INSERT INTO procrastinate_jobs (id, queue_name, task_name, status, worker_id, lock) VALUES (%s, 'a', 't', %s, %s, %s)",
                old,
            )
            each.execute("SET session_replication_role = origin")
            job_ids, statuses, workers = ([*column] for column in zip(*new, strict=True))
            changing = (
                (
                    "UPDATE procrastinate_jobs j SET status = n.status::procrastinate_job_status, worker_id = n.worker_id"
                    " FROM unnest(%s::bigint[], %s::text[], %s::bigint[]) n (id, status, worker_id) WHERE j.id = n.id"
                ),
                [job_ids, statuses, workers],
            )
            told.append((tell(each, changing), state(each, EVENTS)))
        assert told[0] == told[1], (number, old, new)
        outcomes[type(told[0][0])] = outcomes.get(type(told[0][0]), 0) + 1
    assert outcomes[int] > 50
    assert outcomes[tuple] > 20
