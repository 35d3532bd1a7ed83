"""Two runs of one lock at once: allowed while a lost lease has not been heard of. And processes."""

from __future__ import annotations

import pytest

from tests.chaos.accounts import Until
from tests.chaos.check import check
from tests.chaos.history import How
from tests.chaos.story import Story, found


def overlapping(*, rescued: bool = True, lock: str = "lock") -> tuple[Story, int]:
    """Job 1 runs in a; job 2, with its lock, is claimed by b and begins. Answers the first run."""
    story = Story()
    for job_id in (1, 2):
        story.deferred(job_id, "deaf", lock=lock)
    story.claimed(1)
    first = story.began(1)
    if rescued:
        story.rescued(1, "todo")
    story.claimed(2, worker_id=2)
    second = story.began(2, "b", worker_id=2)
    story.ended(second)
    story.closed(2)
    return story, first


def finish(story: Story) -> None:
    """The job that was rescued succeeds in its second run."""
    story.claimed(1, worker_id=3)
    story.ended(story.began(1, "c", worker_id=3))
    story.closed(1)


def test_an_overlap_until_the_worker_has_heard() -> None:
    story, first = overlapping()
    story.ended(first)
    story.heard("a", 1)
    finish(story)
    findings = check(story.tell())
    assert findings.violations == ()
    [overlap] = findings.overlaps
    assert (overlap.first, overlap.second, overlap.until) == ("run 0", "run 1", Until.HEARD)
    assert overlap.seconds == pytest.approx(1.0)


def test_a_deaf_job_may_outlast_the_hearing() -> None:
    story, first = overlapping()
    story.heard("a", 1)
    story.ended(first, How.RETURNED, "lease_lost")
    finish(story)
    assert found(story) == []


def test_a_job_that_was_not_told_when_its_worker_heard() -> None:
    story, first = overlapping()
    story.heard("a", 1)
    story.ended(first, How.RETURNED, None)
    finish(story)
    assert found(story) == ["overlap"]


def test_a_job_that_was_not_told_and_overlaps_with_none() -> None:
    story = Story()
    story.deferred(1, "deaf")
    story.claimed(1)
    first = story.began(1)
    story.rescued(1)
    story.heard("a", 1)
    story.ended(first)
    finish(story)
    assert found(story) == ["overlap"]


def test_an_overlap_that_nobody_heard_of() -> None:
    story, first = overlapping()
    story.ended(first)
    finish(story)
    assert found(story) == ["again", "overlap"]


def test_an_overlap_until_the_worker_died() -> None:
    story, _ = overlapping()
    story.killed("a")
    finish(story)
    findings = check(story.tell())
    assert findings.violations == ()
    assert [overlap.until for overlap in findings.overlaps] == [Until.DIED]


def test_an_overlap_until_the_worker_stopped_without_the_database() -> None:
    story, first = overlapping()
    story.ended(first)
    story.could_not_write("a", 1)
    story.process("a", status=1, asks=1, asked=1.0, error="OutcomesNotWritten")
    finish(story)
    findings = check(story.tell())
    assert findings.violations == ()
    assert [overlap.until for overlap in findings.overlaps] == [Until.LEFT]


def test_an_overlap_without_a_rescue() -> None:
    story, first = overlapping(rescued=False)
    story.ended(first)
    story.closed(1)
    assert found(story) == ["overlap"]


def test_a_second_claim_before_the_rescue() -> None:
    story, first = overlapping(rescued=False)
    story.rescued(1)
    story.ended(first)
    story.heard("a", 1)
    finish(story)
    assert found(story) == ["overlap"]


def test_two_runs_of_one_job_without_a_lock() -> None:
    story = Story()
    story.deferred(1, "deaf")
    story.claimed(1)
    first = story.began(1)
    story.rescued(1)
    story.claimed(1, worker_id=3)
    second = story.began(1, "c", worker_id=3)
    story.ended(first)
    story.heard("a", 1)
    story.ended(second)
    story.closed(1)
    findings = check(story.tell())
    assert findings.violations == ()
    assert len(findings.overlaps) == 1


# -- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ended",
    [
        {"status": 0, "asks": 1},
        {"status": -9, "doomed": 1.0},
        {"status": 143, "asks": 3},
        {"status": -15, "asks": 1, "started": None},
        {"status": -15, "asks": 2, "had_stopped": True},
        {"status": 7},
        {"status": 1, "error": "OutcomesNotWritten"},
        {"status": 1, "error": "ConnectorException"},
        {"status": -9, "doomed": 1.0, "is_worker": False},
    ],
)
def test_an_end_that_was_asked_for(ended: dict[str, object]) -> None:
    story = Story()
    story.process("a", **ended)  # type: ignore[arg-type]  # as the table says
    assert found(story) == []


@pytest.mark.parametrize(
    "ended",
    [
        {"status": 0},
        {"status": -9},
        {"status": 143, "asks": 2},
        {"status": -15, "asks": 1},
        {"status": -11},
        {"status": 1},
        {"status": 1, "error": "KeyError"},
        {"status": 0, "asks": 1, "is_worker": False},
    ],
)
def test_an_end_that_nobody_asked_for(ended: dict[str, object]) -> None:
    story = Story()
    story.process("a", **ended)  # type: ignore[arg-type]  # as the table says
    assert found(story) == ["processes"]


def test_a_worker_that_left_a_job_behind() -> None:
    story = Story()
    story.deferred(1)
    story.claimed(1)
    story.began(1)
    story.closed(1, "todo", "shutdown", counted=0)
    story.claimed(1, worker_id=2)
    story.ended(story.began(1, "b", worker_id=2))
    story.closed(1)
    assert found(story) == ["outcome", "again", "overlap", "processes"]


def test_a_worker_that_gave_up_a_write_before_it_was_asked_to_stop() -> None:
    story, first = overlapping()
    story.ended(first)
    story.could_not_write("a", 1)
    story.process("a", asks=1, asked=story.tick())
    finish(story)
    assert found(story) == ["processes"]


def test_a_complaint_is_a_broken_promise() -> None:
    story = Story()
    story.complaints.append("2 orphans left")
    assert found(story) == ["processes"]
