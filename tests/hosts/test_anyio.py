"""A worker in a program of anyio's: the cancel of a scope, repeated in each turn of the loop, is one ask."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from typing import Any

import pytest

from tests.hosts.application import Application
from trio_queue import JobContext

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("anyio") is None,
    reason="anyio is not installed: it is in the dependency group `test`",
)


@pytest.fixture
def anyio() -> Any:
    # Not by `import`: type checkers need not have it.
    return importlib.import_module("anyio")


def test_a_cancelled_scope_drains(application: Application, anyio: Any) -> None:
    async def main() -> None:
        application.defer("hold")
        scope = anyio.CancelScope()

        async def cancel() -> None:
            await application.began.wait()
            scope.cancel()
            await application.reach("draining")
            application.gate.set()

        cancelling = asyncio.create_task(cancel())
        with scope:
            await application.app.run_worker_async()
        assert scope.cancelled_caught
        assert application.saw == ["returned"]
        assert application.statuses == ["succeeded"]
        await cancelling

    anyio.run(main, backend="asyncio")


def test_a_cancelled_task_group_drains_and_a_task_cancel_aborts(
    application: Application, anyio: Any
) -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await application.app.run_worker_async()

    async def main() -> None:
        application.defer("hold")
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await application.began.wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await application.reach("draining")
                assert application.saw == []
                tasks[0].cancel()
        assert application.saw == ["cancelled: AbortReason.SHUTDOWN"]
        assert application.statuses == ["aborted"]

    anyio.run(main, backend="asyncio")


def test_on_trio_a_cancelled_scope_drains(application: Application, anyio: Any) -> None:
    """There it is `Worker.run`, and tasks are Trio's."""
    app, saw = application.app, application.saw

    @app.task(name="hold on trio", pass_context=True)
    async def hold_on_trio(context: JobContext) -> None:
        scopes[0].cancel()
        await context.wait_shutting_down()
        await anyio.sleep(0)
        saw.append("returned")

    scopes: list[Any] = []

    async def main() -> None:
        async with app.open_async():
            await hold_on_trio.defer_async()
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await app.run_worker_async()
            assert scope.cancelled_caught
            assert saw == ["returned"]
            assert application.statuses == ["succeeded"]

    anyio.run(main, backend="trio")
