"""Random histories: memory and PostgreSQL live the same life, step by step.

After each step the answers (or the kinds of errors), every row, every event and what went out to
listeners must be equal. Moments lie far in the past or the future, so that no step depends on how
long another took.
"""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest
import trio

from tests.conformance.conftest import registration
from trio_queue import management, store, verbs
from trio_queue._pg.connection import TrioConnection
from trio_queue._storage.memory_rows import News
from trio_queue._storage.parameters import Parameters
from trio_queue._storage.store import PostgresJobStore
from trio_queue.completion import WORKER_DIED, Completion
from trio_queue.exceptions import TrioQueueException
from trio_queue.jobs import Event, Job, Status
from trio_queue.retry import RetryDecision
from trio_queue.testing import InMemoryDatabase

PAST = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
FUTURE = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC)
QUEUES = ["a", "b"]
ENDS = [Status.SUCCEEDED, Status.FAILED, Status.ABORTED]


class Script:
    """Draws what happens next."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._jobs = self._workers = 0

    def next(self) -> verbs.Verb[Any]:
        """The next verb."""
        makers: list[tuple[int, Callable[[], verbs.Verb[Any]]]] = [
            (8, self._defer),
            (2, self._defer_periodic),
            (9, self._fetch),
            (9, self._finish),
            (2, lambda: verbs.ReleaseJobs(self._worker(), self._some_jobs())),
            (3, self._cancel),
            (3, self._retry),
            (2, self._finish_by_hand),
            (2, self._register),
            (1, lambda: verbs.UnregisterWorker(self._worker())),
            (1, lambda: verbs.UpdateHeartbeat(self._worker())),
            (1, lambda: verbs.PruneStalledWorkers(1e6)),
            (2, self._adopt),
            (2, lambda: verbs.AdoptOrphans(self._worker(), 1e6, self._random.randint(0, 3))),
            (1, lambda: verbs.HasEligibleJob(self._queues())),
            (1, lambda: verbs.ListJobsToAbort(self._worker())),
            (1, management.ListStalledJobs),
            (1, management.ListQueues),
            (1, lambda: management.ListLocks(status=Status.TODO)),
            (1, self._delete_old),
        ]
        [make] = self._random.choices([make for _, make in makers], [often for often, _ in makers])
        return make()

    def _maybe(self, *values: Any) -> Any:
        return self._random.choice([None, *values])

    def _chance(self) -> bool:
        return self._random.random() < 0.3

    def _worker(self) -> int:
        return self._random.randint(1, max(self._workers, 1))

    def _job(self) -> int:
        # Mostly a recent one: those are alive.
        return max(self._random.randint(self._jobs - 8, self._jobs + 1), 1)

    def _some_jobs(self) -> list[int]:
        return [self._job() for _ in range(self._random.randint(0, 4))]

    def _queues(self) -> list[str] | None:
        chosen: list[str] | None = self._maybe(["a"], ["b", "a"], ["b"])
        return chosen

    def _new_job(self) -> Job:
        return Job(
            task_name=self._random.choice("xy"),
            queue=self._random.choice(QUEUES),
            priority=self._random.randint(-1, 1),
            lock=self._maybe("l", "m"),
            queueing_lock=self._maybe(None, None, "q", "r"),
            scheduled_at=self._maybe(None, PAST, FUTURE),
            task_kwargs={"number": self._jobs},
        )

    def _defer(self) -> verbs.DeferJobs:
        jobs = [self._new_job() for _ in range(self._random.randint(0, 3))]
        self._jobs += len(jobs)
        return verbs.DeferJobs(jobs)

    def _defer_periodic(self) -> verbs.DeferPeriodicJob:
        self._jobs += 1
        return verbs.DeferPeriodicJob(self._new_job(), self._random.choice("12"), self._jobs // 6)

    def _register(self) -> verbs.RegisterWorker:
        self._workers += 1
        return registration(queues=self._queues())

    def _fetch(self) -> verbs.FetchJobs:
        # Each holds some twenty bytes, in either way to count.
        limit, max_bytes = self._random.randint(0, 4), self._maybe(1, 10**6)
        return verbs.FetchJobs(self._worker(), self._queues(), limit, max_bytes=max_bytes)

    def _adopt(self) -> verbs.AdoptJobs:
        job_ids = dict.fromkeys(self._some_jobs())
        runs = [(job_id, self._random.choice([0, 0, 1])) for job_id in job_ids]
        return verbs.AdoptJobs(self._worker(), self._worker(), runs)

    def _finish(self) -> verbs.FinishJobs:
        job_ids = dict.fromkeys(self._some_jobs())
        return verbs.FinishJobs(self._worker(), [self._completion(job_id) for job_id in job_ids])

    def _completion(self, job_id: int) -> Completion:
        status = self._random.choice([*ENDS, Status.TODO, Status.TODO])
        retry = None
        if status is Status.TODO and self._chance():
            retry = RetryDecision(
                retry_at=self._maybe(PAST, FUTURE),
                priority=self._maybe(1),
                queue=self._maybe("a"),
                lock=self._maybe("l"),
            )
        return Completion(
            job_id=job_id,
            attempts=self._random.choice([0, 0, 0, 1, 1, 2]),
            status=status,
            retry=retry,
            if_abort_requested=self._random.choice([Status.ABORTED, Status.FAILED]),
            delete=status is not Status.TODO and self._chance(),
            reason=self._maybe("shutdown", WORKER_DIED),
        )

    def _cancel(self) -> management.CancelJob:
        return management.CancelJob(
            self._job(), abort=not self._chance(), delete_job=self._chance()
        )

    def _retry(self) -> management.RetryJob:
        return management.RetryJob(
            job_id=self._job(),
            retry_at=self._maybe(PAST, FUTURE),
            priority=self._maybe(1),
            queue=self._maybe("b"),
            lock=self._maybe("m"),
        )

    def _finish_by_hand(self) -> management.FinishJob:
        return management.FinishJob(self._job(), self._random.choice(ENDS), self._chance())

    def _delete_old(self) -> management.DeleteOldJobs:
        statuses = self._random.sample([*ENDS, Status.CANCELLED], 2)
        return management.DeleteOldJobs(nb_hours=-1, statuses=statuses, queue=self._maybe("a"))


class MemorySide:
    """The database in memory, heard on every queue."""

    def __init__(self) -> None:
        self.database = InMemoryDatabase()
        self._news: set[tuple[str, str, int | None]] = set()

    def hear(self, news: list[News]) -> None:
        for item in news:
            match item.notification:
                case store.AbortRequested(job_id):
                    self._news.add((item.queue, "abort", job_id))
                case _:
                    self._news.add((item.queue, "inserted", None))

    def news(self) -> set[tuple[str, str, int | None]]:
        heard, self._news = self._news, set()
        return heard


async def heard_on_postgres(
    connection: TrioConnection, admin: psycopg.Connection[Any]
) -> set[tuple[str, str, int | None]]:
    """What was notified since the last time, up to a mark that is sent now."""
    admin.execute("SELECT pg_notify('procrastinate_any_queue_v1', 'mark')")
    heard: set[tuple[str, str, int | None]] = set()
    every: set[str] = set()
    while True:
        for notify in await connection.wait_notifies():
            if notify.payload == "mark":
                # The channel of all queues hears what the channels of the queues hear.
                assert every == {kind for _, kind, _ in heard}
                return heard
            payload = json.loads(notify.payload)
            kind = {"job_inserted": "inserted", "abort_job_requested": "abort"}[payload["type"]]
            if notify.channel == "procrastinate_any_queue_v1":
                every.add(kind)
            else:
                queue = notify.channel.removeprefix("procrastinate_queue_v1#")
                heard.add((queue, kind, payload["job_id"] if kind == "abort" else None))


def facts(events: Sequence[Event]) -> list[Any]:
    """What must be equal about a job's events: not their ids, nor the moments of writing."""
    return [
        (
            event.type,
            event.at if event.type == "scheduled" else None,
            event.worker_id,
            event.attempt,
            event.reason,
        )
        for event in events
    ]


@pytest.mark.parametrize("seed", range(12))
async def test_the_same_life(queue_database: str, seed: int) -> None:
    memory, script = MemorySide(), Script(seed)
    with psycopg.connect(queue_database, autocommit=True) as admin:
        async with (
            PostgresJobStore(Parameters(queue_database, {})) as postgres,
            await TrioConnection.connect(queue_database) as ears,
        ):
            for channel in ("any_queue_v1", *(f"queue_v1#{queue}" for queue in QUEUES)):
                await ears.execute(f'LISTEN "procrastinate_{channel}"'.encode())
            with memory.database.listening(memory):  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # another ear
                for step in range(60):
                    await take_step(step, script.next(), memory, postgres)
                    assert await heard_on_postgres(ears, admin) == memory.news()


def without_clock(answer: Any) -> Any:
    """An answer of whose moments only remains whether there is one: each store has its own clock."""
    if isinstance(answer, verbs.Fetched):
        return answer.jobs, answer.next_in is None
    return answer


async def take_step(
    step: int, verb: verbs.Verb[Any], memory: MemorySide, postgres: PostgresJobStore
) -> None:
    answers: list[Any] = []
    try:
        answers.append(memory.database.run(verb))
    except TrioQueueException as error:
        answers.append(type(error))
    try:
        answers.append(await postgres.run(verb))
    except TrioQueueException as error:
        answers.append(type(error))
    assert without_clock(answers[0]) == without_clock(answers[1]), (step, verb)
    jobs = memory.database.run(management.ListJobs())
    assert await postgres.run(management.ListJobs()) == jobs, (step, verb)
    for job in jobs:
        assert job.id is not None
        list_events = management.ListEvents(job.id)
        assert facts(await postgres.run(list_events)) == facts(memory.database.run(list_events)), (
            step,
            verb,
        )
    workers = [worker.id for worker in memory.database.run(management.ListWorkers())]
    assert [worker.id for worker in await postgres.run(management.ListWorkers())] == workers
    await trio.lowlevel.checkpoint()
