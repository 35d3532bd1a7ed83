"""Ten thousand jobs of every kind, three processes that defer and three that work."""

from __future__ import annotations

import signal
from collections import Counter, defaultdict
from contextlib import ExitStack

import psycopg
import pytest

from tests.processes.starting import started
from tests.waiting import wait_until

JOBS = 9_999

#: What happens to a job of each kind, in order; what a schedule adds is looked at apart.
EXPECTED = {
    "run_async": ("deferred", "started", "succeeded"),
    "run_sync": ("deferred", "started", "succeeded"),
    "run_locked": ("deferred", "started", "succeeded"),
    "fail_once": ("deferred", "started", "deferred_for_retry", "started", "succeeded"),
    "fail": ("deferred", "started", "failed"),
}


@pytest.mark.timeout(170)
def test_all_end_as_they_must_none_twice_and_locks_never_overlap(queue_database: str) -> None:
    with ExitStack() as stack, psycopg.connect(queue_database, autocommit=True) as connection:
        start = [
            stack.enter_context(started(queue_database, "defer", str(JOBS // 3), str(seed)))
            for seed in (0, 1_000_000, 2_000_000)
        ]
        workers = [
            stack.enter_context(started(queue_database, "work", concurrency))
            for concurrency in ("1", "20", "100")
        ]
        assert [process.wait(60) for process in start] == [0, 0, 0]

        def all_ended() -> bool:
            left = connection.execute(
                "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"
            ).fetchone()
            assert [worker.poll() for worker in workers] == [None, None, None]
            return left == (False,)

        wait_until(all_ended, "the end of the last job", patience=120)
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        assert [worker.wait(30) for worker in workers] == [0, 0, 0]

        events: defaultdict[int, list[str]] = defaultdict(list)
        tasks: dict[int, str] = {}
        runs_of_lock: defaultdict[str, list[str]] = defaultdict(list)
        # In the order of their ids: `at` is when a transaction began.
        for job_id, task, lock, event in connection.execute(
            "SELECT j.id, j.task_name, j.lock, e.type::text FROM procrastinate_jobs j"
            " JOIN procrastinate_events e ON e.job_id = j.id ORDER BY e.id"
        ):
            tasks[job_id] = task
            if event != "scheduled":
                events[job_id].append(event)
            if lock is not None and event in {"started", "succeeded"}:
                runs_of_lock[lock].append(f"{event} {job_id}")

        assert len(events) == JOBS
        assert {
            job_id: happened
            for job_id, happened in events.items()
            if tuple(happened) != EXPECTED[tasks[job_id]]
        } == {}
        assert set(Counter(tasks.values())) == set(EXPECTED)
        assert len(runs_of_lock) == 15
        for lock, runs in runs_of_lock.items():
            pairs = list(zip(runs[::2], runs[1::2], strict=True))
            assert all(a.replace("started", "succeeded") == b for a, b in pairs), lock
        assert connection.execute("SELECT count(*) FROM procrastinate_workers").fetchone() == (0,)
