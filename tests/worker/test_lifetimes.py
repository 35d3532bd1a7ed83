"""The lifetimes, nested: whatever fails, nothing stays open, and the heartbeat ends after the last job."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.testing

from tests.fix_worker import FaultyConnector, Steps, stage_of, work, working
from trio_queue import App, Worker
from trio_queue.exceptions import ConnectorException, LoadFromPathError, SchemaError
from trio_queue.store import Heartbeat, Notifications
from trio_queue.testing import FaultyStore
from trio_queue.verbs import (
    FetchJobs,
    FinishJobs,
    ListJobsToAbort,
    ReleaseJobs,
    UnregisterWorker,
    UpdateWorkerStage,
    Verb,
)
from trio_queue.worker import Stage


class OnPurpose(ConnectorException):
    """An error that does not pass."""


def assert_nothing_is_open(connector: FaultyConnector) -> None:
    assert connector.history.count("store opened") == connector.history.count("store closed")
    assert connector.history.count("app opened") == connector.history.count("app closed")
    assert not connector.is_open()
    assert not connector.is_listened_to


# -- while it starts ------------------------------------------------------------------------------


@pytest.mark.promise(
    "What the caller gets / the database is away at the start, or has another schema"
)
@pytest.mark.parametrize("what", ["register_worker", "keep_alive", "listen"])
async def test_an_error_while_it_starts_comes_bare_and_closes_everything(
    app: App, connector: FaultyConnector, store: FaultyStore, what: str
) -> None:
    store.fail(what, error=OnPurpose, transient=False)
    worker = Worker(app)
    with pytest.raises(OnPurpose):
        await worker.run()
    assert_nothing_is_open(connector)
    assert stage_of(worker) is Stage.STOPPED
    assert connector.database.tables.workers == {}


@pytest.mark.promise(
    "What the caller gets / the database is away at the start, or has another schema"
)
@pytest.mark.parametrize("error", [ConnectorException("away"), SchemaError(), OSError("no wire")])
async def test_a_store_that_does_not_open_ends_it_with_its_error(
    app: App, connector: FaultyConnector, error: Exception
) -> None:
    connector.open_error = error
    with pytest.raises(type(error)) as caught:
        await Worker(app).run()
    assert caught.value is error
    assert_nothing_is_open(connector)


async def test_import_paths_are_imported_before_it_opens_anything(
    connector: FaultyConnector,
) -> None:
    app = App(connector=connector, import_paths=["there.is.no.such.module"])
    with pytest.raises(LoadFromPathError):
        await Worker(app).run()
    assert connector.history == []


async def test_an_error_while_it_starts_does_not_start_the_nursery(
    app: App, store: FaultyStore
) -> None:
    store.fail("listen", error=OnPurpose, transient=False)
    with pytest.raises(ExceptionGroup) as caught:  # the test's own nursery makes the group
        async with trio.open_nursery() as nursery:
            await nursery.start(Worker(app).run)
    assert caught.group_contains(OnPurpose, depth=1)


# -- while it runs --------------------------------------------------------------------------------


@pytest.mark.promise(
    "What asks for it / a part of the worker fails and cannot recover",
    "What the caller gets / a part of it failed",
)
@pytest.mark.parametrize(
    ("verb", "calls"), [(UpdateWorkerStage, 0), (ListJobsToAbort, 1), (FetchJobs, 1)]
)
@pytest.mark.parametrize("kind", [OnPurpose, SystemExit])
async def test_a_service_that_cannot_recover_stops_the_worker_and_its_error_comes_bare(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    verb: type,
    calls: int,
    kind: type[BaseException],
    autojump_clock: trio.testing.MockClock,
) -> None:
    """SystemExit is what a hook of the user's may raise: `json_loads` at a claim."""
    ended: list[float] = []

    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(100)
        ended.append(trio.current_time())

    await job.defer_async()
    store.delay(UpdateWorkerStage, seconds=1)  # else it may fail before the job is claimed
    store.fail(verb, error=kind, transient=False, skip=calls)
    worker = Worker(app, concurrency=2, install_signal_handlers=False)
    with pytest.raises(kind):
        await worker.run()
    assert ended == [100], "the job was left in peace"
    assert connector.statuses == ["succeeded"]
    assert_nothing_is_open(connector)


async def test_a_periodic_service_that_cannot_recover_comes_bare_too(
    app: App, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    @app.periodic(cron="* * * * *")
    @app.task(name="job")
    def job(timestamp: int) -> None: ...

    store.fail("defer_periodic_job", error=OnPurpose, transient=False)
    with pytest.raises(OnPurpose):
        await Worker(app, install_signal_handlers=False).run()


async def test_a_job_that_ends_badly_does_not_disturb_the_others(
    app: App, connector: FaultyConnector
) -> None:
    @app.task(name="bad")
    async def bad() -> None:
        await trio.lowlevel.checkpoint()
        raise BaseException("of no known kind")  # noqa: TRY002 - the worst that a job can raise

    steps = Steps()
    await app.task(name="good")(steps.__call__).defer_async()
    bad_id = await bad.defer_async()
    async with working(app, concurrency=2):
        await steps.started.wait()
        while connector.status(bad_id) != "failed":
            await trio.lowlevel.checkpoint()
        steps.may_end.set()
    assert connector.statuses == ["succeeded", "failed"]


# -- while it ends --------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [ReleaseJobs, UnregisterWorker])
async def test_a_goodbye_that_is_refused_does_not_spoil_a_clean_drain(
    app: App, store: FaultyStore, caplog: pytest.LogCaptureFixture, verb: type
) -> None:
    store.fail(verb, error=OnPurpose, transient=False)
    await work(app)
    assert "row could not be deleted" in caplog.text


@pytest.mark.promise("When the database is away / a goodbye that is not answered")
@pytest.mark.parametrize("verb", [ReleaseJobs, UnregisterWorker])
@pytest.mark.parametrize("how", ["hang", "fail"])
async def test_a_goodbye_without_an_answer_holds_a_stop_for_half_a_minute_at_most(
    app: App,
    connector: FaultyConnector,
    store: FaultyStore,
    verb: type,
    how: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    if how == "hang":
        store.hang(verb, times=None)
    else:
        store.fail(verb, times=None)
    await work(app)
    assert trio.current_time() <= 30
    assert_nothing_is_open(connector)


async def test_a_goodbye_is_tried_again(
    app: App, connector: FaultyConnector, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    store.fail(ReleaseJobs, times=3)
    store.fail(UnregisterWorker, times=3)
    await work(app)
    assert connector.database.tables.workers == {}


async def test_a_store_that_does_not_close_ends_it_with_its_error_when_all_is_done(
    app: App, connector: FaultyConnector
) -> None:
    connector.close_error = OnPurpose("does not close")
    steps = Steps()
    steps.may_end.set()
    await app.task(name="job")(steps.__call__).defer_async()
    with pytest.raises(OnPurpose, match="does not close"):
        await work(app)
    assert connector.statuses == ["succeeded"]
    assert_nothing_is_open(connector)


class BlockConnector(FaultyConnector):
    """One of the worker's blocks fails of its own accord, while the worker runs, or when it is left."""

    def __init__(self, block: str, *, at_exit: bool) -> None:
        super().__init__()
        self.block = block
        self.at_exit = at_exit
        self.fails = trio.Event()

    def wrapped(self) -> FaultyStore:
        return _BlockStore(self.store, self)


class _BlockStore(FaultyStore):
    def __init__(self, store: FaultyStore, connector: BlockConnector) -> None:
        super().__init__(store)
        self._connector = connector

    def listen(self, queues: Sequence[str] | None) -> AbstractAsyncContextManager[Notifications]:
        return self._failing("listen", lambda: super(_BlockStore, self).listen(queues))

    def keep_alive(self, worker_id: int, interval: float) -> AbstractAsyncContextManager[Heartbeat]:
        return self._failing(
            "keep_alive", lambda: super(_BlockStore, self).keep_alive(worker_id, interval)
        )

    @contextlib.asynccontextmanager
    async def _failing(
        self, block: str, enter: Callable[[], AbstractAsyncContextManager[Any]]
    ) -> AsyncGenerator[Any]:
        async with enter() as inner:
            yield inner
        if block == self._connector.block:
            raise OnPurpose(block)


@pytest.mark.parametrize("block", ["listen", "keep_alive"])
async def test_a_block_that_is_left_with_an_error_ends_after_the_last_job(block: str) -> None:
    connector = BlockConnector(block, at_exit=True)
    app = App(connector=connector)
    steps = Steps()
    steps.may_end.set()
    await app.task(name="job")(steps.__call__).defer_async()
    with pytest.raises(OnPurpose, match=block):
        await work(app)
    assert connector.statuses == ["succeeded"]
    assert connector.database.tables.workers == {}
    assert_nothing_is_open(connector)


@pytest.mark.promise("What is promised / 12")
async def test_the_heartbeat_ends_after_the_last_row_is_written_and_before_the_row_is_deleted(
    app: App, connector: FaultyConnector, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    keep_alive, run = store.keep_alive, store.run

    @contextlib.asynccontextmanager
    async def kept(worker_id: int, interval: float) -> AsyncGenerator[Heartbeat]:
        async with keep_alive(worker_id, interval) as heartbeat:
            try:
                yield heartbeat
            finally:
                happened.append("heartbeat ends")

    async def told(verb: Verb[Any]) -> Any:
        answer = await run(verb)
        if isinstance(verb, (FinishJobs, UnregisterWorker)):
            happened.append(verb.name)
        return answer

    monkeypatch.setattr(store, "keep_alive", kept)
    monkeypatch.setattr(store, "run", told)
    steps = Steps()
    steps.may_end.set()
    await app.task(name="job")(steps.__call__).defer_async()
    await work(app)
    assert happened == ["finish_jobs", "heartbeat ends", "unregister_worker"]


@pytest.mark.both_hosts
async def test_whatever_breaks_inside_the_jobs_go_on_and_run_ends(
    app: App,
    connector: FaultyConnector,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ended: list[str] = []

    @app.task(name="job")
    async def job() -> None:
        await trio.sleep(3)
        ended.append("to its end")

    async def broken(*_: object) -> None:
        await trio.sleep(1)
        raise BaseException("a bug of ours")  # noqa: TRY002 - what no service may raise

    monkeypatch.setattr(Worker, "_keep_writing", broken)
    await job.defer_async()
    worker = Worker(app, install_signal_handlers=False)
    with pytest.raises(BaseException, match="a bug of ours"):
        await worker.run()
    assert stage_of(worker) is Stage.STOPPED
    assert ended == ["to its end"], "a bug of ours does not reach a job by accident"
    assert connector.statuses == ["doing"], "nobody could write it any more: the rescue does"
    assert connector.database.tables.workers == {}
    assert_nothing_is_open(connector)


async def test_the_first_error_of_several_is_raised(
    app: App, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    store.fail(FetchJobs, error=OnPurpose("first"), transient=False)
    store.fail(UpdateWorkerStage, error=OnPurpose("second"), transient=False, skip=1)
    store.fail(UnregisterWorker, error=OnPurpose("last"), transient=False)
    with pytest.raises(OnPurpose, match="first"):
        await work(app)
