"""Deleting old jobs, from above the port: bites, rests between them, a cancel."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import trio

from tests.colours import Run, in_both_loops
from tests.recording import RecordingConnector
from trio_queue.exceptions import InvalidOption
from trio_queue.jobs import Status
from trio_queue.management import Deleted, DeleteOldJobs
from trio_queue.manager import JobManager
from trio_queue.verbs import Verb

DAY = datetime.timedelta(days=1)


@pytest.fixture
def connector() -> RecordingConnector:
    return RecordingConnector()


@pytest.fixture
def manager(connector: RecordingConnector) -> JobManager:
    return JobManager(connector)


@in_both_loops
def test_each_bite_goes_on_where_the_last_one_ended(
    manager: JobManager, connector: RecordingConnector, run: Run
) -> None:
    connector.answers[DeleteOldJobs] = [Deleted(1000, 1500), Deleted(0, 9000), Deleted(7)]

    async def main() -> int:
        return await manager.delete_old_jobs(
            2, "q", include_failed=True, include_cancelled=True, include_aborted=True
        )

    assert run(main) == 1007
    ended = [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.ABORTED]
    assert [verb for _, verb, _ in connector.said] == [
        DeleteOldJobs(nb_hours=2, statuses=ended, queue="q", after_id=after_id)
        for after_id in (None, 1500, 9000)
    ]


async def test_only_succeeded_jobs_are_deleted_by_default(
    manager: JobManager, connector: RecordingConnector
) -> None:
    connector.answers[DeleteOldJobs] = [Deleted(0)]
    await manager.delete_old_jobs(2)
    await manager.prune_jobs(DAY)
    verbs: list[Any] = [verb for _, verb, _ in connector.said]
    assert [verb.statuses for verb in verbs] == [[Status.SUCCEEDED]] * 2


async def test_a_dry_run_counts_the_same_and_only_counts(
    manager: JobManager, connector: RecordingConnector
) -> None:
    connector.answers[DeleteOldJobs] = [Deleted(1000, 1000), Deleted(1)]
    assert await manager.prune_jobs(DAY, ["failed"], "q", dry_run=True) == 1001
    assert connector.said[1][1] == DeleteOldJobs(
        nb_hours=24, statuses=[Status.FAILED], queue="q", after_id=1000, only_count=True
    )


@pytest.mark.parametrize("status", ["todo", "doing", Status.DOING, "nonsense"])
async def test_what_has_not_ended_is_not_pruned(
    manager: JobManager, connector: RecordingConnector, status: str
) -> None:
    with pytest.raises(InvalidOption, match="give some of succeeded, failed, cancelled, aborted"):
        await manager.prune_jobs(DAY, [status])
    assert connector.said == []


class SlowConnector(RecordingConnector):
    """Each of its bites takes ten seconds of a clock that the test holds, and another follows for ever."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.clock = clock

    async def run_async(self, verb: Verb[Any], connection: Any = None) -> Any:
        self.said.append(("trio", verb, connection))
        self.clock[0] += 10
        return Deleted(1, 1)


async def test_it_rests_as_long_as_a_bite_took_and_a_cancel_ends_it_there(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    connector = SlowConnector(clock)
    with trio.move_on_after(35) as scope:
        await JobManager(connector).prune_jobs(DAY)
    # At 0, 10, 20 and 30 s: it rests for ten after each.
    assert scope.cancelled_caught
    assert len(connector.said) == 4
    assert autojump_clock.current_time() >= 35
