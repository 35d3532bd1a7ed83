"""Call a task in its flavour: on Trio, on asyncio, or in a thread, with the middleware around it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import trio

from trio_queue._worker.flavors import Flavors
from trio_queue._worker.forks import OneProcess
from trio_queue._worker.running import RunningJob
from trio_queue.job_context import JobContext
from trio_queue.middleware import TaskMiddleware, WorkerMiddleware, compose, of_kind
from trio_queue.owners import HostsJobs
from trio_queue.tasks import AnyTask
from trio_queue.types import Flavor
from trio_queue.utils import is_async_callable

# Threads are limited by the worker's own limiter, taken before; Trio's must not count them again.
_UNLIMITED = trio.CapacityLimiter(1_000_000)


@attrs.frozen(eq=False)
class Way:
    """How the jobs of one task are called: what is the same for each of them."""

    task: AnyTask
    #: The task's.
    function: Callable[..., Any]
    flavor: Flavor
    is_async: bool
    #: Async, for the loop that the worker runs in, with no middleware around it: Trio's.
    is_direct: bool
    #: The same: asyncio's.
    is_hosted: bool
    #: Around the function, the first one outermost.
    middleware: tuple[Callable[..., Any], ...]
    takes_context: bool


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
        self._ways: dict[AnyTask, Way] = {}

    def call(
        self,
        way: Way,
        running: RunningJob,
        context_of: Callable[[RunningJob], JobContext],
    ) -> Awaitable[Any]:
        """Run the body of a job inside its scope.

        Args:
            way: How its task is called.
            running: The job.
            context_of: Makes the job's context, where the function or a middleware takes it.

        Returns and raises what the body does. Cancelled: an async body hears it at its next
        checkpoint; a sync one is not begun where it still waits for a thread, else it goes on.
        """
        context = context_of(running) if way.takes_context else None
        if way.is_direct:
            return self._call_here(way, running, context)
        if self._worker_middleware:
            return self._in_middleware(way, running, context)
        return self._call_task(way, running, context)

    def host_of(self, way: Way) -> HostsJobs | None:
        """The asyncio loop around us, where the jobs of this task are tasks of it, and no more than that."""
        return self._flavors.host_of_jobs() if way.is_hosted else None

    def call_hosted(
        self,
        way: Way,
        running: RunningJob,
        context_of: Callable[[RunningJob], JobContext],
    ) -> Awaitable[Any]:
        """Run the body of a job in a task of the loop around us. See `call` and `host_of`."""
        context = context_of(running) if way.takes_context else None
        return self._call_here(way, running, context)

    async def _call_here(self, way: Way, running: RunningJob, context: JobContext | None) -> Any:
        # The path of most jobs, with as few steps as it takes: each costs every job its time.
        running.body_begins(in_thread=False)
        self._began(running)
        with OneProcess():
            if way.takes_context:
                return await way.function(context, **running.job.keywords)
            return await way.function(**running.job.keywords)

    def way_of(self, task: AnyTask) -> Way:
        """How the jobs of a task are called."""
        way = self._ways.get(task)
        if way is None:
            way = self._ways[task] = self._find_way(task)
        return way

    def _find_way(self, task: AnyTask) -> Way:
        host = self._flavors.host
        is_async = is_async_callable(task.func)
        flavor = self._flavors.of(task)
        middleware = (*self._task_middleware[is_async], *task.task_middleware)
        bare = is_async and flavor == host and not (middleware or self._worker_middleware)
        return Way(
            task=task,
            function=task.func,
            flavor=flavor,
            is_async=is_async,
            is_direct=bare and flavor == "trio",
            is_hosted=bare and flavor == "asyncio",
            middleware=middleware,
            takes_context=task.pass_context or bool(middleware or self._worker_middleware),
        )

    async def _in_middleware(
        self, way: Way, running: RunningJob, context: JobContext | None
    ) -> Any:
        host = self._flavors.host
        await self._flavors.make_ready(host)
        # The middleware is part of the body: once it runs, the job is not given back.
        self._begin(running, in_thread=False)
        run: Callable[[], Any]
        if way.is_async and way.flavor == host:
            # All of it in one loop.
            run = partial(_in_one_process, self._body(way, running, context))
        else:
            run = self._flavors.from_host(partial(self._call_task, way, running, context))
        return await self._flavors.run(
            host, compose(self._worker_middleware, run, context, self._worker)
        )

    def _body(self, way: Way, running: RunningJob, context: JobContext | None) -> Callable[[], Any]:
        arguments = (context,) if way.task.pass_context else ()
        body: Callable[[], Any] = partial(way.task.func, *arguments, **running.job.keywords)
        return compose(way.middleware, body, context, self._worker)

    async def _call_task(self, way: Way, running: RunningJob, context: JobContext | None) -> Any:
        body = self._body(way, running, context)
        if way.is_async:
            await self._flavors.make_ready(way.flavor)
            self._begin(running, in_thread=False)
            return await self._flavors.run(way.flavor, partial(_in_one_process, body))
        result = await self._in_thread(running, body)
        # What a function is, is told by what it does: a sync one may return an awaitable.
        return await self._awaited(way.flavor, result) if inspect.isawaitable(result) else result

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
