"""JobManager: what users do to jobs, in both colours, over the verbs of the store."""

from __future__ import annotations

import datetime
import os
import socket
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from trio_queue.exceptions import InvalidTimestamp, JobNotFound
from trio_queue.jobs import Job, Status, with_ids
from trio_queue.management import CancelJob, FinishJob, GetJobStatus, ListStalledJobs, RetryJob
from trio_queue.pruning import Pruning
from trio_queue.verbs import (
    DeferJobs,
    DeferPeriodicJob,
    FetchJobs,
    PruneStalledWorkers,
    RegisterWorker,
    UnregisterWorker,
    UpdateHeartbeat,
)


class JobManager(Pruning):
    """What can be asked about jobs and done to them. `App.job_manager` is one.

    Methods that end in `_async`, and those declared async, are for Trio and asyncio; the others for
    sync code. All raise AppNotOpen where the App is not open, and ConnectorException where the
    database refuses or is away. Cancelled, a method that changes rows may have changed them or not.
    `connection=` is a psycopg connection of the caller's, whose transaction then decides.
    """

    def now(self) -> datetime.datetime:
        """This moment, by the connector's clock."""
        return self.connector.now()

    # -- deferring ------------------------------------------------------------------------------

    def insert_jobs(self, jobs: Sequence[Job], connection: Any = None) -> list[int]:
        """Insert jobs, all or none. Returns their ids, in order. Raises AlreadyEnqueued."""
        return self.connector.run(DeferJobs(jobs), connection)

    async def insert_jobs_async(self, jobs: Sequence[Job], connection: Any = None) -> list[int]:
        """`insert_jobs` from an event loop."""
        return await self.connector.run_async(DeferJobs(jobs), connection)

    def defer_job(self, job: Job, connection: Any = None) -> Job:
        """Insert a job. Returns it with its id. Raises AlreadyEnqueued."""
        return self.batch_defer_jobs([job], connection)[0]

    async def defer_job_async(self, job: Job, connection: Any = None) -> Job:
        """`defer_job` from an event loop."""
        return (await self.batch_defer_jobs_async([job], connection))[0]

    def batch_defer_jobs(self, jobs: list[Job], connection: Any = None) -> list[Job]:
        """Insert jobs, all or none. Returns them with their ids. Raises AlreadyEnqueued."""
        return with_ids(jobs, self.insert_jobs(jobs, connection))

    async def batch_defer_jobs_async(self, jobs: list[Job], connection: Any = None) -> list[Job]:
        """`batch_defer_jobs` from an event loop."""
        return with_ids(jobs, await self.insert_jobs_async(jobs, connection))

    async def defer_periodic_job(
        self, job: Job, periodic_id: str, defer_timestamp: int
    ) -> int | None:
        """Insert a periodic job once for its moment, whoever asks.

        Returns:
            The job's id; None where somebody has deferred it for this moment already.

        Raises:
            InvalidTimestamp: The job's argument `timestamp` is another one.
            AlreadyEnqueued: A job with its queueing lock is waiting.
        """
        if job.task_kwargs.get("timestamp") != defer_timestamp:
            raise InvalidTimestamp
        return await self.connector.run_async(DeferPeriodicJob(job, periodic_id, defer_timestamp))

    # -- one job --------------------------------------------------------------------------------

    def cancel_job_by_id(
        self, job_id: int, abort: bool = False, delete_job: bool = False, connection: Any = None
    ) -> bool:
        """Cancel a waiting job, or, with `abort`, ask for the abort of a running one.

        Args:
            job_id: The job.
            abort: Also where it runs; the job has to heed it (`JobContext.should_abort`).
            delete_job: Delete the row of a waiting job.
            connection: The caller's own connection.

        Returns:
            Whether either was done; False where the job has ended, or does not exist.
        """
        return self.connector.run(CancelJob(job_id, abort, delete_job), connection)

    async def cancel_job_by_id_async(
        self, job_id: int, abort: bool = False, delete_job: bool = False, connection: Any = None
    ) -> bool:
        """`cancel_job_by_id` from an event loop."""
        return await self.connector.run_async(CancelJob(job_id, abort, delete_job), connection)

    def get_job_status(self, job_id: int, connection: Any = None) -> Status:
        """The job's status. Raises JobNotFound."""
        return self.connector.run(GetJobStatus(job_id), connection)

    async def get_job_status_async(self, job_id: int, connection: Any = None) -> Status:
        """`get_job_status` from an event loop."""
        return await self.connector.run_async(GetJobStatus(job_id), connection)

    async def retry_job(
        self,
        job: Job,
        retry_at: datetime.datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Let a job wait again. `retry_job_by_id_async` of its id."""
        await self.retry_job_by_id_async(_id(job), retry_at, priority, queue, lock)

    async def retry_job_by_id_async(
        self,
        job_id: int,
        retry_at: datetime.datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """`retry_job_by_id` from an event loop."""
        await self.connector.run_async(_retry(job_id, retry_at, priority, queue, lock))

    def retry_job_by_id(
        self,
        job_id: int,
        retry_at: datetime.datetime | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Let a job wait again that failed, or that is `doing` under a dead worker.

        Args:
            job_id: The job.
            retry_at: It runs no sooner (with a time zone); None: it may run at once.
            priority: The new priority; None keeps it, as of what follows.
            queue: The new queue.
            lock: The new lock.

        Raises:
            JobNotFound: There is no such job, or its status does not allow it.
        """
        self.connector.run(_retry(job_id, retry_at, priority, queue, lock))

    async def finish_job(self, job: Job, status: Status, delete_job: bool) -> None:
        """End a job by hand. `finish_job_by_id_async` of its id."""
        await self.finish_job_by_id_async(_id(job), status, delete_job)

    async def finish_job_by_id_async(self, job_id: int, status: Status, delete_job: bool) -> None:
        """End a job by hand, whoever holds it, as succeeded, failed or aborted.

        Raises:
            JobNotFound: There is no such job, or its status does not allow it.
        """
        await self.connector.run_async(FinishJob(job_id, status, delete_job))

    # -- many jobs ------------------------------------------------------------------------------

    async def get_stalled_jobs(
        self,
        nb_seconds: float | None = None,
        queue: str | None = None,
        task_name: str | None = None,
        seconds_since_heartbeat: float = 30,
    ) -> list[Job]:
        """The running jobs of workers that are taken for dead.

        Args:
            nb_seconds: Deprecated: running for so many seconds, whatever their worker does.
            queue: Jobs of this queue.
            task_name: Jobs of the task of this name.
            seconds_since_heartbeat: For so many seconds nothing was heard of their worker.
        """
        if nb_seconds is not None:
            warnings.warn(
                "get_stalled_jobs(nb_seconds=) takes long jobs for stalled ones: "
                "leave it out, the workers' heartbeats tell which are",
                DeprecationWarning,
                stacklevel=2,
            )
        return await self.connector.run_async(
            ListStalledJobs(
                nb_seconds=nb_seconds,
                queue=queue,
                task_name=task_name,
                seconds_since_heartbeat=seconds_since_heartbeat,
            )
        )

    async def list_jobs_to_abort_async(self, queue: str | None = None) -> list[int]:
        """The ids of the running jobs whose abort is asked for."""
        running = await self.list_jobs_async(queue=queue, status=Status.DOING)
        return [_id(job) for job in running if job.abort_requested]

    # -- workers --------------------------------------------------------------------------------

    async def fetch_job(self, queues: Iterable[str] | None, worker_id: int) -> Job | None:
        """Claim the next job for this worker, who then has to run and finish it; None: there is none."""
        jobs = (
            await self.connector.run_async(
                FetchJobs(worker_id, None if queues is None else list(queues), 1)
            )
        ).jobs
        return jobs[0] if jobs else None

    async def register_worker(self) -> int:
        """Make a row for a worker of this process. Returns its id."""
        from trio_queue._version import __version__

        return await self.connector.run_async(
            RegisterWorker(
                worker_name=None,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=__version__,
                queues=None,
                concurrency=1,
                stage="running",
            )
        )

    async def unregister_worker(self, worker_id: int) -> None:
        """Delete a worker's row."""
        await self.connector.run_async(UnregisterWorker(worker_id))

    async def update_heartbeat(self, worker_id: int) -> bool:
        """Renew a worker's lease. Returns whether its row is still there."""
        return await self.connector.run_async(UpdateHeartbeat(worker_id))

    async def prune_stalled_workers(self, seconds_since_heartbeat: float) -> list[int]:
        """Delete the rows of workers not heard of for so long. Returns their ids."""
        return await self.connector.run_async(PruneStalledWorkers(seconds_since_heartbeat))


def _id(job: Job) -> int:
    if job.id is None:
        raise JobNotFound(f"the job {job.call_string} has no id: it is not deferred yet")
    return job.id


def _retry(
    job_id: int,
    retry_at: datetime.datetime | None,
    priority: int | None,
    queue: str | None,
    lock: str | None,
) -> RetryJob:
    return RetryJob(job_id=job_id, retry_at=retry_at, priority=priority, queue=queue, lock=lock)
