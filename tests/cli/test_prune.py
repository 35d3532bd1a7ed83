"""`jobs prune`: what it deletes, counts and says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.cli.test_jobs import ids

if TYPE_CHECKING:
    from click.testing import Result

#: One job of each status, numbered from 1 in this order, ended two days ago; and one that succeeded an hour ago.
FILL = """
INSERT INTO procrastinate_jobs (queue_name, task_name, status)
SELECT 'q', 't', s::procrastinate_job_status
  FROM unnest(ARRAY['todo', 'doing', 'succeeded', 'failed', 'cancelled', 'aborted', 'succeeded']) s;
UPDATE procrastinate_jobs SET queue_name = 'other' WHERE id = 4;
DELETE FROM procrastinate_events;
INSERT INTO procrastinate_events (job_id, type, at)
SELECT id, 'started', now() - CASE id WHEN 7 THEN interval '1 hour' ELSE interval '2 days' END FROM procrastinate_jobs;
"""


@pytest.fixture(autouse=True)
def jobs(on_queue: str) -> None:
    with psycopg.connect(on_queue, autocommit=True) as connection:
        connection.execute(FILL)


@pytest.mark.parametrize(
    ("options", "said", "left"),
    [
        ("--older-than 1d", "Deleted 1 job.", [1, 2, 4, 5, 6, 7]),
        ("--older-than 1d --dry-run", "1 job would be deleted.", [1, 2, 3, 4, 5, 6, 7]),
        ("--older-than 1m", "Deleted 2 jobs.", [1, 2, 4, 5, 6]),
        ("--older-than 3d", "Deleted 0 jobs.", [1, 2, 3, 4, 5, 6, 7]),
        ("--older-than 1d --queue other", "Deleted 0 jobs.", [1, 2, 3, 4, 5, 6, 7]),
        ("--older-than 1d --status failed", "Deleted 1 job.", [1, 2, 3, 5, 6, 7]),
        (
            "--older-than 1d --status succeeded --status failed --status cancelled --status aborted",
            "Deleted 4 jobs.",
            [1, 2, 7],
        ),
    ],
)
def test_old_jobs_are_deleted(
    run: Callable[..., Result], options: str, said: str, left: list[int]
) -> None:
    result = run("jobs", "prune", *options.split())
    assert (result.exit_code, result.stdout) == (0, f"{said}\n"), result.output
    assert ids(run) == left


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "Missing option '--older-than'"),
        ("--older-than 30", "'30' is not a duration such as 45s, 90m, 12h, 30d or 4w"),
        ("--older-than d", "'d' is not a duration"),
        ("--older-than 1.5h", "'1.5h' is not a duration"),
        ("--older-than 9999999999w", "longer than any calendar"),
        ("--older-than 1d --status todo", "'todo' is not one of"),
    ],
)
def test_bad_input_deletes_nothing(run: Callable[..., Result], options: str, said: str) -> None:
    result = run("jobs", "prune", *options.split())
    assert result.exit_code == 2
    assert said in result.output
    assert ids(run) == [1, 2, 3, 4, 5, 6, 7]
