"""Behind a snapshot held open, claims begin to walk where an earlier one found the first job; see trio_queue_walks."""

from __future__ import annotations

import datetime
import random
from collections.abc import Sequence
from typing import Any

import attrs
import pytest

from tests.benchmarks.table_shapes import QUEUE
from tests.fix_schemas import SCALE
from tests.sql.table import Connection, column, connect, fetch, insert, register, rows
from tests.sql.test_flat import fill, prepare
from tests.sql.test_plans import nodes, plans
from trio_queue._storage.queries import query

WALKS = "SELECT queues, ~rank, id, again_at - clock_timestamp() FROM trio_queue_walks ORDER BY 1"
SECOND = datetime.timedelta(seconds=1)
#: The same as one of all queues, or of one that is asked for.
asking = pytest.mark.parametrize("queues", [None, ["q"]], ids=["all", "one queue"])


@attrs.frozen
class Walk:
    """A row of the table."""

    queues: list[str]
    priority: int
    id: int
    again_in: datetime.timedelta


def walks(connection: Connection) -> list[Walk]:
    return [Walk(*row) for row in rows(connection, WALKS)]


def begin_at(
    connection: Connection,
    priority: int,
    job_id: int,
    queues: Sequence[str] | None,
    again_in: float,
) -> None:
    """Claims begin here, as if the way to this job had been long."""
    connection.execute(
        "INSERT INTO trio_queue_walks VALUES (%s, ~%s, %s, clock_timestamp() + %s * interval '1 s')",
        [queues or [], priority, job_id, again_in],
    )


def note(
    connection: Connection, took: str, queues: Sequence[str] = (), last: int | None = None
) -> None:
    """Take note of a walk of the whole way."""
    connection.execute(
        "SELECT trio_queue_note_walk_v1(%s::varchar[], %s, %s::interval)",
        [list(queues), last, took],
    )


def next_in(
    connection: Connection, worker: int, queues: Sequence[str] | None
) -> tuple[int, float | None]:
    """Claim a hundred: how many there were, and when to come again."""
    given = {"queues": queues, "worker_id": worker, "turn": None, "limit": 100, "max_bytes": None}
    found = rows(connection, query("fetch_jobs"), given)
    return len(found) - 1, found[-1][-1]


@asking
def test_a_claim_begins_where_the_walk_before_found_the_first_job(
    connection: Connection, queues: list[str] | None
) -> None:
    worker = register(connection)
    before, first, second = (insert(connection) for _ in range(3))
    begin_at(connection, 0, first, queues, again_in=30)
    assert fetch(connection, worker, queues=queues) == [first, second]
    assert fetch(connection, worker, queues=queues) == []
    connection.execute("UPDATE trio_queue_walks SET again_at = clock_timestamp()")
    assert fetch(connection, worker, queues=queues) == [before]


@asking
def test_a_more_urgent_job_is_taken_first_and_a_less_urgent_one_after_it(
    connection: Connection, queues: list[str] | None
) -> None:
    worker = register(connection)
    urgent = [insert(connection, priority=priority) for priority in (1, 2_147_483_647)]
    insert(connection)
    late, later = insert(connection, priority=-1), insert(connection, priority=-2_147_483_648)
    first = insert(connection)
    begin_at(connection, 0, first, queues, again_in=30)
    assert fetch(connection, worker, 3, queues=queues) == [*reversed(urgent), first]
    assert fetch(connection, worker, 3, queues=queues) == [late, later]


@asking
@pytest.mark.parametrize("priority", [2_147_483_647, -2_147_483_648])
def test_at_either_end_of_the_priorities(
    connection: Connection, queues: list[str] | None, priority: int
) -> None:
    worker = register(connection)
    insert(connection, priority=priority)
    first = insert(connection, priority=priority)
    begin_at(connection, priority, first, queues, again_in=30)
    assert fetch(connection, worker, queues=queues) == [first]


@pytest.mark.parametrize(
    "again_in", [-61, 61, 3600], ids=["forgotten", "clock set back", "an hour"]
)
def test_what_cannot_be_is_not_believed(connection: Connection, again_in: float) -> None:
    worker = register(connection)
    before, first = insert(connection), insert(connection)
    begin_at(connection, 0, first, None, again_in)
    assert fetch(connection, worker) == [before, first]


def test_each_queue_has_a_way_of_its_own(connection: Connection) -> None:
    worker = register(connection)
    hidden = insert(connection)
    begin_at(connection, 0, hidden + 1, ["q"], again_in=30)
    assert fetch(connection, worker, queues=["q"]) == []
    assert fetch(connection, worker, queues=["other"]) == []
    assert fetch(connection, worker) == [hidden]


@asking
def test_one_walks_the_whole_way_at_a_time_and_the_others_do_not_wait(
    queue_database: str, connection: Connection, queues: list[str] | None
) -> None:
    worker = register(connection)
    before, first = insert(connection), insert(connection)
    begin_at(connection, 0, first, queues, again_in=-1)
    with connect(queue_database) as other, other.transaction():
        assert fetch(other, worker, 1, queues=queues) == [before]  # and is not committed
        assert fetch(connection, worker, 1, queues=queues) == [first]
        assert next_in(connection, worker, queues) == (0, 0.05)


@asking
def test_who_found_less_than_there_may_be_comes_again_when_the_whole_way_is_walked(
    connection: Connection, queues: list[str] | None
) -> None:
    worker = register(connection)
    first = insert(connection)
    begin_at(connection, 0, first, queues, again_in=30)
    found, seconds = next_in(connection, worker, queues)
    assert found == 1
    assert seconds is not None
    assert 20 < seconds < 30
    insert(connection, scheduled_at=datetime.datetime.now(datetime.UTC) + 5 * SECOND)
    _, seconds = next_in(connection, worker, queues)
    assert seconds is not None
    assert seconds < 5


@asking
def test_jobs_with_locks_and_due_ones_are_walked_to_from_the_first_on(
    connection: Connection, queues: list[str] | None
) -> None:
    worker = register(connection)
    before, locked = insert(connection), insert(connection, lock="a")
    begin_at(connection, 0, locked + 1, queues, again_in=30)
    assert fetch(connection, worker, queues=queues) == [before, locked]


# -- taking note ----------------------------------------------------------------------------------


def test_a_claim_that_walked_the_whole_way_when_it_was_due_takes_note(
    connection: Connection,
) -> None:
    worker = register(connection)
    first = insert(connection)
    begin_at(connection, 0, first, None, again_in=-1)
    [old] = walks(connection)
    assert fetch(connection, worker) == [first]
    assert walks(connection) == [] or walks(connection)[0].again_in > old.again_in + SECOND / 2


@pytest.mark.parametrize("queues", [[], ["q"]], ids=["all", "one queue"])
def test_a_long_way_to_the_first_job_is_noted(connection: Connection, queues: list[str]) -> None:
    insert(connection, queue_name="another", priority=-5)
    insert(connection, priority=9, lock="lock")
    insert(connection, priority=9, scheduled_at=datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC))
    first = insert(connection, priority=-1)
    insert(connection, priority=-1)
    note(connection, "0", queues)
    [walk] = walks(connection)
    assert (walk.queues, walk.priority, walk.id) == (queues, -1, first)


def test_a_claim_of_many_jobs_takes_long_too_and_that_is_no_reason(connection: Connection) -> None:
    first = insert(connection)
    note(connection, "0")
    assert [walk.id for walk in walks(connection)] == [first]
    note(connection, "1 hour")  # of which the way to the first job was next to nothing
    assert walks(connection) == []


def test_where_none_waits_those_to_come_are_behind_the_last(connection: Connection) -> None:
    worker = register(connection)
    last = insert(connection, priority=3)
    assert fetch(connection, worker) == [last]
    note(connection, "0", last=last)
    [walk] = walks(connection)
    assert (walk.priority, walk.id) == (3, last)
    note(connection, "0")  # nor was there one
    [walk] = walks(connection)
    assert (walk.priority, walk.id) == (3, last)
    connection.execute("DELETE FROM trio_queue_walks")
    note(connection, "0")
    assert walks(connection) == []


def test_who_cannot_write_the_note_at_once_lets_it_be(
    queue_database: str, connection: Connection
) -> None:
    insert(connection)
    with connect(queue_database) as other, other.transaction():
        note(other, "0")
        note(connection, "0")
        note(connection, "1 hour")
    assert len(walks(connection)) == 1


def walked(connection: Connection, worker: int, queues: Sequence[str] | None) -> int:
    """The pages that a claim of a hundred touches until it has found them; it is undone."""
    with plans(connection) as told, connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL auto_explain.log_buffers = on")
        assert len(fetch(connection, worker, 100, queues)) == 100
    return sum(
        node["Shared Hit Blocks"] + node["Shared Read Blocks"]
        for plan in told
        for node in nodes(plan["Plan"])
        if node.get("Index Name") in ("trio_queue_rank_idx", "trio_queue_queue_rank_idx")
    )


@pytest.mark.parametrize("queues", [None, [QUEUE]], ids=["all", "one queue"])
def test_behind_a_snapshot_what_came_and_went_is_not_walked_over_again(
    queue_database: str, connection: Connection, queues: list[str] | None
) -> None:
    worker = prepare(connection, is_tended=True)
    states = fill("churned", queue_database, scale=0.005 * SCALE, is_tended=True)
    next(states)  # 10,000 came and went
    whole = walked(connection, worker, queues)
    note(
        connection, "0", queues or ()
    )  # holds for ten times as long as the way takes: no time, here
    connection.execute("UPDATE trio_queue_walks SET again_at = clock_timestamp() + interval '30 s'")
    assert whole > 100
    assert walked(connection, worker, queues) < 20
    for _ in states:
        pass


def test_whatever_is_noted_nothing_is_lost_and_nothing_runs_twice(connection: Connection) -> None:
    """Defer, claim, give back and take note at random; in the end the whole way is walked, and nothing is left."""
    for seed in range(20 * SCALE):
        chosen = random.Random(seed)
        worker = register(connection)
        ended: list[int] = []
        made: list[int] = []
        for _ in range(60):
            queues: list[str] | None = chosen.choice([None, ["q"], ["other"]])
            match chosen.randrange(5):
                case 0 | 1:
                    queue = chosen.choice(["q", "other"])
                    made.append(
                        insert(connection, queue_name=queue, priority=chosen.randrange(-2, 3))
                    )
                case 2 | 3:
                    claimed = fetch(connection, worker, chosen.randrange(1, 5), queues=queues)
                    back = [job_id for job_id in claimed if chosen.random() < 0.3]
                    set_status(connection, "todo", back)
                    kept = [job_id for job_id in claimed if job_id not in back]
                    set_status(connection, "succeeded", kept)
                    ended += kept
                case _:
                    note(connection, "0", queues or ())
        assert len(ended) == len(set(ended))
        connection.execute("UPDATE trio_queue_walks SET again_at = clock_timestamp()")
        for asked in (None, ["q"], ["other"]):
            ended += fetch(connection, worker, queues=asked)
        assert sorted(ended) == made
        assert column(connection, "SELECT id FROM procrastinate_jobs WHERE status = 'todo'") == []
        connection.execute("DELETE FROM trio_queue_walks")
        connection.execute("DELETE FROM procrastinate_jobs")


def set_status(connection: Connection, status: str, job_ids: Sequence[Any]) -> None:
    connection.execute(
        "UPDATE procrastinate_jobs SET status = %s, worker_id = NULL WHERE id = ANY (%s)",
        [status, list(job_ids)],
    )
