"""Middleware: functions around a task, or around every job of a worker.

A middleware takes `(call_next, context, worker)`, calls `call_next()` (awaits it, where it is async)
and returns its result, or another. Sync middleware runs in the thread of the sync task that it
stands around, async middleware in the event loop of the async task. A worker's own middleware is
async and stands around the jobs of both kinds.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from trio_queue import utils
from trio_queue.job_context import JobContext
from trio_queue.validation import check_middleware

F = TypeVar("F", bound=Callable[..., Any])

SyncCallNext: TypeAlias = Callable[[], Any]
AsyncCallNext: TypeAlias = Callable[[], Awaitable[Any]]

# The worker is Any: a function that declares it as a `trio_queue.Worker`, which lives above this
# module, would not be taken for one that takes a protocol.
SyncTaskMiddleware: TypeAlias = Callable[[SyncCallNext, JobContext, Any], Any]
AsyncTaskMiddleware: TypeAlias = Callable[[AsyncCallNext, JobContext, Any], Awaitable[Any]]
#: Around one task (`task(task_middleware=[...])`) or the tasks of its kind that a worker runs.
TaskMiddleware: TypeAlias = SyncTaskMiddleware | AsyncTaskMiddleware
#: Around every job that a worker runs, in the worker's event loop.
WorkerMiddleware: TypeAlias = Callable[[AsyncCallNext, JobContext, Any], Awaitable[Any]]


def is_async_middleware(middleware: Callable[..., Any]) -> bool:
    """Whether it stands around async tasks; also of partials and objects with `__call__`."""
    return utils.is_async_callable(middleware)


def check_worker_middleware(middlewares: Iterable[Callable[..., Any]]) -> None:
    """Refuse a worker's middleware that is not async.

    Raises:
        MiddlewareKindMismatch: One is sync.
        InvalidOption: One cannot be called.
    """
    for middleware in middlewares:
        check_middleware(middleware, is_async=True, of="the worker")


def of_kind(middlewares: Iterable[F], *, is_async: bool) -> list[F]:
    """Those of a worker's task middlewares that fit a task of this kind."""
    return [each for each in middlewares if is_async_middleware(each) is is_async]


def compose(
    middlewares: Sequence[Callable[..., Any]],
    run_task: Callable[[], Any],
    context: JobContext | None,
    worker: Any,
) -> Callable[[], Any]:
    """Put middlewares around a function, the first one outermost.

    Returns:
        What is to be called, and awaited where the middlewares are async. Without middlewares it
        is the function itself.
    """
    call_next = run_task
    for middleware in reversed(middlewares):
        call_next = functools.partial(middleware, call_next, context, worker)
    return call_next
