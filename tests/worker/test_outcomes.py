"""What becomes of rows, through a worker."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import pytest
import trio
import trio.lowlevel
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, ThreadGate, rescue_elsewhere, work, working
from trio_queue import (
    App,
    BaseRetryStrategy,
    InterruptedJobs,
    JobContext,
    RetryDecision,
    RetryStrategy,
)
from trio_queue.exceptions import JobAborted
from trio_queue.jobs import AbortReason, Job
from trio_queue.management import CancelJob

pytestmark = pytest.mark.both_hosts


async def run_interrupted(
    app: App, connector: FaultyConnector, steps: Steps, *, by_user: bool = False, **options: Any
) -> None:
    """Run job 1, whose body says that it started, and interrupt it."""
    async with working(app, **options) as worker:
        await steps.started.wait()
        if by_user:
            assert connector.say(CancelJob(1, abort=True))
            while connector.status(1) == "doing":
                await trio.lowlevel.checkpoint()
        else:
            worker.abort()


@pytest.mark.promise(
    'What becomes of interrupted jobs / "retry"',
    'What becomes of interrupted jobs / "requeue"',
    'What becomes of interrupted jobs / "abort"',
    "What becomes of a job / is cancelled by the worker, or had not begun",
)
@pytest.mark.parametrize(
    ("retry", "policy", "expected", "attempts"),
    [
        (False, InterruptedJobs.RETRY, "aborted", 1),
        (True, InterruptedJobs.RETRY, "todo", 1),
        (False, InterruptedJobs.REQUEUE, "todo", 0),
        (True, InterruptedJobs.REQUEUE, "todo", 0),
        (False, InterruptedJobs.ABORT, "aborted", 1),
        (True, InterruptedJobs.ABORT, "aborted", 1),
    ],
)
@pytest.mark.parametrize("on", ["worker", "task"])
async def test_what_a_shutdown_interrupts_ends_as_interrupted_jobs_says(
    app: App,
    connector: FaultyConnector,
    retry: bool,
    policy: InterruptedJobs,
    expected: str,
    attempts: int,
    on: str,
) -> None:
    steps = Steps()
    of_task = policy if on == "task" else None
    another = InterruptedJobs.REQUEUE if policy is InterruptedJobs.ABORT else InterruptedJobs.ABORT
    of_worker = policy if on == "worker" else another
    task = app.task(name="job", retry=retry, interrupted_jobs=of_task)(steps.__call__)
    await task.defer_async()
    await run_interrupted(app, connector, steps, interrupted_jobs=of_worker)
    assert connector.statuses == [expected]
    assert connector.jobs[1]["attempts"] == attempts
    assert connector.events[1][-1].reason == "shutdown"


async def test_a_user_may_abort_a_job_and_it_is_never_retried(
    app: App, connector: FaultyConnector
) -> None:
    steps = Steps()
    await app.task(name="job", retry=True)(steps.__call__).defer_async()
    await run_interrupted(app, connector, steps, by_user=True, interrupted_jobs="requeue")
    assert connector.statuses == ["aborted"]
    assert not connector.jobs[1]["abort_requested"]
    assert connector.jobs[1]["attempts"] == 1


@pytest.mark.promise("What lives in which stage / hearing a user's request to abort")
async def test_a_user_may_abort_a_job_while_the_worker_drains(
    app: App, connector: FaultyConnector
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app) as worker:
        await steps.started.wait()
        worker.stop()
        await trio.testing.wait_all_tasks_blocked()
        connector.say(CancelJob(1, abort=True))
    assert connector.statuses == ["aborted"]
    assert connector.events[1][-1].reason == "user_request"


@pytest.mark.promise("What lives in which stage / hearing a user's request to abort")
async def test_a_user_may_abort_a_job_while_the_worker_aborts(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    reasons: list[object] = []

    @app.task(name="job", pass_context=True)
    async def job(context: JobContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(20)
            reasons.append(context.should_abort())
        await trio.sleep_forever()

    await job.defer_async()
    async with working(app, listen_notify=False, interrupted_jobs="requeue") as worker:
        await trio.sleep(1)
        worker.abort()
        await trio.sleep(1)
        connector.say(CancelJob(1, abort=True))
    assert reasons == [AbortReason.SHUTDOWN], "the first reason stays"
    # It would go back to its queue; the row remembers what the user asked.
    assert connector.statuses == ["aborted"]


async def test_a_reason_once_set_stays(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    reasons: list[object] = []

    @app.task(name="job", pass_context=True, retry=True)
    async def job(context: JobContext) -> None:
        try:
            await trio.sleep_forever()
        finally:
            reasons.append(context.abort_reason())
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            reasons.append(context.abort_reason())

    await job.defer_async()
    async with working(app, interrupted_jobs="requeue") as worker:
        await trio.sleep(1)
        connector.say(CancelJob(1, abort=True))
        await trio.sleep(1)
        worker.abort()
    assert reasons == [AbortReason.USER_REQUEST] * 2
    assert connector.statuses == ["aborted"]


async def test_a_job_whose_abort_was_asked_before_its_first_step_never_begins(
    app: App, connector: FaultyConnector
) -> None:
    began: list[str] = []

    @app.task(name="job")
    async def job() -> None:
        began.append("job")
        await trio.lowlevel.checkpoint()

    await job.defer_async()
    connector.jobs[1]["abort_requested"] = True  # as of a row that a rescue gave back
    await work(app)
    assert began == []
    assert connector.statuses == ["aborted"]


@pytest.mark.promise("What becomes of a job / returns")
async def test_a_job_that_swallows_its_cancel_has_succeeded(
    app: App, connector: FaultyConnector
) -> None:
    steps = Steps()

    @app.task(name="job", retry=True)
    async def job() -> str:
        with contextlib.suppress(trio.Cancelled):
            await steps()
        return "a result"

    await job.defer_async()
    await run_interrupted(app, connector, steps)
    assert connector.statuses == ["succeeded"]


async def test_a_job_that_notices_and_returns_has_succeeded(
    app: App, connector: FaultyConnector, gate: ThreadGate
) -> None:
    @app.task(name="job", pass_context=True)
    def job(context: JobContext) -> None:
        gate.wait()
        assert context.should_abort() is AbortReason.SHUTDOWN

    await job.defer_async()
    async with working(app) as worker:
        await gate.wait_entered()
        worker.abort()
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert connector.statuses == ["succeeded"]


@pytest.mark.promise("What becomes of a job / raises JobAborted")
@pytest.mark.parametrize("in_group", [False, True])
@pytest.mark.parametrize("asked", [False, True])
async def test_job_aborted_ends_a_job_as_aborted(
    app: App, connector: FaultyConnector, in_group: bool, asked: bool
) -> None:
    steps = Steps()

    async def give_up() -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise JobAborted

    @app.task(name="job", retry=True)
    async def job() -> None:
        steps.started.set()
        if asked:
            with trio.CancelScope(shield=True):
                await steps.may_end.wait()
        if in_group:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up)
        else:
            raise JobAborted

    await job.defer_async()
    async with working(app):
        await steps.started.wait()
        if asked:
            connector.say(CancelJob(1, abort=True))
            await trio.testing.wait_all_tasks_blocked()
        steps.may_end.set()
        while connector.status(1) == "doing":
            await trio.lowlevel.checkpoint()
    assert connector.statuses == ["aborted"]


@pytest.mark.promise("What becomes of a job / ends by a cancellation of its own making")
async def test_a_stray_cancelled_is_a_failure_and_no_abort(
    app: App, connector: FaultyConnector
) -> None:
    @app.task(name="job", retry=True)
    async def job() -> None:
        kept: list[trio.Cancelled] = []
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled as cancelled:
                kept.append(cancelled)
        raise kept[0]

    await job.defer_async()
    await work(app)
    assert connector.statuses == ["failed"]


@pytest.mark.promise("What becomes of a job / raises another exception")
async def test_what_a_job_raises_while_it_is_interrupted_is_its_own(
    app: App, connector: FaultyConnector
) -> None:
    steps = Steps()

    @app.task(name="job")
    async def job() -> None:
        try:
            await steps()
        finally:
            raise ValueError("its clean-up failed")

    await job.defer_async()
    await run_interrupted(app, connector, steps)
    assert connector.statuses == ["failed"]


class Broken(BaseRetryStrategy):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:  # noqa: ARG002 - as it is called
        raise self.error


async def test_a_retry_strategy_that_raises_lets_the_job_fail_and_says_so(
    app: App, connector: FaultyConnector, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="job", retry=Broken(ZeroDivisionError("by the strategy")))
    def job() -> None:
        raise ValueError

    await job.defer_async()
    await work(app)
    assert connector.statuses == ["failed"]
    [record] = [r for r in caplog.records if r.__dict__.get("action") == "retry_strategy_error"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_a_retry_strategy_that_exits_is_a_job_that_exits(
    app: App, connector: FaultyConnector
) -> None:
    @app.task(name="job", retry=Broken(SystemExit("by the strategy")))
    def job() -> None:
        raise ValueError

    await job.defer_async()
    with pytest.raises(SystemExit, match="by the strategy"):
        await work(app)
    assert connector.statuses == ["failed"]


async def test_a_retry_strategy_that_answers_nonsense_lets_the_job_fail(
    app: App, connector: FaultyConnector
) -> None:
    class Nonsense(BaseRetryStrategy):
        def get_retry_decision(self, *, exception: BaseException, job: Job) -> Any:  # noqa: ARG002 - as it is called
            return "soon"

    @app.task(name="job", retry=Nonsense())
    def job() -> None:
        raise ValueError

    await job.defer_async()
    await work(app)
    assert connector.statuses == ["failed"]


async def test_a_lost_lease_writes_nothing_however_the_job_ends(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    reasons: list[object] = []

    @app.task(name="returns", pass_context=True)
    async def returns(context: JobContext) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
        reasons.append(context.abort_reason())

    @app.task(name="raises")
    async def raises() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
        raise ValueError

    @app.task(name="sleeps")
    async def sleeps() -> None:
        await trio.sleep(100)

    for task in (returns, raises, sleeps):
        await task.defer_async()
    async with working(app, concurrency=3, stalled_jobs="leave"):
        await trio.sleep(1)
        rescue_elsewhere(connector)
        await trio.sleep(200)
    assert reasons == [AbortReason.LEASE_LOST]
    assert connector.statuses == ["doing"] * 3, "they are the rescue's"


async def test_retries_run_again_at_their_time(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    tries: list[float] = []

    @app.task(name="job", retry=RetryStrategy(max_attempts=2, wait=7), pass_context=True)
    async def job(context: JobContext) -> None:
        await trio.lowlevel.checkpoint()
        tries.append(trio.current_time())
        assert context.job.attempts == len(tries) - 1
        raise ValueError

    await job.defer_async()
    async with working(app):
        await trio.sleep(60)
    assert tries == pytest.approx([0, 7, 14], abs=0.01)
    assert connector.statuses == ["failed"]
    assert connector.jobs[1]["attempts"] == 3


@pytest.mark.parametrize(
    ("delete_jobs", "left"),
    [("never", {1: "succeeded", 2: "failed"}), ("successful", {2: "failed"}), ("always", {})],
)
async def test_ended_jobs_are_deleted_as_the_option_says(
    app: App, connector: FaultyConnector, delete_jobs: str, left: dict[int, str]
) -> None:
    @app.task(name="good")
    def good() -> None: ...

    @app.task(name="bad")
    def bad() -> None:
        raise ValueError

    await good.defer_async()
    await bad.defer_async()
    await work(app, delete_jobs=delete_jobs)
    assert {job_id: row["status"] for job_id, row in connector.jobs.items()} == left


# -- what cannot be called ------------------------------------------------------------------------


async def test_jobs_of_an_unknown_task_fail_and_the_log_names_it_once(
    app: App, connector: FaultyConnector, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        await app.configure_task("nobody.knows").defer_async()
    await work(app)
    assert connector.statuses == ["failed"] * 3
    records = [r for r in caplog.records if r.__dict__.get("action") == "task_not_found"]
    [record] = records
    assert "'nobody.knows'" in record.getMessage()
    assert "import_paths" in record.getMessage()


async def test_arguments_that_do_not_fit_fail_the_job_and_no_other(
    app: App, connector: FaultyConnector
) -> None:
    @app.task(name="job")
    async def job(number: int) -> None:
        await trio.lowlevel.checkpoint()

    await job.defer_async(number=1)
    connector.jobs[1]["args"] = {"letter": "a"}  # deferred by a version with other parameters
    await job.defer_async(number=2)
    await work(app)
    assert connector.statuses == ["failed", "succeeded"]


# -- what a task may be ---------------------------------------------------------------------------


class Holder:
    async def method(self) -> str:
        await trio.lowlevel.checkpoint()
        return "method"

    def sync_method(self) -> str:
        return "sync method"

    async def __call__(self) -> str:
        await trio.lowlevel.checkpoint()
        return "callable object"


async def returns_its_word(word: str) -> str:
    await trio.lowlevel.checkpoint()
    return word


def returns_an_awaitable(word: str) -> Awaitable[str]:
    return returns_its_word(word)


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (functools.partial(returns_its_word, "partial"), "partial"),
        (functools.partial(functools.partial(returns_its_word), "twice"), "twice"),
        (functools.partial(returns_an_awaitable, "sync partial"), "sync partial"),
        (Holder().method, "method"),
        (Holder().sync_method, "sync method"),
        (Holder(), "callable object"),
        (lambda: "lambda", "lambda"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_task_may_be_anything_that_can_be_called(
    app: App,
    connector: FaultyConnector,
    caplog: pytest.LogCaptureFixture,
    function: Callable[[], Any],
    result: str,
) -> None:
    caplog.set_level("INFO")
    await app.task(name="job")(function).defer_async()
    await work(app)
    assert connector.statuses == ["succeeded"]
    [record] = [r for r in caplog.records if r.__dict__.get("action") == "job_success"]
    assert record.__dict__["result"] == result


async def test_what_a_sync_function_returns_to_be_awaited_can_be_cancelled(
    app: App, connector: FaultyConnector
) -> None:
    steps = Steps()

    @app.task(name="job")
    def job() -> Awaitable[None]:
        return steps()

    await job.defer_async()
    await run_interrupted(app, connector, steps)
    assert connector.statuses == ["aborted"]


async def test_what_was_asked_while_the_thread_ran_cancels_what_it_returned(
    app: App, connector: FaultyConnector, gate: ThreadGate
) -> None:
    awaited: list[str] = []

    async def to_be_awaited() -> None:
        await trio.lowlevel.checkpoint()
        awaited.append("to its end")

    @app.task(name="job")
    def job() -> Awaitable[None]:
        gate.wait()
        return to_be_awaited()

    await job.defer_async()
    async with working(app) as worker:
        await gate.wait_entered()
        worker.abort()
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert awaited == []
    assert connector.statuses == ["aborted"]
