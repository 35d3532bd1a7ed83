"""Call a task in its flavour: on Trio, on asyncio, or in a thread, with the middleware around it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from trio_queue._worker.flavors import Flavors
from trio_queue._worker.forks import OneProcess
from trio_queue._worker.running import RunningJob
from trio_queue.job_context import JobContext
from trio_queue.middleware import TaskMiddleware, WorkerMiddleware, compose, of_kind
from trio_queue.tasks import AnyTask
from trio_queue.types import Flavor
from trio_queue.utils import is_async_callable

# Threads are limited by the worker's own limiter, taken before; Trio's must not count them again.
_UNLIMITED = trio.CapacityLimiter(1_000_000)


class Caller:
    """Calls tasks for one worker: its threads and its middleware."""

    def __init__(
        self,
        *,
        worker: Any,
        flavors: Flavors,
        began: Callable[[RunningJob], None],
        thread_limit: int,
        task_middleware: tuple[TaskMiddleware, ...],
        worker_middleware: tuple[WorkerMiddleware, ...],
    ) -> None:
        self._worker = worker
        self._flavors = flavors
        self._began = began
        self._threads = trio.CapacityLimiter(thread_limit)
        self._task_middleware = {
            is_async: of_kind(task_middleware, is_async=is_async) for is_async in (True, False)
        }
        self._worker_middleware = worker_middleware

    async def call(self, task: AnyTask, running: RunningJob, context: JobContext) -> Any:
        """Run the body of a job inside its scope.

        Returns and raises what the body does. Cancelled: an async body hears it at its next
        checkpoint; a sync one is not begun where it still waits for a thread, else it goes on.
        """
        if not self._worker_middleware:
            return await self._call_task(task, running, context)
        host = self._flavors.host
        await self._flavors.make_ready(host)
        # The middleware is part of the body: once it runs, the job is not given back.
        self._begin(running, in_thread=False)
        run: Callable[[], Any]
        if is_async_callable(task.func) and self._flavors.of(task) == host:
            # All of it in one loop.
            run = partial(_in_one_process, self._body(task, running, context, is_async=True))
        else:
            run = self._flavors.from_host(partial(self._call_task, task, running, context))
        return await self._flavors.run(
            host, compose(self._worker_middleware, run, context, self._worker)
        )

    def _body(
        self, task: AnyTask, running: RunningJob, context: JobContext, *, is_async: bool
    ) -> Callable[[], Any]:
        arguments = (context,) if task.pass_context else ()
        body: Callable[[], Any] = partial(task.func, *arguments, **running.job.keywords)
        middleware = (*self._task_middleware[is_async], *task.task_middleware)
        return compose(middleware, body, context, self._worker) if middleware else body

    async def _call_task(self, task: AnyTask, running: RunningJob, context: JobContext) -> Any:
        is_async = is_async_callable(task.func)
        flavor = self._flavors.of(task)
        body = self._body(task, running, context, is_async=is_async)
        if is_async:
            await self._flavors.make_ready(flavor)
            self._begin(running, in_thread=False)
            return await self._flavors.run(flavor, partial(_in_one_process, body))
        result = await self._in_thread(running, body)
        # What a function is, is told by what it does: a sync one may return an awaitable.
        return await self._awaited(flavor, result) if inspect.isawaitable(result) else result

    async def _awaited(self, flavor: Flavor, awaitable: Awaitable[Any]) -> Any:
        try:
            await self._flavors.make_ready(flavor)
            return await self._flavors.run(
                flavor, partial(_in_one_process, partial(_await, awaitable))
            )
        finally:
            # Aborted before it began.
            if (
                inspect.iscoroutine(awaitable)
                and inspect.getcoroutinestate(awaitable) == "CORO_CREATED"
            ):
                awaitable.close()

    def _begin(self, running: RunningJob, *, in_thread: bool) -> None:
        first = not running.started
        running.body_begins(in_thread=in_thread)
        if first:
            self._began(running)

    async def _in_thread(self, running: RunningJob, body: Callable[[], Any]) -> Any:
        async with self._threads:
            # acquire() may have been passed while the cancel came: a body never begins after it.
            await trio.lowlevel.checkpoint_if_cancelled()
            # No checkpoint from here to the thread's start that a cancel could be delivered at.
            self._begin(running, in_thread=True)
            try:
                [result] = await trio.to_thread.run_sync(partial(_boxed, body), limiter=_UNLIMITED)
            finally:
                running.thread_ended()
            return result


def _boxed(body: Callable[[], Any]) -> list[Any]:
    """The result in a box: Trio refuses a bare awaitable as the result of a thread."""
    with OneProcess():
        return [body()]


async def _in_one_process(body: Callable[[], Awaitable[Any]]) -> Any:
    with OneProcess():
        return await body()


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
