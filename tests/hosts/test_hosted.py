"""A job that is one task of the asyncio loop around the worker, and no task of Trio's."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn

import pytest

from trio_queue import App
from trio_queue._loops.hosted import HostedTask
from trio_queue._loops.interrupts import Interrupts
from trio_queue.jobs import Status
from trio_queue.testing import InMemoryConnector

OPTIONS: dict[str, Any] = {"install_signal_handlers": False, "concurrency": 1, "prefetch": 5}


@pytest.fixture
def app() -> App:
    return App(connector=InMemoryConnector())


def test_a_job_that_makes_room_for_the_next_does_not_leave_it_its_context_variables(
    app: App,
) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="clean")
    found: list[str] = []

    @app.task(name="job")
    async def job() -> None:
        found.append(variable.get())
        variable.set("of another job")

    async def main() -> None:
        async with app.open_async():
            for _ in range(3):
                await job.defer_async()
            await app.run_worker_async(wait=False, **OPTIONS)

    asyncio.run(main())
    assert found == ["clean"] * 3


def test_a_job_that_is_aborted_while_it_waits_for_a_place_never_begins(app: App) -> None:
    began: list[int] = []

    @app.task(name="job")
    async def job(number: int) -> None:
        began.append(number)
        await app.job_manager.cancel_job_by_id_async(2, abort=True)
        while await app.job_manager.get_job_status_async(2) is not Status.ABORTED:  # noqa: ASYNC110 - another's row
            await asyncio.sleep(0)

    async def main() -> None:
        async with app.open_async():
            for number in (1, 2):
                await job.defer_async(number=number)
            await asyncio.wait_for(app.run_worker_async(wait=False, **OPTIONS), 30)
            assert [job.status for job in await app.job_manager.list_jobs_async()] == [
                "succeeded",
                "aborted",
            ]

    asyncio.run(main())
    assert began == [1]


class Told:
    """What a task tells at its end."""

    def __init__(self, interrupts: Interrupts | None = None) -> None:
        self.tasks: list[HostedTask[Any]] = []
        self.ran = False
        self.interrupts = interrupts or Interrupts()

    async def function(self) -> None:
        self.ran = True

    def start(self) -> HostedTask[None]:
        loop = asyncio.get_running_loop()
        task = HostedTask(self.function, self.tasks.append, lambda _: None, loop, self.interrupts)
        task.start(contextvars.copy_context())
        return task


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_that_is_cancelled_before_its_first_step_says_that_it_has_ended() -> None:
    told = Told()

    async def main() -> None:
        task = told.start()
        task.cancel()
        task.cancel()
        await turns()
        task.cancel()
        await turns()
        assert told.tasks == [task]
        assert task.is_cancelled
        assert isinstance(task.error, asyncio.CancelledError)

    asyncio.run(main())
    assert not told.ran


def test_ctrl_c_just_before_one_tells_its_end_does_not_keep_it_from_that() -> None:
    class Struck(Interrupts):
        def call_whole(self, function: Callable[[], object]) -> None:
            del function
            raise KeyboardInterrupt

    told = Told(Struck())

    def say_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None: ...

    async def main() -> None:
        # asyncio says that nobody looked at the task.
        asyncio.get_running_loop().set_exception_handler(say_nothing)
        told.start()
        await turns()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    [task] = told.tasks
    assert task.error is None


def test_one_of_a_task_factory_is_made_in_a_turn_of_its_own_and_may_be_cancelled_before() -> None:
    """asyncio.eager_task_factory takes the first step at once."""
    told = Told()
    made: list[Any] = []

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(make)
        made.clear()
        runs, cancelled = told.start(), told.start()
        assert made == []
        cancelled.cancel()
        await turns()
        assert len(made) == 1
        assert set(told.tasks) == {runs, cancelled}
        assert runs.error is None
        assert isinstance(cancelled.error, asyncio.CancelledError)
        asyncio.get_running_loop().set_task_factory(None)

    asyncio.run(main())
    assert told.ran


def test_one_that_cannot_be_made_says_why_and_not_before_it_was_to_begin() -> None:
    told = Told()

    def refuse(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("no more tasks")

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(refuse)
        task = told.start()
        assert told.tasks == []
        await turns()
        assert told.tasks == [task]
        assert "no more tasks" in str(task.error)
        asyncio.get_running_loop().set_task_factory(None)

    asyncio.run(main())
    assert not told.ran


def ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    del loop, context


def test_one_whose_loop_is_closed_has_ended_when_it_is_cancelled() -> None:
    told = Told()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(ignore)  # it would say that a task of it was pending

    async def function() -> None:
        await asyncio.Event().wait()

    async def start() -> HostedTask[None]:
        told.function = function  # type: ignore[method-assign]  # one that does not end
        task = told.start()
        await turns()
        return task

    task = loop.run_until_complete(start())
    loop.close()
    task.cancel()
    assert told.tasks == [task]
    assert isinstance(task.error, asyncio.CancelledError)
