"""Rescue the jobs of workers that died: the living do it, by themselves, each job once."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import trio

from trio_queue._worker.database import Backoff, Database
from trio_queue._worker.fetch import Fetcher
from trio_queue._worker.lease import Lease
from trio_queue._worker.options import Options
from trio_queue._worker.report import Reporter
from trio_queue._worker.running import RunningJobs
from trio_queue._worker.shutdown import Shutdown
from trio_queue.completion import (
    STRATEGY_RAISED,
    Completion,
    StalledJobs,
    because,
    decide_orphan,
)
from trio_queue.exceptions import TrioQueueException, WorkerGone
from trio_queue.job_context import WorkerOwner
from trio_queue.jobs import Status
from trio_queue.log import Action, fields
from trio_queue.verbs import AdoptOrphans, Finished, FinishJobs, Orphan

#: Seconds until a heartbeat has noticed the end of an outage: it tries every second, and connects.
HEARTBEAT_RETURNS = 3.0
#: Seconds of silence after which nobody is dead yet: three years.
NEVER = 1e8
#: How many jobs are taken over at once: each is held only while one statement is written.
LIMIT = 100


class Rescuer:
    """Looks for jobs of dead workers as often as this worker beats its heart."""

    def __init__(
        self,
        *,
        app: WorkerOwner,
        database: Database,
        fetcher: Fetcher,
        lease: Lease,
        options: Options,
        running: RunningJobs,
        shutdown: Shutdown,
        reporter: Reporter,
    ) -> None:
        self._app = app
        self._database = database
        self._fetcher = fetcher
        self._lease = lease
        self._options = options
        self._running = running
        self._shutdown = shutdown
        self._reporter = reporter
        self._began_at = -math.inf

    async def rescue(self) -> None:
        """Take over what dead workers left and end it by the policy, until the worker drains; a service.

        Not cancelled between the two: what was taken over is written, or goes back with the
        worker's goodbye.
        """
        if self._options.stalled_jobs is StalledJobs.LEAVE:
            return
        backoff = Backoff()
        pause = 0.0
        self._began_at = trio.current_time()
        while not await self._shutdown.drains_within(pause):
            worker_id = self._lease.worker_id
            try:
                found = await self._rescue()
            except WorkerGone:
                await self._lease.renew(worker_id)
                continue
            except TrioQueueException as error:
                if not self._database.is_transient(error):
                    raise
                pause = backoff.next()
                continue
            backoff.reset()
            # Workers that started together do not ask together for ever.
            interval = self._options.update_heartbeat_interval * random.uniform(0.9, 1.0)  # noqa: S311 - jitter, not a secret
            pause = 0.0 if found == LIMIT else interval

    def _others_may_look_dead(self) -> bool:
        """After an outage as long as a lease every worker looks dead, until its next beat.

        The first one back would take the running jobs of all that live. Who has just started does not
        know whether there was one; but a worker that does not wait may have no other time.
        """
        options = self._options
        interval = options.update_heartbeat_interval
        grace = min(max(0.9 * interval, HEARTBEAT_RETURNS), 3 * interval)
        if options.wait and trio.current_time() - self._began_at < grace:
            return True
        long = options.stalled_worker_timeout - 2 * interval
        return self._database.was_away(max(long, 0.0), within=grace)

    async def _rescue(self) -> int:
        worker_id, orphans = await self._take_over()
        if orphans:
            taken = {orphan.job.id for orphan in orphans if orphan.job.id is not None}
            try:
                await self._write(worker_id, orphans)
            finally:
                self._running.taken_over -= taken
                self._fetcher.ring()
        return len(orphans)

    async def _take_over(self) -> tuple[int, list[Orphan]]:
        """Answers whose they are now, too: another registration anew may follow."""
        while True:
            async with self._fetcher.claiming:  # a release must not give back what is taken over
                # Under a new row our own jobs are a dead worker's until they are adopted.
                if not self._lease.is_renewing:
                    worker_id = self._lease.worker_id
                    orphans = await self._fetcher.claim(
                        AdoptOrphans(
                            worker_id,
                            # What has no worker any more is taken in any case.
                            NEVER
                            if self._others_may_look_dead()
                            else self._options.stalled_worker_timeout,
                            LIMIT,
                            self._lease.next_turn(),
                        )
                    )
                    self._running.taken_over |= {
                        orphan.job.id for orphan in orphans if orphan.job.id is not None
                    }
                    return worker_id, orphans
            # Outside of the lock: jobs are claimed meanwhile.
            await self._lease.settled_id()

    async def _write(self, worker_id: int, orphans: list[Orphan]) -> None:
        verb = FinishJobs(worker_id, [self._decide(orphan) for orphan in orphans])
        backoff = Backoff()
        answers: list[Finished] | None = None
        while answers is None:
            try:
                answers = await self._database.run(verb)
            except TrioQueueException as error:
                if not self._database.is_transient(error):
                    await self._write_apart(worker_id, orphans, error)
                    return
                if await self._shutdown.drains_within(backoff.next()):
                    return  # the goodbye gives them back
        self._report(orphans, verb.statuses(answers))

    async def _write_apart(self, worker_id: int, orphans: list[Orphan], error: Exception) -> None:
        """One row that the database refuses must not hold the others, nor end a living worker."""
        if len(orphans) > 1:
            for orphan in orphans:
                await self._write(worker_id, [orphan])
            return
        [orphan] = orphans
        assert orphan.job.id is not None, "it has a row"
        self._running.leave_row(orphan.job.id)
        self._reporter.logger.error(
            "Job %s, whose worker died, cannot be ended: correct its row by hand: %s",
            orphan.job.call_string,
            error,
            extra=fields(Action.OUTCOME_NOT_WRITTEN, job=orphan.job.log_context()),
        )

    def _report(self, orphans: list[Orphan], statuses: Mapping[int, Status | None]) -> None:
        for orphan in orphans:
            status = statuses.get(orphan.job.id or 0)
            if status is not None:
                self._reporter.logger.warning(
                    "Rescued job %s, whose worker died: it is `%s` now (death %d under it)",
                    orphan.job.call_string,
                    status.value,
                    orphan.deaths,
                    extra=fields(
                        Action.RESCUED_JOBS,
                        job=orphan.job.log_context(),
                        status=status.value,
                        deaths=orphan.deaths,
                    ),
                )

    def _decide(self, orphan: Orphan) -> Completion:
        task = self._app.tasks.get(orphan.job.task_name)
        more = None
        for strategy in (task.retry_strategy if task else None, None):
            try:
                completion = decide_orphan(
                    orphan.job,
                    orphan.deaths,
                    policy=self._options.stalled_jobs,
                    limit=self._options.stalled_jobs_limit,
                    strategy=strategy,
                )
            except Exception:
                self._reporter.logger.exception(
                    "The retry strategy of %s raised: the job is not retried",
                    orphan.job.call_string,
                    extra=fields(Action.RETRY_STRATEGY_ERROR, job=orphan.job.log_context()),
                )
                more = STRATEGY_RAISED
            else:
                return because(completion, more) if more else completion
        raise AssertionError("without a strategy nothing of a user's is called")
