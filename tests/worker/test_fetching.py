"""Claiming: when, how many, and what becomes of a claim whose answer is lost."""

from __future__ import annotations

import itertools
import math
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, wait_until, work, working
from trio_queue import App, JobContext, RetryStrategy, Worker
from trio_queue.exceptions import ConnectorException
from trio_queue.jobs import AbortReason
from trio_queue.management import CancelJob
from trio_queue.store import JobStore
from trio_queue.testing import FaultyStore
from trio_queue.verbs import Fetched, FetchJobs, FinishJobs, ListJobsToAbort, ReleaseJobs, Verb

R = TypeVar("R")


class Times:
    """A task that notes when it ran."""

    def __init__(self) -> None:
        self.at: list[float] = []

    async def __call__(self) -> None:
        self.at.append(trio.current_time())
        await trio.lowlevel.checkpoint()


# -- when -----------------------------------------------------------------------------------------


@pytest.mark.promise("What is promised / 1")
async def test_a_new_job_wakes_the_worker_at_once(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    times = Times()
    task = app.task(name="job")(times.__call__)
    async with working(app, fetch_job_polling_interval=1_000):
        await trio.sleep(3)
        await task.defer_async()
        await trio.sleep(1)
    assert times.at == [3]


async def test_without_notifications_it_polls(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    times = Times()
    task = app.task(name="job")(times.__call__)
    async with working(app, listen_notify=False, fetch_job_polling_interval=5):
        await trio.sleep(3)
        await task.defer_async()
        await trio.sleep(5)
    assert times.at == [5]


async def test_no_notification_is_lost_while_a_claim_is_under_way(
    app: App, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    times = Times()
    task = app.task(name="job")(times.__call__)
    hung = store.hang(FetchJobs, after=True, skip=1)
    async with working(app, fetch_job_polling_interval=1_000, concurrency=5):
        await trio.sleep(1)
        await task.defer_async()  # the second claim takes this one, and its answer hangs
        await hung.wait_hit()
        await task.defer_async()
        await trio.testing.wait_all_tasks_blocked()  # the notification is heard by now
        hung.release()
        await trio.sleep(1)
    assert times.at == [1, 1]


async def test_what_may_have_been_missed_is_looked_for(
    app: App, store: FaultyStore, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    times = Times()
    await app.task(name="job")(times.__call__).configure(schedule_in={"days": 1}).defer_async()
    async with working(app, fetch_job_polling_interval=1_000):
        await trio.sleep(1)
        connector.jobs[1]["scheduled_at"] = None  # in silence, as while nobody listened
        store.say_missed()
        await trio.sleep(1)
    assert times.at == [1]


async def test_aborts_that_may_have_been_missed_are_looked_for(
    app: App, store: FaultyStore, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    await app.task(name="job")(trio.sleep_forever).defer_async()
    async with working(app, abort_job_polling_interval=1_000):
        await trio.sleep(1)
        connector.jobs[1]["abort_requested"] = True
        store.say_missed()
        await trio.sleep(1)
        assert connector.statuses == ["aborted"]


async def test_without_notifications_aborts_are_polled_while_jobs_run(
    app: App, store: FaultyStore, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    task = app.task(name="job")(trio.sleep_forever)
    async with working(app, listen_notify=False, abort_job_polling_interval=2):
        await trio.sleep(11)
        assert ListJobsToAbort.name not in store.calls, "an idle worker asks nothing"
        await task.defer_async()
        await trio.sleep(10)
        connector.say(CancelJob(1, abort=True))
        await trio.sleep(2)
        assert connector.statuses == ["aborted"]


async def test_a_scheduled_job_runs_at_its_time(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    times = Times()
    task = app.task(name="job")(times.__call__)
    async with working(app, fetch_job_polling_interval=1_000):
        await trio.sleep(1)
        for seconds in (7, 3):
            await task.configure(schedule_in={"seconds": seconds}).defer_async()
        await trio.sleep(20)
    assert times.at == pytest.approx([4, 8], abs=1e-3)


async def test_a_retried_job_runs_at_its_time(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    times: list[float] = []

    @app.task(name="job", retry=RetryStrategy(max_attempts=2, linear_wait=3))
    async def job() -> None:
        times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        raise ValueError

    await job.defer_async()
    # With a place free, so that no claim follows from the job's end alone.
    async with working(app, listen_notify=False, fetch_job_polling_interval=1_000, concurrency=2):
        await trio.sleep(20)
    assert times == pytest.approx([0, 0, 3], abs=1e-3)


async def test_the_successor_of_a_lock_runs_at_once(
    app: App, autojump_clock: trio.testing.MockClock
) -> None:
    times: list[float] = []

    @app.task(name="job", lock="one")
    async def job() -> None:
        times.append(trio.current_time())
        await trio.sleep(3)

    for _ in range(3):
        await job.defer_async()
    async with working(app, concurrency=5, listen_notify=False, fetch_job_polling_interval=1_000):
        await trio.sleep(20)
    assert times == [0, 3, 6]


async def test_only_the_workers_queues_are_claimed(app: App, connector: FaultyConnector) -> None:
    steps = Steps()
    steps.may_end.set()
    task = app.task(name="job")(steps.__call__)
    for queue in ("mine", "another"):
        await task.configure(queue=queue).defer_async()
    await work(app, queues=["mine"])
    assert connector.statuses == ["succeeded", "todo"]


# -- how many -------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_never_more_jobs_run_than_concurrency_says(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock, concurrency: int
) -> None:
    running = most = 0

    @app.task(name="job")
    async def job(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        assert connector.statuses.count("doing") <= concurrency
        await trio.sleep(1 + number % 3)
        running -= 1

    for number in range(20):
        await job.defer_async(number=number)
    await work(app, concurrency=concurrency)
    assert most == concurrency
    assert connector.statuses == ["succeeded"] * 20


async def test_a_place_is_free_when_a_body_ends_and_not_only_when_its_row_is_written(
    app: App, connector: FaultyConnector, store: FaultyStore
) -> None:
    steps = Steps()
    steps.may_end.set()
    task = app.task(name="job")(steps.__call__)
    hung = store.hang("finish_jobs")
    await task.defer_async()
    await task.defer_async()
    async with working(app):
        await hung.wait_hit()
        await trio.testing.wait_all_tasks_blocked()
        assert connector.statuses == ["doing", "doing"]
        hung.release()
        await wait_until(lambda: connector.statuses == ["succeeded", "succeeded"])


# -- wait=False -----------------------------------------------------------------------------------


@pytest.mark.promise("What is promised / 1", "What asks for it / wait=False, and no job is left")
@pytest.mark.parametrize("listen_notify", [True, False])
async def test_a_worker_that_does_not_wait_runs_what_its_jobs_defer(
    app: App,
    connector: FaultyConnector,
    autojump_clock: trio.testing.MockClock,
    listen_notify: bool,
) -> None:
    @app.task(name="job")
    async def job(depth: int) -> None:
        await trio.sleep(1)
        if depth:
            await job.defer_async(depth=depth - 1)

    await job.defer_async(depth=3)
    await work(app, concurrency=2, listen_notify=listen_notify)
    assert connector.statuses == ["succeeded"] * 4
    assert trio.current_time() == pytest.approx(4), "it did not wait for a poll"


@pytest.mark.promise("What asks for it / wait=False, and no job is left")
async def test_a_worker_that_does_not_wait_runs_the_successors_of_locks(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    @app.task(name="job", lock="one")
    async def job() -> None:
        await trio.sleep(1)

    for _ in range(3):
        await job.defer_async()
    await work(app, concurrency=5)
    assert connector.statuses == ["succeeded"] * 3
    assert trio.current_time() == pytest.approx(3)


async def test_a_worker_that_does_not_wait_runs_immediate_retries(
    app: App, connector: FaultyConnector
) -> None:
    @app.task(name="job", retry=2)
    def job() -> None:
        raise ValueError

    await job.defer_async()
    await work(app)
    assert connector.jobs[1]["attempts"] == 3


async def test_a_worker_that_does_not_wait_does_not_wait_for_future_jobs(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    times = Times()
    await app.task(name="job")(times.__call__).configure(schedule_in={"hours": 1}).defer_async()
    await work(app)
    assert connector.statuses == ["todo"]
    assert trio.current_time() == 0


async def test_an_empty_claim_is_not_an_empty_queue(
    app: App, connector: FaultyConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker's claim may hold the job, and then not come about."""
    steps = Steps()
    steps.may_end.set()
    await app.task(name="job")(steps.__call__).defer_async()
    run = connector.database.run
    held = [True]

    def run_without_claim(verb: Verb[Any]) -> Any:
        if isinstance(verb, FetchJobs) and held:
            held.clear()
            return Fetched([])
        return run(verb)

    monkeypatch.setattr(connector.database, "run", run_without_claim)
    await work(app)
    assert connector.statuses == ["succeeded"]


# -- claims that fail -----------------------------------------------------------------------------


async def test_a_failing_claim_does_not_end_the_worker(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    times = Times()
    await app.task(name="job")(times.__call__).defer_async()
    store.fail(FetchJobs, times=5)
    await work(app)
    assert connector.statuses == ["succeeded"]


async def test_the_pauses_between_tries_grow_and_are_capped(
    app: App, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    tried_at: list[float] = []
    fault = store.fail(FetchJobs, times=None)
    async with working(app):
        for _ in range(1_000):  # ten seconds, looked at closely
            if fault.hits > len(tried_at):
                tried_at.append(trio.current_time())
            await trio.sleep(0.01)
        pauses = [after - before for before, after in itertools.pairwise(tried_at)]
        fault.release()
    assert pauses[0] < 0.1
    assert pauses[4] > 0.3
    assert all(0.5 < pause <= 1.02 for pause in pauses[5:])
    assert len(pauses) > 10


@pytest.mark.promise("When the database is away / new jobs")
async def test_it_claims_again_within_a_second_of_the_databases_return(
    app: App, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    times = Times()
    task = app.task(name="job")(times.__call__)
    async with working(app, listen_notify=False):
        await trio.sleep(1)
        fault = store.fail(times=None)
        await task.defer_async()
        await trio.sleep(100)
        back_at = trio.current_time()
        fault.release()
        await trio.sleep(10)
    assert len(times.at) == 1
    assert times.at[0] - back_at <= 1


@pytest.mark.parametrize("after", [False, True])
async def test_a_hung_claim_does_not_hold_a_stop(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    after: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    times = Times()
    await app.task(name="job")(times.__call__).defer_async()
    hung = store.hang(FetchJobs, after=after, times=None)
    async with working(app) as worker:
        await hung.wait_hit()
        asked_at = trio.current_time()
        worker.stop()
    assert trio.current_time() == asked_at
    assert connector.statuses == ["todo"]
    assert connector.jobs[1]["attempts"] == 0
    assert times.at == []


@pytest.mark.promise(
    "When the database is away / a claim whose answer is lost",
    "When the database is away / a statement that is not answered",
)
@pytest.mark.parametrize("lost", ["hang", "error"])
async def test_a_claim_whose_answer_is_lost_is_given_back_and_run(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    lost: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    times = Times()
    task = app.task(name="job")(times.__call__)
    for _ in range(3):
        await task.defer_async()
    if lost == "hang":
        store.hang(FetchJobs, after=True)
    else:
        store.lose_answer(FetchJobs)
    await work(app, concurrency=2)
    assert connector.statuses == ["succeeded"] * 3
    assert [row["attempts"] for row in connector.jobs.values()] == [1, 1, 1]


async def test_a_lost_claim_is_given_back_while_other_jobs_go_on(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="long")(steps.__call__).defer_async()
    async with working(app, concurrency=2) as worker:
        await steps.started.wait()
        hung = store.hang(FetchJobs, after=True)
        await app.configure_task("lost").defer_async()
        await hung.wait_hit()
        assert connector.statuses == ["doing", "doing"]
        worker.stop()
        await trio.sleep(0.1)
        assert connector.statuses == ["doing", "todo"], "others may run it before we have drained"
        steps.may_end.set()
    assert connector.statuses == ["succeeded", "todo"]


async def test_a_lost_claim_of_a_job_whose_last_write_is_under_way_is_given_back_after_it(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    """Until that write is answered the row counts as in our hands, and is not released."""
    tries = itertools.count(1)

    @app.task(name="job", retry=True)
    async def job() -> None:
        await trio.lowlevel.checkpoint()
        if next(tries) == 1:
            raise ValueError

    write = store.hang(FinishJobs, after=True)
    store.lose_answer(FetchJobs, skip=1)
    await job.defer_async()
    async with working(app, concurrency=2):
        await write.wait_hit()
        await trio.sleep(2)
        assert connector.statuses == ["doing"], "claimed anew, and the answer lost"
        assert ReleaseJobs.name in store.calls
        write.release()
        await trio.sleep(1)
        assert connector.statuses == ["succeeded"]


async def test_a_release_that_fails_at_a_stop_is_tried_again(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="long")(steps.__call__).defer_async()
    async with working(app, concurrency=2) as worker:
        await steps.started.wait()
        hung = store.hang(FetchJobs, after=True)
        await app.configure_task("lost").defer_async()
        await hung.wait_hit()
        store.fail(ReleaseJobs, times=3)
        worker.stop()
        await trio.sleep(3)
        assert connector.statuses == ["doing", "todo"]
        steps.may_end.set()


class SlowToCancel(FaultyConnector):
    """Its claims take a second that no cancel shortens, and then take effect."""

    def wrapped(self) -> JobStore:
        return _SlowToCancel(self.store)


class _SlowToCancel(FaultyStore):
    async def run(self, verb: Verb[R]) -> R:
        is_claim = verb.name == FetchJobs.name
        answers: list[R] = []
        with trio.CancelScope(shield=is_claim):
            if is_claim:
                await trio.sleep(1)
            answers.append(await super().run(verb))
        return answers[0]


async def test_a_claim_that_takes_effect_while_it_is_cancelled_is_given_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    connector = SlowToCancel()
    app = App(connector=connector)
    steps = Steps()
    await app.task(name="long")(steps.__call__).defer_async()
    async with working(app, concurrency=2) as worker:
        await steps.started.wait()
        await app.configure_task("lost").defer_async()
        await trio.sleep(0.5)
        worker.stop()
        await trio.sleep(5)
        assert connector.statuses == ["doing", "todo"]
        steps.may_end.set()


async def test_a_claim_that_the_server_refused_stops_the_worker(
    app: App, store: FaultyStore
) -> None:
    store.fail(FetchJobs, error=ConnectorException("no such function"), transient=False)
    with pytest.raises(ConnectorException, match="no such function"):
        await work(app)
    assert store.calls.count(ReleaseJobs.name) == 1, "only the goodbye"


async def test_an_abort_during_a_claim_is_not_lost(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    began: list[str] = []

    @app.task(name="job")
    async def job() -> None:
        began.append("job")
        await trio.sleep_forever()

    hung = store.hang(FetchJobs, after=True)
    await job.defer_async()
    async with working(app, abort_job_polling_interval=1_000):
        await hung.wait_hit()
        connector.say(CancelJob(1, abort=True))
        await trio.testing.wait_all_tasks_blocked()
        hung.release()
        await trio.sleep(0.1)
        assert connector.statuses == ["aborted"]
    assert began == []


async def test_an_abort_of_somebody_elses_job_is_nothing_to_us(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    reasons: list[AbortReason | None] = []

    @app.task(name="job", pass_context=True)
    async def job(context: JobContext) -> None:
        await trio.sleep(3)
        reasons.append(context.should_abort())

    await job.defer_async()
    await job.defer_async()
    async with working(app), working(app):
        await trio.sleep(1)
        connector.say(CancelJob(1, abort=True))
        await trio.sleep(5)
    assert connector.statuses == ["aborted", "succeeded"]
    assert reasons == [None]


async def test_polling_for_aborts_survives_the_databases_absence(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    await app.task(name="job")(trio.sleep_forever).defer_async()
    async with working(app, listen_notify=False, abort_job_polling_interval=1):
        await trio.sleep(0.5)
        store.fail(ListJobsToAbort, times=3)
        connector.say(CancelJob(1, abort=True))
        await trio.sleep(10)
        assert connector.statuses == ["aborted"]


async def test_an_idle_worker_asks_no_more_often_than_it_polls(
    app: App, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with working(app, fetch_job_polling_interval=10):
        await trio.sleep(1)
        before = store.calls.count(FetchJobs.name)
        await trio.sleep(100)
        claims = store.calls.count(FetchJobs.name) - before
    assert claims <= math.ceil(100 / 10)


async def test_workers_share_a_queue_and_run_each_job_once(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    ran: list[int] = []

    @app.task(name="job")
    async def job(number: int) -> None:
        ran.append(number)
        await trio.sleep(1)

    for number in range(30):
        await job.defer_async(number=number)
    workers = [Worker(app, wait=False, concurrency=3) for _ in range(3)]
    async with app.open_async(), trio.open_nursery() as nursery:
        for worker in workers:
            nursery.start_soon(worker.run)
    assert sorted(ran) == list(range(30))
    assert connector.statuses == ["succeeded"] * 30
