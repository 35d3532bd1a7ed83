"""Each job that runs again has something that accounts for it."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.accounts import Account
from tests.chaos.check import check
from tests.chaos.history import How
from tests.chaos.story import Story, found, ran


def accounts(story: Story) -> Counter[Account]:
    findings = check(story.tell())
    assert findings.violations == ()
    return findings.accounts


def ended_well(story: Story) -> None:
    """The job is claimed by another worker, and succeeds."""
    story.claimed(1, worker_id=2)
    story.ended(story.began(1, "b", worker_id=2))
    story.closed(1)


def test_again_because_of_a_retry(story: Story) -> None:
    story.deferred(1, "flaky")
    ran(story, 1, How.RAISED)
    story.closed(1, "todo")
    ended_well(story)
    assert accounts(story) == {Account.RETRY: 1}


def test_again_because_of_a_shutdown(story: Story) -> None:
    story.deferred(1, "steady")
    ran(story, 1, How.INTERRUPTED, "shutdown")
    story.closed(1, "todo", "shutdown", counted=0)
    ended_well(story)
    assert accounts(story) == {Account.REQUEUE: 1}


@pytest.mark.parametrize("reason", [None, "shutdown"])
def test_what_returned_does_not_run_again(story: Story, reason: str | None) -> None:
    story.deferred(1, "steady")
    ran(story, 1)
    story.closed(1, "todo", reason)
    ended_well(story)
    assert found(story) == ["outcome", "again"]


@pytest.mark.parametrize("reason", ["released", "shutdown; not begun"])
def test_what_ran_is_not_given_back_as_if_it_had_not(story: Story, reason: str) -> None:
    story.deferred(1, "steady")
    ran(story, 1, How.INTERRUPTED, "shutdown")
    story.closed(1, "todo", reason, counted=0)
    ended_well(story)
    assert found(story) == ["again"]


def test_what_was_interrupted_by_nobody_does_not_run_again(story: Story) -> None:
    story.deferred(1, "steady")
    ran(story, 1, How.INTERRUPTED)
    story.closed(1, "todo")
    ended_well(story)
    assert found(story) == ["again"]


@pytest.mark.parametrize(
    ("body_ended", "account"), [(False, Account.DEATH), (True, Account.DEATH_AFTER)]
)
def test_again_because_of_a_death(story: Story, *, body_ended: bool, account: Account) -> None:
    story.deferred(1)
    story.claimed(1)
    run = story.began(1)
    if body_ended:
        story.ended(run)
    story.killed("a")
    story.tick(1.2)
    story.rescued(1)
    ended_well(story)
    assert accounts(story) == {account: 1}
    [wait] = check(story.tell()).waits
    assert (wait.rescued, wait.again) == pytest.approx((2.2, 3.2))


def test_how_long_a_job_waited_while_another_worker_was_up(story: Story) -> None:
    story.deferred(1)
    story.claimed(1)
    story.began(1)
    story.killed("a")
    began = story.tick(5.0)
    story.rescued(1)
    ended_well(story)
    # Of six seconds one is left to the second worker.
    story.process("b", asks=1, started=began)
    [wait] = check(story.tell()).waits
    assert (wait.rescued, wait.attended) == pytest.approx((6.0, 1.0))


def test_again_because_of_a_lost_lease(story: Story) -> None:
    story.deferred(1)
    story.claimed(1)
    run = story.began(1)
    story.rescued(1)
    story.heard("a", 1)
    story.ended(run, How.INTERRUPTED, "lease_lost")
    ended_well(story)
    assert accounts(story) == {Account.LEASE: 1}
    assert check(story.tell()).waits == ()


def test_a_hearing_of_another_job_or_worker_accounts_for_nothing(story: Story) -> None:
    story.deferred(1)
    ran(story, 1)
    story.rescued(1)
    story.heard("a", 2)
    story.heard("b", 1)
    ended_well(story)
    assert found(story) == ["again"]


def test_again_because_its_worker_could_not_write(story: Story) -> None:
    story.deferred(1)
    ran(story, 1)
    story.could_not_write("a", 1)
    story.process("a", status=1, asks=1, asked=1.0, error="OutcomesNotWritten")
    story.rescued(1)
    ended_well(story)
    assert accounts(story) == {Account.NOT_WRITTEN: 1}


@pytest.mark.parametrize("written", ["aborted", "failed"])
def test_a_worker_that_finds_the_outcome_it_meant_need_not_have_heard(
    story: Story, written: str
) -> None:
    story.deferred(1)
    story.claimed(1)
    run = story.began(1)
    story.abort_requested(1)
    story.rescued(1, "aborted")
    story.ended(run, How.INTERRUPTED, "user_request")
    story.wrote("a", 1, written)
    if written == "aborted":
        assert accounts(story) == {Account.AGREED: 1}
    else:
        assert found(story) == ["again"]


@pytest.mark.parametrize("alive_for", [5.0, 60.0])
def test_a_worker_that_lives_on_must_have_heard(story: Story, alive_for: float) -> None:
    story.deferred(1)
    ran(story, 1)
    story.rescued(1)
    story.tick(alive_for)
    story.killed("a")
    ended_well(story)
    if alive_for < 20:
        assert accounts(story) == {Account.LEASE_UNHEARD: 1}
    else:
        assert found(story) == ["again"]


@pytest.mark.parametrize("died", [False, True])
def test_a_job_that_was_taken_over_may_be_given_back_without_a_reason(
    story: Story, *, died: bool
) -> None:
    story.deferred(1)
    story.claimed(1)
    story.began(1)
    if died:
        story.killed("a")
    story.taken_over(1, 2)
    story.closed(1, "todo", counted=0)
    ended_well(story)
    if died:
        assert accounts(story) == {Account.DEATH: 1}
    else:
        # It lived, and was never told.
        assert found(story) == ["again", "overlap", "processes"]


def test_a_worker_that_has_its_job_under_a_new_id_does_not_give_it_back(story: Story) -> None:
    story.deferred(1)
    ran(story, 1)
    story.taken_over(1, 7)
    story.process("a", asks=1, worker_ids=frozenset({1, 7}))
    story.closed(1, "todo", counted=0)
    ended_well(story)
    assert found(story) == ["outcome", "again"]


def test_a_job_is_not_started_after_a_user_asked_for_its_abort(story: Story) -> None:
    story.deferred(1, "flaky")
    story.claimed(1)
    run = story.began(1)
    story.abort_requested(1)
    story.ended(run, How.RAISED, "user_request")
    story.closed(1, "todo")
    ended_well(story)
    assert found(story) == ["again"]


def test_a_claim_without_a_run_needs_no_account(story: Story) -> None:
    story.deferred(1)
    story.claimed(1)
    story.closed(1, "todo", counted=0)
    ended_well(story)
    assert accounts(story) == {}
