"""One job, from the table of running jobs to its Completion."""

from __future__ import annotations

import logging
import time

import trio

from trio_queue._worker.call import Caller
from trio_queue._worker.complete import Completer
from trio_queue._worker.options import Options
from trio_queue._worker.report import Ended
from trio_queue._worker.running import RunningJob, RunningJobs
from trio_queue._worker.shutdown import Event, Shutdown
from trio_queue.completion import (
    STRATEGY_RAISED,
    TASK_NOT_FOUND,
    Completion,
    Interrupted,
    Outcome,
    Raised,
    Returned,
    because,
    decide,
    leaves,
)
from trio_queue.exceptions import TaskNotFound
from trio_queue.job_context import JobContext, WorkerOwner
from trio_queue.jobs import Status
from trio_queue.log import Action, fields
from trio_queue.tasks import AnyTask


class Runner:
    """Runs the jobs of one worker. `run` never raises: its siblings would be cancelled."""

    def __init__(
        self,
        *,
        app: WorkerOwner,
        options: Options,
        caller: Caller,
        completer: Completer,
        running: RunningJobs,
        shutdown: Shutdown,
        logger: logging.Logger,
    ) -> None:
        self._app = app
        self._options = options
        self._caller = caller
        self._completer = completer
        self._running = running
        self._shutdown = shutdown
        self._logger = logger
        self._unknown_tasks: set[str] = set()
        #: The first KeyboardInterrupt or SystemExit that a job raised: the worker raises it.
        self.exit: BaseException | None = None

    # Ctrl-C is for the worker: in a Trio host without handlers it must reach the main task, not
    # whichever job happens to hold the CPU.
    @trio.lowlevel.enable_ki_protection
    async def run(self, running: RunningJob) -> None:
        """Run a job's body to its end and hand on what is to be written."""
        task = self._app.tasks.get(running.job.task_name)
        outcome = self._not_found(running) if task is None else await self._outcome(task, running)
        if isinstance(outcome, Raised):
            self._notice_exit(running, outcome.error)
        self._running.body_ended(running)
        self._completer.add(
            Ended(running, outcome, self._decide(task, running, outcome), time.time())
        )

    async def _outcome(self, task: AnyTask, running: RunningJob) -> Outcome:
        outcome: Outcome = Interrupted()
        if self._shutdown.draining.is_set():
            running.give_back()  # the drain began between the claim and this first step
        try:
            with running.scope:
                # A scope cancelled beforehand would still run its body to the first checkpoint.
                await trio.lowlevel.checkpoint_if_cancelled()
                outcome = Returned(await self._caller.call(task, running, self._context))
        # Outside of the scope: it has taken its own Cancelled out of any group by now, and one
        # that still comes is a stray one of the job's own.
        except BaseException as error:  # noqa: BLE001 - whatever a job raises is its outcome
            return Raised(error)
        return outcome

    def _context(self, running: RunningJob) -> JobContext:
        return JobContext(
            app=self._app,
            worker_name=self._options.name,
            worker_queues=self._options.queues,
            job=running.job,
            start_timestamp=running.start_timestamp,
            additional_context=dict(self._options.additional_context),
            abort_reason=lambda: running.reason,
            shutting_down=self._shutdown.draining.is_set,
            wait_shutting_down=self._shutdown.draining.wait,
        )

    def _not_found(self, running: RunningJob) -> Outcome:
        name = running.job.task_name
        error = TaskNotFound(
            f"no task {name!r} is registered: import the module that defines it, "
            "or list it in the App's import_paths"
        )
        if name not in self._unknown_tasks:  # once a name: a queue may be full of them
            self._unknown_tasks.add(name)
            self._logger.error(
                "Task was not found: %s",
                error,
                extra=fields(Action.TASK_NOT_FOUND, task=name, job=running.job.log_context()),
            )
        return Raised(error)

    def _notice_exit(self, running: RunningJob, error: BaseException) -> None:
        exits = [e for e in leaves(error) if isinstance(e, (KeyboardInterrupt, SystemExit))]
        if exits:
            self.exit = self.exit or exits[0]
            self._shutdown.post(
                Event.JOB_EXITED, f"{type(exits[0]).__name__} raised by {running.job.call_string}"
            )

    def _decide(
        self, task: AnyTask | None, running: RunningJob, outcome: Outcome
    ) -> Completion | None:
        job = running.job
        if running.given_back and isinstance(outcome, Interrupted) and not running.started:
            return Completion(
                job_id=running.id,
                attempts=job.attempts,
                status=Status.TODO,
                reason=running.given_back,
            )
        interrupted_jobs = task.interrupted_jobs if task else None
        strategy = task.retry_strategy if task else None
        more = None if task else TASK_NOT_FOUND
        for trusted in (strategy, None):
            try:
                completion = decide(
                    outcome,
                    job=job,
                    reason=running.reason,
                    strategy=trusted,
                    interrupted_jobs=interrupted_jobs or self._options.interrupted_jobs,
                    delete_jobs=self._options.delete_jobs,
                )
            except BaseException as error:
                self._notice_exit(running, error)
                self._logger.exception(
                    "The retry strategy of %s raised: the job is not retried",
                    job.call_string,
                    extra=fields(Action.RETRY_STRATEGY_ERROR, job=job.log_context()),
                )
                more = STRATEGY_RAISED
            else:
                return because(completion, more) if completion and more else completion
        raise AssertionError("without a strategy nothing of a user's is called")
