"""What the tests of the 24 faults say again and again: jobs that are slow to stop, rows that are read back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import psycopg
import pytest
import trio

from tests.waiting import PATIENCE, eventually, within_patience
from tests.worker_on_postgres.bench import Bench
from trio_queue import JobContext, PsycopgConnector
from trio_queue._worker.fetch import Fetcher
from trio_queue.jobs import AbortReason
from trio_queue.store import Heartbeat, JobStore, Notifications, Outages
from trio_queue.testing import FaultyStore
from trio_queue.verbs import Verb
from trio_queue.worker import Stage, Worker

R = TypeVar("R")


class _Opened:
    """The store of the worker that runs: faults are ordered before it is opened."""

    def __init__(self) -> None:
        self.inner: JobStore | None = None

    @property
    def _store(self) -> JobStore:
        assert self.inner is not None, "asked while a worker runs"
        return self.inner

    async def run(self, verb: Verb[R]) -> R:
        return await self._store.run(verb)

    def is_transient(self, error: BaseException) -> bool:
        return self._store.is_transient(error)

    def tell_outages(self, outages: Outages) -> None:
        self._store.tell_outages(outages)

    def listen(self, queues: Sequence[str] | None) -> AbstractAsyncContextManager[Notifications]:
        return self._store.listen(queues)

    def keep_alive(self, worker_id: int, interval: float) -> AbstractAsyncContextManager[Heartbeat]:
        return self._store.keep_alive(worker_id, interval)


class FaultyPsycopgConnector(PsycopgConnector):
    """PostgreSQL, whose worker's store (of one worker at a time) does what `store` was told."""

    def __init__(self, conninfo: str) -> None:
        super().__init__(conninfo=conninfo)
        self._opened = _Opened()
        self.store = FaultyStore(self._opened)

    def open_store(self) -> AbstractAsyncContextManager[JobStore]:
        return self._faulty_store()

    @contextlib.asynccontextmanager
    async def _faulty_store(self) -> AsyncGenerator[JobStore]:
        async with super().open_store() as self._opened.inner:
            yield self.store


class FaultyBench(Bench):
    """A bench with faults on order."""

    def __init__(self, conninfo: str, direct: str) -> None:
        super().__init__(conninfo, direct)
        self.conninfo = direct
        connector = FaultyPsycopgConnector(conninfo)
        self.store = connector.store
        self.app.connector = connector
        self.app.job_manager.connector = connector


async def run_on() -> None:
    """What a job does that only a cancel ends; or its own patience, where a test fails."""
    await trio.sleep(2 * PATIENCE)
    raise AssertionError("the test has forgotten this job")


class SlowToStop:
    """An async job that ends when it is let; cancelled, it cleans up until it is let.

    Attributes:
        started, cleaning: Set when its body begins, and when it was cancelled.
        may_end: To be set by the test.
        reasons: What it was told, when it was cancelled and when its clean-up ended.
    """

    def __init__(self) -> None:
        self.started = trio.Event()
        self.cleaning = trio.Event()
        self.may_end = trio.Event()
        self.reasons: list[AbortReason | None] = []

    async def __call__(self, context: JobContext) -> None:
        self.started.set()
        try:
            await self.may_end.wait()
        except trio.Cancelled:
            self.reasons.append(context.should_abort())
            self.cleaning.set()
            with trio.move_on_after(
                PATIENCE / 2, shield=True
            ):  # a test that failed lets nobody end
                await self.may_end.wait()
            self.reasons.append(context.should_abort())
            raise

    async def has_started(self) -> None:
        await within_patience(self.started.wait)

    async def is_cleaning(self) -> None:
        await within_patience(self.cleaning.wait)


def slow_to_stop(bench: Bench, **options: Any) -> SlowToStop:
    """Register a task `slow` that is such a job."""
    job = SlowToStop()
    bench.app.task(name="slow", pass_context=True, **options)(job.__call__)
    return job


def events(bench: Bench, job_id: int) -> list[str]:
    """What happened to a job, in order."""
    return [
        row[0]
        for row in bench.rows(
            "SELECT type::text FROM procrastinate_events WHERE job_id = %s ORDER BY id", job_id
        )
    ]


def reasons(bench: Bench, job_id: int) -> list[str]:
    """The reasons that stand beside a job's events, in order."""
    return [
        row[0]
        for row in bench.rows(
            "SELECT d.reason FROM procrastinate_events e"
            " JOIN trio_queue_event_details d ON d.event_id = e.id"
            " WHERE e.job_id = %s AND d.reason IS NOT NULL ORDER BY e.id",
            job_id,
        )
    ]


async def reaches(worker: Worker, stage: Stage) -> None:
    """Wait until a worker has this stage."""
    await eventually(
        lambda: worker.stage is stage, lambda: f"{stage.value}; it is {worker.stage.value}"
    )


@contextlib.asynccontextmanager
async def ended_by(
    worker: Worker, scope: trio.CancelScope | None = None
) -> AsyncGenerator[list[BaseException | None]]:
    """Run a worker beside the block, in a scope, and wait for its end.

    The worker is aborted where the block raises, or it does not end, so that a failing test does.

    Yields:
        What `run()` raised, once it has ended; None where it returned.
    """
    ended: list[BaseException | None] = []
    over = trio.Event()

    async def run() -> None:
        try:
            with scope or trio.CancelScope():
                await worker.run()
        except Exception as error:  # noqa: BLE001 - it is what the test wants to know
            ended.append(error)
        except (KeyboardInterrupt, SystemExit) as error:
            ended.append(error)
        else:
            ended.append(None)
        over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        try:
            yield ended
            await within_patience(over.wait)
        except BaseException:
            worker.abort()
            raise


def heard(monkeypatch: pytest.MonkeyPatch, what: str) -> trio.Event:
    """An event that is set when a worker's ear passes something on: `ring`, or `hear_abort`."""
    event = trio.Event()
    passed_on: Callable[..., None] = getattr(Fetcher, what)

    def pass_on(fetcher: Fetcher, *arguments: Any) -> None:
        passed_on(fetcher, *arguments)
        event.set()

    monkeypatch.setattr(Fetcher, what, pass_on)
    return event


#: What the server does with a statement, as PL/pgSQL.
REFUSED = "RAISE EXCEPTION 'not now' USING ERRCODE = 'deadlock_detected'"
SESSION_ENDED = "PERFORM pg_terminate_backend(pg_backend_pid())"


def refuse(bench: Bench, status: str, how: str, times: int) -> None:
    """Let the server fail so many statements that would give a job this status."""
    # A sequence counts on, whatever is rolled back.
    bench.database.execute(
        f"""
        CREATE SEQUENCE refused;
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('refused') <= {times} THEN
                {how};
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse BEFORE UPDATE ON procrastinate_jobs
            FOR EACH ROW WHEN (NEW.status = '{status}') EXECUTE FUNCTION refuse();
        """.encode()
    )


def refusals(bench: Bench) -> int:
    """How many statements `refuse` has looked at."""
    return int(bench.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM refused"))


@contextlib.contextmanager
def locked(conninfo: str, query: str, *parameters: Any) -> Any:
    """Hold the rows or tables that a query locks, in a transaction of somebody else's."""
    with psycopg.connect(conninfo, application_name="the test itself") as other:
        other.execute(query.encode(), parameters)
        yield
        other.rollback()
