"""One job, from the table of running jobs to its Completion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import Context
from functools import partial
from typing import Any

import trio

from trio_queue._worker.call import Caller, Way
from trio_queue._worker.complete import Completer
from trio_queue._worker.options import Options
from trio_queue._worker.running import RunningJob, RunningJobs
from trio_queue._worker.services import Supervisor
from trio_queue._worker.shutdown import Event, Shutdown
from trio_queue.completion import (
    INTERRUPTED,
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
    returned,
    succeeded,
)
from trio_queue.exceptions import TaskNotFound
from trio_queue.job_context import JobContext, WorkerOwner
from trio_queue.jobs import Status
from trio_queue.log import Action, fields
from trio_queue.owners import Hosted


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
        supervisor: Supervisor,
    ) -> None:
        self._app = app
        self._options = options
        self._caller = caller
        self._completer = completer
        self._running = running
        self._shutdown = shutdown
        self._supervisor = supervisor
        self._unknown_tasks: set[str] = set()
        #: How many jobs are tasks of the asyncio loop around us.
        self._hosted = 0
        self._none_hosted = trio.Event()
        #: The first KeyboardInterrupt or SystemExit that a job raised: the worker raises it.
        self.exit: BaseException | None = None

    def start(self, jobs: trio.Nursery, context: Context, running: RunningJob) -> None:
        """Start a job that has been given a place.

        In a copy of `context`, the worker's: who makes room for it is another job.

        Args:
            jobs: Where it has its task, if that is one of Trio's.
            context: The worker's context variables.
            running: The job.
        """
        name = running.job.task_name
        task = self._app.tasks.get(name)
        way = None if task is None else self._caller.way_of(task)
        if way is not None and not running.was_stopped and (host := self._caller.host_of(way)):
            # A task of the asyncio loop around us; a second one of Trio would only wait for it.
            hosted = host.host(
                partial(self._run_hosted, way, running),
                partial(self._hosted_ended, way, running),
                context.copy(),
            )
            running.interrupt = lambda _: hosted.cancel()
            self._hosted += 1
            return
        context.run(lambda: jobs.start_soon(self.run, way, running, name=name))

    async def _run_hosted(self, way: Way, running: RunningJob) -> Any:
        if self._shutdown.draining.is_set():
            running.give_back()  # the drain began between the claim and this first step
            raise asyncio.CancelledError
        return await self._caller.call_hosted(way, running, self._context)

    def _hosted_ended(self, way: Way, running: RunningJob, hosted: Hosted[Any]) -> None:
        running.interrupt = None  # or the two would hold each other until the garbage is collected
        outcome: Outcome
        if hosted.error is None:
            outcome = returned(hosted.value)
        elif hosted.is_cancelled and isinstance(hosted.error, asyncio.CancelledError):
            outcome = INTERRUPTED
        else:
            outcome = Raised(hosted.error)
        self._ended(way, running, outcome)
        self._hosted -= 1
        if not self._hosted:
            self._none_hosted.set()

    @asynccontextmanager
    async def hosting(self) -> AsyncGenerator[None]:
        """The block is left, however that comes, when no job is a task of the asyncio loop any more.

        Those are in no nursery that would wait for them.
        """
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                while self._hosted:
                    self._none_hosted = trio.Event()
                    await self._none_hosted.wait()

    # Ctrl-C is for the worker: in a Trio host without handlers it must reach the main task, not
    # whichever job happens to hold the CPU.
    @trio.lowlevel.enable_ki_protection
    async def run(self, way: Way | None, running: RunningJob) -> None:
        """Run a job's body to its end and hand on what is to be written.

        Args:
            way: How its task is called; None: there is no task of this name.
            running: The job.
        """
        if self._shutdown.draining.is_set():
            running.give_back()  # the drain began between the claim and this first step
        outcome: Outcome = INTERRUPTED
        if running.was_stopped:
            pass  # its body does not begin
        elif way is None:
            outcome = self._not_found(running)
        else:
            # Shielded: the cancel of the worker never reaches a job by accident.
            scope = trio.CancelScope(shield=True)
            running.interrupt = scope.cancel
            try:
                with scope:
                    outcome = returned(await self._caller.call(way, running, self._context))
            # Outside of the scope: it has taken its own Cancelled out of any group by now, and one
            # that still comes is a stray one of the job's own.
            except BaseException as error:  # noqa: BLE001 - whatever a job raises is its outcome
                outcome = Raised(error)
            running.interrupt = None  # not to keep the scope until the row is written
        self._ended(way, running, outcome)

    def _ended(self, way: Way | None, running: RunningJob, outcome: Outcome) -> None:
        running.outcome = outcome
        running.end_timestamp = time.time()
        if isinstance(outcome, Raised):
            self._notice_exit(running, outcome.error)
        self._running.body_ended(running)
        running.completion = self._decide(way, running, outcome)
        self._completer.add(running)

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
            self._say(
                "Task was not found: %s",
                error,
                extra=fields(Action.TASK_NOT_FOUND, task=name, job=running.job.log_context()),
            )
        return Raised(error)

    def _say(self, *message: object, **options: Any) -> None:
        """Log an error. A log handler that raises stops the worker, not the job: its outcome is still to be written."""
        supervisor = self._supervisor
        supervisor.call("the log of a job", supervisor.logger.error, *message, **options)

    def _notice_exit(self, running: RunningJob, error: BaseException) -> None:
        exits = [e for e in leaves(error) if isinstance(e, (KeyboardInterrupt, SystemExit))]
        if exits:
            self.exit = self.exit or exits[0]
            self._shutdown.post(
                Event.JOB_EXITED, f"{type(exits[0]).__name__} raised by {running.job.call_string}"
            )

    def _decide(self, way: Way | None, running: RunningJob, outcome: Outcome) -> Completion | None:
        job = running.job
        if isinstance(outcome, Returned):  # nobody of a user's is asked
            return succeeded(job, running.reason, self._options.delete_jobs)
        if running.given_back and isinstance(outcome, Interrupted) and not running.started:
            return Completion(
                job_id=running.id,
                attempts=job.attempts,
                status=Status.TODO,
                reason=running.given_back,
            )
        task = way and way.task
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
            except BaseException as error:  # noqa: BLE001 - of a user's strategy; it is logged
                self._notice_exit(running, error)
                self._say(
                    "The retry strategy of %s raised: the job is not retried",
                    job.call_string,
                    exc_info=error,
                    extra=fields(Action.RETRY_STRATEGY_ERROR, job=job.log_context()),
                )
                more = STRATEGY_RAISED
            else:
                return because(completion, more) if completion and more else completion
        raise AssertionError("without a strategy nothing of a user's is called")
