"""A log handler of the user's that raises: the worker stops and raises it, and every outcome is written."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, work
from tests.worker.test_completing import defer, short_task
from trio_queue import App, BaseRetryStrategy, RetryDecision
from trio_queue.jobs import Job
from trio_queue.testing import FaultyStore
from trio_queue.verbs import FinishJobs


async def test_a_log_handler_that_raises_does_not_end_the_writing(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        if record.__dict__.get("action") == "job_success":
            raise ZeroDivisionError("a bug in a filter of the user's")
        return True

    logger = logging.getLogger("trio_queue.worker.worker")
    logger.addFilter(refuse)
    logger.setLevel(logging.INFO)

    @app.task(name="long")
    async def long() -> None:
        await trio.sleep(3)

    try:
        await defer(short_task(app))
        await defer(long)
        with trio.fail_after(10), pytest.raises(ZeroDivisionError):
            await work(app, concurrency=2)
    finally:
        logger.removeFilter(refuse)
        logger.setLevel(logging.NOTSET)
    assert connector.statuses == ["succeeded"] * 2


@pytest.mark.parametrize("kind", [ZeroDivisionError, SystemExit])
async def test_a_log_handler_that_raises_at_one_row_does_not_leave_the_others_of_its_batch(
    app: App,
    connector: FaultyConnector,
    kind: type[BaseException],
) -> None:
    def raises(record: logging.LogRecord) -> bool:
        if record.__dict__.get("action") in {"job_success", "outcome_not_written"}:
            raise kind("a bug in a filter of the user's")
        return True

    connector.refuse(lambda completion: completion.job_id == 2)
    logger = logging.getLogger("trio_queue.worker.worker")
    logger.addFilter(raises)
    logger.setLevel(logging.INFO)
    try:
        await defer(short_task(app), 3)
        with trio.fail_after(10), pytest.raises(kind):
            await work(app, concurrency=3)
    finally:
        logger.removeFilter(raises)
        logger.setLevel(logging.NOTSET)
    assert [connector.status(job_id) for job_id in (1, 3)] == ["succeeded"] * 2


@pytest.mark.parametrize("said", ["Lost the database", "The database is back"])
async def test_a_log_handler_that_raises_at_an_outage_leaves_no_row_doing(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    autojump_clock: trio.testing.MockClock,
    said: str,
) -> None:
    def raises(record: logging.LogRecord) -> bool:
        if record.getMessage().startswith(said):
            raise ZeroDivisionError("a bug in a filter of the user's")
        return True

    logger = logging.getLogger("trio_queue.worker.worker")
    logger.addFilter(raises)
    try:
        await defer(short_task(app))
        store.fail(FinishJobs, times=2)
        with trio.fail_after(100), pytest.raises(ZeroDivisionError):
            await work(app)
    finally:
        logger.removeFilter(raises)
    assert connector.statuses == ["succeeded"]


class Undecided(BaseRetryStrategy):
    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        raise LookupError(job.id) from exception


@pytest.mark.parametrize(
    "said",
    [
        "Task was not found",
        "retry strategy",
        "RUNNING",
        "DRAINING",
        "ABORTING",
        "STOPPED",
        "failed",
    ],
)
async def test_whatever_line_a_log_handler_raises_at_the_worker_ends_and_its_rows_are_written(
    app: App, connector: FaultyConnector, autojump_clock: trio.testing.MockClock, said: str
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        if said.lower() in record.getMessage().lower():
            raise ZeroDivisionError("a bug in a filter of the user's")
        return True

    @app.task(name="undecided", retry=Undecided())
    async def undecided() -> None:
        raise ValueError

    @app.task(name="exits")
    async def exits() -> None:
        await trio.sleep(1)
        raise SystemExit(3)

    logger = logging.getLogger("trio_queue.worker.worker")
    logger.addFilter(refuse)
    logger.setLevel(logging.INFO)
    try:
        await app.configure_task("nowhere").defer_async()
        await defer(undecided)
        await defer(exits)
        with trio.fail_after(100), pytest.raises((ZeroDivisionError, SystemExit)):
            await work(app, concurrency=3)
    finally:
        logger.removeFilter(refuse)
        logger.setLevel(logging.NOTSET)
    assert "doing" not in connector.statuses
