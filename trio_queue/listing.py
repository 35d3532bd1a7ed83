"""What users ask about jobs, in both colours, over the verbs of the store."""

from __future__ import annotations

from typing import Any

from trio_queue.connector import BaseConnector
from trio_queue.exceptions import InvalidOption
from trio_queue.jobs import Event, GroupCount, Job, Status, WorkerInfo
from trio_queue.management import (
    CheckConnection,
    ListEvents,
    ListJobs,
    ListLocks,
    ListQueues,
    ListTasks,
    ListWorkers,
)

_SHOWN_STATUSES = ("todo", "doing", "succeeded", "failed", "cancelled", "aborted")


class Listing:
    """The methods of `JobManager` that change nothing.

    Those that end in `_async` are for Trio and asyncio, the others for sync code. All raise
    AppNotOpen where the App is not open, and ConnectorException where the database refuses or is
    away.
    """

    def __init__(self, connector: BaseConnector) -> None:
        self.connector = connector

    def check_connection(self) -> bool:
        """Whether the database answers and has the table of jobs."""
        return self.connector.run(CheckConnection())

    async def check_connection_async(self) -> bool:
        """`check_connection` from an event loop."""
        return await self.connector.run_async(CheckConnection())

    def list_jobs(
        self,
        id: int | None = None,
        queue: str | None = None,
        task: str | None = None,
        status: Status | str | None = None,
        lock: str | None = None,
        queueing_lock: str | None = None,
        worker_id: int | None = None,
        *,
        limit: int | None = None,
        after_id: int | None = None,
        newest: bool = False,
    ) -> list[Job]:
        """The jobs that fit every filter given, by id.

        Args:
            id: The job of this id, at most one.
            queue: Jobs of this queue.
            task: Jobs of the task of this name.
            status: Jobs of this status.
            lock: Jobs with this lock.
            queueing_lock: Jobs with this queueing lock.
            worker_id: Jobs that this worker runs or ran last.
            limit: At most so many: the lowest ids, or the highest where `newest`.
            after_id: Only ids above this one.
            newest: See `limit`.

        Raises:
            InvalidOption: There is no such status.
        """
        return self.connector.run(
            ListJobs(
                id=id,
                queue=queue,
                task=task,
                status=_status(status),
                lock=lock,
                queueing_lock=queueing_lock,
                worker_id=worker_id,
                limit=limit,
                after_id=after_id,
                newest=newest,
            )
        )

    async def list_jobs_async(
        self,
        id: int | None = None,
        queue: str | None = None,
        task: str | None = None,
        status: Status | str | None = None,
        lock: str | None = None,
        queueing_lock: str | None = None,
        worker_id: int | None = None,
        *,
        limit: int | None = None,
        after_id: int | None = None,
        newest: bool = False,
    ) -> list[Job]:
        """`list_jobs` from an event loop."""
        return await self.connector.run_async(
            ListJobs(
                id=id,
                queue=queue,
                task=task,
                status=_status(status),
                lock=lock,
                queueing_lock=queueing_lock,
                worker_id=worker_id,
                limit=limit,
                after_id=after_id,
                newest=newest,
            )
        )

    def list_queues(
        self,
        queue: str | None = None,
        task: str | None = None,
        status: Status | str | None = None,
        lock: str | None = None,
    ) -> list[dict[str, Any]]:
        """How many jobs each queue has, of those that fit every filter given.

        Args:
            queue: Jobs of this queue.
            task: Jobs of the task of this name.
            status: Jobs of this status.
            lock: Jobs with this lock.

        Returns:
            For each queue its `name`, `jobs_count`, and how many jobs there are of each status
            (`todo`, `doing`, `succeeded`, `failed`, `cancelled`, `aborted`).

        Raises:
            InvalidOption: There is no such status.
        """
        verb = ListQueues(queue=queue, task=task, status=_status(status), lock=lock)
        return _counts(self.connector.run(verb))

    async def list_queues_async(
        self,
        queue: str | None = None,
        task: str | None = None,
        status: Status | str | None = None,
        lock: str | None = None,
    ) -> list[dict[str, Any]]:
        """`list_queues` from an event loop."""
        verb = ListQueues(queue=queue, task=task, status=_status(status), lock=lock)
        return _counts(await self.connector.run_async(verb))

    def list_tasks(
        self,
        queue: str | None = None,
        task: str | None = None,
        status: Status | str | None = None,
        lock: str | None = None,
    ) -> list[dict[str, Any]]:
        """How many jobs each task has: as `list_queues`."""
        verb = ListTasks(queue=queue, task=task, status=_status(status), lock=lock)
        return _counts(self.connector.run(verb))

    async def list_tasks_async(
        self,
        queue: str | None = None,
        task: str | None = None,
        status: Status | str | None = None,
        lock: str | None = None,
    ) -> list[dict[str, Any]]:
        """`list_tasks` from an event loop."""
        verb = ListTasks(queue=queue, task=task, status=_status(status), lock=lock)
        return _counts(await self.connector.run_async(verb))

    def list_locks(
        self,
        queue: str | None = None,
        task: str | None = None,
        status: Status | str | None = None,
        lock: str | None = None,
    ) -> list[dict[str, Any]]:
        """How many jobs each lock has: as `list_queues`."""
        verb = ListLocks(queue=queue, task=task, status=_status(status), lock=lock)
        return _counts(self.connector.run(verb))

    async def list_locks_async(
        self,
        queue: str | None = None,
        task: str | None = None,
        status: Status | str | None = None,
        lock: str | None = None,
    ) -> list[dict[str, Any]]:
        """`list_locks` from an event loop."""
        verb = ListLocks(queue=queue, task=task, status=_status(status), lock=lock)
        return _counts(await self.connector.run_async(verb))

    def list_events(self, job_id: int) -> list[Event]:
        """What happened to a job, in order."""
        return self.connector.run(ListEvents(job_id))

    async def list_events_async(self, job_id: int) -> list[Event]:
        """`list_events` from an event loop."""
        return await self.connector.run_async(ListEvents(job_id))

    def list_workers(self) -> list[WorkerInfo]:
        """Every worker that has a row, Procrastinate's too."""
        return self.connector.run(ListWorkers())

    async def list_workers_async(self) -> list[WorkerInfo]:
        """`list_workers` from an event loop."""
        return await self.connector.run_async(ListWorkers())


def _status(status: Status | str | None) -> Status | None:
    if status is None:
        return None
    try:
        return Status(status)
    except ValueError:
        known = ", ".join(each.value for each in Status)
        raise InvalidOption(f"there is no status {status!r}, but {known}") from None


def _counts(groups: list[GroupCount]) -> list[dict[str, Any]]:
    return [
        {
            "name": group.name,
            "jobs_count": group.jobs_count,
            **{status: group.stats.get(status, 0) for status in _SHOWN_STATUSES},
        }
        for group in groups
    ]
