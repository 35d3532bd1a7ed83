"""Jobs of dead workers: taken over once each, whoever else is at work on the rows meanwhile."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.sql.table import (
    Connection,
    column,
    connect,
    fetch,
    finish,
    insert,
    job,
    register,
    release,
    rows,
    value,
)
from tests.sql.test_workers import orphans
from trio_queue._storage.queries import query
from trio_queue.completion import WORKER_DIED


def adopt(connection: Connection, worker: int, limit: int = 100, after: float = 30) -> list[int]:
    """Take over jobs of dead workers; their ids."""
    parameters = {"worker_id": worker, "stalled_after": after, "turn": None, "limit": limit}
    return [row[0] for row in rows(connection, query("adopt_orphans"), parameters)]


def readopt(connection: Connection, worker: int, lost: int, job_ids: list[int]) -> list[int]:
    """Take one's own jobs up again, in their first attempt; their ids."""
    parameters = {
        "worker_id": worker,
        "lost_id": lost,
        "job_ids": job_ids,
        "attempts": [0] * len(job_ids),
    }
    return column(connection, query("adopt_jobs"), parameters)


def fall_silent(connection: Connection, *workers: int, seconds: int = 60) -> None:
    connection.execute(
        "UPDATE procrastinate_workers SET last_heartbeat = now() - make_interval(secs => %s)"
        " WHERE id = ANY (%s)",
        [seconds, list(workers)],
    )


def holder(connection: Connection, job_id: int) -> int | None:
    held_by: int | None = job(connection, job_id)["worker_id"]
    return held_by


# -- who is taken for dead ----------------------------------------------------------------------


@pytest.mark.promise("Leases and fences / a worker of Procrastinate's is silent")
def test_our_silent_workers_are_deleted_and_no_others(connection: Connection) -> None:
    me, alive, dead = [register(connection) for _ in range(3)]
    foreign = value(connection, "SELECT procrastinate_register_worker_v1()")
    ids = [insert(connection) for _ in range(4)]
    for worker, job_id in zip((me, alive, dead, foreign), ids, strict=True):
        assert fetch(connection, worker, 1) == [job_id]
    fall_silent(connection, me, dead, foreign)
    fall_silent(connection, alive, seconds=20)
    assert adopt(connection, me) == [ids[2]]
    assert [holder(connection, job_id) for job_id in ids] == [me, alive, me, foreign]
    found = column(connection, "SELECT id FROM procrastinate_workers ORDER BY id")
    assert found == [me, alive, foreign]
    assert orphans(connection) == []


def test_a_heartbeat_from_the_future_lasts_for_a_lease(connection: Connection) -> None:
    """The server's clock was set back by two hours: the dead are dead a lease later all the same."""
    me, dead = register(connection), register(connection)
    foreign = value(connection, "SELECT procrastinate_register_worker_v1()")
    job_id = insert(connection)
    assert fetch(connection, dead, 1) == [job_id]
    fall_silent(connection, dead, foreign, seconds=-7200)
    assert adopt(connection, me) == []
    heard = "SELECT id FROM procrastinate_workers WHERE last_heartbeat > now() ORDER BY id"
    assert column(connection, heard) == [foreign]
    # A beat that is a little later than the asker's clock is left as it is.
    fall_silent(connection, dead, seconds=-20)
    assert adopt(connection, me) == []
    assert column(connection, heard) == [dead, foreign]
    fall_silent(connection, dead, seconds=31)
    assert adopt(connection, me) == [job_id]


@pytest.mark.promise("Leases and fences / a worker of Procrastinate's is silent")
def test_a_foreign_workers_jobs_are_left_alone_when_it_is_pruned(connection: Connection) -> None:
    me = register(connection)
    foreign = value(connection, "SELECT procrastinate_register_worker_v1()")
    made = insert(connection)
    fetch(connection, foreign)
    connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", [foreign])
    assert adopt(connection, me) == []
    assert holder(connection, made) is None


@pytest.mark.parametrize(
    "under_way",
    [
        "SELECT trio_queue_update_heartbeat_v1(%(worker)s)",
        "SELECT FROM procrastinate_workers WHERE id = %(worker)s FOR KEY SHARE",
    ],
)
def test_a_beat_or_a_claim_under_way_wins(
    connection: Connection, queue_database: str, under_way: str
) -> None:
    me, slow = register(connection), register(connection)
    made = insert(connection)
    fetch(connection, slow)
    fall_silent(connection, slow)
    with psycopg.connect(queue_database) as other:
        other.execute(under_way.encode(), {"worker": slow})
        assert adopt(connection, me) == []
    assert holder(connection, made) == slow


def test_a_worker_whose_job_somebody_locks_stays_and_the_others_are_rescued(
    connection: Connection, queue_database: str
) -> None:
    me, first, second = [register(connection) for _ in range(3)]
    held, free = insert(connection), insert(connection)
    for worker in (first, second):
        fetch(connection, worker, 1)
    fall_silent(connection, first, second)
    connection.execute("SET lock_timeout = '17s'")
    with psycopg.connect(queue_database) as other:
        other.execute("SELECT 1 FROM procrastinate_jobs WHERE id = %s FOR UPDATE", [held])
        assert adopt(connection, me) == [free]
        assert holder(connection, held) == first
    with connection.transaction():
        assert adopt(connection, me) == [held]
        # Its short patience is not left to the rest of the transaction.
        assert value(connection, "SHOW lock_timeout") == "17s"


# -- what is taken ------------------------------------------------------------------------------


def test_an_orphan_that_somebody_works_on_is_left_for_the_next_time(
    connection: Connection, queue_database: str
) -> None:
    me, dead = register(connection), register(connection)
    held, free = insert(connection), insert(connection)
    fetch(connection, dead)
    connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", [dead])
    with psycopg.connect(queue_database) as other:
        other.execute("SELECT 1 FROM procrastinate_jobs WHERE id = %s FOR UPDATE", [held])
        assert adopt(connection, me) == [free]
        assert orphans(connection) == [(held, 0, dead)]
    assert adopt(connection, me) == [held]
    assert orphans(connection) == []


def test_notes_of_jobs_that_moved_on_are_deleted_and_take_no_places(
    connection: Connection,
) -> None:
    me, dead = register(connection), register(connection)
    ids = [insert(connection) for _ in range(6)]
    fetch(connection, dead)
    connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", [dead])
    for job_id in ids[:4]:
        value(connection, "SELECT procrastinate_finish_job_v1(%s, 'failed', false)::text", [job_id])
    assert adopt(connection, me, 1) == [ids[4]]
    assert orphans(connection) == [(ids[5], 0, dead)]
    assert adopt(connection, me, 1) == [ids[5]]


def test_only_deaths_are_counted(connection: Connection) -> None:
    made = insert(connection)
    parameters: dict[str, Any] = {"stalled_after": 30, "turn": None, "limit": 1}
    for attempt, reason in enumerate(("something", WORKER_DIED, WORKER_DIED, None)):
        dead, me = register(connection), register(connection)
        fetch(connection, dead)
        connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", [dead])
        [found] = rows(connection, query("adopt_orphans"), {**parameters, "worker_id": me})
        assert found[12] == 1 + max(attempt - 1, 0)
        finish(connection, me, [made], "todo", attempts=attempt, retries=[True], reasons=[reason])


def test_what_is_taken_up_again_is_noted_no_more(connection: Connection) -> None:
    lost, me = register(connection), register(connection)
    first, second = insert(connection), insert(connection)
    fetch(connection, lost)
    connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", [lost])
    assert readopt(connection, me, lost, [first]) == [first]
    # Else a worker of Procrastinate's might run it in the same attempt, and we rescue it from that.
    assert orphans(connection) == [(second, 0, lost)]


def test_arrays_of_two_lengths_are_refused(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.ArraySubscriptError):
        value(connection, "SELECT trio_queue_adopt_jobs_v1(1, 2, '{1,2}', '{0}')")


# -- many at once -------------------------------------------------------------------------------


def together(*works: Callable[[], None]) -> None:
    """Run these in threads; raise what one of them raised."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # told to the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=[work]) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_each_is_taken_once_however_many_ask_at_once(
    connection: Connection, queue_database: str
) -> None:
    dead = [register(connection) for _ in range(8)]
    ids = [insert(connection) for _ in range(400)]
    for worker in dead:
        assert len(fetch(connection, worker, 50)) == 50
    fall_silent(connection, *dead)
    taken: list[tuple[int, int]] = []
    start = threading.Barrier(8)

    def rescue() -> None:
        with connect(queue_database) as own:
            me = register(own)
            start.wait()
            # An empty answer may mean that others hold what is left at the moment: nobody leaves
            # before all is taken.
            while len(taken) < len(ids):
                taken.extend((job_id, me) for job_id in adopt(own, me, 7))

    together(*[rescue] * 8)
    assert sorted(job_id for job_id, _ in taken) == ids
    assert all(holder(connection, job_id) == me for job_id, me in taken)
    assert orphans(connection) == []


def test_a_worker_that_comes_back_and_its_rescuers_share_its_jobs(
    connection: Connection, queue_database: str
) -> None:
    for _ in range(10):
        lost, me = register(connection), register(connection)
        ids = [insert(connection) for _ in range(40)]
        fetch(connection, lost)
        connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", [lost])
        taken: list[list[int]] = []
        start = threading.Barrier(3)

        def rescue(start: threading.Barrier, taken: list[list[int]]) -> None:
            with connect(queue_database) as own:
                worker = register(own)
                start.wait()
                taken.extend(adopt(own, worker, 3) for _ in range(10))

        def come_back(
            start: threading.Barrier, taken: list[list[int]], me: int, lost: int, ids: list[int]
        ) -> None:
            with connect(queue_database) as own:
                start.wait()
                taken.append(readopt(own, me, lost, ids))

        together(
            *[functools.partial(rescue, start, taken)] * 2,
            functools.partial(come_back, start, taken, me, lost, ids),
        )
        assert sorted(job_id for some in taken for job_id in some) == ids
        assert orphans(connection) == []
        for worker in column(connection, "SELECT id FROM procrastinate_workers"):
            release(connection, worker)
        connection.execute("DELETE FROM procrastinate_jobs")


def test_coming_back_waits_for_who_holds_the_job(
    connection: Connection, queue_database: str
) -> None:
    lost, me, other = [register(connection) for _ in range(3)]
    mine, rescued = insert(connection), insert(connection)
    fetch(connection, lost)
    connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", [lost])
    answers: list[list[int]] = []
    with psycopg.connect(queue_database) as rescuer, connect(queue_database) as own:
        assert adopt(rescuer, other, 1) == [mine]
        rescuer.rollback()
        assert readopt(rescuer, other, lost, [rescued]) == [rescued]

        def come_back() -> None:
            answers.append(readopt(own, me, lost, [mine, rescued]))

        def let_go() -> None:
            blocked = "SELECT cardinality(pg_blocking_pids(%s))"
            while not value(connection, blocked, [own.info.backend_pid]):
                pass
            rescuer.commit()

        together(come_back, let_go)
    assert answers == [[mine]]
    assert holder(connection, rescued) == other


# -- where nobody died --------------------------------------------------------------------------


def test_where_nobody_died_nothing_is_written(connection: Connection) -> None:
    me, other = register(connection), register(connection)
    insert(connection)
    fetch(connection, other)
    with connection.transaction():
        assert adopt(connection, me) == []
        assert readopt(connection, me, 999, []) == []
        assert value(connection, "SELECT pg_current_xact_id_if_assigned()::text") is None
