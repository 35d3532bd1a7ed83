"""Every error a user may meet. A class's docstring is its default message, so it is written to be read at night."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class TrioQueueException(Exception):
    """Unexpected trio_queue error."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.cleandoc(type(self).__doc__ or ""))


#: What an application written for Procrastinate catches.
ProcrastinateException = TrioQueueException


class TaskNotFound(TrioQueueException):
    """No task of this name is registered: import the module that defines it, or list it in the App's import_paths."""


class UnboundTaskError(TrioQueueException):
    """The task is not bound to an App yet: call App.add_tasks_from(blueprint, namespace=...) before deferring it."""


class TaskAlreadyRegistered(TrioQueueException):
    """A task of this name is already registered: give one of them another name=."""


class MiddlewareKindMismatch(TrioQueueException):
    """A sync task takes sync middleware, an async task async middleware, a worker async middleware."""


class LoadFromPathError(TrioQueueException, ImportError):
    """The App could not be imported from this path, or what is there is not an App."""


class JobAborted(TrioQueueException):
    """The job was aborted: raise this from a job that should_abort()."""


class AppNotOpen(TrioQueueException):
    """The App is not open. Open it around its use: `async with app.open_async():`, or `with app.open():` in sync code."""


class ConnectorException(TrioQueueException):
    """The database answered with an error, or not at all. The cause is in `__cause__`."""


class AlreadyEnqueued(TrioQueueException):
    """A job with the same queueing lock is already waiting in the queue."""

    def __init__(
        self, message: str | None = None, *, queueing_locks: Sequence[str | None] = ()
    ) -> None:
        super().__init__(message)
        #: The queueing locks of the jobs that were to be deferred.
        self.queueing_locks: tuple[str | None, ...] = tuple(queueing_locks)


class UniqueViolation(ConnectorException):
    """A unique constraint is violated; its name is in `constraint_name`."""

    def __init__(
        self,
        message: str | None = None,
        *,
        constraint_name: str | None = None,
        queueing_lock: str | None = None,
    ) -> None:
        super().__init__(message)
        self.constraint_name = constraint_name
        self.queueing_lock = queueing_lock


class NoResult(ConnectorException):
    """The statement returned no row where one was promised."""


class WorkerGone(ConnectorException):
    """The worker's row is gone from the database: somebody took it for stalled. It must register anew."""


class SchemaError(TrioQueueException):
    """The database has no schema that this version knows: run `trio-queue schema --apply`."""


class JobNotFound(ConnectorException):
    """There is no job with this id, or its status does not allow what was asked."""


class MissingApp(TrioQueueException):
    """No App is named: give --app=module.app or set TRIO_QUEUE_APP."""


class SyncConnectorConfigurationError(TrioQueueException):
    """This connector serves sync code only: give the App a PsycopgConnector to use it from Trio or asyncio."""


class CallerModuleUnknown(TrioQueueException):
    """The module of the caller cannot be told."""


class InvalidArguments(TrioQueueException, TypeError):
    """The arguments do not fit the task, or JSON cannot hold them."""


class InvalidOption(TrioQueueException, ValueError):
    """An option has a value that it cannot have."""


class InvalidTimestamp(TrioQueueException):
    """A periodic job was given a timestamp that is not the one it was deferred for."""


class FunctionPathError(TrioQueueException):
    """No name can be made for this function: pass name= to the task decorator."""


class WorkerAlreadyRan(TrioQueueException, RuntimeError):
    """A worker runs once: make a new one, worker = trio_queue.Worker(app, ...)."""


class OutcomesNotWritten(TrioQueueException):
    """The worker stopped while the database was away: the outcomes of some jobs could not be written.

    Their rows stay `doing` until a living worker rescues them.
    """


class HostLoopClosed(TrioQueueException, RuntimeError):
    """The asyncio loop that the worker ran in was closed under it: stop the worker, and await it, before you close the loop."""


class TrioAlreadyRuns(TrioQueueException, RuntimeError):
    """Trio runs in this thread already, and cannot be the guest of an asyncio loop too: run the worker from the Trio code, `await app.run_worker_async()`, or in a thread of its own."""


class NotOnTrio(TrioQueueException, RuntimeError):
    """This is for Trio, and another event loop runs: in an asyncio program, `await app.run_worker_async()`."""
