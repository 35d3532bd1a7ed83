"""A worker that is late: suspended for longer than its lease, or with a job that blocks its loop."""

from __future__ import annotations

import signal

from tests.processes.fleet import LEASE, SHORT_LEASE, Fleet, ended_by

LATE = ["began", "cancelled/LEASE_LOST"]


def test_suspended_for_longer_than_its_lease(fleet: Fleet) -> None:
    """Whatever its jobs do when it comes back, it writes nothing: the rows are the other's."""
    ends, swallows, thread = (fleet.defer(task) for task in ("hold", "swallow", "hold_in_thread"))
    jobs = [ends, swallows, thread]
    late = fleet.start("-n", "late", "-c", "3", *SHORT_LEASE)
    for job in jobs:
        assert fleet.wait_told(job, "began").pid == late.popen.pid
    other = fleet.started("-n", "other", "-c", "3", *SHORT_LEASE)
    late.send(signal.SIGSTOP)
    for job in jobs:
        assert fleet.wait_told(job, "began", times=2).pid == other.popen.pid
    late.send(signal.SIGCONT)
    said = late.wait_said("This worker was taken for dead")
    assert "0 running jobs are its own still, 3 may run elsewhere by now and are aborted" in said
    late.wait_said("is no longer this worker's", times=2)
    for job in jobs:
        assert fleet.row(job) == ("doing", 1)
        assert fleet.owner(job) == other.popen.pid

    fleet.open_gate()
    # The thread of the late one ends now; its loss is told then.
    late.wait_said("is no longer this worker's", times=3)
    for job in jobs:
        fleet.wait_status(job, "succeeded")
        assert fleet.row(job) == ("succeeded", 2)
        assert fleet.events(job) == [
            *["deferred", "started", "deferred_for_retry: worker_died", "started", "succeeded"]
        ]
    told_by_late = {
        job: [entry.word for entry in fleet.diary(job) if entry.pid == late.popen.pid]
        for job in jobs
    }
    assert told_by_late == {ends: LATE, swallows: [*LATE, "swallowed"], thread: ["began", "ended"]}

    # It goes on under its new row.
    more = fleet.defer("work")
    fleet.wait_status(more, "succeeded")
    assert [name for name, _ in fleet.workers()] == ["other", "late"]
    assert ended_by([late, other], signal.SIGTERM) == [0, 0]
    assert other.said.count("Rescued job") == 3
    assert "taken for dead" not in other.said
    assert late.said.count("Its outcome is not written") == 3
    assert " succeeded, lasted" not in late.said.replace("Job work[4]() succeeded, lasted", "")
    fleet.is_quiet()


def test_a_job_that_blocks_the_loop_keeps_its_lease(fleet: Fleet) -> None:
    """By a sleep, and by C code; each of the two workers would rescue the other's job."""
    jobs = [fleet.defer("block", how=how) for how in ("sleep", "hash")]
    workers = [fleet.start(*SHORT_LEASE) for _ in jobs]
    for job in jobs:
        fleet.wait_told(job, "began")
    registered = fleet.workers()
    for job in jobs:
        fleet.wait_seconds_since_start(job, LEASE + 1)
    assert fleet.workers() == registered
    for job in jobs:
        assert fleet.row(job) == ("doing", 0)
        assert fleet.owner(job) == fleet.diary(job)[0].pid
    # It cannot heed a signal now, and forgets none.
    for worker in workers:
        worker.send(signal.SIGTERM)
    fleet.open_gate()
    for worker in workers:
        assert worker.wait_end() == 0, worker.said
        assert "is draining (SIGTERM)" in worker.said
        assert "Rescued" not in worker.said
        assert "taken for dead" not in worker.said
    for job in jobs:
        assert fleet.row(job) == ("succeeded", 1)
        assert fleet.events(job) == ["deferred", "started", "succeeded"]
        assert fleet.told(job) == ["began", "ended"]
    fleet.is_quiet()
