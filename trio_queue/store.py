"""The port to the database, opened for a worker: it runs verbs, and tells what is heard meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias, TypeVar

import attrs

from trio_queue.verbs import Verb

R = TypeVar("R")


# -- being told ---------------------------------------------------------------------------------


@attrs.frozen
class JobInserted:
    """There may be a new job to fetch."""


@attrs.frozen
class AbortRequested:
    """Somebody asked for the abort of this running job."""

    job_id: int


@attrs.frozen
class Missed:
    """Notifications may have been lost (the connection was): ask for everything that they tell."""


Notification: TypeAlias = JobInserted | AbortRequested | Missed


class Notifications(Protocol):
    """What is heard while listening."""

    async def wait(self) -> Sequence[Notification]:
        """Wait for what comes next, one at least.

        Reconnects by itself, without end, and says `Missed` when it has. Cancelled, nothing that
        was not returned is lost: the next call returns it.
        """
        ...


class Outages(Protocol):
    """Whoever wants to know when a store's own connections are lost. Told on Trio's thread.

    A store has connections that no verb is sent over: "notifications" and "heartbeat".
    """

    def began(self, connection: str, error: BaseException) -> None:
        """This connection is lost; it is tried again without end. Said again, it means nothing new."""
        ...

    def ended(self, connection: str) -> None:
        """It is there again. Means nothing where it was not lost."""
        ...


class Heartbeat(Protocol):
    """A lease that is being renewed, whatever the event loop does."""

    async def wait_lost(self) -> None:
        """Wait until the worker's row is found gone. Cancelled, nothing is lost."""
        ...

    def renew(self, worker_id: int) -> None:
        """Go on with the row that the worker got by registering anew."""
        ...

    def exit_process(self, status: int) -> None:
        """Delete the worker's row, so that its jobs are rescued at once, and end the process.

        From a signal handler, whatever the event loop does: 2 seconds at most, then the process
        ends with this exit status all the same. Returns at once.
        """
        ...


class JobStore(Protocol):
    """A database about jobs, opened for a worker, on Trio.

    Implemented by PostgreSQL, by the in-memory store, and by a wrapper that injects faults.
    """

    async def run(self, verb: Verb[R]) -> R:
        """Say something and wait for the answer.

        Raises:
            ConnectorException: The database is away or refused; `is_transient` tells which.
            Exception: What the verb says.

        Cancelled: the statement is cancelled on the server, or its answer is lost; a verb that
        changes rows may then have taken effect or not.
        """
        ...

    def is_transient(self, error: BaseException) -> bool:
        """Whether trying again may help: the server is away, or two transactions met."""
        ...

    def tell_outages(self, outages: Outages) -> None:
        """Tell of connections that are lost from here on; to be said before `listen` and `keep_alive`."""
        ...

    def listen(self, queues: Sequence[str] | None) -> AbstractAsyncContextManager[Notifications]:
        """Hear about new jobs of these queues (None: all) and about aborts.

        Once entered, nothing that happens afterwards is missed in silence.
        """
        ...

    def keep_alive(self, worker_id: int, interval: float) -> AbstractAsyncContextManager[Heartbeat]:
        """Renew the worker's lease every `interval` seconds while the block lasts.

        On PostgreSQL by a thread with a connection of its own, so that neither a job that blocks
        the event loop nor a busy pool delays it. The block's end waits for it, for a bounded time.
        """
        ...
