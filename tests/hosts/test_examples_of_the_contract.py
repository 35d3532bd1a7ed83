"""The five ways to run a worker in asyncio that its users know: the same calls, and what each promises."""

from __future__ import annotations

import asyncio

import pytest

from tests.hosts.application import Application, RunLoop, eventually, on_both_loops

pytestmark = on_both_loops


async def wait_for_begin(application: Application) -> None:
    await asyncio.wait_for(application.began.wait(), 15)


def test_run_a_worker_until_no_job_is_left(application: Application, run: RunLoop[None]) -> None:
    app = application.app

    async def main() -> None:
        async with app.open_async():
            await app.configure_task("short").defer_async()
            await app.configure_task("short").defer_async()
            await app.run_worker_async(wait=False)
            assert application.saw == ["short", "short"]
            assert application.statuses == ["succeeded", "succeeded"]
            assert application.workers == 0, "it has shut down"
            # The App is open still, its owner closes it.
            await app.configure_task("short").defer_async()

    run(main())


@pytest.mark.parametrize("in_time", [True, False])
def test_run_a_worker_until_a_stop_signal(
    application: Application, run: RunLoop[None], *, in_time: bool
) -> None:
    import signal

    app = application.app
    before = signal.getsignal(signal.SIGTERM)

    async def stop() -> None:
        await wait_for_begin(application)
        signal.raise_signal(signal.SIGTERM)
        if in_time:
            await application.reach("draining")
            application.gate.set()

    async def main() -> None:
        async with app.open_async():
            await app.configure_task("hold").defer_async()
            stopping = asyncio.create_task(stop())
            await app.run_worker_async(
                shutdown_graceful_timeout=15 if in_time else 0.2, install_signal_handlers=True
            )
            await stopping

    run(main())
    assert application.saw == ["returned" if in_time else "cancelled: AbortReason.SHUTDOWN"]
    assert application.statuses == ["succeeded" if in_time else "aborted"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_a_worker_until_its_task_is_cancelled(
    application: Application, run: RunLoop[None]
) -> None:
    app = application.app

    async def main() -> None:
        async with app.open_async():
            await app.configure_task("hold").defer_async()
            worker = asyncio.create_task(app.run_worker_async())
            await wait_for_begin(application)
            worker.cancel()
            await application.reach("draining")
            assert not worker.done()
            asyncio.get_running_loop().call_soon(application.gate.set)
            try:
                await worker
            except asyncio.CancelledError:
                # The first await has waited for the jobs; a second one can only say the same again.
                assert application.saw == ["returned"]
                assert application.statuses == ["succeeded"]
                with pytest.raises(asyncio.CancelledError):
                    await worker
            else:
                raise AssertionError("it was cancelled")

    run(main())


def test_run_a_worker_until_its_task_is_cancelled_with_a_shutdown_timeout(
    application: Application, run: RunLoop[None]
) -> None:
    app = application.app

    async def main() -> None:
        async with app.open_async():
            await app.configure_task("hold").defer_async()
            worker = asyncio.create_task(app.run_worker_async(shutdown_graceful_timeout=0.2))
            await wait_for_begin(application)
            worker.cancel()
            try:
                await worker
            except asyncio.CancelledError:
                assert application.saw == ["cancelled: AbortReason.SHUTDOWN"]
                assert application.statuses == ["aborted"]
                assert application.workers == 0
            else:
                raise AssertionError("it was cancelled")

    run(main())


@pytest.mark.parametrize("in_time", [True, False])
def test_cancel_a_workers_task_and_abort_its_jobs_after_a_timeout(
    application: Application, run: RunLoop[None], *, in_time: bool
) -> None:
    app = application.app

    async def main() -> str:
        async with app.open_async():
            await app.configure_task("hold").defer_async()
            worker = asyncio.create_task(app.run_worker_async())
            await wait_for_begin(application)
            worker.cancel()
            if in_time:
                asyncio.get_running_loop().call_later(0.05, application.gate.set)
            try:
                await asyncio.wait_for(worker, timeout=15 if in_time else 0.2)
            except asyncio.CancelledError:
                assert application.saw == ["returned"]
                assert application.statuses == ["succeeded"]
                return "all jobs have completed"
            except asyncio.TimeoutError:  # noqa: UP041 - as the users write it
                assert worker.done()
                assert application.saw == ["cancelled: AbortReason.SHUTDOWN"]
                assert application.statuses == ["aborted"]
                return "jobs have aborted"
            raise AssertionError("it was cancelled")

    async def checked() -> None:
        assert await main() == ("all jobs have completed" if in_time else "jobs have aborted")
        await eventually(lambda: application.workers == 0, "the end of its row")

    run(checked())
