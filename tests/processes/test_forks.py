"""Jobs that fork their worker's process: the child disturbs neither its row, nor its connections."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.cli.processes import Process
from tests.processes.fleet import LEASE, SHORT_LEASE, Fleet, ended_by
from tests.waiting import wait_for_end

FORKING = "tests.processes.forking:app"
#: How a child of a job ends, and its exit code.
ENDS = {
    "os._exit": 7,
    "return": 0,
    "raise": 1,
    "raise a group": 1,
    "sys.exit": 7,
    "sys.exit with a word": 1,
}


def results(worker: Process) -> dict[int, str]:
    """What the jobs returned, as the log tells it."""
    found = re.findall(r"\w+\[(\d+)\]\(.*\) succeeded, lasted .* - Result: (.*)", worker.said)
    return {int(job): result.strip() for job, result in found}


@pytest.mark.parametrize("task", ["fork", "fork_in_thread"])
def test_the_child_of_a_job_ends_where_the_job_does(fleet: Fleet, task: str) -> None:
    jobs = {fleet.defer(task, how=how): code for how, code in ENDS.items()}
    worker = fleet.start(*SHORT_LEASE, app=FORKING)
    other = fleet.started("-q", "none", *SHORT_LEASE)
    for job in jobs:
        fleet.wait_status(job, "succeeded")
    more = fleet.defer("work")
    fleet.wait_status(more, "succeeded")
    # A worker that had lost its heartbeat to a child would be taken for dead by now.
    fleet.wait_seconds_since_start(more, LEASE + 0.5)
    workers = fleet.workers()
    assert sorted(pid for _, pid in workers) == sorted([worker.popen.pid, other.popen.pid])
    assert ended_by([worker, other], signal.SIGTERM) == [0, 0]
    assert results(worker) == {job: str(code) for job, code in jobs.items()}
    for job in jobs:
        assert fleet.row(job) == ("succeeded", 1)
        assert fleet.events(job) == ["deferred", "started", "succeeded"]
        [child] = fleet.diary(job)
        assert child.pid != worker.popen.pid
    assert worker.said.count("ValueError: from the child") == 2
    assert worker.said.count("a last word") == 1
    assert worker.said.count("Starting job") == worker.said.count(" succeeded, lasted") == 7
    for trouble in ("Lost the database", "taken for dead", "no longer this worker's"):
        assert trouble not in worker.said
    assert "Rescued" not in other.said
    fleet.is_quiet()


def test_other_processes_that_a_job_starts(fleet: Fleet) -> None:
    jobs = {
        fleet.defer("multiprocess", method=method, kind=kind): code
        for method in ("fork", "spawn")
        for kind, code in (("return", 0), ("exit", 7), ("sleep", -signal.SIGTERM))
    }
    jobs[fleet.defer("run_program")] = 0
    worker = fleet.start("-c", "2", app=FORKING)
    for job in jobs:
        fleet.wait_status(job, "succeeded")
    assert fleet.workers() == [("worker", worker.popen.pid)]
    assert ended_by([worker], signal.SIGTERM) == [0]
    assert results(worker) == {job: str(int(code)) for job, code in jobs.items()}
    for job in jobs:
        assert fleet.row(job) == ("succeeded", 1)
        assert fleet.events(job) == ["deferred", "started", "succeeded"]
    assert "is draining (SIGTERM)" in worker.said
    assert "Lost the database" not in worker.said
    fleet.is_quiet()


def test_a_child_that_lives_on_is_a_process_like_any_other(fleet: Fleet) -> None:
    """It does not stop its parent, and SIGTERM ends it."""
    job = fleet.defer("fork_and_leave")
    worker = fleet.start(app=FORKING)
    child = fleet.wait_told(job, "child").pid
    fleet.wait_status(job, "succeeded")
    os.kill(child, signal.SIGTERM)
    wait_for_end(child)
    more = fleet.defer("work")
    fleet.wait_status(more, "succeeded")
    assert fleet.workers() == [("worker", worker.popen.pid)]
    assert ended_by([worker], signal.SIGTERM) == [0]
    assert results(worker) == {job: str(child)}
    assert fleet.events(job) == ["deferred", "started", "succeeded"]
    fleet.is_quiet()


def test_a_signal_in_the_moment_of_the_fork_ends_the_child(fleet: Fleet) -> None:
    script = fleet.spawn("-m", "tests.processes.signal_in_fork")
    assert script.wait_end() == 0, script.said
    assert script.said == f"{-signal.SIGTERM} []\n"
