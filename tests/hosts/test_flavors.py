"""asyncio tasks: the same promises wherever they run, on the host's loop or beside Trio."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import sniffio
import trio

from tests.hosts.places import ONLY_TRIO_ASYNCIO, PLACES, Place
from tests.waiting import PATIENCE
from trio_queue import App, JobContext, PsycopgConnector
from trio_queue.jobs import AbortReason
from trio_queue.testing import InMemoryConnector
from trio_queue.worker import Worker

Call = Callable[[], Any]


def id_of(place: Place) -> str:
    return place.name


@pytest.fixture(
    params=[
        pytest.param(
            place,
            id=place.name,
            marks=pytest.mark.skipif(
                place.name == "uvloop" and importlib.util.find_spec("uvloop") is None,
                reason="uvloop has no wheel for this platform",
            ),
        )
        for place in PLACES
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.param
    return found


@pytest.fixture
def connector() -> InMemoryConnector:
    return InMemoryConnector()


@pytest.fixture
def app(connector: InMemoryConnector) -> App:
    return App(connector=connector, flavor="asyncio")


@pytest.fixture
def saw() -> list[Any]:
    """What jobs noted, in order."""
    return []


def statuses(app: App) -> list[str]:
    return [
        str(job.status) for job in sorted(app.job_manager.list_jobs(), key=lambda job: job.id or 0)
    ]


class Meddler:
    """A sync job that does something to the worker when the job that it waits for has begun."""

    def __init__(self, app: App, meddle: Callable[[Worker], object]) -> None:
        self.began = threading.Event()

        @app.task(name="meddler")
        def meddler() -> None:
            assert self.began.wait(PATIENCE)
            meddle(self.workers[0])

        self.workers: list[Worker] = []
        make = app.worker

        def note(**options: Any) -> Worker:
            self.workers.append(make(**options))
            return self.workers[-1]

        app.worker = note  # type: ignore[method-assign]  # run_worker_async makes them by this
        meddler.defer()


def test_on_trio_asyncio_too() -> None:
    """In a process of its own: importing trio-asyncio changes asyncio for all that comes after."""
    if os.environ.get(ONLY_TRIO_ASYNCIO):
        return  # this is that process
    if sys.version_info >= (3, 14):
        assert importlib.util.find_spec("trio_asyncio") is not None
        return  # it cannot be imported there: its asyncio jobs run in a thread by themselves
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "-p",
            "no:cacheprovider",
            __file__,
        ],
        env={**os.environ, ONLY_TRIO_ASYNCIO: "yes"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "skipped" not in ran.stdout


# -- what a job is ----------------------------------------------------------------------------------


def test_an_async_task_runs_as_an_asyncio_task(app: App, place: Place, saw: list[Any]) -> None:
    @app.task(name="job")
    async def job(number: int) -> int:
        assert asyncio.current_task() is not None
        await asyncio.sleep(0)
        saw.append(sniffio.current_async_library())
        async with asyncio.timeout(PATIENCE):
            [doubled] = await asyncio.gather(asyncio.to_thread(lambda: number * 2))
        return int(doubled)

    job.defer(number=4)
    place.work(app)
    assert statuses(app) == ["succeeded"]
    assert saw == ["asyncio"]


def test_a_trio_task_runs_on_trio(app: App, place: Place, saw: list[Any]) -> None:
    @app.task(name="job", flavor="trio")
    async def job() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0)
        saw.append(sniffio.current_async_library())

    job.defer()
    place.work(app)
    assert statuses(app) == ["succeeded"]
    assert saw == ["trio"]


def test_a_sync_task_that_returns_an_awaitable(app: App, place: Place, saw: list[Any]) -> None:
    async def work(then: str) -> None:
        await asyncio.sleep(0)
        saw.append((sniffio.current_async_library(), then))

    @app.task(name="lambda")
    def job() -> Awaitable[None]:
        return work("the coroutine of a sync function")

    job.defer()
    place.work(app)
    assert statuses(app) == ["succeeded"]
    assert saw == [("asyncio", "the coroutine of a sync function")]


def test_what_a_job_raises(app: App, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(name="job", retry=1)
    async def job() -> None:
        await asyncio.sleep(0)
        raise ValueError("on purpose")

    @app.task(name="group")
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(job.func())

    job.defer()
    group.defer()
    place.work(app)
    assert statuses(app) == ["failed", "failed"]
    errors = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert {type(error) for error in errors} == {ValueError, ExceptionGroup}


VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


def test_context_variables_reach_jobs_and_do_not_leave_them(
    app: App, place: Place, saw: list[Any]
) -> None:
    @app.task(name="job")
    async def job() -> None:
        saw.append(VARIABLE.get())
        VARIABLE.set("by a job")
        await asyncio.sleep(0)
        saw.append(VARIABLE.get())

    job.defer()
    job.defer()

    def work() -> None:
        VARIABLE.set("around the worker")
        place.work(app, concurrency=1)
        assert VARIABLE.get() == "around the worker"

    contextvars.copy_context().run(work)
    assert saw == ["around the worker", "by a job"] * 2


# -- how a job is stopped ---------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["shutdown", "user"])
def test_an_abort_arrives_as_cancelled_error_after_its_reason(
    app: App, place: Place, saw: list[Any], who: str
) -> None:
    meddler = Meddler(
        app,
        lambda worker: (
            worker.abort() if who == "shutdown" else app.job_manager.cancel_job_by_id(2, abort=True)
        ),
    )

    @app.task(name="job", pass_context=True)
    async def job(context: JobContext) -> None:
        try:
            meddler.began.set()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            saw.append(context.should_abort())
            # Shielded or not, what cleans up may await: it was cancelled once.
            await asyncio.shield(asyncio.sleep(0.01))
            await asyncio.sleep(0.01)
            saw.append("cleaned up")
            raise

    job.defer()
    place.work(app)
    reason = AbortReason.SHUTDOWN if who == "shutdown" else AbortReason.USER_REQUEST
    assert saw == [reason, "cleaned up"]
    assert statuses(app) == ["succeeded", "aborted"]


def test_a_cancel_that_is_swallowed_is_a_success(app: App, place: Place) -> None:
    meddler = Meddler(app, lambda worker: worker.abort())

    @app.task(name="job")
    async def job() -> None:
        meddler.began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return

    job.defer()
    place.work(app)
    assert statuses(app) == ["succeeded", "succeeded"]


def test_what_a_job_raises_when_it_is_cancelled_is_its_failure(app: App, place: Place) -> None:
    meddler = Meddler(app, lambda worker: worker.abort())

    @app.task(name="job")
    async def job() -> None:
        meddler.began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("on purpose")

    job.defer()
    place.work(app)
    assert statuses(app) == ["succeeded", "failed"]


@pytest.mark.parametrize("with_middleware", [False, True])
def test_a_stray_cancel_of_trio_is_a_failure_and_the_worker_lives(
    app: App, place: Place, *, with_middleware: bool
) -> None:
    """Inside of asyncio middleware too, where it comes from Trio by way of asyncio."""

    async def noting(call_next: Call, context: JobContext, worker: Any) -> Any:
        return await call_next()

    @app.task(name="job", flavor="trio")
    async def job() -> None:
        kept: list[trio.Cancelled] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                kept.append(cancelled)
        raise kept[0]

    job.defer()
    job.defer()
    place.work(app, worker_middleware=[noting] if with_middleware else [], concurrency=1)
    assert statuses(app) == ["failed", "failed"]


@pytest.mark.parametrize("how", ["cancels itself", "raises it"])
def test_a_stray_cancel_is_a_failure(
    app: App, place: Place, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="job")
    async def job() -> None:
        if how == "raises it":
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(3600)

    job.defer()
    place.work(app)
    assert statuses(app) == ["failed"]
    [error] = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert isinstance(error, asyncio.CancelledError)


def test_a_coroutine_of_a_sync_task_is_cancelled_too(
    app: App, place: Place, saw: list[Any]
) -> None:
    meddler = Meddler(app, lambda worker: worker.abort())

    async def work() -> None:
        meddler.began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            saw.append("cancelled")

    @app.task(name="job")
    def job() -> Awaitable[None]:
        return work()

    job.defer()
    place.work(app)
    assert saw == ["cancelled"]
    assert statuses(app) == ["succeeded", "aborted"]


def test_wait_shutting_down(app: App, place: Place, saw: list[Any]) -> None:
    meddler = Meddler(app, lambda worker: worker.stop())

    @app.task(name="asyncio", pass_context=True)
    async def job(context: JobContext) -> None:
        waiting = asyncio.create_task(context.wait_shutting_down())
        await asyncio.sleep(0)
        waiting.cancel()  # loses nothing
        meddler.began.set()
        await context.wait_shutting_down()
        await context.wait_shutting_down()
        saw.append(context.shutting_down())

    @app.task(name="trio", pass_context=True, flavor="trio")
    async def trio_job(context: JobContext) -> None:
        await context.wait_shutting_down()
        saw.append(context.shutting_down())

    trio_job.defer()
    job.defer()
    place.work(app)
    assert saw == [True, True]
    assert statuses(app) == ["succeeded"] * 3


# -- what must harm nobody --------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("on purpose")])
def test_what_would_end_the_process_ends_the_worker_when_its_jobs_have_ended(
    app: App, place: Place, saw: list[Any], error: BaseException
) -> None:
    began = asyncio.Event()

    @app.task(name="other")
    async def other() -> None:
        try:
            began.set()
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)  # its clean-up takes a while
            saw.append("cleaned up")

    @app.task(name="exit")
    async def exit_() -> None:
        await began.wait()
        await asyncio.sleep(0)
        raise error

    other.defer()
    exit_.defer()
    with pytest.raises(type(error)) as caught:
        place.work(app)
    assert caught.value is error
    assert saw == ["cleaned up"]
    assert statuses(app) == ["aborted", "failed"]


@pytest.mark.parametrize("what", ["a task", "a callback"])
def test_an_exception_that_nobody_waits_for_is_logged_and_the_worker_lives(
    app: App, place: Place, saw: list[Any], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("nobody waits for this")

    async def fail_in_task() -> None:
        fail()

    @app.task(name="job")
    async def job() -> None:
        if what == "a task":
            forgotten = asyncio.create_task(fail_in_task())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert forgotten.done()
            del forgotten
            gc.collect()  # asyncio says so when the task is forgotten
        else:
            asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(0.01)  # the callback fails meanwhile
        saw.append("to its end")

    job.defer()
    job.defer()
    gc.collect()  # what other tests have left complains now
    with caplog.at_level(logging.ERROR):
        place.work(app, concurrency=1)
    assert saw == ["to its end"] * 2
    assert statuses(app) == ["succeeded"] * 2
    told = [record for record in caplog.records if record.exc_info]
    assert ["nobody waits" in str(record.exc_info) for record in told] == [True, True]


@pytest.mark.parametrize("what", ["a task", "a callback", "a timer"])
def test_what_a_job_leaves_behind_ends_no_loop_beside_trio(
    app: App, place: Place, saw: list[Any], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    if place.host == "asyncio":
        return  # there it is the application's loop, and asyncio's own rule: it ends the loop

    left = asyncio.Event()

    def leave() -> None:
        left.set()
        sys.exit(3)

    async def leave_in_task() -> None:
        leave()

    @app.task(name="job")
    async def job() -> None:
        loop = asyncio.get_running_loop()
        match what:
            case "a task":
                forgotten = asyncio.create_task(leave_in_task())
                await left.wait()
                with pytest.raises(SystemExit):
                    await forgotten
            case "a callback":
                loop.call_soon(leave)
            case _:
                loop.call_later(0.001, leave)
        await left.wait()
        await asyncio.sleep(0.01)  # the loop's timers go on
        saw.append("to its end")

    job.defer()
    place.work(app)
    assert saw == ["to its end"]
    assert statuses(app) == ["succeeded"]
    assert "ends nothing" in caplog.text


# -- middleware -------------------------------------------------------------------------------------


def test_middleware_runs_in_the_loop_of_what_it_stands_around(
    app: App, place: Place, saw: list[Any]
) -> None:
    """A task's in the task's, a worker's own in the host's; context variables pass inwards."""

    def noting(name: str) -> Callable[[Call, JobContext, Any], Awaitable[Any]]:
        async def middleware(call_next: Call, context: JobContext, worker: Any) -> Any:
            saw.append((name, sniffio.current_async_library()))
            VARIABLE.set(f"{VARIABLE.get()} {name}")
            return await call_next()

        return middleware

    async def body() -> None:
        saw.append(("body", sniffio.current_async_library(), VARIABLE.get()))

    app.task(name="asyncio", task_middleware=[noting("task's")])(body)
    app.task(name="trio", flavor="trio", task_middleware=[noting("task's")])(body)

    @app.task(name="sync")
    def sync() -> None:
        saw.append(("body", VARIABLE.get()))

    for name in ("asyncio", "trio", "sync"):
        app.configure_task(name).defer()
    place.work(
        app,
        concurrency=1,
        worker_middleware=[noting("worker's")],
        task_middleware=[noting("tasks'")],
    )
    assert statuses(app) == ["succeeded"] * 3
    assert saw == [
        ("worker's", place.host),
        ("tasks'", "asyncio"),
        ("task's", "asyncio"),
        ("body", "asyncio", "unset worker's tasks' task's"),
        ("worker's", place.host),
        ("tasks'", "trio"),
        ("task's", "trio"),
        ("body", "trio", "unset worker's tasks' task's"),
        ("worker's", place.host),
        ("body", "unset worker's"),
    ]


@pytest.mark.parametrize("flavor", ["asyncio", "trio"])
def test_an_abort_passes_through_a_workers_middleware(
    app: App, place: Place, saw: list[Any], flavor: Any
) -> None:
    meddler = Meddler(app, lambda worker: worker.abort())

    async def noting(call_next: Call, context: JobContext, worker: Any) -> Any:
        try:
            return await call_next()
        finally:
            if context.job.task_name == "job":
                saw.append("middleware")

    @app.task(name="job", flavor=flavor)
    async def job() -> None:
        meddler.began.set()
        try:
            if flavor == "asyncio":
                await asyncio.sleep(3600)
            else:
                await trio.sleep_forever()
        finally:
            saw.append("job")

    job.defer()
    place.work(app, worker_middleware=[noting])
    assert saw == ["job", "middleware"]
    assert statuses(app) == ["succeeded", "aborted"]


# -- the database -----------------------------------------------------------------------------------


def test_jobs_use_the_app_in_each_flavour(
    place: Place, queue_database: str, saw: list[Any]
) -> None:
    """Nobody had opened it: the worker did, for each loop, and closed it."""
    app = App(connector=PsycopgConnector(conninfo=queue_database, min_size=1), flavor="asyncio")

    async def use() -> None:
        deferred = await app.configure_task("short").defer_async()
        [first, *_] = await app.job_manager.list_jobs_async()
        saw.append((deferred, first.id, app.connector.is_open()))

    app.task(name="short")(saw.clear)
    app.task(name="asyncio")(use)
    app.task(name="trio", flavor="trio")(use)

    @app.task(name="sync")
    def sync() -> None:
        saw.append((app.configure_task("short").defer(), 1, app.connector.is_open()))

    with app.open():
        for name in ("asyncio", "trio", "sync"):
            app.configure_task(name).defer()
    place.work(app, concurrency=1, queues=None)
    with app.open():
        assert statuses(app) == ["succeeded"] * 6
    assert not app.connector.is_open()


def test_jobs_defer_to_a_database_in_memory(place: Place, app: App) -> None:
    async def use() -> None:
        await app.configure_task("short").defer_async()

    app.task(name="short")(lambda: None)
    app.task(name="asyncio")(use)
    app.task(name="trio", flavor="trio")(use)
    app.configure_task("asyncio").defer()
    app.configure_task("trio").defer()
    place.work(app)
    assert statuses(app) == ["succeeded"] * 4


def test_an_app_without_a_flavour_runs_its_tasks_in_the_hosts(
    connector: InMemoryConnector, place: Place, saw: list[Any]
) -> None:
    app = App(connector=connector)

    @app.task(name="job")
    async def job() -> None:
        saw.append(sniffio.current_async_library())

    @app.task(name="asyncio", flavor="asyncio")
    async def asyncio_job() -> None:
        await asyncio.sleep(0)

    job.defer()
    asyncio_job.defer()
    place.work(app)
    assert saw == [place.host]
    assert statuses(app) == ["succeeded"] * 2


def test_a_task_that_is_registered_while_the_worker_runs(
    connector: InMemoryConnector, place: Place
) -> None:
    """The loop that it needs is opened for its first job."""
    app = App(connector=connector)
    other: Any = "trio" if place.host == "asyncio" else "asyncio"

    async def late() -> None:
        assert sniffio.current_async_library() == other

    @app.task(name="early")
    def early() -> None:
        app.task(name="late", flavor=other)(late).defer()
        app.configure_task("late").defer()

    early.defer()
    place.work(app)
    assert statuses(app) == ["succeeded"] * 3
