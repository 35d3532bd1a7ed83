"""The worker: its lifetimes, nested.

From the outermost in: the signal handlers, the App (if it was not open), the store's connections, the worker's row, its
heartbeat, what it listens to, the services, the jobs, the intake. Stopping is leaving these blocks: the intake first, the jobs
when the last has ended, then the services; the heartbeat ends after the last job because its block is around theirs, whatever fails.

The task that calls `run()` only waits. It is the one task that the caller's cancel and Ctrl-C can
reach; the rest lives in a child task behind a shield.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from contextvars import copy_context
from functools import partial

import trio
from typing_extensions import Unpack

from trio_queue._worker.call import Caller
from trio_queue._worker.complete import Completer
from trio_queue._worker.database import Database
from trio_queue._worker.fetch import Fetcher
from trio_queue._worker.flavors import Flavors
from trio_queue._worker.hear import Ear
from trio_queue._worker.lease import Lease
from trio_queue._worker.options import Options, WorkerOptions, read_options
from trio_queue._worker.periodic import PeriodicDeferrer
from trio_queue._worker.report import Reporter
from trio_queue._worker.report_stages import REPORT_INTERVAL, StageReporter
from trio_queue._worker.rescue import Rescuer
from trio_queue._worker.run import Runner
from trio_queue._worker.running import RunningJobs
from trio_queue._worker.services import Supervisor
from trio_queue._worker.shutdown import Change, Event, Shutdown, Stage
from trio_queue._worker.signals import heard_signals
from trio_queue.exceptions import NotOnTrio, TrioAlreadyRuns, WorkerAlreadyRan
from trio_queue.job_context import WorkerOwner
from trio_queue.jobs import AbortReason
from trio_queue.store import JobStore, Notifications
from trio_queue.utils import in_asyncio_task

__all__ = ["Stage", "Worker", "WorkerOptions"]


class Worker:
    """Fetches the jobs of an App and runs them.

    `trio.run(worker.run)`, or `await nursery.start(worker.run)`, which returns when the worker
    listens and has its row. A worker runs once.
    """

    def __init__(self, app: WorkerOwner, **options: Unpack[WorkerOptions]) -> None:
        """Make a worker.

        Args:
            app: Its App. It need not be open.
            **options: See `Options`; what is not given is as in the App's `worker_defaults`.

        Raises:
            InvalidOption: An option has a value that it cannot have.
            MiddlewareKindMismatch: A worker middleware is not async.
        """
        self.app = app
        self.options: Options = read_options({**app.worker_defaults, **options})
        self._running = RunningJobs(self.options.concurrency)
        self._reporter = Reporter(self.options)
        self._shutdown = Shutdown(self.options.shutdown_graceful_timeout)
        self._stages = StageReporter(
            options=self.options,
            running=self._running,
            shutdown=self._shutdown,
            logger=self._reporter.logger,
        )
        self._shutdown.on_change = self._changed
        self._supervisor = Supervisor(self._shutdown, self._reporter.logger)
        self._flavors = Flavors(app, self.options.asyncio_backend)
        self._lease: Lease | None = None
        self._life = trio.CancelScope(shield=True)
        self._ended = trio.Event()
        self._ran = False
        self._listened = False
        self._error: BaseException | None = None

    @property
    def stage(self) -> Stage:
        """Where this worker is in its life."""
        return self._shutdown.stage

    @property
    def worker_id(self) -> int | None:
        """The id of its row; None before it is registered. It changes if the row is lost."""
        return None if self._lease is None else self._lease.worker_id

    def stop(self) -> None:
        """Let the running jobs finish, then stop. From any thread, at any time, as often as one likes."""
        self._shutdown.stop("stop() was called")

    def abort(self) -> None:
        """Abort the running jobs, then stop. From any thread, at any time, as often as one likes."""
        self._shutdown.abort("abort() was called")

    def ask(self, who: str = "ask() was called") -> None:
        """Ask once: the first time it drains, the second time it aborts. Signals count with these.

        From any thread, at any time. The log says that it was `who`.
        """
        self._shutdown.ask(who)

    # Ctrl-C must reach the one task that hears it, not whichever of ours happens to hold the CPU:
    # each task of the worker begins with a protected function.
    @trio.lowlevel.enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until asked to stop, or, with `wait=False`, until no job is left.

        Opens the App if nobody has, and closes it then at the end. Never returns while a job is
        still running.

        Args:
            task_status: Started when the worker listens and has its row; or, where it was stopped
                before that, when it returns.

        Raises:
            NotOnTrio: It is awaited in an asyncio loop.
            TrioAlreadyRuns: The same, and a Trio task has started that loop, and waits for it.
            WorkerAlreadyRan: It ran before.
            ConnectorException: The database is away at the start, or refuses.
            SchemaError: The database has no schema that this version works with.
            OutcomesNotWritten: The database was away at a stop for too long.
            KeyboardInterrupt: Ctrl-C, where the worker has no signal handlers; after the drain.
            BaseException: A KeyboardInterrupt or SystemExit that a job raised, or the error of a
                service that could not recover. All of these come bare, when every job has ended.

        Cancelled: it drains, then raises Cancelled; a scope is cancelled once, so a second cancel
        from outside does not abort. Use `abort()`, or `shutdown_graceful_timeout`.
        """
        if not trio.lowlevel.in_trio_task():
            raise NotOnTrio
        if in_asyncio_task():
            raise TrioAlreadyRuns
        if self._ran:
            raise WorkerAlreadyRan
        self._ran = True
        if self.stage is Stage.STOPPED:
            task_status.started()
            return  # it was stopped before it ran: nothing is fetched
        self._shutdown.attach()
        exit_process = self._leave if self.options.exit_on_third_signal else None
        with (
            heard_signals(self._shutdown, self._reporter.logger, exit_process)
            if self.options.install_signal_handlers
            else nullcontext()
        ):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._live, task_status)
                interrupt = await self._wait_ended()
        if error := self._error or self._supervisor.error or interrupt:
            raise error
        if not self._listened:
            task_status.started()  # stopped while it started: whoever waits for it need not fail
        # A caller's cancel was swallowed in order to drain: here it goes on.
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _wait_ended(self) -> KeyboardInterrupt | None:
        """Wait for the end; hear the caller's cancel and Ctrl-C, which stop the worker."""
        interrupt: KeyboardInterrupt | None = None
        with trio.CancelScope() as listening:
            while not self._ended.is_set():
                try:
                    await self._ended.wait()
                except KeyboardInterrupt as error:
                    interrupt = error
                    self._shutdown.ask("Ctrl-C")
                except trio.Cancelled:
                    # Heard once: from here on only Ctrl-C comes through.
                    listening.shield = True
                    self._shutdown.stop("the scope around run() was cancelled")
        return interrupt

    @trio.lowlevel.enable_ki_protection
    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            # A stop while STARTING cancels this scope; from RUNNING on nobody does.
            with self._life:
                await self._work(task_status)
        except BaseException as error:  # noqa: BLE001 - handed to run(), which raises it bare
            self._error = self._error or error
            # What breaks here while it runs, a bug of ours, ends the worker by the same stages.
            self._shutdown.stop(f"{type(error).__name__}: {error}".partition("\n")[0])
        finally:
            self._shutdown.post(Event.ENDED, self._why_ended())
            self._ended.set()

    def _why_ended(self) -> str:
        error = self._error or self._supervisor.error
        if error is None:
            return "every job has ended"
        return f"every job has ended, run() raises {type(error).__name__}"

    async def _work(self, task_status: trio.TaskStatus[None]) -> None:
        self.app.perform_import_paths()
        async with self._flavors.opened(), self.app.connector.open_store() as store:
            database = Database(store, self._supervisor)
            self._stages.away_since = lambda: database.lost_since
            lease = Lease(
                database=database,
                options=self.options,
                running=self._running,
                shutdown=self._shutdown,
                logger=self._reporter.logger,
            )
            async with lease.held(), self._listening(store) as notifications:
                self._lease = lease
                self._shutdown.post(Event.STARTED, "it listens and has its row")
                if self.stage is Stage.STOPPED:
                    return
                self._listened = True
                task_status.started()
                await self._serve(database, lease, notifications)

    @asynccontextmanager
    async def _listening(self, store: JobStore) -> AsyncGenerator[Notifications | None]:
        if not self.options.listen_notify:
            yield None
            return
        async with store.listen(self.options.queues) as notifications:
            yield notifications

    async def _serve(
        self, database: Database, lease: Lease, notifications: Notifications | None
    ) -> None:
        """Run the services, and inside them the jobs, and inside them the intake."""
        fetcher = Fetcher(
            database=database,
            lease=lease,
            options=self.options,
            running=self._running,
            shutdown=self._shutdown,
        )
        completer = Completer(
            database=database,
            running=self._running,
            shutdown=self._shutdown,
            lease=lease,
            patience=self.options.stalled_worker_timeout,
            written=fetcher.written,
            reporter=self._reporter,
            supervisor=self._supervisor,
        )
        runner = Runner(
            app=self.app,
            options=self.options,
            caller=self._caller(),
            completer=completer,
            running=self._running,
            shutdown=self._shutdown,
            supervisor=self._supervisor,
        )
        ear = Ear(
            database=database,
            fetcher=fetcher,
            lease=lease,
            options=self.options,
            running=self._running,
        )
        periodic = PeriodicDeferrer(app=self.app, database=database, logger=self._reporter.logger)
        rescuer = Rescuer(
            app=self.app,
            database=database,
            fetcher=fetcher,
            lease=lease,
            options=self.options,
            running=self._running,
            shutdown=self._shutdown,
            reporter=self._reporter,
        )
        intake = trio.CancelScope()
        async with trio.open_nursery() as services:

            def supervised(name: str, service: Callable[[], Awaitable[None]]) -> None:
                services.start_soon(self._supervisor.run, name, service)

            supervised("conduct", partial(self._conduct, intake))
            supervised("report", self._report)
            supervised("heartbeat", lease.watch)
            supervised("show stage", lease.show_stage)
            services.start_soon(self._keep_writing, completer)
            supervised("keep fresh", fetcher.keep_fresh)
            supervised("rescue", rescuer.rescue)
            supervised("poll aborts", ear.poll_aborts)
            if notifications is not None:
                supervised("listen", partial(ear.listen, notifications))
            async with trio.open_nursery() as jobs, runner.hosting():
                self._running.start_with(partial(runner.start, jobs, copy_context()))
                with intake:
                    async with trio.open_nursery() as intakes:
                        intakes.start_soon(self._supervisor.run, "periodic", periodic.defer)
                        await self._supervisor.run("fetch", fetcher.fetch)
                # Not before: a claim that is still being cancelled could come after the release.
                supervised("give back", fetcher.give_back)
            # A job is in our hands until its row is written: leaving the services would lose it.
            await self._running.wait_none()
            services.cancel_scope.cancel(reason="every job has ended and every row is written")
        self._error = runner.exit or completer.error

    async def _conduct(self, intake: trio.CancelScope) -> None:
        """DRAINING closes the intake, ABORTING asks the jobs to give up; a service."""
        await self._shutdown.draining.wait()
        intake.cancel(reason="the worker drains")
        self._running.give_back_unstarted()
        await self._shutdown.wait_aborting()
        self._running.abort_all(AbortReason.SHUTDOWN)

    @trio.lowlevel.enable_ki_protection
    async def _keep_writing(self, completer: Completer) -> None:
        """The one service that goes on after an error: jobs keep their places until it has written."""
        while True:
            await self._supervisor.run("complete", completer.write)

    async def _report(self) -> None:
        """While it drains, say every few seconds what it waits for; a service."""
        await self._shutdown.draining.wait()
        while True:
            await trio.sleep(REPORT_INTERVAL)
            self._stages.still(self.worker_id)

    def _caller(self) -> Caller:
        return Caller(
            worker=self,
            flavors=self._flavors,
            began=self._reporter.began,
            thread_limit=self.options.thread_limit or self.options.concurrency,
            task_middleware=tuple(self.options.task_middleware),
            worker_middleware=tuple(self.options.worker_middleware),
        )

    def _leave(self, status: int) -> None:
        """The third signal: end the process. Runs in the signal's handler."""
        if self._lease is None:
            os._exit(status)
        # First: whatever the log does, which may be interrupted in the middle of a line, it ends.
        self._lease.exit_process(status)
        self._stages.leaves(status, self.worker_id)

    def _changed(self, change: Change) -> None:
        if change.before is Stage.STARTING and change.after is Stage.STOPPED:
            self._life.cancel(reason=change.who)
        self._supervisor.call("the log of its stages", self._stages.changed, change, self.worker_id)
