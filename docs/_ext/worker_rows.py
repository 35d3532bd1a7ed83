"""The rows of the tables about a worker, from the code that decides. Knows no Sphinx: tests read them too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeAlias

from trio_queue._worker.shutdown import TRANSITIONS, Event, Stage
from trio_queue.completion import (
    Completion,
    Interrupted,
    InterruptedJobs,
    Outcome,
    Raised,
    Returned,
    decide,
)
from trio_queue.exceptions import JobAborted
from trio_queue.jobs import AbortReason, DeleteJobCondition, Job, Status
from trio_queue.retry import RetryStrategy

#: The head, and the rows, each in the page's own markup. The first cell of a row is its name.
Table: TypeAlias = tuple[Sequence[str], list[Sequence[str]]]

JOB = Job(id=1, task_name="task")

ENDINGS: tuple[tuple[str, Outcome], ...] = (
    ("returns", Returned()),
    ("is cancelled by the worker, or had not begun", Interrupted()),
    ("raises `JobAborted`", Raised(JobAborted())),
    ("raises another exception", Raised(ValueError())),
    ("ends by a cancellation of its own making", Raised(asyncio.CancelledError())),
    ("raises `KeyboardInterrupt` or `SystemExit`", Raised(SystemExit())),
)
REASONS: tuple[tuple[str, AbortReason | None, InterruptedJobs], ...] = (
    ("nobody asked it to stop", None, InterruptedJobs.RETRY),
    ('shutdown, `"retry"`', AbortReason.SHUTDOWN, InterruptedJobs.RETRY),
    ('shutdown, `"requeue"`', AbortReason.SHUTDOWN, InterruptedJobs.REQUEUE),
    ('shutdown, `"abort"`', AbortReason.SHUTDOWN, InterruptedJobs.ABORT),
    ("a user's request", AbortReason.USER_REQUEST, InterruptedJobs.RETRY),
    ("lease lost", AbortReason.LEASE_LOST, InterruptedJobs.RETRY),
)


def stage_table() -> Table:
    """What each event does in each stage; events are named as in the diagram."""
    head = ("In the diagram", "What happens", *(stage.name for stage in Stage))
    rows: list[Sequence[str]] = [
        (label(event), event.value, *(_next_stage(stage, event) for stage in Stage))
        for event in Event
    ]
    return head, rows


def label(event: Event) -> str:
    """An event's name in the diagram."""
    return event.name.lower().replace("_", " ")


def _next_stage(stage: Stage, event: Event) -> str:
    after = TRANSITIONS[stage].get(event)
    if after is None:
        return ""
    return "stays" if after is stage else f"**{after.name}**"


def outcome_table() -> Table:
    """What is written for a job, asked of the function that decides."""
    head = ("The job …", *(told for told, _, _ in REASONS))
    rows: list[Sequence[str]] = [
        (ending, *(_row_becomes(outcome, reason, policy) for _, reason, policy in REASONS))
        for ending, outcome in ENDINGS
    ]
    return head, rows


def _row_becomes(outcome: Outcome, reason: AbortReason | None, policy: InterruptedJobs) -> str:
    if isinstance(outcome, Interrupted) and reason is None:
        return ""  # the worker cancels nothing without a reason
    without, having = (
        written(
            decide(
                outcome,
                job=JOB,
                reason=reason,
                strategy=strategy,
                interrupted_jobs=policy,
                delete_jobs=DeleteJobCondition.NEVER,
            )
        )
        for strategy in (None, RetryStrategy())
    )
    return without if without == having else f"by its retry strategy, else {without}"


def written(completion: Completion | None) -> str:
    """What a completion means to a reader."""
    if completion is None:
        return "nothing is written"
    if completion.status is not Status.TODO:
        return f"`{completion.status.value}`"
    return "`todo`" if completion.retry else "`todo`, the attempt not counted"


#: By the name of the directive.
TABLES = {"stage-table": stage_table, "outcome-table": outcome_table}
