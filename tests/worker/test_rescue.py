"""Jobs of dead workers are rescued by the living, each once, by the policy."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, working
from trio_queue import App, JobContext, RetryStrategy
from trio_queue.completion import StalledJobs, decide_orphan
from trio_queue.exceptions import TrioQueueException
from trio_queue.jobs import Job, Status
from trio_queue.testing import FaultyStore
from trio_queue.verbs import (
    AdoptOrphans,
    FetchJobs,
    FinishJobs,
    RegisterWorker,
    UnregisterWorker,
    UpdateHeartbeat,
)


def die_with_a_job(connector: FaultyConnector) -> int:
    """A worker claims what it can, and is not heard of again. Answers its id."""
    worker_id = connector.database.run(
        RegisterWorker(
            worker_name="doomed",
            host="elsewhere",
            pid=1,
            version="0",
            queues=None,
            concurrency=9,
            stage="running",
        )
    )
    assert connector.database.run(FetchJobs(worker_id, None, 9)).jobs
    return worker_id


@pytest.mark.promise("What is promised / 11", 'When a worker dies / "requeue"')
async def test_a_dead_workers_job_runs_again_within_the_timeout_and_a_heartbeat(
    app: App,
    connector: FaultyConnector,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ran: list[float] = []

    @app.task(name="job", pass_context=True)
    async def job(context: JobContext) -> None:
        await trio.lowlevel.checkpoint()
        ran.append(trio.current_time())
        assert context.job.attempts == 1

    await job.defer_async()
    die_with_a_job(connector)
    died = trio.current_time()
    async with working(app, fetch_job_polling_interval=1_000):
        await trio.sleep(45)
    [moment] = ran
    assert 30 <= moment - died <= 30 + 10 + 1
    assert connector.event_types(1) == [
        "deferred",
        "started",
        "deferred_for_retry",
        "started",
        "succeeded",
    ]
    assert "Rescued job job[1](), whose worker died" in caplog.text


@pytest.mark.promise("When the database is away / rescue, after an outage as long as a lease")
async def test_after_an_outage_as_long_as_a_lease_the_living_have_time_to_say_so(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    """Every worker looks dead when the database is back: the first one back must not take them all for it."""
    await app.task(name="job")(Steps().__call__).defer_async()
    async with working(app, queues=["another"]) as worker:
        await trio.sleep(1)
        other = die_with_a_job(connector)
        outage = store.fail(times=None)
        await trio.sleep(60)
        outage.release()
        before = outage.hits
        await trio.sleep(5)  # it is back, and asks again
        assert outage.hits == before
        connector.database.run(UpdateHeartbeat(other))  # the other one is back, too
        await trio.sleep(20)
        assert connector.jobs[1]["worker_id"] == other
        assert "adopt_orphans" in store.calls[-10:]
        await trio.sleep(30)  # it really died
        assert connector.event_types(1) == ["deferred", "started", "deferred_for_retry"]
        assert worker.worker_id is not None


async def test_a_worker_that_has_just_started_gives_the_living_time_too(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    await app.task(name="job")(Steps().__call__).defer_async()
    other = die_with_a_job(connector)
    await trio.sleep(60)  # the database was away, and is back with the worker's start
    async with working(app, queues=["another"]):
        await trio.sleep(3)
        connector.database.run(UpdateHeartbeat(other))
        await trio.sleep(20)
        assert connector.jobs[1]["worker_id"] == other


async def test_a_living_workers_job_is_left_to_it(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    await app.task(name="job")(steps.__call__).defer_async()
    async with working(app, name="slow"):
        await trio.sleep(1)
        async with working(app, name="other"):
            await trio.sleep(300)
            steps.may_end.set()
            await trio.sleep(1)
    assert connector.event_types(1) == ["deferred", "started", "succeeded"]


@pytest.mark.promise("What lives in which stage / rescuing the jobs of dead workers")
@pytest.mark.parametrize("ask", ["stop", "abort"])
async def test_a_worker_that_stops_rescues_nobody(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock, ask: str
) -> None:
    @app.task(name="job")
    async def job() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    await job.defer_async()
    async with working(app) as worker:
        await trio.sleep(1)
        getattr(worker, ask)()
        await app.configure_task("another").defer_async()
        connector.database.run(UnregisterWorker(die_with_a_job(connector)))
        await trio.sleep(90)
        assert connector.statuses == ["doing", "doing"]
    assert connector.statuses == ["succeeded", "doing"]


async def test_many_rescuers_take_each_job_once(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    ran: list[int] = []

    @app.task(name="job")
    async def job(number: int) -> None:
        await trio.lowlevel.checkpoint()
        ran.append(number)

    await job.batch_defer_async(*({"number": number} for number in range(9)))
    die_with_a_job(connector)
    async with working(app), working(app), working(app):
        await trio.sleep(60)
    assert sorted(ran) == list(range(9))


@pytest.mark.promise(
    "When a worker dies / stalled_jobs_limit deaths (3)",
    "What happened to a job / worker_died … times under it",
)
async def test_a_job_under_which_three_workers_died_fails(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    await app.configure_task("job").defer_async()
    async with working(app, queues=["another"], update_heartbeat_interval=1):
        for _ in range(3):
            connector.database.run(UnregisterWorker(die_with_a_job(connector)))
            await trio.sleep(2)
    assert connector.statuses == ["failed"]
    assert connector.jobs[1]["attempts"] == 3
    assert [event.reason for event in connector.events[1] if event.reason] == [
        "worker_died",
        "worker_died",
        "worker_died 3 times under it",
    ]


@pytest.mark.promise('When a worker dies / "leave"')
async def test_with_leave_nobody_takes_it(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    await app.configure_task("job").defer_async()
    die_with_a_job(connector)
    async with working(app, stalled_jobs="leave"):
        await trio.sleep(100)
    assert connector.statuses == ["doing"]
    assert AdoptOrphans.name not in store.calls


async def test_a_rescue_that_the_database_does_not_answer_is_tried_again(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    steps.may_end.set()
    await app.task(name="job")(steps.__call__).defer_async()
    die_with_a_job(connector)
    store.fail(AdoptOrphans, times=3)
    store.fail(FinishJobs, times=3)
    async with working(app):
        await trio.sleep(60)
    assert connector.statuses == ["succeeded"]
    assert connector.event_types(1).count("started") == 2


async def test_a_rescue_whose_answer_is_lost_gives_the_job_back(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    steps = Steps()
    steps.may_end.set()
    await app.task(name="job")(steps.__call__).defer_async()
    connector.database.run(UnregisterWorker(die_with_a_job(connector)))
    store.lose_answer(AdoptOrphans)
    async with working(app):
        await trio.sleep(30)
    assert connector.statuses == ["succeeded"]


async def test_a_row_that_cannot_be_ended_holds_neither_the_others_nor_the_worker(
    app: App,
    connector: FaultyConnector,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    steps = Steps()
    steps.may_end.set()
    await app.task(name="job")(steps.__call__).batch_defer_async({}, {}, {})
    connector.database.run(UnregisterWorker(die_with_a_job(connector)))
    connector.refuse(
        lambda completion: completion.job_id == 2,
        TrioQueueException("a number that no column can hold"),
    )
    async with working(app):
        await trio.sleep(60)
        assert connector.statuses == ["succeeded", "doing", "succeeded"]
    assert "Job job[2](), whose worker died, cannot be ended" in caplog.text


JOB = Job(id=1, task_name="job", attempts=1)


@pytest.mark.promise(
    'When a worker dies / "requeue"', 'When a worker dies / "retry"', 'When a worker dies / "fail"'
)
@pytest.mark.parametrize(
    ("policy", "deaths", "strategy", "status", "retries"),
    [
        (StalledJobs.REQUEUE, 1, None, Status.TODO, True),
        (StalledJobs.REQUEUE, 3, None, Status.FAILED, False),
        (StalledJobs.RETRY, 1, RetryStrategy(max_attempts=5), Status.TODO, True),
        (StalledJobs.RETRY, 1, RetryStrategy(max_attempts=1), Status.FAILED, False),
        (StalledJobs.RETRY, 1, None, Status.FAILED, False),
        (StalledJobs.RETRY, 3, RetryStrategy(max_attempts=5), Status.FAILED, False),
        (StalledJobs.FAIL, 1, RetryStrategy(max_attempts=5), Status.FAILED, False),
    ],
)
def test_what_becomes_of_an_orphan(
    policy: StalledJobs, deaths: int, strategy: RetryStrategy | None, status: Status, retries: bool
) -> None:
    decided = decide_orphan(JOB, deaths, policy=policy, limit=3, strategy=strategy)
    assert decided.status is status
    assert (decided.retry is not None) == retries
    assert decided.attempts == 1
    assert decided.reason is not None
    assert decided.reason.startswith("worker_died")
