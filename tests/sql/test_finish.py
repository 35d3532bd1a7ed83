"""Completions: the fence, lost answers, retries, releases and what stands in their way."""

from __future__ import annotations

import datetime
import json
from typing import Any

import psycopg
import pytest

from tests.sql.table import (
    Connection,
    connect,
    events,
    fetch,
    finish,
    insert,
    job,
    notified,
    register,
    release,
    rows,
    value,
)

QUEUE_CHANNEL = "procrastinate_queue_v1#"
ANY_CHANNEL = "procrastinate_any_queue_v1"


@pytest.fixture
def worker(connection: Connection) -> int:
    return register(connection)


def claimed(connection: Connection, worker: int, **columns: Any) -> int:
    made = insert(connection, **columns)
    assert fetch(connection, worker) == [made]
    return made


def details(connection: Connection, job_id: int) -> list[tuple[Any, ...]]:
    return rows(
        connection,
        "SELECT e.type::text, d.worker_id, d.attempt, d.reason FROM procrastinate_events e"
        " JOIN trio_queue_event_details d ON d.event_id = e.id WHERE e.job_id = %s ORDER BY e.id",
        [job_id],
    )


@pytest.mark.parametrize("status", ["succeeded", "failed", "aborted"])
def test_an_end_is_written_with_its_event(connection: Connection, worker: int, status: str) -> None:
    made = claimed(connection, worker)
    value(connection, "SELECT procrastinate_cancel_job_v1(%s, true, false)", [made])
    assert finish(connection, worker, [made], status) == [status]
    found = job(connection, made)
    assert (found["status"], found["attempts"], found["abort_requested"], found["worker_id"]) == (
        status,
        1,
        False,
        worker,
    )
    assert events(connection, made) == ["deferred", "started", "abort_requested", status]
    assert details(connection, made) == []


def test_a_write_that_is_not_ours_changes_nothing(connection: Connection, worker: int) -> None:
    other = register(connection)
    theirs = claimed(connection, other)
    earlier = claimed(connection, worker)
    waiting = insert(connection)
    before = rows(connection, "SELECT * FROM procrastinate_jobs ORDER BY id")
    for statuses in ("succeeded", "todo"):
        for said in (
            {},
            {"deletes": [True] * 4},
            {"reasons": ["why"] * 4},
            {"retries": [True] * 4},
        ):
            given = [theirs, earlier, waiting, 999]
            assert finish(connection, worker, given, statuses, [0, 1, 0, 0], **said) == [
                None,
                None,
                # A row that waits and is not ours is no proof that an earlier try gave it back.
                None,
                # Gone, and meant to be: that counts as written.
                "succeeded" if "deletes" in said and statuses == "succeeded" else None,
            ]
            # All with one attempt, which is not the row's.
            assert finish(connection, worker, [earlier, theirs], "failed", 1) == [None, None]
    assert rows(connection, "SELECT * FROM procrastinate_jobs ORDER BY id") == before
    assert events(connection, theirs) == ["deferred", "started"]
    assert details(connection, theirs) == details(connection, earlier) == []


@pytest.mark.parametrize("attempts", [[0, 0, 0], [0, 3, 0]])
def test_a_batch_of_ends_has_each_its_own(
    connection: Connection, worker: int, attempts: list[int]
) -> None:
    ids = [insert(connection, attempts=number) for number in attempts]
    assert fetch(connection, worker) == ids
    meant = ["succeeded", "failed", "aborted"]
    assert finish(connection, worker, ids, meant, attempts) == meant
    assert [job(connection, made)["status"] for made in ids] == meant
    assert [job(connection, made)["attempts"] for made in ids] == [n + 1 for n in attempts]
    assert [events(connection, made)[-1] for made in ids] == meant


def test_given_back_after_a_users_request_it_ends_and_says_so(
    connection: Connection, worker: int
) -> None:
    ids = [insert(connection) for _ in range(3)]
    assert fetch(connection, worker) == ids
    for made in ids[:2]:
        value(connection, "SELECT procrastinate_cancel_job_v1(%s, true, false)", [made])
    reasons = [None, "why", None]
    assert finish(connection, worker, ids, "todo", reasons=reasons) == [
        "aborted",
        "aborted",
        "todo",
    ]
    assert details(connection, ids[0]) == [("aborted", worker, 0, "user_request")]
    assert details(connection, ids[1]) == [("aborted", worker, 0, "why; user_request")]
    assert details(connection, ids[2]) == []


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("succeeded", {}),
        ("failed", {"reasons": ["why"]}),
        ("todo", {}),
        ("todo", {"retries": [True], "retry_in": [60.0]}),
        ("succeeded", {"deletes": [True]}),
    ],
)
def test_said_twice_it_is_written_once(
    connection: Connection, worker: int, status: str, said: dict[str, Any]
) -> None:
    made = claimed(connection, worker)
    assert finish(connection, worker, [made], status, **said) == [status]
    before = rows(connection, "SELECT * FROM procrastinate_jobs")
    happened = events(connection, made)
    assert finish(connection, worker, [made], status, **said) == [status]
    assert rows(connection, "SELECT * FROM procrastinate_jobs") == before
    assert events(connection, made) == happened


def test_what_was_given_back_and_is_claimed_by_another_is_lost(
    connection: Connection, worker: int
) -> None:
    made = claimed(connection, worker)
    assert finish(connection, worker, [made], "todo") == ["todo"]
    other = register(connection)
    assert fetch(connection, other) == [made]
    assert finish(connection, worker, [made], "todo") == [None]
    assert finish(connection, worker, [made], "succeeded") == [None]
    assert job(connection, made)["worker_id"] == other


def test_a_batch_of_everything_is_answered_in_its_order(
    connection: Connection, worker: int
) -> None:
    ids = [insert(connection) for _ in range(6)]
    assert fetch(connection, worker) == ids
    meant = ["succeeded", "todo", "failed", "succeeded", "todo", "aborted"]
    shuffled = [5, 0, 4, 1, 3, 2]
    answered = finish(
        connection,
        worker,
        [ids[i] for i in shuffled],
        [meant[i] for i in shuffled],
        retries=[i == 1 for i in shuffled],
        deletes=[i == 3 for i in shuffled],
        reasons=["because" if i in {2, 4} else None for i in shuffled],
    )
    assert answered == [meant[i] for i in shuffled]
    found = dict(rows(connection, "SELECT id, status::text FROM procrastinate_jobs"))
    assert found == {ids[i]: meant[i] for i in (0, 1, 2, 4, 5)}
    attempts = dict(rows(connection, "SELECT id, attempts FROM procrastinate_jobs"))
    assert attempts == {ids[0]: 1, ids[1]: 1, ids[2]: 1, ids[4]: 0, ids[5]: 1}
    assert details(connection, ids[2]) == [("failed", worker, 0, "because")]
    assert details(connection, ids[4]) == [("deferred_for_retry", worker, 0, "because")]
    assert value(connection, "SELECT count(*) FROM trio_queue_event_details") == 2


def test_a_retry_says_when_and_what_changes(connection: Connection, worker: int) -> None:
    made = claimed(connection, worker, priority=3, lock="old")
    said: dict[str, Any] = {
        "retries": [True],
        "retry_in": [60.0],
        "priorities": [7],
        "queues": ["other"],
        "locks": ["new"],
    }
    assert finish(connection, worker, [made], "todo", **said) == ["todo"]
    found = job(connection, made)
    assert (found["priority"], found["queue_name"], found["lock"]) == (7, "other", "new")
    assert found["attempts"] == 1
    left = value(
        connection, "SELECT extract(epoch FROM scheduled_at - now()) FROM procrastinate_jobs"
    )
    assert 0 < left <= 60
    assert events(connection, made) == ["deferred", "started", "scheduled", "deferred_for_retry"]


def test_a_retry_at_a_moment_or_at_once(connection: Connection, worker: int) -> None:
    moment = datetime.datetime(2222, 2, 2, tzinfo=datetime.UTC)
    first, second = (
        insert(connection),
        insert(connection, scheduled_at=datetime.datetime.now(tz=datetime.UTC)),
    )
    assert set(fetch(connection, worker)) == {first, second}
    said: dict[str, Any] = {"retries": [True, True], "retry_at": [moment, None]}
    assert finish(connection, worker, [first, second], "todo", **said) == ["todo", "todo"]
    assert job(connection, first)["scheduled_at"] == moment
    assert job(connection, second)["scheduled_at"] is None


@pytest.mark.parametrize("delay", [8.64e13, 1e308, float("inf")])
def test_a_delay_that_no_calendar_holds_is_the_last_moment(
    connection: Connection, worker: int, delay: float
) -> None:
    made = claimed(connection, worker)
    finish(connection, worker, [made], "todo", retries=[True], retry_in=[delay])
    connection.execute("SET TIME ZONE 'UTC'")
    assert job(connection, made)["scheduled_at"].year == 9999


def test_a_job_given_back_is_as_it_was(connection: Connection, worker: int) -> None:
    due = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    made = claimed(connection, worker, scheduled_at=due, priority=2, attempts=4, lock="l")
    # What is said of retries does not concern it.
    said: dict[str, Any] = {
        "retries": [False],
        "retry_in": [60.0],
        "priorities": [7],
        "queues": ["x"],
        "locks": ["y"],
    }
    assert finish(connection, worker, [made], "todo", 4, **said) == ["todo"]
    found = job(connection, made)
    assert (found["scheduled_at"], found["priority"], found["attempts"]) == (due, 2, 4)
    assert (found["queue_name"], found["lock"]) == ("q", "l")
    assert fetch(connection, worker) == [made]


@pytest.mark.parametrize("retries", [None, [True]])
@pytest.mark.parametrize(("meant", "expected"), [(None, "aborted"), (["failed"], "failed")])
def test_a_job_whose_abort_was_asked_for_is_not_given_back(
    connection: Connection,
    worker: int,
    retries: list[bool] | None,
    meant: list[str] | None,
    expected: str,
) -> None:
    made = claimed(connection, worker, priority=1)
    value(connection, "SELECT procrastinate_cancel_job_v1(%s, true, false)", [made])
    said: dict[str, Any] = {
        "retries": retries,
        "if_abort_requested": meant,
        "priorities": [9],
        "retry_in": [5.0],
    }
    for _ in range(2):
        assert finish(connection, worker, [made], "todo", **said) == [expected]
    found = job(connection, made)
    assert (found["status"], found["abort_requested"]) == (expected, False)
    assert (found["priority"], found["scheduled_at"]) == (1, None)
    assert found["attempts"] == (1 if retries else 0)
    assert events(connection, made)[-1] == expected


def test_where_another_waits_with_its_queueing_lock_it_is_cancelled_and_the_others_are_not(
    connection: Connection, worker: int
) -> None:
    first, second = insert(connection, queueing_lock="one"), insert(connection)
    third, fourth = insert(connection), insert(connection, queueing_lock="two")
    assert fetch(connection, worker) == [first, second, third, fourth]
    insert(connection, queueing_lock="one")
    for _ in range(2):
        answered = finish(
            connection,
            worker,
            [first, second, third, fourth],
            ["todo", "todo", "succeeded", "todo"],
            retries=[True, False, False, False],
            reasons=["shutdown", "shutdown", None, None],
        )
        assert answered == ["cancelled", "todo", "succeeded", "todo"]
    assert events(connection, first) == ["deferred", "started", "cancelled"]
    reason = 'shutdown; another job waits with the queueing lock "one"'
    assert details(connection, first) == [("cancelled", worker, 0, reason)]
    assert details(connection, second) == [("deferred_for_retry", worker, 0, "shutdown")]
    assert job(connection, first)["attempts"] == 1


def test_of_two_in_one_batch_with_one_queueing_lock_the_first_goes_back(
    connection: Connection, worker: int
) -> None:
    first = claimed(connection, worker, queueing_lock="one")
    second = claimed(connection, worker, queueing_lock="one")
    third = claimed(connection, worker)
    assert release(connection, worker, keep=[third]) == {first: "todo", second: "cancelled"}
    assert job(connection, third)["status"] == "doing"
    assert job(connection, second)["attempts"] == 0


def test_deletes_beside_a_collision_are_answered(connection: Connection, worker: int) -> None:
    first = claimed(connection, worker, queueing_lock="one")
    second = claimed(connection, worker)
    insert(connection, queueing_lock="one")
    answered = finish(
        connection, worker, [first, second], ["todo", "failed"], deletes=[False, True]
    )
    assert answered == ["cancelled", "failed"]
    assert rows(connection, "SELECT id FROM procrastinate_jobs WHERE id = %s", [second]) == []


def test_a_queueing_lock_that_a_transaction_takes_meanwhile(
    connection: Connection, worker: int, queue_database: str
) -> None:
    made = claimed(connection, worker, queueing_lock="one")
    with connect(queue_database) as other, other.transaction():
        insert(other, queueing_lock="one")
        connection.execute("SET lock_timeout = '20ms'")
        # It waits for the other's outcome; here the wait has a bound, so that it fails and nothing is written.
        with pytest.raises(psycopg.errors.LockNotAvailable):
            release(connection, worker)
    assert release(connection, worker) == {made: "cancelled"}


def test_release_gives_back_all_but_what_runs(connection: Connection, worker: int) -> None:
    ids = [insert(connection, attempts=2) for _ in range(4)]
    assert fetch(connection, worker) == ids
    theirs = claimed(connection, register(connection))
    value(connection, "SELECT procrastinate_cancel_job_v1(%s, true, false)", [ids[3]])
    assert release(connection, worker, keep=[ids[1]]) == {
        ids[0]: "todo",
        ids[2]: "todo",
        ids[3]: "aborted",
    }
    assert job(connection, ids[1])["status"] == job(connection, theirs)["status"] == "doing"
    assert job(connection, ids[0])["attempts"] == 2
    assert release(connection, worker, keep=[ids[1]]) == {}


def test_arrays_that_do_not_fit_and_statuses_that_no_job_ends_as_are_refused(
    connection: Connection, worker: int
) -> None:
    made = claimed(connection, worker)
    with pytest.raises(psycopg.errors.ArraySubscriptError):
        finish(connection, worker, [made], ["succeeded"], attempts=[0, 0])
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="cancelled"):
        finish(connection, worker, [made], "cancelled")
    assert job(connection, made)["status"] == "doing"


# -- waking others ------------------------------------------------------------------------------


@pytest.fixture
def listening(connection: Connection, queue_database: str) -> Any:
    with connect(queue_database) as heard:
        for channel in (f"{QUEUE_CHANNEL}q", f"{QUEUE_CHANNEL}other", ANY_CHANNEL):
            heard.execute(f'LISTEN "{channel}"'.encode())
        yield heard


def woken(listening: Connection) -> list[tuple[str, int]]:
    """Which channels have told of which job since the last look."""
    # A statement's answer comes after all that was notified before it.
    listening.execute("SELECT 1")
    found: list[tuple[str, int]] = []
    for channel, payload in notified(listening):
        told: dict[str, Any] = json.loads(payload)
        assert set(told) == {"type", "job_id"}
        assert told["type"] == "job_inserted"
        found.append((channel.removeprefix(QUEUE_CHANNEL), told["job_id"]))
    return sorted(found)


def test_a_retried_job_wakes_its_queue_for_later_too(
    connection: Connection, worker: int, listening: Connection
) -> None:
    first = claimed(connection, worker)
    second = claimed(connection, worker)
    woken(listening)
    said: dict[str, Any] = {
        "retries": [True, True],
        "queues": ["other", None],
        "retry_in": [None, 60.0],
    }
    finish(connection, worker, [first, second], "todo", **said)
    assert woken(listening) == [("other", first), (ANY_CHANNEL, second), ("q", second)]


def test_many_released_jobs_wake_each_queue_once(
    connection: Connection, worker: int, listening: Connection
) -> None:
    ids = [insert(connection, queue_name=queue) for queue in ("q", "q", "other", "q")]
    fetch(connection, worker)
    woken(listening)
    release(connection, worker)
    assert woken(listening) == [("other", ids[2]), (ANY_CHANNEL, ids[3]), ("q", ids[3])]


@pytest.mark.parametrize("deleted", [False, True])
def test_the_end_of_a_lock_wakes_the_queue_of_its_successor(
    connection: Connection, worker: int, listening: Connection, *, deleted: bool
) -> None:
    made = claimed(connection, worker, lock="l")
    insert(connection, lock="l", queue_name="q")
    successor = insert(connection, lock="l", queue_name="other", priority=1)
    woken(listening)
    finish(connection, worker, [made], deletes=[deleted])
    assert woken(listening) == [("other", successor), (ANY_CHANNEL, successor)]


def test_nobody_is_woken_for_nothing(
    connection: Connection, worker: int, listening: Connection
) -> None:
    later = datetime.datetime(2222, 1, 1, tzinfo=datetime.UTC)
    without = claimed(connection, worker)
    alone = claimed(connection, worker, lock="alone")
    held = claimed(connection, worker, lock="held")
    insert(connection, lock="held", scheduled_at=later, priority=1)
    insert(connection, lock="held")
    insert(connection, queue_name="other")
    insert(connection, lock="claimed", priority=2)
    insert(connection, lock="claimed")
    woken(listening)
    finish(connection, worker, [without, alone, held])
    fetch(connection, worker, 1)
    assert woken(listening) == []


def test_by_hand_and_by_procrastinates_functions_it_is_the_same(
    connection: Connection, worker: int, listening: Connection
) -> None:
    made = claimed(connection, worker, lock="l")
    successor = insert(connection, lock="l", queue_name="other")
    woken(listening)
    value(connection, "SELECT procrastinate_finish_job_v1(%s, 'failed', false)::text", [made])
    assert woken(listening) == [("other", successor), (ANY_CHANNEL, successor)]
    value(connection, "SELECT procrastinate_retry_job_v2(%s, NULL, NULL, NULL, 'x')::text", [made])
    assert events(connection, made) == ["deferred", "started", "failed", "retried"]
    assert woken(listening) == [(ANY_CHANNEL, made), ("q", made)]
    connection.execute(
        "UPDATE procrastinate_jobs SET status = 'cancelled' WHERE id = %s", [successor]
    )
    assert woken(listening) == []
