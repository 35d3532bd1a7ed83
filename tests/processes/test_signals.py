"""SIGTERM and Ctrl-C, once, twice and three times, to the command line's worker."""

from __future__ import annotations

import signal

import pytest

from tests.cli.processes import Process
from tests.processes.fleet import LOOKS_OFTEN, Fleet
from tests.waiting import wait_until

RAN = ["deferred", "started"]


def test_sigterm_once_drains(fleet: Fleet) -> None:
    running = fleet.defer("hold")
    worker = fleet.start()
    fleet.wait_told(running, "began")
    worker.send(signal.SIGTERM)
    said = worker.wait_said("ask again to abort")
    assert "is draining (SIGTERM): 1 job runs, hold[1]() for " in said
    waiting = fleet.defer("work")
    fleet.wait_stage("draining")
    assert fleet.row(running) == ("doing", 0)
    assert fleet.workers() == [("worker", worker.popen.pid)]

    fleet.open_gate()
    assert worker.wait_end() == 0, worker.said
    assert fleet.row(running) == ("succeeded", 1)
    assert fleet.events(running) == [*RAN, "succeeded"]
    assert fleet.told(running) == ["began", "ended"]
    assert (fleet.row(waiting), fleet.told(waiting)) == (("todo", 0), [])
    assert "Job hold[1]() succeeded" in worker.said
    assert "Stopped worker" in worker.said
    assert "Traceback" not in worker.said
    fleet.is_quiet()


@pytest.mark.parametrize(
    ("interrupted_jobs", "task", "row", "event", "line"),
    [
        ("requeue", "hold", ("todo", 0), "deferred_for_retry: shutdown", "goes back to its queue"),
        ("retry", "hold", ("aborted", 1), "aborted: shutdown", "was aborted"),
        (
            "retry",
            "hold_and_retry",
            ("todo", 1),
            "deferred_for_retry: shutdown",
            "was aborted, to retry",
        ),
        ("abort", "hold_and_retry", ("aborted", 1), "aborted: shutdown", "was aborted"),
    ],
)
def test_sigterm_twice_aborts(
    fleet: Fleet, interrupted_jobs: str, task: str, row: tuple[str, int], event: str, line: str
) -> None:
    job = fleet.defer(task)
    worker = fleet.start("--interrupted-jobs", interrupted_jobs)
    fleet.wait_told(job, "began")
    worker.send(signal.SIGTERM)
    worker.wait_said("ask again to abort")
    worker.send(signal.SIGTERM)
    assert worker.wait_end() == 0, worker.said
    assert fleet.told(job) == ["began", "cancelled/SHUTDOWN"]
    assert fleet.row(job) == row
    assert fleet.events(job) == [*RAN, event]
    assert "is aborting (SIGTERM): 1 job runs" in worker.said
    assert f"{task}[1]() {line}, lasted" in worker.said
    assert "Stopped worker" in worker.said
    fleet.is_quiet()


@pytest.mark.parametrize("task", ["deaf_at_first", "block_at_first"])
def test_the_third_sigterm_leaves_at_once_and_another_worker_runs_the_job(
    fleet: Fleet, task: str
) -> None:
    """By the release of the row, not by the lease: that would last an hour."""
    job = fleet.defer(task)
    # No LISTEN: nothing but the worker's own look for jobs of the dead tells it of this one.
    worker, other = (
        fleet.start("-n", "left"),
        fleet.start("-n", "other", "-q", "none", *LOOKS_OFTEN),
    )
    fleet.wait_told(job, "began")
    rescuer = fleet.started("-n", "rescuer", *LOOKS_OFTEN)
    other.wait_said("Starting worker")
    if task == "deaf_at_first":
        for said in (
            "is draining",
            "a third signal leaves at once, and other workers rescue what runs",
        ):
            worker.send(signal.SIGTERM)
            worker.wait_said(said)
        worker.send(signal.SIGTERM)
    else:
        # It can say nothing, and the system makes one of signals that come at once.
        wait_until(lambda: sent_and_ended(worker, signal.SIGTERM), "its end")
    assert worker.wait_end() == 128 + signal.SIGTERM, worker.said
    fleet.wait_status(job, "succeeded")
    assert [entry.pid for entry in fleet.diary(job)] == [
        worker.popen.pid,
        rescuer.popen.pid,
        rescuer.popen.pid,
    ]
    assert fleet.row(job) == ("succeeded", 2)
    assert fleet.events(job) == [*RAN, "deferred_for_retry: worker_died", "started", "succeeded"]
    assert "Traceback" not in worker.said
    for each in (rescuer, other):
        each.send(signal.SIGTERM)
        assert each.wait_end() == 0
    rescues = (rescuer.said + other.said).count(f"Rescued job {task}[1](), whose worker died")
    assert rescues == 1
    fleet.is_quiet()


def sent_and_ended(worker: Process, number: signal.Signals) -> bool:
    worker.send(number)
    return worker.popen.poll() is not None


def test_ctrl_c_at_a_terminal(fleet: Fleet) -> None:
    """The key, typed: the terminal sends the signal to its foreground process."""
    job = fleet.defer("hold")
    worker = fleet.start("--interrupted-jobs", "requeue", terminal=True)
    fleet.wait_told(job, "began")
    worker.type_keys(b"\x03")
    worker.wait_said("ask again to abort")
    assert "is draining (SIGINT)" in worker.said
    assert fleet.row(job) == ("doing", 0)
    worker.type_keys(b"\x03")
    assert worker.wait_end() == 0, worker.said
    assert "is aborting (SIGINT)" in worker.said
    assert "Traceback" not in worker.said
    assert fleet.told(job) == ["began", "cancelled/SHUTDOWN"]
    assert fleet.row(job) == ("todo", 0)
    assert fleet.events(job) == [*RAN, "deferred_for_retry: shutdown"]
    fleet.is_quiet()


def test_an_abort_waits_for_a_thread_that_never_looks(fleet: Fleet) -> None:
    job = fleet.defer("hold_in_thread")
    worker = fleet.start()
    fleet.wait_told(job, "began")
    worker.send(signal.SIGTERM)
    worker.wait_said("is draining")
    worker.send(signal.SIGTERM)
    worker.wait_said("is aborting")
    # It has shown the stage and gone on: whatever it would do to the row would be done by now.
    fleet.wait_stage("aborting")
    assert fleet.row(job) == ("doing", 0)
    assert fleet.told(job) == ["began"]
    fleet.open_gate()
    assert worker.wait_end() == 0, worker.said
    assert fleet.told(job) == ["began", "ended"]
    assert fleet.row(job) == ("succeeded", 1)
    assert fleet.events(job) == [*RAN, "succeeded: shutdown"]
    fleet.is_quiet()


def test_one_shot_hears_sigterm_while_its_last_job_runs(fleet: Fleet) -> None:
    running = fleet.defer("pass_on", times=1, at_the_gate=True)
    worker = fleet.start("--one-shot", "--shutdown-graceful-timeout", "3600")
    fleet.wait_told(running, "began")
    worker.send(signal.SIGTERM)
    worker.wait_said("is draining (SIGTERM): 1 job runs")
    fleet.open_gate()
    assert worker.wait_end() == 0, worker.said
    assert fleet.row(running) == ("succeeded", 1)
    # What it deferred meanwhile is for somebody else.
    assert fleet.rows("SELECT id, status::text, attempts FROM procrastinate_jobs WHERE id > 1") == [
        (2, "todo", 0)
    ]
    again = fleet.start("--one-shot")
    assert again.wait_end() == 0, again.said
    assert fleet.row(2) == ("succeeded", 1)
    assert fleet.events(2) == [*RAN, "succeeded"]
    fleet.is_quiet()


def test_one_shot_runs_what_its_jobs_defer(fleet: Fleet) -> None:
    first = fleet.defer("pass_on", times=5)
    worker = fleet.start("--one-shot", "-c", "3")
    assert worker.wait_end() == 0, worker.said
    assert [fleet.row(job) for job in range(first, first + 6)] == [("succeeded", 1)] * 6
    assert [fleet.events(job) for job in range(first, first + 6)] == [[*RAN, "succeeded"]] * 6
    assert [entry.job_id for entry in fleet.diary() if entry.word == "began"] == [1, 2, 3, 4, 5, 6]
    assert "is draining (wait=False, no job is left): no job runs" in worker.said
    fleet.is_quiet()
