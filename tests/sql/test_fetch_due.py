"""Due jobs behind jobs of the future, some of them claimed by others at this moment."""

from __future__ import annotations

import pytest

from tests.sql.table import Connection, connect, fetch, register

#: Ranked first, for later; then those that are due (ids 1 to 2,000), in a disorder of time; last, those that are ready.
FILL = """
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, scheduled_at)
SELECT 'q', 't', 0, now() - (n * 37 % 2000 + 1) * interval '1 s' FROM generate_series(1, 2000) n;
INSERT INTO procrastinate_jobs (queue_name, task_name, priority, scheduled_at)
SELECT 'q', 't', 1, now() + interval '1 h' FROM generate_series(1, 200) n;
INSERT INTO procrastinate_jobs (queue_name, task_name, priority) SELECT 'q', 't', -1 FROM generate_series(1, 50);
"""
HELD = "SELECT FROM procrastinate_jobs WHERE id <= %s FOR UPDATE"


@pytest.mark.parametrize("queues", [None, ["q"]])
@pytest.mark.parametrize("held", [0, 20, 600, 1990, 2000])
def test_those_that_others_hold_are_passed_over_in_rank_order(
    connection: Connection, queue_database: str, held: int, queues: list[str] | None
) -> None:
    worker = register(connection)
    connection.execute(FILL)
    with connect(queue_database) as other, other.transaction():
        other.execute(HELD, [held])
        claimed = fetch(connection, worker, 5, queues)
    first_ready = 2201
    expected = [*range(held + 1, 2001), *range(first_ready, first_ready + 50)]
    assert claimed == expected[:5]
