"""Why a job is what it is: each way to an end leaves its reason beside the job's event."""

from __future__ import annotations

import contextlib

import pytest
import trio
import trio.testing

from tests.fix_worker import (
    FaultyConnector,
    Steps,
    ThreadGate,
    rescue_elsewhere,
    wait_until,
    work,
    working,
)
from tests.worker.test_rescue import die_with_a_job
from trio_queue import App, BaseRetryStrategy, InterruptedJobs, JobContext, RetryDecision, Worker
from trio_queue.jobs import AbortReason, Job
from trio_queue.management import CancelJob
from trio_queue.testing import FaultyStore
from trio_queue.verbs import FetchJobs, UnregisterWorker


def last_event(connector: FaultyConnector, job_id: int = 1) -> tuple[str, str | None]:
    event = connector.events[job_id][-1]
    if event.reason is not None:
        assert event.attempt is not None
        assert event.worker_id is not None
    return event.type, event.reason


class Refusing(BaseRetryStrategy):
    """Raises, or decides what no row can hold."""

    def __init__(self, *, raises: bool) -> None:
        self._raises = raises

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision:  # noqa: ARG002 - as it is called
        if self._raises:
            raise ZeroDivisionError
        return RetryDecision(queue="x" * 1_000)


async def ask(connector: FaultyConnector, worker: Worker, who: str) -> None:
    """Let a user, or the worker's stop, abort job 1."""
    if who == "shutdown":
        worker.abort()
    else:
        assert connector.say(CancelJob(1, abort=True))
        await wait_until(lambda: connector.status(1) != "doing")


@pytest.mark.promise("What happened to a job / user_request", "What happened to a job / shutdown")
@pytest.mark.parametrize("who", ["user_request", "shutdown"])
@pytest.mark.parametrize(
    ("how", "event"), [("gives up", "aborted"), ("raises", "failed"), ("returns", "succeeded")]
)
async def test_who_aborted_stands_beside_the_end(
    app: App, connector: FaultyConnector, who: str, how: str, event: str
) -> None:
    steps = Steps()

    @app.task(name="job")
    async def job() -> None:
        if how == "gives up":
            await steps()
        with contextlib.suppress(trio.Cancelled):
            await steps()
        if how == "raises":
            raise ValueError

    await job.defer_async()
    async with working(app) as worker:
        await steps.started.wait()
        await ask(connector, worker, who)
    assert last_event(connector) == (event, who)


@pytest.mark.parametrize(
    ("policy", "event"),
    [("retry", "deferred_for_retry"), ("requeue", "deferred_for_retry"), ("abort", "aborted")],
)
async def test_a_shutdown_stands_beside_what_interrupted_jobs_made_of_the_job(
    app: App, connector: FaultyConnector, policy: str, event: str
) -> None:
    steps = Steps()
    await app.task(name="job", retry=True)(steps.__call__).defer_async()
    async with working(app, interrupted_jobs=policy) as worker:
        await steps.started.wait()
        worker.abort()
    assert last_event(connector) == (event, "shutdown")


@pytest.mark.promise("What happened to a job / shutdown; not begun")
async def test_a_job_that_had_not_begun_says_so(
    app: App, connector: FaultyConnector, gate: ThreadGate
) -> None:
    began: list[int] = []

    @app.task(name="job")
    def job(number: int) -> None:
        began.append(number)
        gate.wait()

    for number in (1, 2):
        await job.defer_async(number=number)
    async with working(app, concurrency=2, thread_limit=1) as worker:
        await gate.wait_entered()
        await wait_until(lambda: connector.statuses == ["doing", "doing"])
        await trio.testing.wait_all_tasks_blocked()
        worker.stop()
        [waiting] = {1, 2} - set(began)
        await wait_until(lambda: connector.status(waiting) == "todo")
        gate.open()
    assert last_event(connector, waiting) == ("deferred_for_retry", "shutdown; not begun")


async def test_a_job_of_a_claim_without_an_answer_is_released(
    app: App, connector: FaultyConnector, store: FaultyStore
) -> None:
    await app.configure_task("lost").defer_async()
    hung = store.hang(FetchJobs, after=True)
    async with working(app):
        await hung.wait_hit()
    assert last_event(connector) == ("deferred_for_retry", "released")


async def test_after_a_lost_lease_nothing_is_told(
    app: App, connector: FaultyConnector, store: FaultyStore
) -> None:
    ended = trio.Event()

    @app.task(name="job")
    async def job() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    await job.defer_async()
    async with working(app):
        await wait_until(lambda: connector.statuses == ["doing"])
        rescue_elsewhere(connector)
        store.lose_lease()
        await ended.wait()
    assert last_event(connector) == ("started", None), "the row is somebody else's"


@pytest.mark.promise("What happened to a job / worker_died")
@pytest.mark.parametrize(
    ("policy", "event"),
    [("requeue", "deferred_for_retry"), ("retry", "failed"), ("fail", "failed")],
)
async def test_a_workers_death_stands_beside_what_stalled_jobs_made_of_the_job(
    app: App,
    connector: FaultyConnector,
    autojump_clock: trio.testing.MockClock,
    policy: str,
    event: str,
) -> None:
    await app.configure_task("job").defer_async()
    connector.database.run(UnregisterWorker(die_with_a_job(connector)))
    async with working(app, queues=["another"], stalled_jobs=policy):
        await trio.sleep(11)  # its first rescue comes after a heartbeat
    assert last_event(connector) == (event, "worker_died")


@pytest.mark.promise("What happened to a job / task_not_found")
async def test_a_task_that_nobody_knows_is_the_reason(app: App, connector: FaultyConnector) -> None:
    await app.configure_task("nobody.knows").defer_async()
    await work(app)
    assert last_event(connector) == ("failed", "task_not_found")


@pytest.mark.promise("What happened to a job / retry_strategy_error")
async def test_a_retry_strategy_that_raises_is_the_reason(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job", retry=Refusing(raises=True))
    async def job() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    await job.defer_async()
    await work(app)
    assert last_event(connector) == ("failed", "retry_strategy_error")
    await job.defer_async()
    connector.database.run(UnregisterWorker(die_with_a_job(connector)))
    async with working(app, stalled_jobs="retry"):
        await trio.sleep(11)
    assert last_event(connector, 2) == ("failed", "worker_died; retry_strategy_error")


@pytest.mark.promise("What happened to a job / retry_refused")
async def test_a_retry_that_the_database_refuses_is_the_reason(
    app: App, connector: FaultyConnector
) -> None:
    connector.refuse(lambda completion: completion.retry is not None)

    @app.task(name="job", retry=Refusing(raises=False))
    async def job() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError

    await job.defer_async()
    await work(app)
    assert last_event(connector) == ("failed", "retry_refused")


@pytest.mark.promise("What becomes of interrupted jobs / whatever it says")
@pytest.mark.parametrize("policy", InterruptedJobs)
@pytest.mark.parametrize("moment", ["before", "while it drains", "while it aborts"])
async def test_a_users_cancel_is_not_undone_by_a_deploy(
    app: App,
    connector: FaultyConnector,
    autojump_clock: trio.testing.MockClock,
    moment: str,
    policy: InterruptedJobs,
) -> None:
    """The user cancels a job that takes its time to clean up, and the worker is replaced by another."""
    runs: list[object] = []

    @app.task(name="job", pass_context=True, retry=True)
    async def job(context: JobContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10)
            runs.append(context.abort_reason())

    def cancel() -> None:
        assert connector.say(CancelJob(1, abort=True))

    await job.defer_async()
    async with working(app, interrupted_jobs=policy) as worker:
        await trio.sleep(1)
        if moment == "before":
            cancel()
            await trio.sleep(1)
        worker.stop()
        await trio.sleep(1)
        if moment == "while it drains":
            cancel()
            await trio.sleep(1)
        worker.abort()
        await trio.sleep(1)
        if moment == "while it aborts":
            cancel()
    await work(app)
    first = AbortReason.SHUTDOWN if moment == "while it aborts" else AbortReason.USER_REQUEST
    assert runs == [first], "it ran once"
    event, reason = last_event(connector)
    assert event == "aborted"
    if moment == "while it aborts" and policy is not InterruptedJobs.ABORT:
        assert reason == "shutdown; user_request"
    else:
        assert reason == first.value
