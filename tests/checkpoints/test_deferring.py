"""What a program says to the queue, cancelled at each of its steps: done or not, and nothing left behind."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from psycopg import pq

from tests.checkpoints.looking import (
    Witness,
    assert_pool_is_whole,
    nobody_is_busy,
    pool_of,
    whole_pool_can_be_lent,
)
from tests.checkpoints.stepping import ENOUGH, Stepwise
from trio_queue import App, PsycopgConnector
from trio_queue._pg.connection import TrioConnection
from trio_queue.jobs import Job, Status

#: What is kept between two calls: a connection, or none, so that each call connects.
POOLS: dict[str, dict[str, Any]] = {
    "warm": {"min_size": 1, "max_size": 3},
    "cold": {"min_size": 0, "max_size": 3, "max_idle": 0.0},
}


@pytest.fixture
def witness(queue_database: str) -> Iterator[Witness]:
    witness = Witness(queue_database)
    yield witness
    witness.close()


class Desk:
    """An open App, and calls of it that are cancelled at a chosen place."""

    def __init__(self, app: App, witness: Witness, stepwise: Stepwise) -> None:
        self.app = app
        self.witness = witness
        self._stepwise = stepwise

    def job(self, number: int) -> Job:
        return Job(
            id=None,
            queue="default",
            lock=None,
            queueing_lock=None,
            task_name="work",
            task_kwargs={"number": number},
        )

    def insert(self, status: str = "todo") -> int:
        """A job of this status, as anybody's client would make one."""
        return int(
            self.witness.value(
                "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status)"
                " VALUES ('default', 'work', '{}', %s::procrastinate_job_status) RETURNING id",
                status,
            )
        )

    def count(self) -> int:
        return int(self.witness.value("SELECT count(*) FROM procrastinate_jobs"))

    def status(self, job_id: int) -> str:
        return str(self.witness.value("SELECT status FROM procrastinate_jobs WHERE id=%s", job_id))

    async def cancelled_at(self, place: int, call: Callable[[], Awaitable[object]]) -> bool | None:
        """Make a call that is cancelled at one place (see `Stepwise`; 0: before), and look at what it leaves behind.

        Returns:
            Whether it returned nevertheless; None: it was over before.
        """
        returned = False
        with trio.fail_after(60), trio.CancelScope() as scope:
            if place == 0:
                scope.cancel()
            self._stepwise.arm(place, scope.cancel)
            await call()
            returned = True
            self._stepwise.disarm()
        places = self._stepwise.disarm()
        where = f"cancelled at place {place} of {places}"
        assert returned is not scope.cancelled_caught, where
        assert_pool_is_whole(pool_of(self.app), where)
        await nobody_is_busy(self.witness, where)
        return None if places < place else returned


@asynccontextmanager
async def open_desk(conninfo: str, witness: Witness, pool: str) -> AsyncGenerator[Desk]:
    """A desk; at its end the pool is still whole, and then nobody is connected any more."""
    app = App(connector=PsycopgConnector(conninfo=conninfo, **POOLS[pool]))

    @app.task(name="work")
    async def work(number: int = 0) -> None: ...

    stepwise = Stepwise()
    trio.lowlevel.add_instrument(stepwise)
    try:
        async with app.open_async():
            yield Desk(app, witness, stepwise)
            await whole_pool_can_be_lent(pool_of(app))
    finally:
        trio.lowlevel.remove_instrument(stepwise)
    with trio.fail_after(30):
        while witness.sessions():  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.005)


async def each_place(
    desk: Desk, make: Callable[[], tuple[Callable[[], Awaitable[object]], Any]]
) -> AsyncGenerator[tuple[bool, Any]]:
    """Cancel calls at one place after the other, until one is over before it.

    A statement may end before the server hears of the cancel, at every place but the first.

    Args:
        desk: Where they are made.
        make: Makes a call, and what the test wants to know of it afterwards.
    """
    for place in range(ENOUGH):
        call, told = make()
        returned = await desk.cancelled_at(place, call)
        if returned is None:
            return
        yield returned, told
    raise AssertionError("the call has no end")


@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("pool", POOLS)
async def test_a_defer_is_done_or_not(
    queue_database: str, witness: Witness, pool: str, jobs: int
) -> None:
    found: set[tuple[bool, int]] = set()
    async with open_desk(queue_database, witness, pool) as desk:
        deferrer = desk.app.configure_task("work")

        def make() -> tuple[Callable[[], Awaitable[object]], int]:
            if jobs == 1:
                return lambda: deferrer.defer_async(number=1), desk.count()
            batch = [{"number": number} for number in range(jobs)]
            return lambda: deferrer.batch_defer_async(*batch), desk.count()

        async for returned, before in each_place(desk, make):
            found.add((returned, desk.count() - before))
    # Done or not, all of them or none; what was told to be done is done.
    assert found <= {(True, jobs), (False, jobs), (False, 0)}
    assert (False, 0) in found


@pytest.mark.parametrize("pool", POOLS)
async def test_a_job_is_deferred_in_the_callers_transaction_or_not(
    queue_database: str, witness: Witness, pool: str
) -> None:
    found: set[tuple[bool, int]] = set()
    async with (
        open_desk(queue_database, witness, pool) as desk,
        await TrioConnection.connect(queue_database) as connection,
    ):

        async def defer() -> None:
            async with connection.transaction():
                await desk.app.configure_task("work", connection=connection).defer_async()

        async for returned, before in each_place(desk, lambda: (defer, desk.count())):
            assert not connection.closed
            assert connection.info.transaction_status == pq.TransactionStatus.IDLE
            found.add((returned, desk.count() - before))
        assert (await (await connection.execute("SELECT 1")).fetchall()) == [(1,)]
    assert found <= {(True, 1), (False, 1), (False, 0)}
    assert (False, 0) in found


#: What changes a job of one status, and the statuses that it may have afterwards.
CHANGES: dict[str, tuple[str, Callable[[Desk, int], Awaitable[object]], str]] = {
    "cancel": ("todo", lambda d, i: d.app.job_manager.cancel_job_by_id_async(i), "cancelled"),
    "retry": ("failed", lambda d, i: d.app.job_manager.retry_job_by_id_async(i), "todo"),
    "finish": (
        "doing",
        lambda d, i: d.app.job_manager.finish_job_by_id_async(i, Status.FAILED, delete_job=False),
        "failed",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("pool", POOLS)
async def test_a_job_is_changed_or_not(
    queue_database: str, witness: Witness, pool: str, change: str
) -> None:
    before, verb, after = CHANGES[change]
    found: set[tuple[bool, str]] = set()
    async with open_desk(queue_database, witness, pool) as desk:

        def make() -> tuple[Callable[[], Awaitable[object]], int]:
            job_id = desk.insert(before)
            return lambda: verb(desk, job_id), job_id

        async for returned, job_id in each_place(desk, make):
            found.add((returned, desk.status(job_id)))
    assert found <= {(True, after), (False, after), (False, before)}
    assert (False, before) in found


@pytest.mark.parametrize("pool", POOLS)
async def test_an_abort_is_asked_for_or_not(
    queue_database: str, witness: Witness, pool: str
) -> None:
    found: set[tuple[bool, bool]] = set()
    async with open_desk(queue_database, witness, pool) as desk:

        def make() -> tuple[Callable[[], Awaitable[object]], int]:
            job_id = desk.insert("doing")
            manager = desk.app.job_manager
            return lambda: manager.cancel_job_by_id_async(job_id, abort=True), job_id

        async for returned, job_id in each_place(desk, make):
            asked = "SELECT abort_requested FROM procrastinate_jobs WHERE id = %s"
            found.add((returned, witness.value(asked, job_id)))
    assert found <= {(True, True), (False, True), (False, False)}
    assert (False, False) in found


#: What only reads, and its answer where there is one job, of id 1, that waits.
QUESTIONS: dict[str, tuple[Callable[[App], Awaitable[Any]], Callable[[Any], bool]]] = {
    "status": (lambda a: a.job_manager.get_job_status_async(1), lambda got: got is Status.TODO),
    "jobs": (lambda a: a.job_manager.list_jobs_async(), lambda got: [j.id for j in got] == [1]),
    "queues": (lambda a: a.job_manager.list_queues_async(), lambda got: got[0]["jobs_count"] == 1),
    "tasks": (lambda a: a.job_manager.list_tasks_async(), lambda got: got[0]["jobs_count"] == 1),
    "locks": (lambda a: a.job_manager.list_locks_async(), lambda got: got == []),
    "events": (lambda a: a.job_manager.list_events_async(1), lambda got: len(got) == 1),
    "workers": (lambda a: a.job_manager.list_workers_async(), lambda got: got == []),
    "stalled": (lambda a: a.job_manager.get_stalled_jobs(), lambda got: list(got) == []),
    "old": (lambda a: a.job_manager.delete_old_jobs(nb_hours=1), lambda got: got == 0),
    "connection": (lambda a: a.check_connection_async(), lambda got: got is True),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("pool", POOLS)
async def test_a_question_is_answered_or_not(
    queue_database: str, witness: Witness, pool: str, question: str
) -> None:
    ask, is_right = QUESTIONS[question]
    cancelled = 0
    async with open_desk(queue_database, witness, pool) as desk:
        desk.insert()

        async def call() -> None:
            assert is_right(await ask(desk.app))

        async for returned, _ in each_place(desk, lambda: (call, None)):
            cancelled += not returned
    assert cancelled
