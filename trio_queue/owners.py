"""What a task, a deferrer and a context need of their App and their worker, as protocols."""

from __future__ import annotations

import datetime
from typing import Any, Protocol

from trio_queue.jobs import Job


class DefersJobs(Protocol):
    """What a deferrer needs of the App's job manager."""

    def now(self) -> datetime.datetime:
        """This moment, by the connector's clock."""
        ...

    def defer_job(self, job: Job, connection: Any = None) -> Job:
        """Insert one job; the same job with its id."""
        ...

    def batch_defer_jobs(self, jobs: list[Job], connection: Any = None) -> list[Job]:
        """Insert jobs, all or none."""
        ...

    async def defer_job_async(self, job: Job, connection: Any = None) -> Job:
        """Insert one job from an event loop."""
        ...

    async def batch_defer_jobs_async(self, jobs: list[Job], connection: Any = None) -> list[Job]:
        """Insert jobs from an event loop, all or none."""
        ...


class TaskOwner(Protocol):
    """What a task needs of the App or the Blueprint that it belongs to."""

    def will_configure_task(self) -> None:
        """Be told that one of its tasks is about to be deferred.

        Raises:
            UnboundTaskError: It is a Blueprint that no App has taken tasks from.
        """
        ...

    @property
    def job_manager(self) -> DefersJobs:
        """What inserts the jobs. Raises UnboundTaskError as `will_configure_task` does."""
        ...
