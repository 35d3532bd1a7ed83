"""Workers that are killed, or whose job ends their process: the others rescue what they held."""

from __future__ import annotations

import signal

from tests.processes.fleet import LEASE, SHORT_LEASE, Fleet, ended_by
from tests.waiting import wait_until

RESCUED = "deferred_for_retry: worker_died"


def test_sigkill(fleet: Fleet) -> None:
    """Two rescuers, one rescue: after the lease, and the attempt counted."""
    jobs = [fleet.defer("hold"), fleet.defer("hold_in_thread"), fleet.defer("hold", lock="one")]
    successor = fleet.defer("work", lock="one")
    victim = fleet.start("-c", "3", *SHORT_LEASE)
    others = [fleet.start("-c", "2", "-q", "none", *SHORT_LEASE) for _ in range(2)]
    for job in jobs:
        assert fleet.wait_told(job, "began").pid == victim.popen.pid
    for other in others:
        other.wait_said("Starting worker")
    victim.kill_now()
    [(row, heard)] = fleet.rows(
        "SELECT w.id, w.last_heartbeat FROM procrastinate_workers w JOIN trio_queue_workers o"
        " ON o.worker_id = w.id WHERE o.pid = %s",
        victim.popen.pid,
    )
    for job in jobs:
        fleet.wait_status(job, "todo")
    assert fleet.rows("SELECT id FROM procrastinate_workers WHERE id = %s", row) == []
    for job in jobs:
        assert fleet.row(job) == ("todo", 1)
        assert fleet.events(job) == ["deferred", "started", RESCUED]
    # By the server's clock: not before its lease was over.
    assert fleet.value(
        "SELECT min(at) - %s >= make_interval(secs => %s) FROM procrastinate_events"
        " WHERE type = 'deferred_for_retry'",
        heard,
        LEASE,
    )
    assert fleet.row(successor) == ("todo", 0)

    fleet.open_gate()
    next_one = fleet.start("--one-shot")
    assert next_one.wait_end() == 0, next_one.said
    for job in jobs:
        assert fleet.row(job) == ("succeeded", 2)
        assert fleet.events(job) == ["deferred", "started", RESCUED, "started", "succeeded"]
        assert fleet.told(job) == ["began", "began", "ended"]
    assert fleet.row(successor) == ("succeeded", 1)
    assert ended_by(others, signal.SIGTERM) == [0, 0]
    said = others[0].said + others[1].said
    for job, task in zip(jobs, ("hold", "hold_in_thread", "hold"), strict=True):
        line = (
            f"Rescued job {task}[{job}](), whose worker died: it is `todo` now (death 1 under it)"
        )
        assert said.count(line) == 1
    fleet.is_quiet()


def test_a_job_that_ends_its_process_three_times_fails(fleet: Fleet) -> None:
    """By os._exit, and by SIGKILL."""
    job = fleet.defer("end_process")
    beside = fleet.defer("hold", queue="beside")
    workers = [fleet.start(*SHORT_LEASE) for _ in range(4)]
    fleet.wait_status(job, "failed")
    fleet.open_gate()
    [survivor] = [worker for worker in workers if worker.popen.poll() is None]
    assert sorted(worker.wait_end() for worker in workers if worker is not survivor) == [
        -signal.SIGKILL,
        -signal.SIGKILL,
        9,
    ]
    assert fleet.row(job) == ("failed", 3)
    assert fleet.events(job) == [
        *["deferred", *["started", RESCUED] * 2, "started"],
        "failed: worker_died 3 times under it",
    ]
    assert fleet.told(job) == ["began"] * 3
    assert len({entry.pid for entry in fleet.diary(job)}) == 3
    survivor.wait_said("whose worker died: it is `failed` now (death 3 under it)")
    # It was not harmed by what killed the others, and works on.
    wait_until(lambda: fleet.row(beside)[0] == "succeeded", "the other job")
    assert ended_by([survivor], signal.SIGTERM) == [0]
    fleet.is_quiet()
