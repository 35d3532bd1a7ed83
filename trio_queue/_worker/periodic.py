"""Defer the periodic tasks that are due: once, however many workers there are."""

from __future__ import annotations

import logging

import trio

from trio_queue._worker.database import Backoff, Database
from trio_queue.exceptions import AlreadyEnqueued, TrioQueueException
from trio_queue.job_context import WorkerOwner
from trio_queue.log import Action, fields
from trio_queue.periodic import MAX_DELAY, PeriodicKey, PeriodicTask
from trio_queue.verbs import DeferPeriodicJob

#: Seconds: the longest sleep, so that a clock that was set is noticed within a minute.
LONGEST_SLEEP = 60.0


class PeriodicDeferrer:
    """Defers the periodic jobs of an App; the database sees to it that each moment has one job."""

    def __init__(self, *, app: WorkerOwner, database: Database, logger: logging.Logger) -> None:
        self._app = app
        self._database = database
        self._logger = logger
        self._max_delay = float(app.periodic_defaults.get("max_delay", MAX_DELAY))
        self._last_defers: dict[PeriodicKey, int] = {}

    async def defer(self) -> None:
        """Defer what is due, until it is cancelled: when the worker drains; a service."""
        registry = self._app.periodic_registry
        if not registry.periodic_tasks:
            return
        backoff = Backoff()
        while True:
            now = self._now()
            try:
                for task, timestamp in registry.due(now, self._last_defers, self._max_delay):
                    await self._defer_one(task, timestamp)
                backoff.reset()
            except TrioQueueException as error:
                if not self._database.is_transient(error):
                    raise
                await trio.sleep(backoff.next())
                continue
            next_tick = registry.next_tick(self._now())
            assert next_tick is not None, "there are periodic tasks"
            await trio.sleep(min(max(next_tick - self._now(), 0.0) + 0.001, LONGEST_SLEEP))

    async def _defer_one(self, task: PeriodicTask, timestamp: int) -> None:
        job = task.make_job(timestamp)
        told = {"periodic_id": task.periodic_id, "defer_timestamp": timestamp}
        try:
            job_id = await self._database.run(
                DeferPeriodicJob(job=job, periodic_id=task.periodic_id, defer_timestamp=timestamp)
            )
        except AlreadyEnqueued:
            self._logger.info(
                "Periodic job %s for %d is left out: one with its queueing lock %r waits already",
                job.call_string,
                timestamp,
                job.queueing_lock,
                extra=fields(
                    Action.SKIP_PERIODIC_TASK_QUEUEING_LOCK, job=job.log_context(), **told
                ),
            )
        else:
            if job_id is not None:
                job = job.evolve(id=job_id)
                self._logger.info(
                    "Deferred periodic job %s for %d",
                    job.call_string,
                    timestamp,
                    extra=fields(Action.PERIODIC_TASK_DEFERRED, job=job.log_context(), **told),
                )
        # After the insert: one that failed is due again.
        self._last_defers[task.task.name, task.periodic_id] = timestamp

    def _now(self) -> float:
        return self._app.connector.now().timestamp()
