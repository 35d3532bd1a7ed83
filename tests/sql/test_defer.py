"""Deferring many jobs in one statement."""

from __future__ import annotations

import datetime
import json
import random
from typing import Any

import psycopg
import pytest

from tests.sql.table import Connection, events, job, rows, value
from trio_queue._storage.queries import query

NAMES = (
    "queues",
    "task_names",
    "priorities",
    "locks",
    "queueing_locks",
    "args",
    "scheduled_at",
)


def defer(connection: Connection, **arrays: Any) -> list[int]:
    given = {**dict.fromkeys(NAMES), "queues": ["q"], "task_names": ["t"], **arrays}
    if given["args"] is not None:
        given["args"] = json.dumps(given["args"])
    ids: list[int] = value(connection, query("defer_jobs"), given)
    return ids


def test_one_job_has_all_that_was_given(connection: Connection) -> None:
    moment = datetime.datetime(2222, 2, 2, tzinfo=datetime.UTC)
    (made,) = defer(
        connection,
        priorities=[5],
        locks=["l"],
        queueing_locks=["k"],
        args=[{"a": [1, None]}],
        scheduled_at=[moment],
    )
    assert job(connection, made) == {
        "id": made,
        "queue_name": "q",
        "task_name": "t",
        "priority": 5,
        "lock": "l",
        "queueing_lock": "k",
        "args": {"a": [1, None]},
        "status": "todo",
        "scheduled_at": moment,
        "attempts": 0,
        "abort_requested": False,
        "worker_id": None,
    }
    assert events(connection, made) == ["scheduled", "deferred"]


@pytest.mark.parametrize("count", [1, 2, 500])
def test_the_ids_come_in_the_order_of_the_jobs(connection: Connection, count: int) -> None:
    numbers = random.Random(count).sample(range(10_000), count)
    ids = defer(connection, args=[{"n": number} for number in numbers])
    found = dict(rows(connection, "SELECT id, (args->>'n')::int FROM procrastinate_jobs"))
    assert [found[made] for made in ids] == numbers
    assert ids == sorted(ids)


def test_one_element_stands_for_every_job_and_nothing_for_the_default(
    connection: Connection,
) -> None:
    ids = defer(connection, task_names=["a", "b", "c"], priorities=[7], locks=[None, "l", None])
    assert rows(
        connection,
        "SELECT id, queue_name, task_name, priority, lock, args FROM procrastinate_jobs ORDER BY id",
    ) == [
        (ids[0], "q", "a", 7, None, {}),
        (ids[1], "q", "b", 7, "l", {}),
        (ids[2], "q", "c", 7, None, {}),
    ]


@pytest.mark.parametrize(
    ("name", "column", "values"),
    [
        ("queues", "queue_name", ["a", "b", "c"]),
        ("task_names", "task_name", ["a", "b", "c"]),
        ("priorities", "priority", [1, None, -3]),
        ("locks", "lock", ["a", None, "c"]),
        ("queueing_locks", "queueing_lock", [None, "b", "c"]),
        (
            "scheduled_at",
            "scheduled_at",
            [None, datetime.datetime(2222, 2, 2, tzinfo=datetime.UTC), None],
        ),
    ],
)
def test_many_arguments_and_one_other_column_are_each_their_own(
    connection: Connection, name: str, column: str, values: list[Any]
) -> None:
    ids = defer(connection, args=[{"n": 1}, {"n": 2}, {"n": 3}], **{name: values})
    found = [job(connection, made) for made in ids]
    assert [row["args"] for row in found] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert [row[column] for row in found] == [
        0 if name == "priorities" and value is None else value for value in values
    ]


def test_no_jobs_are_no_jobs(connection: Connection) -> None:
    assert defer(connection, **{name: [] for name in NAMES}) == []


def test_arrays_of_other_lengths_are_refused(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.ArraySubscriptError, match=r"\{1,1,3,2\}"):
        defer(connection, priorities=[1, 2, 3], locks=["a", "b"])


@pytest.mark.parametrize("others", [[], [None]])
def test_a_queueing_lock_that_is_taken_refuses_all(
    connection: Connection, others: list[None]
) -> None:
    defer(connection, queueing_locks=["k"])
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        defer(connection, queueing_locks=[*others, "k"])
    assert caught.value.diag.constraint_name == "procrastinate_jobs_queueing_lock_idx_v1"
    assert value(connection, "SELECT count(*) FROM procrastinate_jobs") == 1


def test_a_name_that_is_too_long_is_refused(connection: Connection) -> None:
    with pytest.raises(psycopg.errors.StringDataRightTruncation):
        defer(connection, task_names=["x" * 129])


def test_a_periodic_job_is_deferred_once_for_its_moment(connection: Connection) -> None:
    def ask(moment: int) -> Any:
        given: dict[str, Any] = {
            "queue": "q",
            "lock": None,
            "queueing_lock": None,
            "task_name": "t",
            "priority": 0,
            "periodic_id": "p",
            "defer_timestamp": moment,
            "args": "{}",
        }
        return value(connection, query("defer_periodic_job"), given)

    first = ask(100)
    assert isinstance(first, int)
    assert ask(100) is None
    second = ask(200)
    assert second != first
    assert rows(
        connection, "SELECT defer_timestamp, job_id FROM procrastinate_periodic_defers"
    ) == [(100, first), (200, second)]
    assert ask(100) is None
    assert ask(150) is not None
