"""What a running job may ask: its row, its App, and whether it should stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

import attrs
import sniffio
import trio
from typing_extensions import Unpack

from trio_queue import utils
from trio_queue.connector import BaseConnector
from trio_queue.deferring import ConfigureTaskOptions, JobDeferrer
from trio_queue.exceptions import TaskNotFound
from trio_queue.jobs import AbortReason, Job
from trio_queue.periodic import PeriodicRegistry
from trio_queue.tasks import AnyTask
from trio_queue.types import Flavor

__all__ = ["AbortReason", "JobContext", "WorkerOwner"]


class WorkerOwner(Protocol):
    """What a worker and its jobs need of their App. It is an `App`, seen from below."""

    #: What the worker's options are where they are not given.
    worker_defaults: Mapping[str, Any]
    #: `max_delay`, in seconds.
    periodic_defaults: Mapping[str, Any]
    #: The loop of async tasks that do not say; None: the worker's own.
    flavor: Flavor | None

    @property
    def connector(self) -> BaseConnector:
        """The way to the database."""
        ...

    @property
    def job_manager(self) -> Any:
        """The App's `manager.JobManager`."""
        ...

    @property
    def tasks(self) -> Mapping[str, AnyTask]:
        """Every task by its name, and by its aliases too."""
        ...

    @property
    def periodic_registry(self) -> PeriodicRegistry:
        """The periodic tasks."""
        ...

    def perform_import_paths(self) -> None:
        """Import the modules that define the tasks. Raises LoadFromPathError."""
        ...

    def configure_task(
        self, name: str, *, allow_unknown: bool = True, **options: Unpack[ConfigureTaskOptions]
    ) -> JobDeferrer:
        """See `App.configure_task`."""
        ...


def _is_not_shutting_down() -> bool:
    return False


def _is_not_aborted() -> None:
    return None


async def _never() -> None:
    if sniffio.current_async_library() == "trio":
        await trio.sleep_forever()
    import asyncio

    await asyncio.Event().wait()


@attrs.frozen(kw_only=True)
class JobContext:
    """What a task with `pass_context=True` gets first, and every middleware."""

    #: The App whose worker runs this job.
    app: WorkerOwner
    worker_name: str | None = None
    #: The queues that the worker fetches from; None: all.
    worker_queues: Iterable[str] | None = None
    #: The job as it was fetched.
    job: Job
    #: When the job began, in seconds since the epoch.
    start_timestamp: float
    #: What the worker was given as `additional_context=`.
    additional_context: dict[str, Any] = attrs.field(factory=dict[str, Any])
    #: To be called: why the job should stop, or None.
    abort_reason: Callable[[], AbortReason | None] = _is_not_aborted
    _shutting_down: Callable[[], bool] = attrs.field(
        default=_is_not_shutting_down, alias="shutting_down"
    )
    _wait_shutting_down: Callable[[], Awaitable[None]] = attrs.field(
        default=_never, alias="wait_shutting_down"
    )

    def should_abort(self) -> AbortReason | None:
        """Why the job should stop: clean up and raise `exceptions.JobAborted`; None: go on.

        Never blocks; may be called from any thread. Once there is a reason it stays the same.
        """
        return self.abort_reason()

    def shutting_down(self) -> bool:
        """Whether the worker has been asked to stop: a long job may save its work and end early.

        Never blocks; may be called from any thread.
        """
        return self._shutting_down()

    async def wait_shutting_down(self) -> None:
        """Wait until the worker is asked to stop; from Trio or asyncio. Cancelled, nothing is lost."""
        await self._wait_shutting_down()

    def evolve(self, **changes: Any) -> JobContext:
        """A copy of this context with other values."""
        return attrs.evolve(self, **changes)

    @property
    def queues_display(self) -> str:
        """The worker's queues as a log line names them."""
        return utils.queues_display(self.worker_queues)

    @property
    def task(self) -> AnyTask:
        """The job's task.

        Raises:
            TaskNotFound: The App has no task of this name.
        """
        try:
            return self.app.tasks[self.job.task_name]
        except KeyError:
            raise TaskNotFound(f"no task {self.job.task_name!r} is registered") from None
