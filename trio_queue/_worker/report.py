"""What the log says of jobs: lines that a person can read at night."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from trio_queue._worker.lines import Line
from trio_queue._worker.options import Options
from trio_queue._worker.running import RunningJob
from trio_queue.completion import Outcome, Raised, Returned
from trio_queue.jobs import AbortReason, Status
from trio_queue.log import Action, fields


class Reporter:
    """The log of one worker about its jobs."""

    def __init__(self, options: Options) -> None:
        self._options = options
        name = "trio_queue.worker"
        self.logger = logging.getLogger(f"{name}.{options.name}" if options.name else name)
        self._beginnings = Line(self.logger, logging.INFO, "Starting job %s")
        self._ends = Line(self.logger, logging.INFO, "%s")
        self._queues = list(options.queues or [])

    def began(self, running: RunningJob) -> None:
        """A job's body begins."""
        if self._beginnings.is_enabled:
            self._beginnings.write(
                running.job.call_string, extra=self._fields(Action.START_JOB, running)
            )

    def ended(self, batch: Iterable[RunningJob], others: Mapping[int, Status | None]) -> None:
        """The rows of these jobs are written.

        Args:
            batch: The jobs.
            others: The statuses of those whose rows are not what was meant; None: it was no longer ours.
        """
        told = self._ends.is_enabled
        for running in batch:
            meant = running.completion
            status = None if meant is None else meant.status
            if others:
                status = others.get(running.id, status)
            if status is not Status.SUCCEEDED or told:
                self._ended(running, status)

    def _ended(self, running: RunningJob, status: Status | None) -> None:
        if status is None:
            self._lease_lost(running)
            return
        action, said, level = _outcome_line(running, status)
        if not self.logger.isEnabledFor(level):
            return
        outcome = running.outcome
        seconds = running.end_timestamp - running.start_timestamp
        text = f"Job {running.job.call_string} {said}, lasted {seconds:.3f} s"
        if isinstance(outcome, Returned) and outcome.result is not None:
            text += f" - Result: {_shown(outcome.result, str)}"[:250]
        extra = self._fields(
            action,
            running,
            status=status.value,
            reason=running.reason.value if running.reason else None,
            start_timestamp=running.start_timestamp,
            end_timestamp=running.end_timestamp,
            duration=seconds,
            result=outcome.result if isinstance(outcome, Returned) else None,
        )
        error = _worth_a_traceback(outcome, running.reason)
        if level == logging.INFO and error is None:
            self._ends.write(text, extra=extra)
        else:
            self.logger.log(level, "%s", text, extra=extra, exc_info=error)

    def _lease_lost(self, running: RunningJob) -> None:
        self.logger.warning(
            "Job %s is no longer this worker's: somebody took the worker for dead, or ended the "
            "job by hand. Its outcome is not written (%s)",
            running.job.call_string,
            type(running.outcome).__name__.lower(),
            extra=self._fields(Action.LEASE_LOST, running),
            exc_info=_worth_a_traceback(running.outcome, running.reason),
        )

    def retry_refused(self, running: RunningJob, error: Exception) -> None:
        """The database refuses what the retry strategy decided: the job ends."""
        self.logger.error(
            "Job %s is not retried, the database refuses what its retry strategy decided: %s",
            running.job.call_string,
            error,
            extra=self._fields(Action.RETRY_STRATEGY_ERROR, running),
        )

    def not_written(self, batch: Iterable[RunningJob], error: object) -> None:
        """The outcomes of these jobs could not be written: they are left to the rescue."""
        for running in batch:
            self.logger.error(
                "The outcome of job %s could not be written, its row stays `doing` until it is "
                "rescued: %s",
                running.job.call_string,
                error,
                extra=self._fields(Action.OUTCOME_NOT_WRITTEN, running),
            )

    def _fields(self, action: Action, running: RunningJob, **more: Any) -> dict[str, Any]:
        if running.log_context is None:
            running.log_context = running.job.log_context()
        return fields(
            action,
            job=running.log_context,
            worker={
                "name": self._options.name,
                "worker_id": running.worker_id,
                "queues": self._queues,
                "job_id": running.id,
            },
            **more,
        )


def _outcome_line(running: RunningJob, status: Status) -> tuple[Action, str, int]:
    completion, outcome = running.completion, running.outcome
    match status:
        case Status.TODO if completion is None or completion.retry is None:
            return Action.JOB_REQUEUED, "goes back to its queue", logging.INFO
        case Status.TODO if completion and completion.if_abort_requested is Status.ABORTED:
            return Action.JOB_ABORTED_RETRY, "was aborted, to retry", logging.INFO
        case Status.TODO:
            line = Action.JOB_ERROR_RETRY, "failed, to retry", logging.INFO
        case Status.SUCCEEDED:
            line = Action.JOB_SUCCESS, "succeeded", logging.INFO
        case Status.ABORTED:
            line = Action.JOB_ABORTED, "was aborted", logging.INFO
        case Status.CANCELLED:
            said = "cannot wait again, its queueing lock is taken: cancelled"
            line = Action.JOB_ERROR, said, logging.WARNING
        case _:
            told = ""
            if isinstance(outcome, Raised):
                told = f": {_shown(outcome.error, repr)}{_hint(outcome.error)}"
            line = Action.JOB_ERROR, f"failed{told}", logging.ERROR
    return line


#: What the libraries say to code that was written for the other one.
_WRONG_LOOP = {
    "no running event loop": (
        ' (written for asyncio, it ran on Trio? Say flavor="asyncio" on the task, or on the App)'
    ),
    "must be called from async context": (
        ' (written for Trio, it ran on asyncio? Say flavor="trio" on the task, or on the App)'
    ),
}


def _hint(error: BaseException) -> str:
    if not isinstance(error, RuntimeError):
        return ""
    return _WRONG_LOOP.get(_shown(error, str), "")


def _shown(value: object, how: Callable[[object], str]) -> str:
    """A user's value as text; its type where it has none."""
    try:
        return how(value)
    except BaseException:  # noqa: BLE001 - whatever a user's __str__ raises, the row is written
        return f"<{type(value).__name__}, which cannot be shown>"


def _worth_a_traceback(
    outcome: Outcome, reason: AbortReason | None
) -> tuple[type[BaseException], BaseException, TracebackType | None] | None:
    if not isinstance(outcome, Raised) or reason is not None:
        return None
    error = outcome.error
    if error.__traceback__ is None:
        return None  # nothing raised it: the task was not found
    return type(error), error, _from_users_code_on(error.__traceback__)


def _from_users_code_on(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames between the worker and the body: all jobs have the same."""
    rest = traceback
    while rest is not None:
        module = rest.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in {"trio_queue", "trio", "outcome"}:
            return rest
        rest = rest.tb_next
    return traceback
