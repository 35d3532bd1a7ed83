"""Workers' rows, what becomes of their jobs when they go, and the removal of old jobs."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.sql.table import (
    Connection,
    column,
    events,
    fetch,
    finish,
    insert,
    job,
    register,
    rows,
    value,
)
from trio_queue._storage.queries import query

NEXT_IN = "SELECT trio_queue_next_scheduled_in_v1(%(queues)s::varchar[])"


def orphans(connection: Connection) -> list[tuple[Any, ...]]:
    return rows(
        connection, "SELECT job_id, attempts, worker_id FROM trio_queue_orphans ORDER BY job_id"
    )


def test_a_worker_is_listed_with_what_it_said_and_what_it_runs(connection: Connection) -> None:
    parameters = {
        "worker_name": "name",
        "host": "host",
        "pid": 12,
        "version": "1",
        "queues": ["a", "b"],
        "concurrency": 3,
        "stage": "starting",
    }
    made = value(connection, query("register_worker"), parameters)
    foreign = value(connection, "SELECT procrastinate_register_worker_v1()")
    connection.execute(
        query("update_worker_stage").encode(), {"worker_id": made, "stage": "running"}
    )
    insert(connection)
    assert len(fetch(connection, made)) == 1
    ours, theirs = rows(connection, query("list_workers"))
    assert ours[0] == made
    assert ours[2:9] == ("name", "host", 12, "1", ["a", "b"], 3, "running")
    assert ours[10] == 1
    assert (theirs[0], *theirs[2:11]) == (foreign, *[None] * 8, 0)
    assert 0 <= theirs[11] < 60


def test_a_stage_says_since_when(connection: Connection) -> None:
    made = register(connection)
    connection.execute("UPDATE trio_queue_workers SET since = '2020-01-01'")
    connection.execute(
        query("update_worker_stage").encode(), {"worker_id": made, "stage": "draining"}
    )
    assert value(connection, "SELECT since > '2020-01-02' FROM trio_queue_workers")


def test_a_heartbeat_tells_whether_the_row_is_there(connection: Connection) -> None:
    made = register(connection)
    connection.execute("UPDATE procrastinate_workers SET last_heartbeat = '2020-01-01'")
    assert value(connection, query("update_heartbeat"), {"worker_id": made}) is True
    assert value(connection, "SELECT last_heartbeat > '2020-01-02' FROM procrastinate_workers")
    value(connection, query("unregister_worker"), {"worker_id": made})
    assert value(connection, query("update_heartbeat"), {"worker_id": made}) is False
    assert rows(connection, "SELECT * FROM trio_queue_workers") == []


def test_a_worker_that_goes_lets_its_running_jobs_go_and_they_are_noted(
    connection: Connection,
) -> None:
    ours, other = register(connection), register(connection)
    foreign = value(connection, "SELECT procrastinate_register_worker_v1()")
    done, running, theirs, foreigns = [insert(connection, attempts=2) for _ in range(4)]
    assert fetch(connection, ours, 2) == [done, running]
    assert fetch(connection, other, 1) == [theirs]
    assert fetch(connection, foreign, 1) == [foreigns]
    finish(connection, ours, [done], attempts=2)
    connection.execute("DELETE FROM procrastinate_workers WHERE id = ANY (%s)", [[ours, foreign]])
    assert orphans(connection) == [(running, 2, ours)]
    found = dict(rows(connection, "SELECT id, worker_id FROM procrastinate_jobs"))
    assert found == {done: ours, running: None, theirs: other, foreigns: None}
    assert column(connection, "SELECT worker_id FROM trio_queue_workers") == [other]
    assert events(connection, running) == ["deferred", "started"]


def test_pruning_is_such_a_going_and_a_job_may_lose_its_worker_twice(
    connection: Connection,
) -> None:
    made = insert(connection)
    for _ in range(2):
        worker = register(connection)
        assert fetch(connection, worker) == [made]
        connection.execute(
            "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute'"
        )
        assert column(
            connection, query("prune_stalled_workers"), {"seconds_since_heartbeat": 50.5}
        ) == [worker]
        assert orphans(connection) == [(made, 0, worker)]
        connection.execute("UPDATE procrastinate_jobs SET status = 'todo'")
    connection.execute("DELETE FROM procrastinate_jobs")
    assert orphans(connection) == []


def test_a_claim_needs_a_worker(connection: Connection) -> None:
    insert(connection)
    with pytest.raises(psycopg.errors.ForeignKeyViolation) as caught:
        fetch(connection, 999)
    assert caught.value.diag.constraint_name == "procrastinate_jobs_worker_id_fkey"
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        insert(connection, worker_id=999)


def test_a_job_that_goes_takes_its_events_and_details_along(connection: Connection) -> None:
    worker = register(connection)
    made, kept = insert(connection), insert(connection)
    fetch(connection, worker)
    finish(connection, worker, [made, kept], reasons=["one", "other"])
    connection.execute(
        "INSERT INTO procrastinate_periodic_defers (task_name, job_id) VALUES ('t', %s)", [made]
    )
    connection.execute("DELETE FROM procrastinate_jobs WHERE id = %s", [made])
    assert events(connection, made) == []
    assert column(connection, "SELECT reason FROM trio_queue_event_details") == ["other"]
    assert rows(connection, "SELECT job_id FROM procrastinate_periodic_defers") == [(None,)]
    connection.execute("DELETE FROM procrastinate_events WHERE type = 'succeeded'")
    assert rows(connection, "SELECT * FROM trio_queue_event_details") == []
    assert len(events(connection, kept)) == 2


def test_truncating_jobs_empties_what_hangs_on_them(connection: Connection) -> None:
    worker = register(connection)
    made = insert(connection)
    fetch(connection, worker)
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="running job"):
        connection.execute("TRUNCATE procrastinate_workers")
    finish(connection, worker, [made], reasons=["why"])
    connection.execute("TRUNCATE procrastinate_jobs")
    assert rows(connection, "SELECT 1 FROM procrastinate_events") == []
    assert rows(connection, "SELECT 1 FROM trio_queue_event_details") == []
    connection.execute("TRUNCATE procrastinate_workers")
    assert rows(connection, "SELECT 1 FROM trio_queue_workers") == []


def test_rows_for_jobs_that_are_not_there_are_refused(connection: Connection) -> None:
    for statement in (
        "INSERT INTO procrastinate_events (job_id, type) VALUES (1, 'deferred')",
        "INSERT INTO procrastinate_periodic_defers (task_name, job_id) VALUES ('t', 1)",
    ):
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute(statement.encode())


def test_where_the_search_path_leads_elsewhere_nothing_is_left_behind(
    connection: Connection,
) -> None:
    insert(connection)
    connection.execute("CREATE SCHEMA elsewhere; SET search_path TO elsewhere")
    with pytest.raises(psycopg.Error):
        connection.execute("DELETE FROM public.procrastinate_jobs")
    connection.execute("RESET search_path")
    assert value(connection, "SELECT count(*) FROM procrastinate_events") == 1


def test_jobs_whose_abort_is_asked_for(connection: Connection) -> None:
    worker = register(connection)
    first, _second = insert(connection), insert(connection)
    fetch(connection, worker)
    assert value(
        connection, query("cancel_job"), {"job_id": first, "abort": True, "delete_job": False}
    )
    assert column(connection, query("list_jobs_to_abort"), {"worker_id": worker}) == [first]


# -- old jobs -----------------------------------------------------------------------------------


def aged(connection: Connection, hours: float, status: str = "succeeded", **columns: Any) -> int:
    """A job that ended so long ago."""
    made = insert(connection, **columns)
    connection.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = %s", [made])
    connection.execute(
        "UPDATE procrastinate_jobs SET status = %s::procrastinate_job_status WHERE id = %s",
        [status, made],
    )
    connection.execute(
        "UPDATE procrastinate_events SET at = now() - make_interval(secs => %s) WHERE job_id = %s",
        [hours * 3600, made],
    )
    return made


def delete_old(connection: Connection, **said: Any) -> int:
    deleted, _ = bite_of_old(connection, **said)
    return deleted


def bite_of_old(connection: Connection, **said: Any) -> tuple[int, int | None]:
    given = {
        "statuses": ["succeeded"],
        "nb_hours": 10.0,
        "queue": None,
        "limit": 100,
        "after_id": None,
        "only_count": False,
        **said,
    }
    ((deleted, walked_to),) = rows(connection, query("delete_old_jobs"), given)
    return deleted, walked_to


def left(connection: Connection) -> list[int]:
    return column(connection, "SELECT id FROM procrastinate_jobs ORDER BY id")


def test_old_jobs_go_by_status_age_and_queue(connection: Connection) -> None:
    old, old_failed = aged(connection, 11), aged(connection, 11, "failed")
    elsewhere, young = aged(connection, 11, queue_name="other"), aged(connection, 9)
    waiting = insert(connection)
    assert delete_old(connection, queue="q") == 1
    assert left(connection) == [old_failed, elsewhere, young, waiting]
    assert delete_old(connection, statuses=["succeeded", "failed"]) == 2
    assert left(connection) == [young, waiting]
    assert events(connection, old) == []


def test_the_last_event_counts(connection: Connection) -> None:
    made = aged(connection, 20)
    connection.execute("UPDATE procrastinate_events SET at = now() WHERE type = 'succeeded'")
    assert delete_old(connection) == 0
    assert left(connection) == [made]


def test_at_most_so_many_the_oldest_first(connection: Connection) -> None:
    ids = [aged(connection, 11) for _ in range(5)]
    assert delete_old(connection, limit=2) == 2
    assert left(connection) == ids[2:]
    assert delete_old(connection, limit=0) == 0


def test_it_goes_on_past_a_thousand_that_stay(connection: Connection) -> None:
    connection.execute(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, status) SELECT 'q', 't', 'failed' FROM generate_series(1, 2500)"
    )
    made = aged(connection, 11)
    assert delete_old(connection) == 1
    assert made not in left(connection)


def test_what_somebody_works_on_is_skipped(connection: Connection, queue_database: str) -> None:
    held, free = aged(connection, 11), aged(connection, 11)
    with psycopg.connect(queue_database) as other:
        other.execute("SELECT 1 FROM procrastinate_jobs WHERE id = %s FOR UPDATE", [held])
        assert delete_old(connection) == 1
    assert left(connection) == [held]
    assert free not in left(connection)


@pytest.mark.parametrize("nb_hours", [1e9, 1e300, float("inf")])
def test_an_age_beyond_all_calendars_is_no_error(connection: Connection, nb_hours: float) -> None:
    aged(connection, 11)
    assert delete_old(connection, nb_hours=nb_hours) == 0


# -- the future ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queues", "expected"),
    [(None, 10), (["a", "b"], 20), (["b"], 40), ([], None), (["none"], None)],
)
def test_seconds_until_the_next_job_is_due(
    connection: Connection, queues: list[str] | None, expected: int | None
) -> None:
    for queue, lock, seconds in (
        ("q", None, 10),
        ("a", "l", 20),
        ("a", None, 30),
        ("b", None, 40),
        ("b", None, -5),
    ):
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, scheduled_at)"
            " VALUES (%s, 't', %s, now() + make_interval(secs => %s))",
            [queue, lock, seconds],
        )
    insert(connection, queue_name="b")
    found = value(connection, NEXT_IN, {"queues": queues})
    assert found is None if expected is None else expected - 5 < found <= expected


@pytest.mark.parametrize("queues", [None, ["q"]])
def test_a_job_that_never_comes_is_not_waited_for(
    connection: Connection, queues: list[str] | None
) -> None:
    connection.execute(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, scheduled_at)"
        " VALUES ('q', 't', 'infinity')"
    )
    assert value(connection, NEXT_IN, {"queues": queues}) is None


def test_stalled_jobs_by_heartbeat_or_by_age(connection: Connection) -> None:
    alive, dead = register(connection), register(connection)
    first, second, third = [insert(connection) for _ in range(3)]
    assert fetch(connection, alive, 1) == [first]
    assert fetch(connection, dead, 1) == [second]
    gone = register(connection)
    assert fetch(connection, gone, 1) == [third]
    connection.execute("DELETE FROM procrastinate_workers WHERE id = %s", [gone])
    connection.execute(
        "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour' WHERE id = %s",
        [dead],
    )
    connection.execute(
        "UPDATE procrastinate_events SET at = now() - interval '1 hour' WHERE type = 'started' AND job_id = %s",
        [first],
    )

    def stalled(**said: Any) -> list[int]:
        given = {
            "seconds_since_heartbeat": 30.0,
            "nb_seconds": None,
            "queue": None,
            "task_name": None,
            **said,
        }
        return column(connection, query("list_stalled_jobs"), given)

    assert stalled() == [second, third]
    assert stalled(queue="other") == stalled(task_name="other") == []
    assert stalled(nb_seconds=60.0) == [first]
    assert job(connection, first)["status"] == "doing"
