from __future__ import annotations

import datetime
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import procrastinate.manager
import pytest

from tests.colours import Run, in_both_loops, run_in_trio
from tests.recording import NOW, RecordingConnector
from trio_queue import management, verbs
from trio_queue.exceptions import InvalidOption, InvalidTimestamp, JobNotFound
from trio_queue.jobs import GroupCount, Job, Status
from trio_queue.manager import JobManager
from trio_queue.testing import InMemoryConnector

JOB = Job(id=5, task_name="task", task_kwargs={"timestamp": 60})
FILTERS: dict[str, Any] = {"queue": "q", "task": "t", "status": "todo", "lock": "l"}
VERB_FILTERS: dict[str, Any] = {**FILTERS, "status": Status.TODO}
COUNT = GroupCount(name="q", jobs_count=3, stats={"todo": 2, "failed": 1})
COUNTED = {
    "name": "q",
    "jobs_count": 3,
    "todo": 2,
    "doing": 0,
    "succeeded": 0,
    "failed": 1,
    "cancelled": 0,
    "aborted": 0,
}


@pytest.fixture
def connector() -> RecordingConnector:
    return RecordingConnector()


@pytest.fixture
def manager(connector: RecordingConnector) -> JobManager:
    return JobManager(connector)


#: What is called, in both colours, with what, what is said, what is answered, what is returned.
TWINS: list[tuple[str, tuple[Any, ...], dict[str, Any], verbs.Verb[Any], Any, Any]] = [
    (
        "cancel_job_by_id",
        (5,),
        {},
        management.CancelJob(5, abort=False, delete_job=False),
        True,
        True,
    ),
    (
        "cancel_job_by_id",
        (5, True, True),
        {},
        management.CancelJob(5, abort=True, delete_job=True),
        False,
        False,
    ),
    ("get_job_status", (5,), {}, management.GetJobStatus(5), Status.DOING, Status.DOING),
    (
        "retry_job_by_id",
        (5, NOW),
        {"priority": 1, "queue": "q", "lock": "l"},
        management.RetryJob(job_id=5, retry_at=NOW, priority=1, queue="q", lock="l"),
        None,
        None,
    ),
    (
        "list_jobs",
        (),
        {**FILTERS, "id": 5, "queueing_lock": "ql", "worker_id": 2, "limit": 9},
        management.ListJobs(**VERB_FILTERS, id=5, queueing_lock="ql", worker_id=2, limit=9),
        [JOB],
        [JOB],
    ),
    ("list_queues", (), FILTERS, management.ListQueues(**VERB_FILTERS), [COUNT], [COUNTED]),
    ("list_tasks", (), FILTERS, management.ListTasks(**VERB_FILTERS), [COUNT], [COUNTED]),
    ("list_locks", (), FILTERS, management.ListLocks(**VERB_FILTERS), [COUNT], [COUNTED]),
    ("list_events", (5,), {}, management.ListEvents(5), [], []),
    ("list_workers", (), {}, management.ListWorkers(), [], []),
    ("check_connection", (), {}, management.CheckConnection(), True, True),
]

#: The same of what is async only.
ASYNC_ONLY: list[tuple[str, tuple[Any, ...], dict[str, Any], verbs.Verb[Any], Any, Any]] = [
    (
        "defer_periodic_job",
        (JOB, "id", 60),
        {},
        verbs.DeferPeriodicJob(JOB, "id", 60),
        None,
        None,
    ),
    ("retry_job", (JOB,), {}, management.RetryJob(job_id=5), None, None),
    (
        "finish_job",
        (JOB, Status.FAILED, True),
        {},
        management.FinishJob(5, Status.FAILED, delete_job=True),
        None,
        None,
    ),
    (
        "finish_job_by_id_async",
        (5,),
        {"status": Status.ABORTED, "delete_job": False},
        management.FinishJob(5, Status.ABORTED, delete_job=False),
        None,
        None,
    ),
    (
        "get_stalled_jobs",
        (),
        {"queue": "q", "task_name": "t", "seconds_since_heartbeat": 3},
        management.ListStalledJobs(queue="q", task_name="t", seconds_since_heartbeat=3),
        [JOB],
        [JOB],
    ),
    ("fetch_job", (["q"], 3), {}, verbs.FetchJobs(3, ["q"], 1), verbs.Fetched([JOB]), JOB),
    ("fetch_job", (None, 3), {}, verbs.FetchJobs(3, None, 1), verbs.Fetched([]), None),
    ("unregister_worker", (3,), {}, verbs.UnregisterWorker(3), None, None),
    ("update_heartbeat", (3,), {}, verbs.UpdateHeartbeat(3), True, True),
    ("prune_stalled_workers", (3.5,), {}, verbs.PruneStalledWorkers(3.5), [1], [1]),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "verb", "answer", "returned"), TWINS)
def test_sync_methods_say_their_verb(
    manager: JobManager,
    connector: RecordingConnector,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    verb: verbs.Verb[Any],
    answer: Any,
    returned: Any,
) -> None:
    connector.answers[type(verb)] = [answer]
    assert getattr(manager, name)(*args, **kwargs) == returned
    assert connector.said == [("sync", verb, None)]


@in_both_loops
@pytest.mark.parametrize(
    ("name", "args", "kwargs", "verb", "answer", "returned"),
    [*((f"{name}_async", *others) for name, *others in TWINS), *ASYNC_ONLY],
)
def test_async_methods_say_their_verb(
    manager: JobManager,
    connector: RecordingConnector,
    run: Run,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    verb: verbs.Verb[Any],
    answer: Any,
    returned: Any,
) -> None:
    connector.answers[type(verb)] = [answer]

    async def call() -> Any:
        return await getattr(manager, name)(*args, **kwargs)

    assert run(call) == returned
    assert [(said, connection) for _, said, connection in connector.said] == [(verb, None)]


@pytest.mark.parametrize("name", ["cancel_job_by_id", "get_job_status"])
def test_the_callers_connection_is_handed_on(
    manager: JobManager, connector: RecordingConnector, name: str
) -> None:
    connector.answers = {management.CancelJob: [True], management.GetJobStatus: [Status.TODO]}
    connection = object()
    getattr(manager, name)(5, connection=connection)

    async def call() -> None:
        await getattr(manager, f"{name}_async")(5, connection=connection)

    run_in_trio(call)
    assert [said for _, _, said in connector.said] == [connection, connection]


@in_both_loops
def test_deferred_jobs_come_back_with_their_ids(manager: JobManager, run: Run) -> None:
    jobs = [Job(task_name="a"), Job(task_name="b")]
    assert manager.batch_defer_jobs(jobs) == [
        Job(id=1, status="todo", task_name="a"),
        Job(id=2, status="todo", task_name="b"),
    ]
    assert manager.defer_job(jobs[0]).id == 3

    async def call() -> tuple[Job, list[Job]]:
        return await manager.defer_job_async(jobs[0]), await manager.batch_defer_jobs_async(jobs)

    one, two = run(call)
    assert [job.id for job in (one, *two)] == [4, 5, 6]


async def test_a_periodic_jobs_timestamp_is_its_moment(manager: JobManager) -> None:
    with pytest.raises(InvalidTimestamp):
        await manager.defer_periodic_job(JOB, "id", 61)


async def test_jobs_to_abort_are_those_running_that_are_asked_to(
    manager: JobManager, connector: RecordingConnector
) -> None:
    connector.answers[management.ListJobs] = [[JOB, JOB.evolve(id=6, abort_requested=True)]]
    assert await manager.list_jobs_to_abort_async("q") == [6]
    assert connector.said[0][1] == management.ListJobs(queue="q", status=Status.DOING)


async def test_long_jobs_are_not_stalled_jobs(
    manager: JobManager, connector: RecordingConnector
) -> None:
    connector.answers[management.ListStalledJobs] = [[]]
    with pytest.warns(DeprecationWarning, match="heartbeats"):
        await manager.get_stalled_jobs(nb_seconds=3)
    verb: Any = connector.said[0][1]
    assert verb.nb_seconds == 3


async def test_a_worker_registers_with_what_it_is(
    manager: JobManager, connector: RecordingConnector
) -> None:
    connector.answers[verbs.RegisterWorker] = [7]
    assert await manager.register_worker() == 7
    verb: Any = connector.said[0][1]
    assert verb.pid > 0
    assert verb.queues is None


async def test_a_job_that_is_not_deferred_has_no_id(manager: JobManager) -> None:
    job = Job(task_name="task")
    with pytest.raises(JobNotFound, match="not deferred yet"):
        await manager.retry_job(job)
    with pytest.raises(JobNotFound, match="not deferred yet"):
        await manager.finish_job(job, Status.FAILED, delete_job=False)


def test_an_unknown_status_is_refused(manager: JobManager) -> None:
    for listing in (manager.list_jobs, manager.list_queues):
        with pytest.raises(InvalidOption, match="no status 'done', but todo, doing"):
            listing(status="done")


def test_now_is_the_connectors(manager: JobManager) -> None:
    assert manager.now() == NOW


def test_a_life_in_memory() -> None:
    manager = JobManager(InMemoryConnector())
    job = manager.defer_job(Job(task_name="task", queue="q", lock="l"))
    assert job.id is not None
    assert manager.get_job_status(job.id) is Status.TODO
    assert [row["todo"] for row in manager.list_queues()] == [1]
    assert [row["name"] for row in manager.list_locks()] == ["l"]
    assert manager.cancel_job_by_id(job.id)
    assert not manager.cancel_job_by_id(job.id)
    assert [found.id for found in manager.list_jobs(status="cancelled")] == [job.id]
    assert [event.type for event in manager.list_events(job.id)][-1] == "cancelled"
    assert manager.check_connection()


# -- the same names as Procrastinate's ----------------------------------------------------------------


def public_methods(manager: type) -> dict[str, Callable[..., Any | Awaitable[Any]]]:
    return {
        name: method
        for name, method in inspect.getmembers(manager, inspect.isfunction)
        if not name.startswith("_")
    }


def test_every_method_of_procrastinates_manager_is_here() -> None:
    ours = public_methods(JobManager)
    for name, theirs in public_methods(procrastinate.manager.JobManager).items():
        # A callback that is given the raw notifications of one library has no place in the other.
        if name == "listen_for_jobs":
            continue
        assert inspect.iscoroutinefunction(ours[name]) is inspect.iscoroutinefunction(theirs), name
        parameters = list(inspect.signature(ours[name]).parameters)
        expected = list(inspect.signature(theirs).parameters)
        assert parameters[: len(expected)] == expected, name


def test_listed_moments_have_a_time_zone() -> None:
    manager = JobManager(InMemoryConnector())
    moment = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    manager.defer_job(Job(task_name="task", scheduled_at=moment))
    (job,) = manager.list_jobs()
    assert job.scheduled_at == moment
