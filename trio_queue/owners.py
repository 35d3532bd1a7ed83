"""What a task, a deferrer and a context need of their App and their worker, as protocols."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from enum import Enum
from typing import Any, Protocol, TypeVar

import trio

from trio_queue.jobs import Job

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class DefersJobs(Protocol):
    """What a deferrer needs of the App's job manager."""

    def now(self) -> datetime.datetime:
        """This moment, by the connector's clock."""
        ...

    def insert_jobs(self, jobs: Sequence[Job], connection: Any = None) -> list[int]:
        """Insert jobs, all or none; their ids, in order."""
        ...

    async def insert_jobs_async(self, jobs: Sequence[Job], connection: Any = None) -> list[int]:
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


class AsyncioBackend(Enum):
    """What runs asyncio tasks under a Trio host."""

    TRIO_ASYNCIO = "trio-asyncio"  #: A loop on top of Trio, in the same thread.
    THREAD = "thread"  #: A loop of asyncio's own, in a helper thread.


class RunsAsyncio(Protocol):
    """Who runs asyncio code for a Trio task: the loop that hosts Trio, or one beside it."""

    async def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await `function()` in a task of an asyncio loop, in a copy of the caller's context. From Trio.

        Returns and raises what it does: SystemExit and KeyboardInterrupt too, which end neither
        loop. Cancelled, it cancels the task, once, and waits until that has ended: what the task
        returns is returned, its CancelledError goes on as Trio's Cancelled. A CancelledError that
        nobody asked for comes out as one.

        Raises:
            HostLoopClosed: The asyncio loop is closed.
        """
        ...


class Hosted(Protocol[T_co]):
    """A task of the loop that hosts Trio, for which no Trio task waits."""

    @property
    def is_cancelled(self) -> bool:
        """Whether it was asked to stop."""
        ...

    @property
    def error(self) -> BaseException | None:
        """What it raised; None: it returned."""
        ...

    @property
    def value(self) -> T_co:
        """What it returned."""
        ...

    def cancel(self) -> None:
        """Ask it to stop."""
        ...


class HostsJobs(Protocol):
    """An asyncio loop that runs jobs as its tasks."""

    def host(
        self,
        function: Callable[[], Awaitable[T]],
        ended: Callable[[Hosted[T]], None],
        context: Context,
    ) -> Hosted[T]:
        """Begin a task of the loop, for which no Trio task waits. From the loop's thread.

        Args:
            function: Makes what is awaited, in the task.
            ended: Called once, when it has ended, inside of Trio's run or outside of it.
            context: Nobody else runs in it.
        """
        ...


class HostsTrio(RunsAsyncio, HostsJobs, Protocol):
    """An asyncio loop with Trio as its guest: code crosses both ways."""

    @property
    def is_open(self) -> bool:
        """Whether the loop can run anything: it is not closed."""
        ...

    async def run_trio(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await `function()` in a Trio task, in a copy of the caller's context. From asyncio.

        Cancelled, it cancels the Trio task, and waits until that has ended.
        """
        ...


#: The asyncio loop whose guest this Trio run is; None where Trio runs by itself.
asyncio_host: trio.lowlevel.RunVar[HostsTrio | None] = trio.lowlevel.RunVar("asyncio_host", None)


class HostedWorker(Protocol):
    """A worker, seen by what brings it into an asyncio loop."""

    async def run(self) -> None:
        """Work until asked to stop. On Trio."""
        ...

    def ask(self, who: str) -> None:
        """Ask once: the first time it drains, the second time it aborts."""
        ...

    def abort(self) -> None:
        """Abort the running jobs, then stop."""
        ...
