"""Tables about a worker, from the code that decides: its options, its stages, what becomes of a job."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any

import attrs
from docutils.nodes import Node
from sphinx.application import Sphinx
from tables import TableDirective

from trio_queue._worker.options import Options
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

JOB = Job(id=1, task_name="task")


class WorkerOptionsTable(TableDirective):
    """Every option of a worker."""

    def run(self) -> list[Node]:
        rows = [
            (f"`{field.name}`", f"`{shown(field.default)}`", field.metadata["help"])
            for field in attrs.fields(Options)
        ]
        return [self.table(["Option", "Default", "Meaning"], rows, [28, 12, 60])]


class StageTable(TableDirective):
    """What each event does in each stage."""

    def run(self) -> list[Node]:
        rows = [
            (event.value, *(self._cell(stage, event) for stage in Stage if stage in TRANSITIONS))
            for event in Event
        ]
        return [
            self.table(
                ["What happens", *(stage.name for stage in Stage)], rows, [30, 14, 14, 14, 14, 14]
            )
        ]

    @staticmethod
    def _cell(stage: Stage, event: Event) -> str:
        after = TRANSITIONS[stage].get(event)
        if after is None:
            return ""
        return "stays" if after is stage else f"**{after.name}**"


class OutcomeTable(TableDirective):
    """What is written for a job, asked of the function that decides."""

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

    def run(self) -> list[Node]:
        rows = [
            (ending, *(self._cell(outcome, reason, policy) for _, reason, policy in self.REASONS))
            for ending, outcome in self.ENDINGS
        ]
        head = ["The job …", *(told for told, _, _ in self.REASONS)]
        return [self.table(head, rows, [22, 13, 13, 13, 13, 13, 13])]

    @staticmethod
    def _cell(outcome: Outcome, reason: AbortReason | None, policy: InterruptedJobs) -> str:
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


def shown(default: Any) -> str:
    """A default as a user writes it."""
    if isinstance(default, Enum):
        return repr(default.value)
    return repr(int(default) if isinstance(default, float) and default.is_integer() else default)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("worker-options", WorkerOptionsTable)
    app.add_directive("stage-table", StageTable)
    app.add_directive("outcome-table", OutcomeTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
