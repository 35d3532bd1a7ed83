from __future__ import annotations

from typing import Any

import pytest
import trio

from trio_queue import AbortReason, App, JobContext, job_context, jobs
from trio_queue.exceptions import TaskNotFound
from trio_queue.testing import InMemoryConnector


@pytest.fixture
def app() -> App:
    return App(connector=InMemoryConnector())


def context(app: App, **more: Any) -> JobContext:
    return JobContext(app=app, job=jobs.Job(id=1, task_name="task"), start_timestamp=0, **more)


def test_by_default_nothing_asks_the_job_to_stop(app: App) -> None:
    made = context(app)
    assert made.should_abort() is None
    assert made.abort_reason() is None
    assert made.shutting_down() is False
    assert made.additional_context == {}


def test_should_abort_tells_the_reason(app: App) -> None:
    made = context(app, abort_reason=lambda: AbortReason.SHUTDOWN)
    assert made.should_abort() is made.abort_reason() is AbortReason.SHUTDOWN
    assert job_context.AbortReason is jobs.AbortReason


async def test_a_job_hears_of_the_shutdown(app: App, autojump_clock: object) -> None:
    event = trio.Event()
    made = context(app, shutting_down=event.is_set, wait_shutting_down=event.wait)
    with trio.move_on_after(1) as scope:
        await made.wait_shutting_down()
    assert scope.cancelled_caught
    event.set()
    await made.wait_shutting_down()
    assert made.shutting_down()


async def test_without_a_worker_the_shutdown_never_comes(app: App, autojump_clock: object) -> None:
    with trio.move_on_after(1e6) as scope:
        await context(app).wait_shutting_down()
    assert scope.cancelled_caught


def test_evolve_keeps_the_rest(app: App) -> None:
    made = context(app, worker_name="w", shutting_down=lambda: True)
    evolved = made.evolve(worker_name="v", additional_context={"a": 1})
    assert (evolved.worker_name, evolved.shutting_down()) == ("v", True)
    assert (made.worker_name, made.additional_context) == ("w", {})


def test_the_task_is_the_apps(app: App) -> None:
    with pytest.raises(TaskNotFound, match="'task'"):
        _ = context(app).task
    task = app.task(name="task")(lambda: None)
    assert context(app).task is task


def test_queues_display(app: App) -> None:
    assert context(app).queues_display == "all queues"
    assert context(app, worker_queues=["a", "b"]).queues_display == "queues a, b"
