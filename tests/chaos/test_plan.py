"""The plan is the seed's, and the journals say what was written into them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.chaos.history import How
from tests.chaos.journal import Journal, read_lines, read_runs
from tests.chaos.plan import Kind, draw_plan
from trio_queue import AbortReason, App, JobContext
from trio_queue.exceptions import JobAborted
from trio_queue.jobs import Job
from trio_queue.testing import InMemoryConnector


def test_a_seed_draws_its_plan_and_no_other() -> None:
    assert draw_plan(7, 100, 60.0) == draw_plan(7, 100, 60.0)
    assert draw_plan(7, 100, 60.0) != draw_plan(8, 100, 60.0)


def test_a_plan_is_as_long_as_asked_and_has_every_kind() -> None:
    plan = draw_plan(1, 1000, 600.0)
    assert [fault.number for fault in plan] == list(range(1000))
    assert [fault.at for fault in plan] == sorted(fault.at for fault in plan)
    assert 590.0 < plan[-1].at <= 600.0
    assert {fault.kind for fault in plan} == set(Kind)


class OnPurposeError(Exception):
    """Raised by a body."""


@pytest.mark.parametrize(
    ("error", "how"),
    [(None, How.RETURNED), (JobAborted(), How.INTERRUPTED), (OnPurposeError(), How.RAISED)],
)
def test_a_run_is_read_as_it_was_written(tmp_path: Path, error: Exception | None, how: How) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, "worker-1.1")
    context = JobContext(
        app=App(connector=InMemoryConnector()),
        job=Job(id=5, task_name="t", lock="l", attempts=2, worker_id=3),
        start_timestamp=0.0,
        abort_reason=lambda: AbortReason.LEASE_LOST,
    )
    try:
        with journal.running(context):
            if error:
                raise error
    except (JobAborted, OnPurposeError):
        pass
    [run] = read_runs(read_lines(path))
    assert (run.job_id, run.attempt, run.worker_id, run.lock) == (5, 2, 3, "l")
    assert (run.how, run.reason, run.process) == (how, "lease_lost", "worker-1.1")
    assert run.ended is not None
    assert run.ended >= run.began


def test_half_a_line_at_the_end_is_none(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path, "a").write("deferred", job=1, token="t")
    with path.open("a") as file:
        file.write('{"what": "begi')
    assert [line["what"] for line in read_lines(path)] == ["deferred"]


async def test_a_cancelled_body_was_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    context = JobContext(
        app=App(connector=InMemoryConnector()), job=Job(id=1, task_name="t"), start_timestamp=0.0
    )
    with trio.CancelScope() as scope:
        scope.cancel()
        with Journal(path, "a").running(context):
            await trio.lowlevel.checkpoint()
    [run] = read_runs(read_lines(path))
    assert (run.how, run.reason) == (How.INTERRUPTED, None)
