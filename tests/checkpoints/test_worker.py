"""Stopped, aborted or cancelled at each step of a whole run, on a real server.

By default sparse places are tried; `TRIO_QUEUE_TEST_STRIDE=1` tries every one of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import attrs
import pytest
import sniffio
import trio

from tests.checkpoints.looking import (
    Witness,
    assert_pool_is_whole,
    dirty,
    nobody_is_busy,
    pool_of,
)
from tests.checkpoints.stepping import ENOUGH, Stepwise, places_to_try
from tests.fix_hosts import run_trio
from tests.fix_worker import stage_of
from tests.waiting import eventually
from tests.worker_on_postgres.bench import give_way
from trio_queue import App, JobContext, PsycopgConnector, RetryStrategy
from trio_queue._storage.store import PostgresJobStore
from trio_queue.worker import Stage, Worker

pytestmark = pytest.mark.runs_trio

#: How many checkpoints a job has.
LENGTH = 5
#: What is deferred before the run; the first defers one more.
JOBS = ("deferring", "in thread", "locked", "locked", "retried", "cleaning up")
#: Seconds in which any run here ends, on a machine that has much else to do.
PATIENCE = 60


async def work() -> None:
    for _ in range(LENGTH):
        await give_way()


def shielded() -> AbstractContextManager[object]:
    """From a cancel that has come: on Trio it lasts, in asyncio it came once."""
    on_trio = sniffio.current_async_library() == "trio"
    return trio.CancelScope(shield=True) if on_trio else nullcontext()


@attrs.define
class Run:
    """One run of a worker and what its jobs did."""

    app: App
    worker: Worker
    #: How often the body of each job came to its end.
    completed: Counter[int] = attrs.field(factory=Counter[int])
    places: int = 0
    #: Connections of the worker's store that it closed while they were not at rest.
    unclean: list[str] = attrs.field(factory=list[str])


def make_run(conninfo: str) -> Run:
    """Every kind of job: async, sync, of a lock, deferring, retried, with a clean-up of its own.

    The async ones run in whichever loop the host has.
    """
    app = App(connector=PsycopgConnector(conninfo=conninfo))

    @app.task(name="deferring", pass_context=True)
    async def deferring(context: JobContext) -> None:
        await work()
        await app.configure_task("locked").defer_async()
        done(context)

    @app.task(name="in thread", pass_context=True)
    def in_thread(context: JobContext) -> None:
        done(context)

    @app.task(name="locked", lock="one", pass_context=True)
    async def locked(context: JobContext) -> None:
        await work()
        done(context)

    @app.task(name="retried", retry=RetryStrategy(max_attempts=1), pass_context=True)
    async def retried(context: JobContext) -> None:
        await work()
        if not context.job.attempts:
            raise ValueError
        done(context)

    @app.task(name="cleaning up", interrupted_jobs="requeue", pass_context=True)
    async def cleaning_up(context: JobContext) -> None:
        try:
            await work()
            done(context)
        finally:
            with shielded():
                await work()

    worker = Worker(
        app,
        wait=False,
        concurrency=2,
        install_signal_handlers=False,
        fetch_job_polling_interval=3600,
        abort_job_polling_interval=3600,
    )
    run = Run(app, worker)

    def done(context: JobContext) -> None:
        assert context.job.id is not None
        run.completed[context.job.id] += 1

    return run


async def defer_all(app: App) -> None:
    for name in JOBS:
        await app.configure_task(name).defer_async()


Interrupt = Callable[[Worker, trio.CancelScope], object]


def run_and_interrupt(
    conninfo: str, witness: Witness, place: int, interrupt: Interrupt, opened_by: str = "us"
) -> Run:
    """Run a worker to its end, interrupted at one place; look at the connections that are left.

    Args:
        conninfo: The database.
        witness: Who looks.
        place: Where: see `Stepwise`.
        interrupt: What is done there.
        opened_by: Who opens the App: "us", or "the worker".
    """
    run = make_run(conninfo)
    stepwise = Stepwise()
    scope = trio.CancelScope()
    where = f"interrupted at place {place}"

    async def run_worker() -> None:
        stepwise.arm(place, lambda: interrupt(run.worker, scope))
        with scope:
            await run.worker.run()
        run.places = stepwise.disarm()

    async def main() -> None:
        async with run.app.open_async():
            await defer_all(run.app)
            if opened_by == "us":
                await run_worker()
                assert_pool_is_whole(pool_of(run.app), where)
                await nobody_is_busy(witness, where)
                await run.app.job_manager.list_jobs_async(limit=1)
                assert_pool_is_whole(pool_of(run.app), where)
        if opened_by == "the worker":
            await run_worker()
            assert not run.app.connector.is_open()
        await eventually(
            lambda: not witness.sessions(), lambda: f"{where}: {witness.sessions()} to end"
        )

    async def bounded() -> None:
        with trio.fail_after(PATIENCE):
            await main()

    with pytest.MonkeyPatch.context() as monkeypatch:
        watch_store(monkeypatch, run.unclean)
        run_trio(bounded, instruments=[stepwise])
    return run


def watch_store(monkeypatch: pytest.MonkeyPatch, unclean: list[str]) -> None:
    """Look at the connections of a worker's store when it closes them."""
    leave = PostgresJobStore.__aexit__

    async def look_and_leave(store: PostgresJobStore, *error: object) -> None:
        pool = store._pool  # pyright: ignore[reportPrivateUsage] - no user needs it
        unclean.extend(dirty(member.connection for member in pool._idle))  # pyright: ignore[reportPrivateUsage] - the same
        if pool.statistics().in_use:
            unclean.append(f"{pool.statistics().in_use} in use")
        await leave(store, *error)

    monkeypatch.setattr(PostgresJobStore, "__aexit__", look_and_leave)


def stop_and_abort(worker: Worker, _: trio.CancelScope) -> None:
    worker.stop()
    worker.abort()


#: What is done, where sparse places begin, and how far they are apart.
INTERRUPTS: dict[str, tuple[Interrupt, int]] = {
    "stop": (lambda worker, _: worker.stop(), 3),
    "abort": (lambda worker, _: worker.abort(), 7),
    "cancel": (lambda _, scope: scope.cancel(), 13),
    "stop and abort": (stop_and_abort, 19),
}
SPARSE = 19
OPENED_BY = ("us", "the worker")


@attrs.frozen
class Row:
    id: int
    task: str
    status: str
    attempts: int
    events: list[str]


def rows(witness: Witness) -> list[Row]:
    return [
        Row(*row)
        for row in witness.rows(
            "SELECT j.id, j.task_name, j.status::text, j.attempts,"
            "       (SELECT array_agg(e.type::text ORDER BY e.id) FROM procrastinate_events e"
            "         WHERE e.job_id = j.id AND e.type <> 'scheduled')"
            "  FROM procrastinate_jobs j ORDER BY j.id"
        )
    ]


def assert_nothing_is_lost(witness: Witness, run: Run, where: str) -> None:
    assert stage_of(run.worker) is Stage.STOPPED, where
    assert run.unclean == [], where
    for table in ("procrastinate_workers", "trio_queue_workers", "trio_queue_orphans"):
        assert witness.value(f"SELECT count(*) FROM {table}") == 0, f"{where}: {table}"
    left = rows(witness)
    assert [row.task for row in left[: len(JOBS)]] == list(JOBS), where
    assert [row.task for row in left[len(JOBS) :]] in ([], ["locked"]), where
    deferring = left[0]
    if deferring.status == "succeeded":
        assert len(left) == len(JOBS) + 1, where
    elif "started" not in deferring.events:
        assert len(left) == len(JOBS), where
    for row in left:
        told = f"{where}: {row}"
        assert row.status in {"todo", "succeeded", "aborted"}, told
        # Its outcome is in its row: neither is lost, nor is one told that there was not.
        assert run.completed[row.id] == (row.status == "succeeded"), told
        last = {"todo": {"deferred", "deferred_for_retry"}}.get(row.status, {row.status})
        assert row.events[-1] in last, told
        assert row.events.count("started") - row.events.count("deferred_for_retry") == (
            row.status != "todo"
        ), told


def assert_nobody_is_punished(witness: Witness, where: str) -> None:
    """After a drain: each job has ended well, or waits and has lost no attempt."""
    for row in rows(witness):
        told = f"{where}: {row}"
        assert row.status in {"todo", "succeeded"}, told
        failures = int(row.task == "retried" and (row.status == "succeeded" or row.attempts > 0))
        assert row.attempts == failures + (row.status == "succeeded"), told


@pytest.fixture
def witness(queue_database: str) -> Iterator[Witness]:
    witness = Witness(queue_database)
    yield witness
    witness.close()


@pytest.mark.parametrize("opened_by", OPENED_BY)
def test_undisturbed_every_job_ends(queue_database: str, witness: Witness, opened_by: str) -> None:
    run = run_and_interrupt(queue_database, witness, ENOUGH, INTERRUPTS["stop"][0], opened_by)
    assert_nothing_is_lost(witness, run, "undisturbed")
    assert_nobody_is_punished(witness, "undisturbed")
    assert [row.status for row in rows(witness)] == ["succeeded"] * (len(JOBS) + 1)
    assert 200 < run.places < ENOUGH


@pytest.mark.timeout(0)
@pytest.mark.parametrize("opened_by", OPENED_BY)
@pytest.mark.parametrize("how", INTERRUPTS)
def test_interrupted_at_any_step_no_job_is_lost_and_no_connection_dirty(
    queue_database: str, witness: Witness, how: str, opened_by: str
) -> None:
    interrupt, first = INTERRUPTS[how]
    for place in places_to_try(SPARSE, first):
        witness.forget()
        run = run_and_interrupt(queue_database, witness, place, interrupt, opened_by)
        where = f"{how} at place {place} of {run.places}"
        assert_nothing_is_lost(witness, run, where)
        if how in {"stop", "cancel"}:
            assert_nobody_is_punished(witness, where)
        if run.places < place:
            return  # the run was over before
