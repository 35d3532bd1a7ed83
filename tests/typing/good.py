"""What type checkers must let pass. Checked, never run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from trio_queue import App, BaseConnector, Blueprint, JobContext, RetryStrategy, Worker


async def around(
    call_next: Callable[[], Awaitable[Any]], context: JobContext, worker: Worker
) -> Any:
    worker.stop()
    assert context.job.id
    return await call_next()


async def use(connector: BaseConnector) -> None:
    app = App(connector=connector, worker_defaults={"concurrency": 3}, flavor="trio")
    blueprint = Blueprint()

    @app.task
    def add(a: int, b: str = "") -> int:
        return a

    @app.task(queue="q", retry=RetryStrategy(max_attempts=3), interrupted_jobs="requeue")
    async def add_async(a: int) -> int:
        return a

    @blueprint.task(pass_context=True, retry=True, task_middleware=[around])
    async def with_context(context: JobContext, a: int) -> str:
        context.app.configure_task("x").defer(a=a)
        return f"{context.task.name}{context.should_abort()}"

    @app.periodic(cron="@daily", periodic_id="b")
    @app.periodic(cron="@daily", timezone="Europe/Berlin", queue="q")
    @app.task
    def nightly(timestamp: int) -> None: ...

    job_id: int = add.defer(a=1, b="x")
    job_id = await add.defer_async(a=1)
    job_ids: list[int] = add.batch_defer({"a": 1}, {"a": job_id})
    job_ids = await add.batch_defer_async(*({"a": job_id} for job_id in job_ids))
    job_id = add.configure(priority=1, schedule_in={"minutes": 5}).defer(a=1)
    result: int = add(1, b="x")
    result = await add_async(a=result)
    await add_async.defer_async(a=1)
    with_context.defer(a=1)
    nightly.defer(timestamp=1)
    async with app.open_async() as opened:
        await opened.run_worker_async(queues=["q"], wait=False)
    with app.open():
        assert [job.status for job in app.job_manager.list_jobs(status="todo")]
