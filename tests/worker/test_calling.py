"""Calling a task: its middleware, its context, its thread."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, ThreadGate, wait_until, work, working
from trio_queue import App, JobContext, Worker
from trio_queue._worker.call import Caller
from trio_queue._worker.flavors import Flavors
from trio_queue._worker.running import RunningJob
from trio_queue.exceptions import MiddlewareKindMismatch
from trio_queue.jobs import Job

Call = Callable[[], Any]


class Order:
    """Middleware that notes the order in which it is passed."""

    def __init__(self) -> None:
        self.passed: list[str] = []

    def sync(self, name: str) -> Callable[[Call, JobContext, Any], Any]:
        def middleware(call_next: Call, context: JobContext, worker: Any) -> Any:
            self.passed.append(f"{name} in")
            result = call_next()
            self.passed.append(f"{name} out")
            return result

        return middleware

    def async_(self, name: str) -> Callable[[Call, JobContext, Any], Awaitable[Any]]:
        async def middleware(call_next: Call, context: JobContext, worker: Any) -> Any:
            self.passed.append(f"{name} in")
            result = await call_next()
            self.passed.append(f"{name} out")
            return result

        return middleware


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_middleware_is_passed_from_the_workers_own_to_the_tasks(app: App, kind: str) -> None:
    order = Order()

    async def job() -> None:
        await trio.lowlevel.checkpoint()
        order.passed.append("task")

    def sync_job() -> None:
        order.passed.append("task")

    if kind == "async":
        await app.task(name="job", task_middleware=[order.async_("5"), order.async_("6")])(
            job
        ).defer_async()
    else:
        await app.task(name="job", task_middleware=[order.sync("5"), order.sync("6")])(
            sync_job
        ).defer_async()
    of_kind = order.async_ if kind == "async" else order.sync
    await work(
        app,
        worker_middleware=[order.async_("1"), order.async_("2")],
        task_middleware=[
            of_kind("3"),
            order.sync("of the other kind")
            if kind == "async"
            else order.async_("of the other kind"),
            of_kind("4"),
        ],
    )
    inwards = [f"{number} in" for number in range(1, 7)]
    outwards = [f"{number} out" for number in range(6, 0, -1)]
    assert order.passed == [*inwards, "task", *outwards]


async def test_middleware_may_change_the_result_or_leave_the_task_out(
    app: App, connector: FaultyConnector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    called: list[str] = []

    async def instead(call_next: Call, context: JobContext, worker: Any) -> str:
        await trio.lowlevel.checkpoint()
        return f"instead of {context.job.task_name}"

    @app.task(name="job", task_middleware=[instead])
    async def job() -> None:
        called.append("job")
        await trio.lowlevel.checkpoint()

    await job.defer_async()
    await work(app)
    assert called == []
    [record] = [r for r in caplog.records if r.__dict__.get("action") == "job_success"]
    assert record.__dict__["result"] == "instead of job"


async def test_what_middleware_raises_is_the_jobs(app: App, connector: FaultyConnector) -> None:
    async def refuse(call_next: Call, context: JobContext, worker: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise PermissionError

    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    await work(app, worker_middleware=[refuse])
    assert connector.statuses == ["failed"]
    assert not steps.started.is_set()


async def test_middleware_is_given_the_worker_and_the_jobs_context(app: App) -> None:
    given: list[object] = []

    async def note(call_next: Call, context: JobContext, worker: Any) -> Any:
        given.extend([context.job.id, worker])
        return await call_next()

    @app.task(name="job")
    def job() -> None: ...

    await job.defer_async()
    worker = await work(app, worker_middleware=[note])
    assert given == [1, worker]


async def test_an_abort_reaches_the_middleware_around_a_job(
    app: App, connector: FaultyConnector
) -> None:
    passed: list[str] = []

    async def note(call_next: Call, context: JobContext, worker: Any) -> Any:
        try:
            return await call_next()
        finally:
            passed.append("cleaned up")

    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app, worker_middleware=[note]) as worker:
        await steps.started.wait()
        worker.abort()
    assert passed == ["cleaned up"]
    assert connector.statuses == ["aborted"]


def test_a_workers_middleware_is_async(app: App) -> None:
    with pytest.raises(MiddlewareKindMismatch):
        Worker(app, worker_middleware=[Order().sync("sync")])


# -- the context ----------------------------------------------------------------------------------


async def test_a_job_is_given_its_context(app: App) -> None:
    given: list[JobContext] = []

    @app.task(name="job", pass_context=True)
    async def job(context: JobContext, number: int) -> None:
        given.append(context)
        await trio.lowlevel.checkpoint()

    @app.task(name="sync", pass_context=True)
    def sync(context: JobContext, number: int) -> None:
        given.append(context)

    await job.defer_async(number=1)
    await sync.defer_async(number=2)
    await work(app, name="mine", queues=["default"], additional_context={"key": "value"})
    for number, (context, task) in enumerate(zip(given, (job, sync), strict=True), start=1):
        assert context.app is app
        assert context.worker_name == "mine"
        assert context.worker_queues == ("default",)
        assert context.job.id == number
        assert context.job.task_kwargs == {"number": number}
        assert context.task is task
        assert context.start_timestamp > 0
        assert context.additional_context == {"key": "value"}
        assert context.abort_reason() is None


async def test_what_a_job_changes_in_its_additional_context_is_its_own(app: App) -> None:
    found: list[dict[str, Any]] = []

    @app.task(name="job", pass_context=True)
    def job(context: JobContext) -> None:
        found.append(dict(context.additional_context))
        context.additional_context["mine"] = True

    await job.defer_async()
    await job.defer_async()
    given = {"key": "value"}
    await work(app, additional_context=given)
    assert found == [{"key": "value"}] * 2
    assert given == {"key": "value"}


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_context_variables_reach_jobs_and_do_not_leave_them(app: App, kind: str) -> None:
    found: list[str] = []

    @app.task(name="async")
    async def job() -> None:
        await trio.lowlevel.checkpoint()
        found.append(VARIABLE.get())
        VARIABLE.set("by a job")

    @app.task(name="sync")
    def sync() -> None:
        found.append(VARIABLE.get())
        VARIABLE.set("by a job")

    for _ in range(2):
        await app.configure_task(kind).defer_async()
    VARIABLE.set("around the worker")
    await work(app)
    assert found == ["around the worker"] * 2
    assert VARIABLE.get() == "around the worker"


# -- threads --------------------------------------------------------------------------------------


async def test_sync_jobs_run_in_threads_and_async_jobs_in_the_loop(app: App) -> None:
    threads: list[bool] = []

    @app.task(name="sync")
    def sync() -> None:
        threads.append(threading.current_thread() is threading.main_thread())

    @app.task(name="async")
    async def job() -> None:
        await trio.lowlevel.checkpoint()
        threads.append(threading.current_thread() is threading.main_thread())

    await sync.defer_async()
    await job.defer_async()
    await work(app)
    assert threads == [False, True]


@pytest.mark.parametrize("limit", [1, 2])
async def test_never_more_threads_run_than_thread_limit_says(
    app: App, connector: FaultyConnector, gate: ThreadGate, limit: int
) -> None:
    lock, running, most = threading.Lock(), 0, 0

    @app.task(name="job")
    def job() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait()
        with lock:
            running -= 1

    for _ in range(6):
        await job.defer_async()
    async with working(app, concurrency=6, thread_limit=limit):
        for _ in range(limit):
            await gate.wait_entered()
        assert most == limit
        gate.open()
        await wait_until_slowly(lambda: connector.statuses == ["succeeded"] * 6)
    assert most == limit


async def test_the_threads_are_not_those_of_trios_default_limiter(
    app: App, connector: FaultyConnector, gate: ThreadGate
) -> None:
    """Trio's default has 40 places, which jobs that use threads themselves need too."""

    @app.task(name="job")
    def job() -> None:
        gate.wait()

    await job.defer_async()
    async with working(app):
        await gate.wait_entered()
        # Only the thread in which the test waited has used it, and it has come back.
        assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
        gate.open()


async def wait_until_slowly(condition: Callable[[], bool]) -> None:
    """Wait for what threads do: each turn lets the loop wait for them."""
    while not condition():
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_an_async_job_runs_while_a_sync_one_blocks_its_thread(
    app: App, connector: FaultyConnector, gate: ThreadGate
) -> None:
    @app.task(name="sync")
    def sync() -> None:
        gate.wait()

    steps = Steps()
    steps.may_end.set()
    await sync.defer_async()
    await app.task(name="async")(steps.__call__).defer_async()
    async with working(app, concurrency=2):
        await gate.wait_entered()
        await wait_until(lambda: connector.statuses == ["doing", "succeeded"])
        gate.open()


async def test_a_job_that_is_given_back_in_the_moment_it_gets_its_thread_has_not_begun(
    app: App,
) -> None:
    began: list[RunningJob] = []
    caller = Caller(
        worker=None,
        flavors=Flavors(app, None),
        began=began.append,
        thread_limit=1,
        task_middleware=(),
        worker_middleware=(),
    )
    task = app.task(name="job")(lambda: None)
    running = RunningJob(Job(id=1, task_name="job"), worker_id=1)
    context = JobContext(app=app, job=running.job, start_timestamp=0)
    threads = caller._threads  # pyright: ignore[reportPrivateUsage]  # both happen in one step

    scope = trio.CancelScope(shield=True)
    running.interrupt = scope.cancel

    async def call() -> None:
        with scope:
            await caller.call(caller.way_of(task), running, lambda _: context)

    async with trio.open_nursery() as nursery:
        threads.acquire_on_behalf_of_nowait("another job")
        nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        threads.release_on_behalf_of("another job")
        running.give_back()
    assert scope.cancelled_caught
    assert not running.started
    assert began == []
