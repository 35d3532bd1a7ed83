"""Clocks that differ, by hours and both ways: leases and schedules go by the server's alone."""

from __future__ import annotations

import signal

from tests.processes.fleet import LEASE, SHORT_LEASE, Fleet, ended_by

HOURS = 3600
RESCUED = "deferred_for_retry: worker_died"


def test_workers_whose_clocks_are_wrong(fleet: Fleet) -> None:
    held, scheduled, later, retried = (
        {
            queue: fleet.defer(task, queue=queue, scheduled_in=seconds)
            for queue in ("ahead", "behind")
        }
        for task, seconds in (
            *(("hold", None), ("work", 1.0)),
            *(("work", 2.0 * HOURS), ("fail_once", None)),
        )
    )
    ahead = fleet.start_with_clock(5 * HOURS, "-n", "ahead", "-q", "ahead", "-c", "3", *SHORT_LEASE)
    behind = fleet.start_with_clock(
        -5 * HOURS, "-n", "behind", "-q", "behind", "-c", "3", *SHORT_LEASE
    )
    for job in (*scheduled.values(), *retried.values()):
        fleet.wait_status(job, "succeeded")
    for job in held.values():
        fleet.wait_seconds_since_start(job, LEASE + 1)
    # Not before their moment, and not hours after it: each has run by now.
    for job in scheduled.values():
        assert fleet.events(job) == ["deferred", "started", "succeeded"]
        assert fleet.value(
            "SELECT e.at >= j.scheduled_at FROM procrastinate_jobs j"
            " JOIN procrastinate_events e ON e.job_id = j.id AND e.type = 'started'"
            " WHERE j.id = %s",
            job,
        )
    # A second between the two tries.
    for job in retried.values():
        assert fleet.row(job) == ("succeeded", 2)
        assert fleet.value(
            "SELECT max(at) FILTER (WHERE type = 'started')"
            "  >= max(at) FILTER (WHERE type = 'deferred_for_retry') + interval '1 s'"
            " FROM procrastinate_events WHERE job_id = %s",
            job,
        )
    for job in later.values():
        assert (fleet.row(job), fleet.told(job)) == (("todo", 0), [])
    for queue, worker in (("ahead", ahead), ("behind", behind)):
        assert fleet.row(held[queue]) == ("doing", 0)
        assert fleet.owner(held[queue]) == worker.popen.pid

    # The lease of a dead one is over when it is over, for one whose clock is ten hours behind.
    ahead.kill_now()
    fleet.wait_status(held["ahead"], "todo")
    assert fleet.events(held["ahead"]) == ["deferred", "started", RESCUED]
    fleet.open_gate()
    assert ended_by([behind], signal.SIGTERM) == [0]
    assert fleet.row(held["behind"]) == ("succeeded", 1)
    assert behind.said.count("Rescued job") == 1
    for worker in (ahead, behind):
        assert "taken for dead" not in worker.said
    fleet.is_quiet()


def test_the_servers_clock_is_set_back(fleet: Fleet) -> None:
    """By an hour: what the server wrote before then lies in its future."""
    job = fleet.defer("hold")
    dead = fleet.start(*SHORT_LEASE)
    fleet.wait_told(job, "began")
    alive = fleet.started("-q", "none", *SHORT_LEASE)
    dead.kill_now()
    fleet.rows(
        "UPDATE procrastinate_workers SET last_heartbeat = now() + interval '1 hour' RETURNING id"
    )
    fleet.wait_status(job, "todo")
    assert fleet.row(job) == ("todo", 1)
    assert fleet.events(job) == ["deferred", "started", RESCUED]
    assert ended_by([alive], signal.SIGTERM) == [0]
    assert alive.said.count("Rescued job hold[1](), whose worker died") == 1
    assert "taken for dead" not in alive.said
    fleet.is_quiet()
