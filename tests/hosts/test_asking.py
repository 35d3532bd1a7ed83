"""How asyncio asks a worker to stop, and what then is raised: each cancel counts, none is lost."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import psycopg
import pytest
import trio

from tests.hosts.application import (
    Application,
    RunLoop,
    cancelled,
    eventually,
    on_both_loops,
    run_in_asyncio,
    the_worker,
)
from tests.waiting import PATIENCE
from trio_queue import App, JobContext, PsycopgConnector
from trio_queue.exceptions import (
    ConnectorException,
    NotOnTrio,
    SchemaError,
    TrioAlreadyRuns,
    TrioQueueException,
)
from trio_queue.testing import InMemoryConnector
from trio_queue.worker import Stage

#: How the two loops differ is in signals, closing and callbacks; what is asyncio's own is tried on one.
on_asyncio = pytest.mark.parametrize("run", [run_in_asyncio])


@pytest.mark.promise(
    "What asks for it / Task.cancel() of an asyncio task that awaits run_worker_async()",
    "What asks for it / Task.cancel() again",
)
@on_both_loops
def test_cancelled_once_twice_thrice(application: Application, run: RunLoop[None]) -> None:
    """The first drains, the second aborts, the third and the fourth add nothing: it waits still."""
    app = application.app
    cleaning = asyncio.Event()

    @app.task(name="slow to give up", pass_context=True)
    async def slow_to_give_up(context: JobContext) -> None:
        application.began.set()
        try:
            await asyncio.sleep(3600)
        finally:
            application.saw.append(f"{context.should_abort()}")
            cleaning.set()
            await application.gate.wait()
            application.saw.append("cleaned up")

    async def main() -> None:
        application.defer("slow to give up")
        worker = await application.start()
        worker.cancel()
        await application.reach("draining")
        assert application.saw == []
        worker.cancel()
        await asyncio.wait_for(cleaning.wait(), PATIENCE)
        worker.cancel()
        worker.cancel()
        await application.reach("aborting")
        assert application.statuses == ["doing"]
        assert worker.cancelling() == 4
        application.gate.set()
        with cancelled():
            await worker
        assert application.saw == ["AbortReason.SHUTDOWN", "cleaned up"]
        assert application.statuses == ["aborted"]

    run(main())


@on_both_loops
def test_a_cancel_before_the_first_step_and_one_while_it_starts(
    application: Application, run: RunLoop[None]
) -> None:
    async def main() -> None:
        application.defer("short")
        for turns in range(12):
            worker = asyncio.create_task(application.app.run_worker_async())
            for _ in range(turns):
                await asyncio.sleep(0)
            worker.cancel()
            with cancelled():
                await worker
            assert application.workers == 0
        assert trio.lowlevel.in_trio_run() is False

    run(main())


@on_asyncio
def test_a_cancel_while_an_idle_worker_waits(application: Application, run: RunLoop[None]) -> None:
    async def main() -> None:
        worker = asyncio.create_task(application.app.run_worker_async())
        await application.reach("running")
        worker.cancel("with a message")
        with pytest.raises(asyncio.CancelledError):
            await worker
        assert worker.cancelled()

    run(main())


@on_both_loops
def test_signals_and_cancels_count_together(application: Application, run: RunLoop[None]) -> None:
    async def main() -> None:
        application.defer("hold")
        worker = await application.start(install_signal_handlers=True)
        signal.raise_signal(signal.SIGTERM)
        await application.reach("draining")
        assert application.saw == []
        worker.cancel()
        with cancelled():
            await worker
        assert application.saw == ["cancelled: AbortReason.SHUTDOWN"]
        assert application.statuses == ["aborted"]

    run(main())


@on_both_loops
def test_the_handlers_of_the_application_come_back(
    application: Application, run: RunLoop[None]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        heard = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, heard.set)
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        await application.app.run_worker_async(wait=False, install_signal_handlers=True)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        signal.raise_signal(signal.SIGTERM)
        await asyncio.wait_for(heard.wait(), PATIENCE)
        loop.remove_signal_handler(signal.SIGTERM)

    run(main())


async def let_end_when_it_drains(application: Application) -> None:
    await application.reach("draining")
    application.gate.set()


@on_both_loops
def test_timeout_drains_and_raises_timeout_error_when_the_jobs_have_ended(
    application: Application, run: RunLoop[None]
) -> None:
    deadlines: list[asyncio.Timeout] = []

    async def expire() -> None:
        await asyncio.wait_for(application.began.wait(), PATIENCE)
        deadlines[0].reschedule(asyncio.get_running_loop().time())
        await let_end_when_it_drains(application)

    async def work() -> None:
        async with asyncio.timeout(None) as deadline:
            deadlines.append(deadline)
            await application.app.run_worker_async()

    async def main() -> None:
        application.defer("hold")
        expiring = asyncio.create_task(expire())
        with pytest.raises(TimeoutError):
            await work()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert application.saw == ["returned"]
        assert application.statuses == ["succeeded"]
        await expiring  # this task is not cancelled

    run(main())


@on_asyncio
def test_wait_for_drains_and_raises_timeout_error_when_the_jobs_have_ended(
    application: Application, run: RunLoop[None]
) -> None:
    async def main() -> None:
        application.defer("hold")
        worker = await application.start()
        ending = asyncio.create_task(let_end_when_it_drains(application))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(worker, 0.05)
        assert worker.cancelled()
        assert application.saw == ["returned"]
        assert application.statuses == ["succeeded"]
        await ending

    run(main())


@on_asyncio
def test_a_timeout_around_a_worker_that_is_cancelled_is_the_second_ask(
    application: Application, run: RunLoop[None]
) -> None:
    """And the cancel wins: it is not made a TimeoutError of."""
    deadlines: list[asyncio.Timeout] = []

    async def work() -> None:
        async with asyncio.timeout(None) as deadline:
            deadlines.append(deadline)
            await application.app.run_worker_async()

    async def main() -> None:
        application.defer("hold")
        worker = asyncio.create_task(work())
        await asyncio.wait_for(application.began.wait(), PATIENCE)
        worker.cancel()
        await application.reach("draining")
        deadlines[0].reschedule(asyncio.get_running_loop().time())
        with cancelled():
            await worker
        assert application.saw == ["cancelled: AbortReason.SHUTDOWN"]

    run(main())


@on_asyncio
def test_a_task_group_whose_other_task_fails(application: Application, run: RunLoop[None]) -> None:
    async def fail() -> None:
        await asyncio.wait_for(application.began.wait(), PATIENCE)
        asyncio.get_running_loop().call_later(0.1, application.gate.set)
        raise ValueError("on purpose")

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(application.app.run_worker_async())
            tasks.create_task(fail())

    async def main() -> None:
        application.defer("hold")
        with pytest.raises(ExceptionGroup) as caught:
            await both()
        assert [type(error) for error in caught.value.exceptions] == [ValueError]
        assert application.saw == ["returned"]
        assert application.statuses == ["succeeded"]

    run(main())


@on_both_loops
def test_the_loop_ends_while_a_worker_runs(application: Application, run: RunLoop[None]) -> None:
    """asyncio.run cancels every task that it knows: the worker drains, its jobs are not cancelled."""

    async def main() -> None:
        application.defer("hold")
        await application.start()
        asyncio.get_running_loop().call_later(0.1, application.gate.set)

    run(main())
    assert application.saw == ["returned"]
    assert application.statuses == ["succeeded"]
    assert application.workers == 0


@on_asyncio
def test_stop_and_abort_from_asyncio(application: Application, run: RunLoop[None]) -> None:
    made = the_worker(application.app)

    async def main() -> None:
        application.defer("hold")
        task = await application.start()
        [worker] = made
        worker.stop()
        assert worker.stage is Stage.DRAINING
        await application.reach("draining")
        worker.abort()
        await task
        assert application.statuses == ["aborted"]

    run(main())


@on_asyncio
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("on purpose")])
def test_what_a_job_raises_to_end_the_process_comes_bare_when_the_jobs_have_ended(
    application: Application, run: RunLoop[None], error: BaseException
) -> None:
    @application.app.task(name="exit")
    async def exit_() -> None:
        await asyncio.wait_for(application.began.wait(), PATIENCE)
        raise error

    async def main() -> None:
        application.defer("hold")
        application.defer("exit")
        with pytest.raises(type(error)) as caught:
            await application.app.run_worker_async(concurrency=2)
        assert caught.value is error
        assert application.saw == ["cancelled: AbortReason.SHUTDOWN"]
        assert application.statuses == ["aborted", "failed"]

    run(main())


@on_asyncio
def test_without_a_database_its_error_comes_bare(run: RunLoop[None], queue_database: str) -> None:
    application = Application(queue_database)
    application.close()
    application.app.connector = application.connector.moved_to(
        "host=127.0.0.1 port=1 user=me dbname=db"
    )

    async def main() -> None:
        with pytest.raises(ConnectorException, match="port 1"):
            await application.app.run_worker_async()
        assert not trio.lowlevel.in_trio_run()

    run(main())


#: What a version of Procrastinate that we do not know has done, and what then is said.
UNKNOWN_VERSIONS = {
    "older": (
        "DROP FUNCTION procrastinate_retry_job_v2",
        "before 3.10.*procrastinate_retry_job_v2.*apply Procrastinate's own migrations",
    ),
    "newer": (
        (
            "CREATE TRIGGER procrastinate_trigger_later_v9 AFTER INSERT ON procrastinate_jobs"
            " FOR EACH ROW EXECUTE FUNCTION procrastinate_trigger_function_status_events_insert_v1()"
        ),
        "procrastinate_trigger_later_v9.*take a newer trio_queue",
    ),
    "this one, and nobody has applied ours": ("SELECT", "run `trio-queue schema --apply`"),
}


@on_asyncio
@pytest.mark.parametrize("version", UNKNOWN_VERSIONS)
def test_a_database_that_it_does_not_know_is_left_alone(
    run: RunLoop[None], stock_database: str, version: str
) -> None:
    change, says = UNKNOWN_VERSIONS[version]
    with psycopg.connect(stock_database, autocommit=True) as connection:
        connection.execute(change.encode())
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('q', 'work')"
        )
        app = App(connector=PsycopgConnector(conninfo=stock_database))

        async def main() -> None:
            with pytest.raises(SchemaError, match=says):
                await app.run_worker_async(wait=False)

        run(main())
        assert not trio.lowlevel.in_trio_run()
        rows = connection.execute("SELECT status::text, attempts FROM procrastinate_jobs")
        assert rows.fetchall() == [("todo", 0)]
        assert connection.execute("SELECT id FROM procrastinate_workers").rowcount == 0


@on_asyncio
def test_an_app_that_is_not_open_is_opened_and_closed(
    application: Application, run: RunLoop[None]
) -> None:
    """Jobs defer over it, and a second worker too, until the last one has ended."""
    app = application.app

    @app.task(name="deferring")
    async def deferring() -> None:
        await app.configure_task("short").defer_async()

    async def main() -> None:
        application.defer("deferring")
        await app.run_worker_async(wait=False)
        assert not app.connector.is_open()
        assert application.saw == ["short"]
        async with app.open_async():
            await app.configure_task("deferring").defer_async()
            await app.run_worker_async(wait=False)
            assert app.connector.is_open()
        assert application.statuses == ["succeeded"] * 4

    run(main())


@on_both_loops
def test_several_workers_share_a_guest_which_ends_with_the_last(
    application: Application, run: RunLoop[None]
) -> None:
    async def main() -> None:
        for _ in range(2):
            application.defer("hold")
        workers = [
            asyncio.create_task(application.app.run_worker_async(name=str(number)))
            for number in range(3)
        ]
        await application.reach("running", 3)
        await eventually(lambda: application.holding == 2, "both jobs")
        workers[0].cancel()
        workers[1].cancel()
        workers[2].cancel()
        await application.reach("draining", 2)
        assert trio.lowlevel.in_trio_run()
        application.gate.set()
        for worker in workers:
            with cancelled():
                await worker
        assert not trio.lowlevel.in_trio_run()
        assert application.saw == ["returned"] * 2
        # And anew.
        await application.app.run_worker_async(wait=False)
        assert not trio.lowlevel.in_trio_run()

    run(main())


@on_asyncio
def test_a_worker_begins_while_the_guest_ends(application: Application, run: RunLoop[None]) -> None:
    async def main() -> None:
        async def one_after_the_other() -> None:
            for _ in range(3):
                await application.app.run_worker_async(wait=False)

        await asyncio.gather(*(one_after_the_other() for _ in range(3)))
        assert not trio.lowlevel.in_trio_run()

    run(main())


@on_asyncio
def test_trio_runs_in_the_thread_already(application: Application, run: RunLoop[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        may_end = trio.Event()
        trio.lowlevel.start_guest_run(
            may_end.wait,
            done_callback=done.set_result,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            host_uses_signal_set_wakeup_fd=True,
        )
        with pytest.raises(TrioAlreadyRuns, match="run the worker from the Trio code"):
            await application.app.run_worker_async()
        may_end.set()
        await done

    run(main())


@on_asyncio
def test_run_worker_is_for_sync_code(run: RunLoop[None]) -> None:
    async def main() -> None:
        with pytest.raises(TrioQueueException, match=r"await app\.run_worker_async\(\) instead"):
            App(connector=InMemoryConnector()).run_worker()

    run(main())


@pytest.mark.only_trio("a Trio task calls asyncio.run(), which a loop around it refuses by itself")
@pytest.mark.parametrize("run", ["run_worker_async", "Worker.run"])
async def test_an_asyncio_loop_that_a_trio_task_has_started(run: str) -> None:
    """It blocks Trio, which then can be neither its guest nor go on beside it."""
    app = App(connector=InMemoryConnector())
    main = app.run_worker_async() if run == "run_worker_async" else app.worker().run()
    with pytest.raises(TrioAlreadyRuns, match="run the worker from the Trio code"):
        asyncio.run(main)
    # Nothing has come into Trio's way.
    await app.run_worker_async(wait=False, install_signal_handlers=False)


@on_asyncio
def test_a_workers_run_is_for_trio(application: Application, run: RunLoop[None]) -> None:
    async def main() -> None:
        with pytest.raises(NotOnTrio, match="run_worker_async"):
            await application.app.worker().run()

    run(main())
