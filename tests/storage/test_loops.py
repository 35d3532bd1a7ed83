"""One App, used from sync code and from several event loops: what works, and what it says where it cannot."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import procrastinate
import psycopg
import pytest
import trio

import trio_queue
from tests.colours import Run, in_both_loops, run_in_asyncio, run_in_trio
from tests.waiting import wait_until
from trio_queue.connector import BaseConnector
from trio_queue.exceptions import AppNotOpen
from trio_queue.testing import InMemoryConnector

Connect = Callable[[], BaseConnector]


class Application:
    """An App with a task, as one that a module defines."""

    def __init__(self, connector: BaseConnector) -> None:
        self.app = trio_queue.App(connector=connector)

        @self.app.task(name="work", queue="q")
        def work(number: int) -> int:
            return number

        self.work = work

    @property
    def numbers(self) -> list[Any]:
        """What was deferred, asked from sync code."""
        jobs = self.app.job_manager.list_jobs()
        return [job.task_kwargs["number"] for job in jobs]


@pytest.fixture
def application(queue_database: str) -> Application:
    return Application(trio_queue.PsycopgConnector(conninfo=queue_database, min_size=1))


@pytest.fixture(params=["PostgreSQL", "memory"])
def of_either(request: pytest.FixtureRequest) -> Application:
    if request.param == "memory":
        return Application(InMemoryConnector())
    return Application(
        trio_queue.PsycopgConnector(conninfo=request.getfixturevalue("queue_database"), min_size=1)
    )


async def in_thread(function: Callable[[], Any]) -> Any:
    """From whichever loop runs."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, function)
    except RuntimeError:
        return await trio.to_thread.run_sync(function)


def other_sessions(connection: psycopg.Connection[Any]) -> int:
    """How many there are in the connection's database beside it."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    ).fetchone()
    assert row is not None
    count: int = row[0]
    return count


# -- sync code ---------------------------------------------------------------------------------


def test_sync_code_without_a_loop(of_either: Application) -> None:
    with of_either.app.open() as opened:
        assert opened is of_either.app
        job_id = of_either.work.defer(number=1)
        of_either.work.batch_defer({"number": 2}, {"number": 3})
        of_either.work.configure(schedule_in={"hours": 1}, priority=1).defer(number=4)
        assert of_either.numbers == [1, 2, 3, 4]
        assert of_either.app.check_connection()
        assert of_either.app.job_manager.cancel_job_by_id(job_id)
        assert of_either.app.job_manager.get_job_status(job_id).value == "cancelled"


def test_threads_of_a_web_server_share_one_open_app(application: Application) -> None:
    def handle_request(number: int) -> int:
        return application.work.defer(number=number)

    with application.app.open(), concurrent.futures.ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(handle_request, range(40)))
    assert len(set(ids)) == 40


def test_sync_code_that_has_opened_nothing(application: Application) -> None:
    with pytest.raises(AppNotOpen, match=r"app\.open\(\)"):
        application.work.defer(number=1)


@in_both_loops
def test_threads_of_an_application_with_a_loop(of_either: Application, run: Run) -> None:
    async def main() -> None:
        async with of_either.app.open_async():
            await of_either.work.defer_async(number=1)
            await in_thread(lambda: of_either.work.defer(number=2))
            assert await in_thread(lambda: of_either.numbers) == [1, 2]

    run(main)


@in_both_loops
def test_a_sync_call_in_the_loop_says_what_to_await(of_either: Application, run: Run) -> None:
    async def main() -> None:
        async with of_either.app.open_async():
            # In a thread first: it makes no difference that sync code has its pool by then.
            await in_thread(lambda: of_either.work.defer(number=1))
            for call in (
                lambda: of_either.work.defer(number=2),
                lambda: of_either.work.batch_defer({"number": 2}),
                of_either.app.job_manager.list_jobs,
                of_either.app.check_connection,
            ):
                with pytest.raises(AppNotOpen, match=r"await defer_async\(\), or .*_async"):
                    call()
            assert await in_thread(lambda: of_either.numbers) == [1]

    run(main)


def test_a_sync_call_in_a_callback_of_the_loop_is_one_too(of_either: Application) -> None:
    async def main() -> None:
        refused = asyncio.get_running_loop().create_future()

        def call_back() -> None:
            with pytest.raises(AppNotOpen, match="await defer_async"):
                of_either.work.defer(number=1)
            refused.set_result(None)

        async with of_either.app.open_async():
            asyncio.get_running_loop().call_soon(call_back)
            await refused

    asyncio.run(asyncio.wait_for(main(), 30))


def test_procrastinate_refuses_it_too(queue_database: str) -> None:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=queue_database))

    async def main() -> None:
        async with app.open_async():
            with pytest.raises(RuntimeError, match="async event loop"):
                app.configure_task("work").defer(number=1)

    asyncio.run(main())


@in_both_loops
def test_a_sync_call_in_the_loop_works_where_sync_code_was_opened(
    of_either: Application, run: Run
) -> None:
    async def main() -> None:
        with of_either.app.open():
            of_either.work.defer(number=1)
            async with of_either.app.open_async():
                of_either.work.defer(number=2)
            # The loop's connections are closed, sync code's are not.
            of_either.work.defer(number=3)
            assert of_either.numbers == [1, 2, 3]

    run(main)


@in_both_loops
def test_ones_own_sync_connection_in_the_loop(
    application: Application, queue_database: str, run: Run
) -> None:
    async def main() -> None:
        with psycopg.connect(queue_database) as connection:
            application.work.configure(connection=connection).defer(number=1)
            connection.rollback()
            application.work.configure(connection=connection).defer(number=2)

    run(main)
    with application.app.open():
        assert application.numbers == [2]


# -- several loops -----------------------------------------------------------------------------


@pytest.mark.parametrize("second", [run_in_trio, run_in_asyncio])
@in_both_loops
def test_a_loop_after_another(application: Application, run: Run, second: Run) -> None:
    async def main() -> None:
        async with application.app.open_async():
            await application.work.defer_async(number=1)

    run(main)
    second(main)


@pytest.mark.parametrize("second", [run_in_trio, run_in_asyncio])
@in_both_loops
def test_a_loop_that_ended_without_closing(application: Application, run: Run, second: Run) -> None:
    async def open_only() -> None:
        await application.app.open_async()

    async def use() -> None:
        with pytest.raises(AppNotOpen, match="an event loop that has ended"):
            await application.work.defer_async(number=0)
        # Opened here, it works; what the other loop left is thrown away.
        async with application.app.open_async():
            await application.work.defer_async(number=1)
            assert await in_thread(lambda: application.numbers) == [1]

    run(open_only)
    second(use)
    with pytest.raises(AppNotOpen):
        application.work.defer(number=2)


@pytest.mark.parametrize("inner", [run_in_trio, run_in_asyncio])
@in_both_loops
def test_what_an_ended_loop_left_is_closed_with_anothers(
    application: Application, queue_database: str, run: Run, inner: Run
) -> None:
    async def open_only() -> None:
        await application.app.open_async()

    async def main() -> None:
        async with application.app.open_async():
            await in_thread(lambda: inner(open_only))
        assert not application.app.connector.is_open()

    run(main)
    assert not application.app.connector.is_open()
    with psycopg.connect(queue_database, autocommit=True) as connection:
        wait_until(lambda: other_sessions(connection) == 0, "the end of the sessions")


@pytest.mark.parametrize("inner", [run_in_trio, run_in_asyncio])
@in_both_loops
def test_an_app_opened_in_one_loop_and_used_in_another(
    application: Application, run: Run, inner: Run
) -> None:
    async def unopened() -> None:
        with pytest.raises(AppNotOpen, match="opened in another event loop"):
            await application.work.defer_async(number=0)

    async def main() -> None:
        async with application.app.open_async():
            await in_thread(lambda: inner(unopened))
            await application.work.defer_async(number=1)

    run(main)


@pytest.mark.parametrize("other", [run_in_trio, run_in_asyncio])
@in_both_loops
def test_two_loops_at_once_have_each_their_own(
    application: Application, run: Run, other: Run
) -> None:
    def deferring(ready: threading.Event, awaited: threading.Event, number: int) -> Any:
        async def main() -> None:
            async with application.app.open_async():
                ready.set()
                await in_thread(awaited.wait)
                await application.work.defer_async(number=number)
            with pytest.raises(AppNotOpen):
                await application.work.defer_async(number=number)

        return main

    a, b = threading.Event(), threading.Event()
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        calls: list[tuple[Run, Callable[[], Awaitable[Any]]]] = [
            (run, deferring(a, b, 1)),
            (other, deferring(b, a, 2)),
        ]
        for ended in [threads.submit(runner, main) for runner, main in calls]:
            ended.result(60)
    with application.app.open():
        assert sorted(application.numbers) == [1, 2]
