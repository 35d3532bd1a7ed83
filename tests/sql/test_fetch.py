"""The claim of many is so many claims of one: against Procrastinate's own fetch, beside others, and raced.

The stock fetch that is compared with is the one in our schema.sql, and Procrastinate's own where its
schema was taken over.
"""

from __future__ import annotations

import random
import threading
import time
from typing import Any

import psycopg
import pytest

from tests.fix_schemas import SCALE
from tests.sql.table import (
    Connection,
    Undo,
    claimed,
    connect,
    fetch,
    insert,
    register,
    rows,
    tried,
    value,
)
from trio_queue import schema
from trio_queue._storage.queries import query
from trio_queue._storage.rows import JOB_COLUMNS

ONE_BY_ONE = (
    "SELECT f.id FROM generate_series(1, %(limit)s) g CROSS JOIN LATERAL"
    " procrastinate_fetch_job_v2(%(queues)s::varchar[], %(worker_id)s + g * 0) f WHERE f.id IS NOT NULL ORDER BY g"
)
AT_ONCE = query("fetch_jobs")
ATTEMPTS, LOCK = JOB_COLUMNS.index("attempts"), JOB_COLUMNS.index("lock")
#: Bytes of the arguments of a job that has none, in its row.
NO_ARGUMENTS = 5
FILL = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, scheduled_at, status)
SELECT queue, 't', priority, lock, now() + due * interval '1 s', status::procrastinate_job_status
  FROM unnest(%s::text[], %s::int[], %s::text[], %s::int[], %s::text[]) WITH ORDINALITY
    AS r (queue, priority, lock, due, status, place) ORDER BY place
"""


@pytest.fixture
def taken_over(stock: Connection) -> Connection:
    """A connection to a database that Procrastinate made and we took over."""
    schema.apply(stock)
    return stock


def fill(connection: Connection, seed: str, *, plain: bool = False) -> dict[str, Any]:
    """Fill the table at random, in one of many shapes; answers what to ask for.

    Plain: what waits has no lock and no time that has come.
    """
    r = random.Random(seed)
    size = r.choice([r.randint(0, 12), r.randint(10, 80), r.randint(80, 400)])
    locks = [f"l{i}" for i in range(r.choice([1, 2, 5, 30, 400]))]
    queues = [f"q{i}" for i in range(r.choice([1, 2, 6]))]
    with_lock, scheduled = r.choice([0, 0.3, 0.9, 1]), r.choice([0, 0.2, 0.6, 1])
    due, running, order = r.choice([0, 0.1, 0.5, 0.9, 1]), r.choice([0, 0.1, 0.4]), r.random()
    priorities = r.choice([[0], [0, 1], [-(2**31), -1, 0, 7, 2**31 - 1]])
    if plain:
        with_lock, due = 0, 0
    table: list[tuple[str, int, str | None, int | None, str]] = []
    busy: set[str] = set()
    for _ in range(size):
        lock = r.choice(locks) if r.random() < with_lock else None
        at = None
        if r.random() < scheduled:
            at = r.randint(-1000, 0) if r.random() < due else r.randint(1, 1000)
        status = "todo"
        if r.random() < running:
            status = "succeeded" if lock in busy else "doing"
            if lock is not None:
                busy.add(lock)
        table.append((r.choice(queues), r.choice(priorities), lock, at, status))
    if order < 0.2:
        table.sort(key=lambda row: (row[2] or "", row[1]))
    elif order < 0.3:
        table.sort(key=lambda row: -(row[3] or 0))
    connection.execute("SET session_replication_role = replica")
    connection.execute("DELETE FROM procrastinate_jobs")
    columns: list[list[Any]] = [list(column) for column in zip(*table, strict=True)]
    connection.execute(FILL, columns or [[], [], [], [], []])
    connection.execute("SET session_replication_role = origin")
    some = [r.choice(queues), r.choice(queues), "none"]
    asked = r.choice([None, None, queues[:1], some, queues, [], ["none", None], [None]])
    if plain:
        asked = r.choice([None, queues[:1], queues[-1:]])
    return {"queues": asked, "turn": None, "limit": r.randint(1, 20), "max_bytes": None}


def fewer(asked: dict[str, Any], number: int) -> dict[str, Any]:
    """The same for fewer jobs, one at least."""
    return {**asked, "limit": number % asked["limit"] + 1}


def by_size(connection: Connection, asked: dict[str, Any], number: int) -> tuple[list[int], Any]:
    """What a claim takes that may hold as many bytes as those fewer jobs do."""
    limit: int = fewer(asked, number)["limit"]
    return tried(connection, AT_ONCE, {**asked, "max_bytes": limit * NO_ARGUMENTS})


@pytest.mark.parametrize("database_of", ["ours", "procrastinate"])
def test_a_batch_takes_what_so_many_single_claims_take_in_their_order(
    request: pytest.FixtureRequest, database_of: str
) -> None:
    connection: Connection = request.getfixturevalue(
        "connection" if database_of == "ours" else "taken_over"
    )
    worker = register(connection)
    taken = 0
    for number in range(60 * SCALE):
        with connection.transaction():
            asked = {**fill(connection, f"differential {number}"), "worker_id": worker}
            eligible = value(connection, query("has_eligible_job"), asked)
            expected = tried(connection, ONE_BY_ONE, asked)
            assert tried(connection, AT_ONCE, asked) == expected, number
            assert by_size(connection, asked, number) == tried(
                connection, ONE_BY_ONE, fewer(asked, number)
            ), number
            assert eligible is bool(expected[0]), number
            taken += len(expected[0])
    assert taken > 60


def test_without_locks_and_due_jobs_a_batch_is_so_many_single_claims_too(
    connection: Connection,
) -> None:
    worker = register(connection)
    taken = 0
    for number in range(60 * SCALE):
        with connection.transaction():
            filled = fill(connection, f"plain {number}", plain=True)
            asked = {**filled, "worker_id": worker}
            expected = tried(connection, ONE_BY_ONE, asked)
            assert tried(connection, AT_ONCE, asked) == expected, number
            assert by_size(connection, asked, number) == tried(
                connection, ONE_BY_ONE, fewer(asked, number)
            ), number
            taken += len(expected[0])
    assert taken > 120


def test_beside_an_open_claim_the_jobs_that_follow_are_taken_at_once(
    connection: Connection, second: Connection, queue_database: str
) -> None:
    worker = register(connection)
    with connect(queue_database) as first:
        for number in range(30 * SCALE):
            with connection.transaction():
                filled = fill(connection, f"beside {number}", plain=number % 3 == 0)
                asked = {**filled, "worker_id": worker}
            some = random.Random(number).randint(1, 60)
            expected, _ = tried(connection, AT_ONCE, {**asked, "limit": 200})
            taken, following = list[int](), list[int]()
            try:
                with first.transaction():
                    taken = claimed(first, AT_ONCE, {**asked, "limit": some})
                    following, _ = tried(second, AT_ONCE, asked)
                    raise Undo  # noqa: TRY301  # it rolls the transaction back
            except Undo:
                pass
            assert taken == expected[:some], number
            assert following == expected[some : some + asked["limit"]], number


def test_a_better_job_that_joins_a_lock_held_elsewhere_waits_a_bounded_time(
    connection: Connection, second: Connection, queue_database: str
) -> None:
    worker = register(connection)
    held = insert(connection, lock="x", priority=1)
    insert(connection, lock="x")
    unlocked = insert(connection)
    other_lock = insert(connection, lock="y")
    with psycopg.connect(queue_database) as first:
        assert fetch(first, worker, 1) == [held]
        better = insert(connection, lock="x", priority=9)
        # It cannot be told yet whether x is free: this call leaves locks alone.
        assert fetch(second, worker, 10) == [unlocked]
        first.commit()
    assert fetch(second, worker, 10) == [other_lock]
    connection.execute("UPDATE procrastinate_jobs SET status = 'succeeded' WHERE status = 'doing'")
    assert fetch(second, worker, 10) == [better]


@pytest.mark.parametrize("lock", [None, "l"])
def test_waiting_for_ddl_is_not_taken_for_a_race(
    connection: Connection, second: Connection, queue_database: str, lock: str | None
) -> None:
    worker = register(connection)
    made = insert(connection, lock=lock)
    asked = {"queues": None, "worker_id": worker, "turn": 2, "limit": 100, "max_bytes": None}
    connection.execute("SET statement_timeout = '20s'")
    with psycopg.connect(queue_database) as other:
        # As CREATE INDEX does: rows can be looked at and locked, but not changed.
        other.execute("LOCK TABLE procrastinate_jobs IN SHARE MODE")
        got: list[int] = []
        thread = threading.Thread(target=lambda: got.extend(claimed(second, AT_ONCE, asked)))
        thread.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        since = time.monotonic()
        # Longer than the bound of a race, by the server's clock.
        while not value(connection, waiting):
            assert time.monotonic() < since + 20
        value(connection, "SELECT pg_sleep(0.2)::text")
        # Meanwhile the worker can say other things, of its stage and what it gives back.
        value(connection, "SELECT trio_queue_take_turn_v1(%s, 1)", [worker])
        other.commit()
    thread.join()
    assert got == [made]


def test_the_first_of_a_lock_in_another_queue_or_of_the_future_holds_the_rest(
    connection: Connection,
) -> None:
    worker = register(connection)
    insert(connection, lock="x", queue_name="other")
    insert(connection, lock="x")
    connection.execute(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, scheduled_at)"
        " VALUES ('q', 't', 'y', now() + interval '1 hour')"
    )
    insert(connection, lock="y")
    assert fetch(connection, worker, queues=["q"]) == []
    assert value(connection, query("has_eligible_job"), {"queues": ["q"]}) is False
    assert value(connection, query("has_eligible_job"), {"queues": None}) is True


def test_a_limit_of_none_takes_none(connection: Connection) -> None:
    worker = register(connection)
    insert(connection)
    assert fetch(connection, worker, 0) == fetch(connection, worker, -1) == []


# -- raced --------------------------------------------------------------------------------------


class Race:
    """Jobs that several threads claim, finish and retry, and what must hold meanwhile."""

    def __init__(self, conninfo: str, jobs: int) -> None:
        self.conninfo, self.jobs = conninfo, jobs
        self.mutex = threading.Lock()
        self.held: set[int] = set()
        self.held_locks: set[str] = set()
        self.errors: list[BaseException] = []

    def run(self, number: int) -> None:
        try:
            with connect(self.conninfo) as connection:
                self._work(connection, register(connection), random.Random(number))
        except BaseException as error:  # noqa: BLE001  # told to the test
            self.errors.append(error)

    def _work(self, connection: Connection, worker: int, r: random.Random) -> None:
        mine: list[tuple[int, int, str | None]] = []
        while not self.errors:
            asked = {
                "queues": r.choice([None, ["q0", "q1"], ["q1", "q2", "q3"]]),
                "turn": None,
                "limit": r.randint(1, 50),
                "max_bytes": None,
                "worker_id": worker,
            }
            taken = [
                (row[0], row[ATTEMPTS], row[LOCK])
                for row in rows(connection, AT_ONCE, asked)
                if row[0] is not None
            ]
            with self.mutex:
                for job_id, _, lock in taken:
                    assert job_id not in self.held, "a job runs twice"
                    assert lock is None or lock not in self.held_locks, "a lock runs twice"
                    self.held.add(job_id)
                    if lock is not None:
                        self.held_locks.add(lock)
            mine += taken
            r.shuffle(mine)
            part = r.randint(0, len(mine))
            self._finish(connection, worker, r, mine[:part])
            mine = mine[part:]
            left = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status = 'todo')"
            if not taken and not mine and not value(connection, left):
                return

    def _finish(
        self,
        connection: Connection,
        worker: int,
        r: random.Random,
        done: list[tuple[int, int, str | None]],
    ) -> None:
        with self.mutex:
            # Forgotten first: from the commit on they are anybody's.
            self.held.difference_update(job_id for job_id, _, _ in done)
            self.held_locks.difference_update(lock for _, _, lock in done if lock is not None)
        statuses = ["todo" if r.random() < 0.1 else "succeeded" for _ in done]
        lost = rows(
            connection,
            "SELECT job_id, status FROM trio_queue_finish_jobs_v1(%s, %s, %s, %s, %s,"
            " NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
            [
                worker,
                [job_id for job_id, _, _ in done],
                [attempts for _, attempts, _ in done],
                statuses,
                [status == "todo" for status in statuses],
            ],
        )
        assert lost == []


def test_raced_by_many_every_job_runs_once_and_no_lock_twice(
    connection: Connection, queue_database: str
) -> None:
    jobs = 1500 * SCALE
    connection.execute(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, scheduled_at)"
        " SELECT 'q' || n %% 4, 't', n %% 3, CASE n %% 3 WHEN 0 THEN 'l' || n %% 7 WHEN 1 THEN 'm' || n %% 400 END,"
        " CASE WHEN n %% 5 = 0 THEN now() - n * interval '1 ms' END FROM generate_series(1, %s) n",
        [jobs],
    )
    race = Race(queue_database, jobs)
    threads = [threading.Thread(target=race.run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if race.errors:
        raise race.errors[0]
    assert rows(connection, "SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY 1") == [
        ("succeeded", jobs)
    ]
