"""The check finds each broken promise, and allows what is allowed."""

from __future__ import annotations

import pytest

from tests.chaos.history import How
from tests.chaos.story import Story, found, ran

# -- nothing lost, nothing twice ------------------------------------------------------------------


def test_a_job_that_succeeds_breaks_nothing(story: Story) -> None:
    story.deferred(1)
    ran(story, 1)
    story.closed(1)
    assert found(story) == []


def test_a_row_that_is_gone_is_lost(story: Story) -> None:
    story.deferred(1)
    story.forget_row(1)
    assert found(story) == ["lost"]


@pytest.mark.parametrize("claimed", [False, True])
def test_a_job_that_has_not_ended_is_lost(story: Story, *, claimed: bool) -> None:
    story.deferred(1)
    if claimed:
        story.claimed(1)
    assert found(story) == ["lost"]


def test_a_job_may_end_only_as_its_kind(story: Story) -> None:
    story.deferred(1, "quick")
    ran(story, 1, How.RAISED)
    story.closed(1, "failed")
    assert found(story) == ["lost"]
    story.abort_requested(1)
    assert found(story) == []


def test_a_job_is_aborted_by_whom(story: Story) -> None:
    story.deferred(1, "giving_up")
    ran(story, 1, How.INTERRUPTED, "shutdown")
    story.closed(1, "aborted", "shutdown")
    assert found(story) == []
    story.deferred(2, "giving_up")
    ran(story, 2, How.INTERRUPTED)
    story.closed(2, "aborted")
    assert found(story) == ["outcome"]
    story.abort_requested(2)
    assert found(story) == []


def test_two_rows_of_one_deferral(story: Story) -> None:
    for job_id in (1, 2):
        story.deferred(job_id, token="the same")
        ran(story, job_id)
        story.closed(job_id)
    assert found(story) == ["doubled"]


def test_two_outcomes_of_one_job(story: Story) -> None:
    story.deferred(1)
    ran(story, 1)
    story.closed(1)
    story.event(1, "succeeded")
    assert found(story) == ["doubled", "events"]


def test_a_start_after_the_outcome(story: Story) -> None:
    story.deferred(1)
    ran(story, 1)
    story.closed(1)
    story.event(1, "started")
    assert found(story) == ["doubled", "events"]


def test_a_change_without_its_event(story: Story) -> None:
    story.deferred(1)
    ran(story, 1)
    story.closed(1)
    story.forget_event()
    assert found(story) == ["events"]


def test_a_job_that_was_deferred_twice(story: Story) -> None:
    story.deferred(1)
    story.event(1, "deferred")
    ran(story, 1)
    story.closed(1)
    assert found(story) == ["events"]


# -- claims and outcomes --------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"worker_id": 2}, {"attempt": 1}])
def test_a_run_without_a_claim(story: Story, wrong: dict[str, int]) -> None:
    story.deferred(1)
    ran(story, 1)
    story.ended(story.began(1, **wrong))  # type: ignore[arg-type]  # mypy takes the names for `process`
    story.closed(1)
    assert found(story) == ["claims"]


def test_two_runs_of_one_claim(story: Story) -> None:
    story.deferred(1)
    ran(story, 1)
    story.ended(story.began(1))
    story.closed(1)
    assert found(story) == ["claims"]


@pytest.mark.parametrize("how", [None, How.RAISED, How.INTERRUPTED])
def test_succeeded_is_only_what_returned(story: Story, how: How | None) -> None:
    story.deferred(1)
    story.claimed(1)
    if how is not None:
        story.ended(story.began(1), how)
    story.closed(1)
    assert found(story) == ["outcome"]


@pytest.mark.parametrize("ends", [False, True])
def test_an_outcome_is_not_written_before_the_body_has_ended(story: Story, *, ends: bool) -> None:
    story.deferred(1)
    story.claimed(1)
    run = story.began(1)
    story.closed(1)
    if ends:
        story.ended(run)
    else:
        story.killed("a")
    assert found(story) == ["outcome"]


def test_what_returned_did_not_fail(story: Story) -> None:
    story.deferred(1, "failing")
    ran(story, 1)
    story.closed(1, "failed")
    assert found(story) == ["outcome"]


def test_the_third_death_fails_a_job_and_not_the_second(story: Story) -> None:
    story.deferred(1)
    for number, process in enumerate("abc", 1):
        story.claimed(1, worker_id=number)
        story.began(1, process, worker_id=number)
        story.killed(process)
        if number < 3:
            story.rescued(1)
    story.closed(1, "failed", "worker_died 3 times under it")
    assert found(story) == []

    story.deferred(2)
    story.claimed(2, worker_id=4)
    story.began(2, "d", worker_id=4)
    story.killed("d")
    story.closed(2, "failed", "worker_died 3 times under it")
    assert found(story) == ["outcome"]


def test_a_job_with_a_queueing_lock_may_be_cancelled_and_no_other(story: Story) -> None:
    for job_id, lock in ((1, "q"), (2, "")):
        story.deferred(job_id, "steady", **({"queueing_lock": lock} if lock else {}))
        ran(story, job_id, How.INTERRUPTED, "shutdown")
        story.closed(job_id, "cancelled", 'shutdown; another job waits with the queueing lock "q"')
        assert found(story) == ([] if lock else ["lost"])
