"""The guest's life: a loop that is stopped or closed under it, several loops, and the way across."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.hosts.application import Application, cancelled, eventually
from tests.waiting import PATIENCE
from trio_queue._loops.guest import Guest, open_guest
from trio_queue._loops.waking import woken_by_signals
from trio_queue.exceptions import TrioQueueException
from trio_queue.log import Action


def new_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


on_new_loops = pytest.mark.parametrize(
    "new_loop",
    [
        pytest.param(asyncio.new_event_loop, id="asyncio"),
        pytest.param(
            new_uvloop,
            id="uvloop",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("uvloop") is None,
                reason="uvloop has no wheel for this platform",
            ),
        ),
    ],
)
NewLoop = Callable[[], asyncio.AbstractEventLoop]


#: What psycopg's pool says of its tasks when their loop is closed before it.
its_connections_complain = pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


def assert_trio_can_run() -> None:
    trio.run(trio.lowlevel.checkpoint)
    gc.collect()  # what complains of its end does so now


def host_closed(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.__dict__.get("action") == Action.HOST_LOOP_CLOSED
    ]


@its_connections_complain
@on_new_loops
def test_a_loop_that_is_closed_under_a_worker(
    application: Application, new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Its jobs are aborted, their rows written; the thread may run Trio again."""
    caplog.set_level(logging.ERROR)
    trio_saw: list[str] = []

    @application.app.task(name="trio", flavor="trio")
    async def trio_job() -> None:
        trio_saw.append("began")
        try:
            await trio.sleep_forever()
        finally:
            trio_saw.append("cleaned up")

    async def noting(call_next: Callable[[], Awaitable[Any]], context: Any, worker: Any) -> Any:
        return await call_next()

    async def main() -> None:
        application.defer("trio")
        application.defer("hold")
        await application.start(concurrency=2)
        await application.start(concurrency=2, worker_middleware=[noting])
        await eventually(lambda: trio_saw == ["began"], "the Trio job")

    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    assert application.statuses == ["aborted", "aborted"]
    assert trio_saw == ["began", "cleaned up"]
    assert application.workers == 0
    [told] = host_closed(caplog)
    assert "before you close the loop" in told
    assert_trio_can_run()
    asyncio.run(application.app.run_worker_async(wait=False))


@its_connections_complain
@on_new_loops
def test_a_loop_that_is_closed_under_a_job_inside_of_middleware(
    application: Application, new_loop: NewLoop
) -> None:
    """Three crossings deep: asyncio middleware around Trio around asyncio."""

    async def noting(call_next: Callable[[], Awaitable[Any]], context: Any, worker: Any) -> Any:
        return await call_next()

    began = threading.Event()

    async def sleep() -> None:
        began.set()
        await asyncio.sleep(3600)

    @application.app.task(name="sync")
    def sync() -> Awaitable[None]:
        return sleep()

    async def main() -> None:
        application.defer("sync")
        application.worker_task = asyncio.create_task(  # type: ignore[attr-defined]  # kept alive
            application.app.run_worker_async(worker_middleware=[noting])
        )
        await eventually(began.is_set, "the job")

    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    assert application.statuses == ["aborted"]
    assert_trio_can_run()


@its_connections_complain
@on_new_loops
def test_a_loop_that_is_closed_while_a_job_that_was_cancelled_cleans_up(
    application: Application, new_loop: NewLoop
) -> None:
    cleaning = asyncio.Event()

    @application.app.task(name="slow")
    async def slow() -> None:
        application.began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cleaning.set()
            await asyncio.sleep(3600)

    async def main() -> None:
        application.defer("slow")
        worker = await application.start()
        worker.cancel()
        await application.reach("draining")
        worker.cancel()
        await asyncio.wait_for(cleaning.wait(), PATIENCE)

    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    assert application.statuses == ["aborted"]
    assert_trio_can_run()


@on_new_loops
def test_a_loop_that_is_stopped_and_run_again(application: Application, new_loop: NewLoop) -> None:
    tasks: list[asyncio.Task[None]] = []

    async def main() -> None:
        application.defer("hold")
        tasks.append(await application.start())

    async def other() -> None:
        with pytest.raises(TrioQueueException, match="was stopped with a worker inside"):
            await application.app.run_worker_async()

    async def rest() -> None:
        application.gate.set()
        tasks[0].cancel()
        with cancelled():
            await tasks[0]

    loop, another = new_loop(), new_loop()
    loop.run_until_complete(main())
    another.run_until_complete(other())
    loop.run_until_complete(rest())
    loop.close()
    another.close()
    assert application.statuses == ["succeeded"]
    assert_trio_can_run()


@on_new_loops
def test_the_loops_shutdown_drains_a_worker(
    application: Application, new_loop: NewLoop, caplog: pytest.LogCaptureFixture
) -> None:
    """Who closes a loop by hand mostly does this before, and cancels nothing."""

    async def main() -> None:
        application.defer("hold")
        application.worker_task = await application.start()  # type: ignore[attr-defined]  # kept alive
        asyncio.get_running_loop().call_later(0.1, application.gate.set)

    loop = new_loop()
    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert application.statuses == ["succeeded"]
    assert host_closed(caplog) == []
    assert_trio_can_run()


def test_two_loops_in_two_threads_share_an_app(application: Application) -> None:
    """Each has a guest and connections of its own; a signal is for the main thread's."""
    app = application.app
    loops: set[int] = set()
    both = threading.Barrier(2, timeout=PATIENCE)

    @app.task(name="meet")
    async def meet() -> None:
        loops.add(id(asyncio.get_running_loop()))
        await asyncio.to_thread(both.wait)
        await app.configure_task("short").defer_async()

    def work() -> None:
        asyncio.run(app.run_worker_async(wait=False))

    application.defer("meet")
    application.defer("meet")
    thread = threading.Thread(target=work)
    thread.start()
    work()
    thread.join(PATIENCE)
    assert len(loops) == 2
    assert application.statuses == ["succeeded"] * 4
    assert not app.connector.is_open()
    assert_trio_can_run()


# -- the ways across --------------------------------------------------------------------------------


def in_guest(test: Callable[[Guest], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_guest() as guest:
            await test(guest)

    asyncio.run(main())
    assert_trio_can_run()


async def raise_stray_cancelled() -> None:
    """Outside of the scope that was cancelled."""
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
    raise kept[0]


def test_asyncio_awaits_trio() -> None:
    async def double(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number * 2

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("on purpose")

    async def test(guest: Guest) -> None:
        assert await guest.run_trio(lambda: double(4)) == 8
        with pytest.raises(ValueError, match="on purpose"):
            await guest.run_trio(fail)

    in_guest(test)


def test_a_cancel_in_asyncio_cancels_the_trio_task_and_waits_for_it() -> None:
    saw: list[str] = []

    async def test(guest: Guest) -> None:
        sleeping = asyncio.Event()

        async def sleep() -> None:
            sleeping.set()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.01)
                saw.append("cleaned up")

        task = asyncio.create_task(guest.run_trio(sleep))
        await sleeping.wait()
        task.cancel()
        with cancelled():
            await task
        assert saw == ["cleaned up"]

    in_guest(test)


def test_a_cancel_of_trio_reaches_asyncio_and_back_again() -> None:
    """Trio awaits asyncio, which awaits Trio."""
    saw: list[str] = []

    async def test(guest: Guest) -> None:
        scope = trio.CancelScope()

        async def inner() -> None:
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                saw.append("inner")

        async def middle() -> None:
            try:
                await guest.run_trio(inner)
            finally:
                saw.append("middle")

        async def outer() -> None:
            with scope:
                await guest.run(middle)
            assert scope.cancelled_caught
            saw.append("outer")

        await guest.run_trio(outer)
        assert saw == ["inner", "middle", "outer"]

    in_guest(test)


def test_a_stray_cancelled_of_trio_is_data_and_ends_no_guest() -> None:
    async def test(guest: Guest) -> None:
        with pytest.raises(trio.Cancelled):
            await guest.run_trio(raise_stray_cancelled)
        await guest.run_trio(trio.lowlevel.checkpoint)

    in_guest(test)


def test_of_a_cancelled_nursery_its_own_error_comes_through() -> None:
    async def fail_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError("on purpose")

    async def test(guest: Guest) -> None:
        async def nursery() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(fail_when_cancelled)

        task = asyncio.create_task(guest.run_trio(nursery))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(ExceptionGroup) as caught:
            await task
        assert [type(error) for error in caught.value.exceptions] == [ValueError]

    in_guest(test)


def test_in_a_cancelled_scope_nothing_begins() -> None:
    async def test(guest: Guest) -> None:
        async def never() -> None:
            raise AssertionError("it began")

        async def outer() -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                await guest.run(never)
            assert scope.cancelled_caught

        await guest.run_trio(outer)

    in_guest(test)


def test_who_comes_while_the_guest_ends_waits_and_has_a_new_one() -> None:
    async def main() -> None:
        opening = open_guest()
        first = await opening.__aenter__()
        await first.run_trio(trio.lowlevel.checkpoint)
        leaving = asyncio.create_task(opening.__aexit__())
        await asyncio.sleep(0)
        assert first.ending
        async with open_guest() as second:
            assert second is not first
            await second.run_trio(trio.lowlevel.checkpoint)
        await leaving

    asyncio.run(main())
    assert_trio_can_run()


@on_new_loops
def test_a_signal_that_another_thread_gets_wakes_an_idle_loop(new_loop: NewLoop) -> None:
    """The kernel may choose any thread, such as the one in which Trio waits for events."""
    before = signal.getsignal(signal.SIGUSR1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()

        def hear(number: int, frame: object) -> None:
            heard.set()

        signal.signal(signal.SIGUSR1, hear)
        may_send = threading.Event()

        def send() -> None:
            may_send.wait()
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

        thread = threading.Thread(target=send)
        thread.start()
        with woken_by_signals(loop):
            # The next turn of the loop has nothing to do but wait.
            loop.call_soon(may_send.set)
            last = loop.time() + PATIENCE
            await asyncio.wait_for(heard.wait(), PATIENCE)
            assert loop.time() < last, "the timeout woke it"
        thread.join()

    loop = new_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
        signal.signal(signal.SIGUSR1, before)
    assert signal.set_wakeup_fd(-1) == -1, "the loop's, or ours, are gone"
