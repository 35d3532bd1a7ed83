"""A claim that may hold so many bytes of arguments is the beginning of the one that may hold any number."""

from __future__ import annotations

import pytest

from tests.sql.table import (
    Connection,
    claimed,
    connect,
    fetch,
    notified,
    register,
    rows,
    tried,
    value,
)
from trio_queue._storage.queries import query

AT_ONCE = query("fetch_jobs")
#: What each case's arguments are made of, by the job's number n: as they come, and so that they are stored compressed or elsewhere.
SIZES = {
    "small, then large": "CASE WHEN n <= 30 THEN 10 ELSE 3000 END",
    "large, then small": "CASE WHEN n <= 5 THEN 3000 ELSE 10 END",
    "mixed": "(n * 7919) % 5000",
}
TEXTS = {
    # Random digits are stored as they are, in pieces where they are many; what repeats itself shrinks to a hundredth.
    "as it is": "(SELECT string_agg(md5(n || '-' || g), '') FROM generate_series(1, size / 32 + 1) g)",
    "compressed": "repeat('x', size * 4)",
}
FILL_SIZED = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, lock, scheduled_at, args)
SELECT 'q', 't', n %% 3, {lock}, {at}, jsonb_build_object('text', {text})
  FROM (SELECT n, {size} AS size FROM generate_series(1, 80) n OFFSET 0) sized ORDER BY n
"""
#: Each job's arguments in the order of a claim; uncompressed they are as large as they are in memory, but for their heads.
TRUE_SIZES = """
SELECT id, pg_column_size(CASE WHEN pg_column_compression(args) IS NULL THEN args ELSE args #> '{}' END)
  FROM procrastinate_jobs WHERE status = 'todo' ORDER BY priority DESC, id
"""


@pytest.fixture(params=[None, "locks", "due"])
def kind(request: pytest.FixtureRequest) -> str | None:
    """Whether the jobs are plain: what is not is claimed in another way."""
    found: str | None = request.param
    return found


def fill_sized(connection: Connection, size: str, text: str, kind: str | None) -> None:
    lock = "'l' || n" if kind == "locks" else "NULL"
    at = "now() - interval '1 h'" if kind == "due" else "NULL::timestamptz"
    filled = FILL_SIZED.format(
        lock=lock, at=at, text=TEXTS[text], size=SIZES[size].replace("%", "%%")
    )
    connection.execute(filled.encode(), {})


@pytest.mark.parametrize("queues", [None, ["q"], ["q", "other"]])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", SIZES)
def test_a_claim_by_size_takes_the_first_that_fit(
    connection: Connection, size: str, text: str, queues: list[str] | None, kind: str | None
) -> None:
    worker = register(connection)
    fill_sized(connection, size, text, kind)
    sizes = rows(connection, TRUE_SIZES)
    for limit, max_bytes in [(80, 20_000), (100, 60_000), (7, 20_000), (50, 1), (100, 10**7)]:
        held = 0
        expected: list[int] = []
        for job_id, job_size in sizes[:limit]:
            held += job_size
            if expected and held > max_bytes:
                break
            expected.append(job_id)
        asked = {"queues": queues, "worker_id": worker, "turn": None, "limit": limit}
        unbound, _ = tried(connection, AT_ONCE, {**asked, "max_bytes": None})
        assert unbound == [job_id for job_id, _ in sizes[:limit]]
        found, state = tried(connection, AT_ONCE, {**asked, "max_bytes": max_bytes})
        assert found == expected, (limit, max_bytes)
        assert [job_id for job_id, status, _ in state if status == "doing"] == sorted(expected)


def test_the_last_row_of_no_job_tells_that_there_is_no_more(
    connection: Connection, kind: str | None
) -> None:
    worker = register(connection)
    fill_sized(connection, "small, then large", "as it is", kind)
    asked = {"queues": None, "worker_id": worker, "turn": None, "limit": 100}
    while True:
        found = rows(connection, AT_ONCE, {**asked, "max_bytes": 40_000})
        waiting = value(connection, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")
        assert (found[-1][0] is None) == (not waiting)
        if not waiting:
            break


def test_beside_an_open_claim_what_it_left_for_its_size_is_taken(
    connection: Connection, second: Connection, queue_database: str, kind: str | None
) -> None:
    worker = register(connection)
    fill_sized(connection, "mixed", "compressed", kind)
    every = [job_id for job_id, _ in rows(connection, TRUE_SIZES)]
    with connect(queue_database) as first, first.transaction(force_rollback=True):
        taken = fetch(first, worker, 80, max_bytes=60_000)
        assert 1 < len(taken) < 40
        following = fetch(second, worker, 80, max_bytes=60_000)
        assert len(following) > 1
        assert taken + following == every[: len(taken) + len(following)]


@pytest.mark.parametrize(("max_bytes", "is_told"), [(20_000, True), (10**7, False)])
def test_whoever_rests_is_told_of_what_a_claim_locked_and_let_go(
    connection: Connection, second: Connection, kind: str | None, max_bytes: int, is_told: bool
) -> None:
    worker = register(connection)
    fill_sized(connection, "mixed", "as it is", kind)
    second.execute('LISTEN "procrastinate_queue_v1#q"')
    second.execute("LISTEN procrastinate_any_queue_v1")
    list(notified(second))  # of what was inserted before
    taken = fetch(connection, worker, 40, max_bytes=max_bytes)
    assert (len(taken) < 40) is is_told
    second.execute("SELECT 1")  # its answer comes after all that was notified before
    channels = {channel for channel, _ in notified(second)}
    told = {"procrastinate_queue_v1#q", "procrastinate_any_queue_v1"}
    assert channels == (told if is_told else set())


def test_workers_of_an_older_version_are_not_bound_by_size(connection: Connection) -> None:
    """They would take fewer than they asked for as the end of the queue."""
    worker = register(connection)
    fill_sized(connection, "small, then large", "as it is", None)
    asked = {"worker_id": worker}
    old = "SELECT id, next_in FROM trio_queue_fetch_jobs_v1(NULL, %(worker_id)s, 80, 1)"
    assert len(claimed(connection, old, asked)) == 80
    assert rows(connection, old.replace("1)", "2)"), asked) == [(None, None)]
