"""A bite of old jobs: what it walks, what it leaves, and that it blocks nobody."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sql.table import (
    Connection,
    column,
    connect,
    fetch,
    finish,
    insert,
    register,
    rows,
    value,
)
from tests.sql.test_plans import nodes, plans
from tests.sql.test_workers import aged, bite_of_old, delete_old, left
from trio_queue._storage.queries import query

#: Finished jobs with three events each; the ages of those fall from 20 hours by a second a job.
FINISHED = """
WITH made AS (
    INSERT INTO procrastinate_jobs (queue_name, task_name, status)
    SELECT 'q', 't', %(status)s::procrastinate_job_status FROM generate_series(1, %(count)s) RETURNING id)
INSERT INTO procrastinate_events (job_id, type, at)
SELECT id, type::procrastinate_job_event_type, now() - interval '20 hours' + id * interval '1 second'
  FROM made CROSS JOIN unnest(ARRAY['deferred', 'started', 'succeeded']) t (type)
"""
BLOCKED = "SELECT count(*) FROM pg_locks WHERE NOT granted"


def fill(connection: Connection, count: int, status: str = "succeeded") -> None:
    connection.execute("SET session_replication_role = replica")
    connection.execute(FINISHED.encode(), {"count": count, "status": status})
    connection.execute("SET session_replication_role = origin")


def pages(connection: Connection, **said: Any) -> int:
    """How many pages a bite of old jobs touches."""
    given = {
        "statuses": ["succeeded"],
        "nb_hours": 10.0,
        "queue": None,
        "limit": 1000,
        "after_id": None,
        "only_count": False,
        **said,
    }
    text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query('delete_old_jobs')}"
    plan = value(connection, text, given)[0]["Plan"]
    touched: int = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return touched


def test_bites_follow_each_other_to_the_end(connection: Connection) -> None:
    ids = [aged(connection, 11) for _ in range(5)]
    young = aged(connection, 9)
    assert bite_of_old(connection, limit=2) == (2, ids[1])
    assert bite_of_old(connection, limit=2, after_id=ids[1]) == (2, ids[3])
    assert bite_of_old(connection, limit=2, after_id=ids[3]) == (1, None)
    assert left(connection) == [young]


def test_counting_deletes_nothing(connection: Connection) -> None:
    ids = [aged(connection, 11) for _ in range(3)]
    assert bite_of_old(connection, only_count=True, limit=2) == (2, ids[1])
    assert bite_of_old(connection, only_count=True, after_id=ids[1]) == (1, None)
    assert left(connection) == ids


def test_a_bite_of_what_is_kept_ends_too(connection: Connection) -> None:
    fill(connection, 20_000, "failed")
    connection.execute("ANALYZE")
    # Twenty thousand are some milliseconds: here time flies.
    connection.execute("CREATE SCHEMA flying")
    connection.execute("CREATE SEQUENCE public.flown")
    connection.execute(
        "CREATE FUNCTION flying.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
        " $$ SELECT now() + nextval('public.flown') * interval '30 ms' $$"
    )
    connection.execute("SET search_path = flying, pg_catalog, public")
    assert bite_of_old(connection) == (0, 1000)
    assert bite_of_old(connection, after_id=1000) == (0, 2000)


def test_nothing_to_delete_costs_next_to_nothing_however_large_the_table(
    connection: Connection,
) -> None:
    fill(connection, 30_000)
    assert delete_old(connection, nb_hours=19.5) > 0
    before = pages(connection, nb_hours=30)
    fill(connection, 30_000)
    assert pages(connection, nb_hours=30) <= 1.5 * before
    # A thousand rows of the first bite, each with a probe of its events, and no more.
    assert before < 10_000


def test_planned_on_an_empty_table_a_bite_still_walks_by_id(connection: Connection) -> None:
    connection.execute("ANALYZE")
    for _ in range(8):
        delete_old(connection)
    fill(connection, 20_000)
    with plans(connection) as found:
        assert bite_of_old(connection, limit=1000) == (1000, 1000)
    read = [
        (node["Node Type"], node["Relation Name"], node.get("Index Name", ""))
        for told in found
        for node in nodes(told["Plan"])
        if "Relation Name" in node and node.get("Actual Loops", 0)
    ]
    assert not [scan for scan in read if scan[0] == "Seq Scan"]
    used = {index for _, relation, index in read if relation == "procrastinate_jobs" and index}
    assert used == {"procrastinate_jobs_pkey"}


def test_a_bite_under_way_blocks_neither_claims_nor_completions_nor_defers(
    connection: Connection, queue_database: str
) -> None:
    old = [aged(connection, 11) for _ in range(20)]
    worker = register(connection)
    running = [insert(connection) for _ in range(10)]
    fetch(connection, worker, 10)
    for _ in range(10):
        insert(connection)
    connection.execute("SET lock_timeout = '1 s'")  # an error, not a hang, where it would wait
    with connect(queue_database) as pruning, pruning.transaction():
        assert delete_old(pruning) == len(old)
        finish(connection, worker, running)
        claimed = fetch(connection, worker, 10)
        assert len(claimed) == 10
        insert(connection)
        finish(connection, worker, claimed)
        assert value(connection, query("has_eligible_job"), {"queues": None}) is True
        # Another one takes nothing of it, and waits for nothing.
        assert delete_old(connection) == 0
        assert value(connection, BLOCKED) == 0
    assert not set(old) & set(left(connection))


def test_a_bite_leaves_alone_what_others_have_locked(
    connection: Connection, queue_database: str
) -> None:
    held, free = aged(connection, 11, "failed"), aged(connection, 11, "failed")
    connection.execute("SET lock_timeout = '1 s'")
    with connect(queue_database) as other, other.transaction():
        again = {"job_id": held, **dict.fromkeys(["retry_at", "priority", "queue", "lock"])}
        value(other, query("retry_job"), again)
        assert delete_old(connection, statuses=["failed"]) == 1
    assert left(connection) == [held]
    assert free not in left(connection)
    # It waits now, whatever its age.
    assert delete_old(connection, statuses=["failed"]) == 0


# -- what else may grow ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table", ["procrastinate_events", "trio_queue_event_details", "trio_queue_orphans"]
)
def test_what_hangs_on_a_job_goes_with_it(connection: Connection, table: str) -> None:
    worker, dead = register(connection), register(connection)
    told, lost = insert(connection), insert(connection)
    assert fetch(connection, worker, 1) == [told]
    finish(connection, worker, [told], "failed", reasons=["why"])
    assert fetch(connection, dead, 1) == [lost]
    value(connection, query("unregister_worker"), {"worker_id": dead})
    # Nobody rescues: a user ends it by hand.
    connection.execute("UPDATE procrastinate_jobs SET status = 'failed' WHERE id = %s", [lost])
    count = f"SELECT count(*) FROM {table}"
    assert value(connection, count) > 0
    assert delete_old(connection, statuses=["failed"], nb_hours=-1) == 2
    assert value(connection, count) == 0


def test_the_notes_about_a_worker_go_with_it(connection: Connection) -> None:
    worker = register(connection)
    connection.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 h'")
    rows(connection, query("prune_stalled_workers"), {"seconds_since_heartbeat": 30.0})
    assert worker not in column(connection, "SELECT worker_id FROM trio_queue_workers")


def test_of_a_schedule_an_hour_of_moments_stays(connection: Connection) -> None:
    for moment in range(0, 7300, 10):
        connection.execute(
            "SELECT trio_queue_defer_periodic_job_v1('q', NULL, NULL, 't', 0, '', %s, '{}')",
            [moment],
        )
    moments = column(
        connection, "SELECT defer_timestamp FROM procrastinate_periodic_defers ORDER BY 1"
    )
    assert moments == list(range(3690, 7300, 10))
