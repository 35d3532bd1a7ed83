"""The plans of the hot statements, on tables with statistics of every kind: the flat ones, each by its index.

A statement inside a function cannot be EXPLAINed from outside: auto_explain tells the plans that really
ran, as notices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.fix_schemas import SCALE
from tests.sql.table import Connection, fetch, finish, insert, register, release, rows, value
from trio_queue._storage.queries import query

NEXT_IN = "SELECT trio_queue_next_scheduled_in_v1(%(queues)s::varchar[])"

COUNT = 20_000 * SCALE
#: What the table is full of, as INSERTs of COUNT rows each.
TABLES = {
    "empty": "SELECT",
    "waiting": "INSERT INTO procrastinate_jobs (queue_name, task_name, priority) SELECT 'q' || n %% 20, 't', n %% 3 FROM generate_series(1, %(n)s) n",
    "finished": "INSERT INTO procrastinate_jobs (queue_name, task_name, status) SELECT 'q0', 't', 'succeeded' FROM generate_series(1, %(n)s) n",
    "future": "INSERT INTO procrastinate_jobs (queue_name, task_name, scheduled_at) SELECT 'q0', 't', now() + n * interval '1 min' FROM generate_series(1, %(n)s) n",
    "due": "INSERT INTO procrastinate_jobs (queue_name, task_name, scheduled_at) SELECT 'q0', 't', now() - n * interval '1 s' FROM generate_series(1, %(n)s) n",
    "locked": "INSERT INTO procrastinate_jobs (queue_name, task_name, lock) SELECT 'q0', 't', 'l' || n FROM generate_series(1, %(n)s) n",
}
SOME = (
    "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, scheduled_at)"
    " SELECT 'q' || n %% 3, 't', CASE WHEN n %% 2 = 0 THEN 'some' || n END, CASE WHEN n %% 3 = 0 THEN now() - interval '1 h' END"
    " FROM generate_series(1, 200) n"
)


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest, connection: Connection) -> str:
    """A table full of one kind of jobs, analysed, and a few jobs of every kind that came after."""
    connection.execute("SET session_replication_role = replica")
    connection.execute(TABLES[request.param].encode(), {"n": COUNT})
    connection.execute("VACUUM ANALYZE procrastinate_jobs")
    connection.execute(SOME.encode(), {})
    connection.execute("SET session_replication_role = origin")
    return str(request.param)


@contextmanager
def plans(connection: Connection) -> Generator[list[dict[str, Any]]]:
    """The plans of all that runs in the block, inside of functions too."""
    found: list[dict[str, Any]] = []

    def note(told: psycopg.errors.Diagnostic) -> None:
        text = told.message_primary or ""
        if "plan:" in text:
            found.append(json.loads(re.sub(r"^.*?plan:\s*", "", text, count=1, flags=re.DOTALL)))

    connection.execute("LOAD 'auto_explain'")
    for name, setting in (
        ("log_min_duration", "0"),
        ("log_nested_statements", "on"),
        ("log_analyze", "on"),
        ("log_timing", "off"),
        ("log_format", "json"),
        ("log_level", "notice"),
    ):
        connection.execute(f"SET auto_explain.{name} = {setting}".encode())
    connection.add_notice_handler(note)
    try:
        yield found
    finally:
        connection.remove_notice_handler(note)
        connection.execute("SET auto_explain.log_min_duration = -1")
    assert found, "auto_explain told of nothing"


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A plan's node and all below it."""
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def scans(found: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """How the tables of the queue are read: node, table, index."""
    return {
        (node["Node Type"], node.get("Relation Name", ""), node.get("Index Name", ""))
        for told in found
        for node in nodes(told["Plan"])
        if "Scan" in node["Node Type"]
        and node.get("Relation Name", "").startswith(("procrastinate_", "trio_queue_"))
        and node.get("Actual Loops", 0)
    }


def rows_read(found: list[dict[str, Any]]) -> float:
    """How many rows of jobs the largest scan has looked at."""
    found_rows: list[float] = [
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for told in found
        for node in nodes(told["Plan"])
        if node.get("Relation Name") == "procrastinate_jobs"
    ]
    return max(found_rows)


def assert_no_walk(found: list[dict[str, Any]]) -> None:
    sequential = {scan for scan in scans(found) if scan[:2] == ("Seq Scan", "procrastinate_jobs")}
    assert not sequential
    # "Due" is the one table of which the claim lists more than a few.
    assert rows_read(found) <= 10_000


@pytest.mark.parametrize("queues", [None, ["q1", "q2"]])
def test_a_claim_walks_its_own_indexes_only(
    connection: Connection, table: str, queues: list[str] | None
) -> None:
    worker = register(connection)
    with plans(connection) as found:
        assert len(fetch(connection, worker, 20, queues)) == 20
    assert_no_walk(found)
    used = {index for _, relation, index in scans(found) if relation == "procrastinate_jobs"}
    streams = {"trio_queue_rank_idx", "trio_queue_due_idx"}
    queue_streams = {"trio_queue_queue_rank_idx", "trio_queue_queue_due_idx"}
    expected, others = (streams, queue_streams) if queues is None else (queue_streams, streams)
    assert expected <= used
    assert not used & others
    probes = {
        "trio_queue_lock_idx",
        "procrastinate_jobs_lock_idx_v1",
        "procrastinate_jobs_pkey",
    }
    assert used <= expected | probes
    if table != "due":
        assert rows_read(found) < 500


@pytest.mark.parametrize("queues", [None, ["q0"]])
@pytest.mark.parametrize("kind", ["waiting", "finished", "future"])
def test_where_only_ready_jobs_without_a_lock_wait_a_claim_is_one_walk(
    connection: Connection, kind: str, queues: list[str] | None
) -> None:
    connection.execute(TABLES[kind].encode(), {"n": COUNT})
    connection.execute("VACUUM ANALYZE procrastinate_jobs")
    made = [insert(connection, queue_name="q0", priority=n % 3 + 5) for n in range(40)]
    worker = register(connection)
    with plans(connection) as found:
        assert fetch(connection, worker, 20, queues) == [*made[2::3], *made[1::3]][:20]
    assert_no_walk(found)
    assert rows_read(found) <= 20
    used = {index for _, relation, index in scans(found) if relation == "procrastinate_jobs"}
    prefix = "trio_queue" if queues is None else "trio_queue_queue"
    assert used == {f"{prefix}_rank_idx", f"{prefix}_due_idx", "procrastinate_jobs_pkey"}


@pytest.mark.parametrize("queues", [None, ["q1", "q2"]])
def test_asking_for_eligible_and_for_the_next_job_walks_nothing(
    connection: Connection, table: str, queues: list[str] | None
) -> None:
    with plans(connection) as found:
        assert value(connection, query("has_eligible_job"), {"queues": queues}) is True
        value(connection, NEXT_IN, {"queues": queues})
    assert_no_walk(found)
    assert rows_read(found) < 500, table


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("kind", ["ended", "mixed", "deleted", "released"])
def test_a_completion_finds_its_rows_by_their_ids(connection: Connection, kind: str) -> None:
    worker = register(connection)
    ids = fetch(connection, worker, 50)
    # Analysed when they run, or before, it must not loop over all running rows for each job.
    connection.execute("ANALYZE procrastinate_jobs")
    with plans(connection) as found:
        match kind:
            case "ended":
                finish(connection, worker, ids)
            case "mixed":
                statuses = ["todo", "succeeded"] * 25
                finish(connection, worker, ids, statuses, reasons=["why"] * 50)
            case "deleted":
                finish(connection, worker, ids, deletes=[True] * 50)
            case _:
                release(connection, worker)
    assert_no_walk(found)
    assert rows_read(found) < 500
    events = {scan for scan in scans(found) if scan[1] == "procrastinate_events"}
    assert events <= {
        (node, "procrastinate_events", "procrastinate_events_job_id_fkey_v1")
        for node in ("Index Scan", "Index Only Scan", "Bitmap Heap Scan")
    } | {("Bitmap Heap Scan", "procrastinate_events", "")}


def test_analysed_while_nothing_ran_a_completion_still_takes_the_ids(
    connection: Connection,
) -> None:
    connection.execute(TABLES["waiting"].encode(), {"n": 20_000})
    connection.execute("VACUUM ANALYZE procrastinate_jobs")
    worker = register(connection)
    ids = fetch(connection, worker, 1000)
    with plans(connection) as found:
        finish(connection, worker, ids[:500])
    # Looping over the running rows for each job would read half a million.
    assert rows_read(found) <= 1000


def test_the_updates_trigger_joins_by_hashing_even_if_planned_for_one_row(
    connection: Connection,
) -> None:
    connection.execute(TABLES["waiting"].encode(), {"n": 2000})
    worker = register(connection)
    give_back = "UPDATE procrastinate_jobs SET status = 'todo' WHERE id = ANY(%s)"
    for limit in [1] * 8:
        connection.execute(give_back, [fetch(connection, worker, limit)])
    ids = fetch(connection, worker, 1000)
    with plans(connection) as found:
        connection.execute(give_back, [ids])
    joins = [
        node["Node Type"]
        for told in found
        if "old_rows o JOIN new_rows n" in told["Query Text"]
        for node in nodes(told["Plan"])
        if node["Node Type"] in {"Hash Join", "Nested Loop", "Merge Join"}
    ]
    assert joins == ["Hash Join"]


def test_deleting_jobs_probes_what_hangs_on_them(connection: Connection) -> None:
    connection.execute(TABLES["waiting"].encode(), {"n": 5000})
    connection.execute("ANALYZE")
    with plans(connection) as found:
        connection.execute(
            "DELETE FROM procrastinate_jobs WHERE id IN (SELECT id FROM procrastinate_jobs ORDER BY id LIMIT 10)"
        )
    by = {
        scan
        for scan in scans(found)
        if scan[1] in {"procrastinate_events", "procrastinate_periodic_defers"}
    }
    assert {index for _, _, index in by} <= {
        "",
        "procrastinate_events_job_id_fkey_v1",
        "procrastinate_periodic_defers_job_id_fkey_v1",
    }
    assert not {scan for scan in by if scan[0] == "Seq Scan"}
    assert rows(connection, "SELECT count(*) FROM procrastinate_events") == [(4990,)]


@pytest.mark.parametrize("queues", [None, ["q0", "q1"]])
@pytest.mark.parametrize("kind", ["waiting", "future", "due", "locked"])
def test_planned_on_an_empty_table_everything_stays_flat_when_it_fills(
    connection: Connection, kind: str, queues: list[str] | None
) -> None:
    worker = register(connection)

    def everything() -> None:
        ids = fetch(connection, worker, 20, queues)
        value(connection, query("has_eligible_job"), {"queues": queues})
        value(connection, NEXT_IN, {"queues": queues})
        finish(connection, worker, ids[:5], reasons=["why"] * 5)
        finish(connection, worker, ids[5:10])
        release(connection, worker)

    connection.execute("ALTER TABLE procrastinate_jobs SET (autovacuum_enabled = false)")
    connection.execute("VACUUM ANALYZE procrastinate_jobs")
    everything()
    connection.execute(SOME.encode(), {})
    everything()
    connection.execute("SET session_replication_role = replica")
    connection.execute(TABLES[kind].encode(), {"n": COUNT})
    connection.execute("SET session_replication_role = origin")
    with plans(connection) as found:
        everything()
    assert_no_walk(found)
    assert rows_read(found) < 1000


@pytest.mark.usefixtures("table")
def test_asking_for_orphans_reads_no_job_but_those_that_are_noted(connection: Connection) -> None:
    worker, dead, back = [register(connection) for _ in range(3)]
    parameters = {"worker_id": worker, "stalled_after": 30.0, "turn": None, "limit": 20}
    with plans(connection) as found:
        assert rows(connection, query("adopt_orphans"), parameters) == []
    assert not {scan for scan in scans(found) if scan[0] == "Seq Scan"}
    assert not {scan for scan in scans(found) if scan[1] == "procrastinate_jobs"}
    ids = fetch(connection, dead, 50)
    value(connection, query("unregister_worker"), {"worker_id": dead})
    lost = {"worker_id": back, "lost_id": dead, "job_ids": ids[:20], "attempts": [0] * 20}
    with plans(connection) as found:
        assert len(rows(connection, query("adopt_orphans"), parameters)) == 20
        rows(connection, query("adopt_jobs"), lost)
    assert_no_walk(found)
    assert rows_read(found) <= 50
    used = {index for _, relation, index in scans(found) if relation == "procrastinate_jobs"}
    # A bitmap's heap scan names no index.
    assert used - {""} == {"procrastinate_jobs_pkey"}


def test_planned_where_nobody_died_a_rescue_stays_flat(connection: Connection) -> None:
    worker, dead = register(connection), register(connection)
    parameters = {"worker_id": worker, "stalled_after": 30.0, "turn": None, "limit": 20}
    connection.execute("ANALYZE")
    for _ in range(8):
        rows(connection, query("adopt_orphans"), parameters)
    connection.execute(TABLES["waiting"].encode(), {"n": 2000})
    fetch(connection, dead, 1000)
    value(connection, query("unregister_worker"), {"worker_id": dead})
    with plans(connection) as found:
        assert len(rows(connection, query("adopt_orphans"), parameters)) == 20
    assert not {scan for scan in scans(found) if scan[0] == "Seq Scan"}
    assert rows_read(found) <= 50
