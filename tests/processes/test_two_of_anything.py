"""Two workers of one name, one signal for both, and one whose App cannot be opened."""

from __future__ import annotations

import signal

import pytest

from tests.processes.fleet import Fleet
from tests.waiting import wait_until

RAN_ONCE = ["deferred", "started", "succeeded"]
#: A port that nobody listens on, and one that takes no time to say so.
NOWHERE = "host=127.0.0.1 port=1 dbname=nothing"


def test_two_workers_of_one_name(fleet: Fleet) -> None:
    workers = [fleet.start("-n", "twin") for _ in range(2)]
    held = [fleet.defer("hold"), fleet.defer("hold")]
    pids = {fleet.wait_told(job, "began").pid for job in held}
    assert pids == {worker.popen.pid for worker in workers}
    assert sorted(fleet.workers()) == sorted(("twin", pid) for pid in pids)
    # Stopping one is no matter of the other's.
    first, second = workers
    first.send(signal.SIGTERM)
    first.wait_said("Worker twin is draining (SIGTERM): 1 job runs")
    wait_until(lambda: sorted(fleet.stages()) == ["draining", "running"], "its stage to be shown")
    fleet.open_gate()
    assert first.wait_end() == 0, first.said
    more = fleet.defer("work")
    fleet.wait_status(more, "succeeded")
    assert fleet.workers() == [("twin", second.popen.pid)]
    second.send(signal.SIGTERM)
    assert second.wait_end() == 0, second.said
    assert "draining" not in second.said.replace(
        "Worker twin is draining (SIGTERM): no job runs", ""
    )
    for job in (*held, more):
        assert fleet.row(job) == ("succeeded", 1)
        assert fleet.events(job) == RAN_ONCE
        assert fleet.told(job) == ["began", "ended"]
    assert [entry.pid for entry in fleet.diary(more)] == [second.popen.pid] * 2
    fleet.is_quiet()


@pytest.mark.parametrize("times", [1, 2])
def test_the_same_signals_to_both_at_once(fleet: Fleet, times: int) -> None:
    workers = [fleet.start("--interrupted-jobs", "requeue") for _ in range(2)]
    held = [fleet.defer("hold"), fleet.defer("hold")]
    waiting = fleet.defer("work")
    for job in held:
        fleet.wait_told(job, "began")
    for said in ("is draining (SIGTERM)", "is aborting (SIGTERM)")[:times]:
        for worker in workers:
            worker.send(signal.SIGTERM)
        for worker in workers:
            worker.wait_said(said)
    if times == 1:
        fleet.open_gate()
    for worker in workers:
        assert worker.wait_end() == 0, worker.said
        assert "Stopped worker" in worker.said
    for job in held:
        assert fleet.row(job) == (("succeeded", 1) if times == 1 else ("todo", 0))
        last = "succeeded" if times == 1 else "deferred_for_retry: shutdown"
        assert fleet.events(job) == ["deferred", "started", last]
        assert fleet.told(job) == ["began", "ended" if times == 1 else "cancelled/SHUTDOWN"]
    # Given back while the other drained, or waiting all the time: taken by neither.
    assert (fleet.row(waiting), fleet.told(waiting)) == (("todo", 0), [])
    fleet.is_quiet()


def test_an_app_that_cannot_be_opened(fleet: Fleet) -> None:
    """One error that says who must do what; the worker beside it goes on."""
    beside = fleet.start("-n", "beside")
    worker = fleet.start(conninfo=NOWHERE)
    assert worker.wait_end() == 1
    [error] = [line for line in worker.said.splitlines() if " ERROR " in line]
    assert "failed: cannot connect to PostgreSQL at host=127.0.0.1 port=1" in error
    assert "Start the server, or give the conninfo of one that runs." in worker.said
    assert "Traceback" not in worker.said
    assert "Starting worker" not in worker.said
    job = fleet.defer("work")
    fleet.wait_status(job, "succeeded")
    assert fleet.workers() == [("beside", beside.popen.pid)]
    beside.send(signal.SIGTERM)
    assert beside.wait_end() == 0, beside.said
    assert fleet.events(job) == RAN_ONCE
    fleet.is_quiet()


def test_two_in_one_process_of_which_one_cannot_be_opened(fleet: Fleet) -> None:
    """The nursery cancels the other, which drains before the error leaves."""
    job = fleet.defer("hold")
    script = fleet.spawn("-m", "tests.processes.two_workers", NOWHERE)
    script.wait_said("Worker good is draining (the scope around run() was cancelled): 1 job runs")
    waiting = fleet.defer("work")
    assert fleet.row(job) == ("doing", 0)
    fleet.open_gate()
    assert script.wait_end() == 1
    assert "ConnectorException: cannot connect to PostgreSQL at host=127.0.0.1" in script.said
    assert "Job hold[1]() succeeded" in script.said
    assert "Stopped worker good" in script.said
    assert fleet.row(job) == ("succeeded", 1)
    assert fleet.events(job) == RAN_ONCE
    assert fleet.row(waiting) == ("todo", 0)
    fleet.is_quiet()
