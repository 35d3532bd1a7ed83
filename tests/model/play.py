"""Play a script on the real worker, over the store in memory with faults, in fake time."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Generator
from functools import partial
from typing import assert_never

import trio
import trio.testing
from trio._core import _run  # pyright: ignore[reportPrivateUsage]  # where tasks are shuffled

from tests.fix_hosts import run_trio
from tests.model.bodies import Bodies
from tests.model.journal import HUNG, JournalConnector
from tests.model.record import AbortedByUser, Asked, Pruned, Record
from tests.model.script import (
    ALL,
    BEAT,
    LAST_ABORT,
    LAST_STOP,
    POLL,
    SLOWNESS,
    STALLED,
    AbortJob,
    Ask,
    AskWorker,
    Ill,
    Missed,
    Prune,
    Refusal,
    Script,
    Step,
    Theft,
    Trouble,
)
from trio_queue import App
from trio_queue.completion import Completion
from trio_queue.exceptions import AlreadyEnqueued
from trio_queue.jobs import Job, Status
from trio_queue.management import CancelJob
from trio_queue.retry import RetryDecision
from trio_queue.testing import Fault
from trio_queue.verbs import AdoptOrphans, DeferJobs, FinishJobs, RegisterWorker, UnregisterWorker
from trio_queue.worker import Worker


def play(script: Script) -> Record:
    """Run a worker as the script says, and tell what happened."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    record = Record(script)
    with _repeatable(script.order), _quiet():
        run_trio(_Play(record, clock).run, clock=clock)
    return record


@contextlib.contextmanager
def _repeatable(order: int) -> Generator[None]:
    """The order of Trio's tasks, and the jitter of pauses, are drawn from this number."""
    was = _run._ALLOW_DETERMINISTIC_SCHEDULING  # pyright: ignore[reportPrivateUsage]  # no public way to choose an order
    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # pyright: ignore[reportPrivateUsage, reportConstantRedefinition]  # Trio has no public switch for it
    states = random.getstate(), _run._r.getstate()  # pyright: ignore[reportPrivateUsage]  # nothing public chooses the order
    random.seed(order)
    _run._r.seed(order)  # pyright: ignore[reportPrivateUsage]  # the same
    try:
        yield
    finally:
        random.setstate(states[0])
        _run._r.setstate(states[1])  # pyright: ignore[reportPrivateUsage]  # the same
        _run._ALLOW_DETERMINISTIC_SCHEDULING = was  # type: ignore[misc]  # pyright: ignore[reportPrivateUsage, reportConstantRedefinition]  # Trio has no public switch for it


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without the log: it is tested elsewhere, and costs a third of the time."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class _Play:
    def __init__(self, record: Record, clock: trio.testing.MockClock) -> None:
        self._record = record
        self._script = script = record.script
        self._connector = JournalConnector(record)
        self._database = self._connector.journal
        self._store = self._connector.store
        self._around = trio.CancelScope()
        #: The id of each job's row, by its number; what was refused has none.
        self._ids: dict[int, int] = {}
        app = App(connector=self._connector)
        self._bodies = Bodies(self._database, clock)
        for number, spec in enumerate(script.jobs):
            self._bodies.register(app, number, spec)
        self._worker = Worker(
            app,
            install_signal_handlers=False,
            concurrency=script.concurrency,
            prefetch=script.prefetch,
            thread_limit=script.thread_limit,
            wait=script.wait,
            listen_notify=script.listen,
            shutdown_graceful_timeout=script.graceful_timeout,
            interrupted_jobs=script.interrupted_jobs,
            delete_jobs=script.delete_jobs,
            fetch_job_polling_interval=POLL,
            abort_job_polling_interval=POLL,
            update_heartbeat_interval=BEAT,
            stalled_worker_timeout=STALLED,
        )

    async def run(self) -> None:
        with self._bodies.threads.held():
            async with trio.open_nursery() as nursery:
                todo = self._actions(nursery)
                while todo and todo[0][0] <= 0:
                    todo.pop(0)[1]()
                nursery.start_soon(self._act, todo)
                nursery.start_soon(self._watch_lease)
                await self._run_worker()
                nursery.cancel_scope.cancel()
        record = self._record
        record.rows = {
            number: row
            for job_id, row in self._database.rows().items()
            for number in [self._database.numbers[job_id]]
        }
        record.workers_left = [
            worker.id
            for worker in self._database.tables.workers.values()
            if worker.id in record.worker_ids
        ]

    async def _run_worker(self) -> None:
        record = self._record
        if self._script.slow_start:
            self._store.delay("register_worker", seconds=self._script.slow_start, times=1)
        try:
            with self._around:
                await self._worker.run()
        except BaseException as error:  # noqa: BLE001 - how it ends is what is asked
            record.error = error
        record.was_cancelled = self._around.cancelled_caught
        record.ended_at = trio.current_time()

    # -- what happens -----------------------------------------------------------------------------

    def _actions(self, nursery: trio.Nursery) -> list[tuple[float, Callable[[], object]]]:
        actions: list[tuple[float, Callable[[], object]]] = [
            (spec.deferred_at, partial(self._defer, number))
            for number, spec in enumerate(self._script.jobs)
        ]
        actions += [(step.at, partial(self._take, step, nursery)) for step in self._script.steps]
        actions += [
            (LAST_STOP, partial(self._ask, Ask.STOP)),
            (LAST_ABORT, partial(self._ask, Ask.ABORT)),
            (HUNG, self._give_up),
        ]
        return sorted(actions, key=lambda action: action[0])  # stable: as they are listed

    async def _act(self, actions: list[tuple[float, Callable[[], object]]]) -> None:
        for at, action in actions:
            if at > trio.current_time():
                await trio.sleep_until(at)
            action()

    async def _watch_lease(self) -> None:
        """How old the worker's last heartbeat ever was while a body ran."""
        while True:
            await trio.sleep(1)
            row = self._database.tables.workers.get(self._worker.worker_id or 0)
            if row is not None and any(body.ended is None for body in self._record.bodies):
                age = (self._database.clock() - row.last_heartbeat).total_seconds()
                self._record.oldest_beat = max(self._record.oldest_beat, age)

    def _take(self, step: Step, nursery: trio.Nursery) -> None:
        match step:
            case AskWorker(how=how):
                self._ask(how)
            case AbortJob(job=number):
                self._abort_job(number)
            case Prune(theft=theft):
                self._prune(theft)
            case Trouble():
                nursery.start_soon(self._trouble, step)
            case Refusal(verb=verb):
                fault = self._store.fail(verb, transient=False)
                nursery.start_soon(self._note_refusal, fault)
            case Missed():
                self._store.say_missed()
            case _:
                assert_never(step)

    def _defer(self, number: int) -> None:
        spec = self._script.jobs[number]
        job = Job(task_name=str(number), lock=spec.lock, queueing_lock=spec.queueing_lock)
        self._database.next_number = number
        with self._database.somebody_else(), contextlib.suppress(AlreadyEnqueued):
            [self._ids[number]] = self._database.run(DeferJobs([job]))

    def _ask(self, how: Ask) -> None:
        self._record.asked.append(Asked(trio.current_time(), how))
        match how:
            case Ask.STOP:
                self._worker.stop()
            case Ask.ABORT:
                self._worker.abort()
            case Ask.ASK:
                # What a signal's handler does, on Trio's thread.
                self._worker._shutdown.ask("a signal")  # pyright: ignore[reportPrivateUsage]  # as its handler does
            case Ask.CANCEL:
                self._around.cancel()
            case _:
                assert_never(how)

    def _abort_job(self, number: int) -> None:
        job_id = self._ids.get(number)
        if job_id is None:
            return
        with self._database.somebody_else():
            row = self._database.rows().get(job_id)
            self._database.run(CancelJob(job_id, abort=True))
            if row is not None and row.status == "doing":
                self._record.aborted.append(AbortedByUser(trio.current_time(), number))

    def _give_up(self) -> None:
        self._record.hung = True
        life = self._worker._life  # pyright: ignore[reportPrivateUsage]  # no test may hang
        life.shield = False
        life.cancel()

    async def _trouble(self, trouble: Trouble) -> None:
        what = () if trouble.verb == ALL else (trouble.verb,)
        match trouble.ill:
            case Ill.FAIL:
                fault = self._store.fail(*what, times=None)
            case Ill.LOSE:
                fault = self._store.lose_answer(*what, times=None)
            case Ill.HANG:
                fault = self._store.hang(*what, times=None)
            case Ill.HANG_AFTER:
                fault = self._store.hang(*what, after=True, times=None)
            case Ill.SLOW:
                fault = self._store.delay(*what, seconds=SLOWNESS)
            case Ill.SLOW_AFTER:
                fault = self._store.delay(*what, seconds=SLOWNESS, after=True)
            case _:
                assert_never(trouble.ill)
        await trio.sleep(trouble.seconds)
        fault.release()

    async def _note_refusal(self, fault: Fault) -> None:
        await fault.wait_hit()
        self._record.asked.append(Asked(trio.current_time(), None))

    # -- other workers ----------------------------------------------------------------------------

    def _prune(self, theft: Theft) -> None:
        ours = [
            worker_id
            for worker_id in self._database.tables.workers
            if worker_id in self._record.worker_ids
        ]
        if not ours:
            return
        self._record.pruned.append(Pruned(trio.current_time(), theft))
        with self._database.somebody_else():
            for worker_id in ours:
                self._database.run(UnregisterWorker(worker_id))
            if theft is not Theft.NONE:
                self._steal(theft)

    def _steal(self, theft: Theft) -> None:
        database = self._database
        thief = database.run(
            RegisterWorker(
                worker_name="another",
                host="elsewhere",
                pid=1,
                version="0",
                queues=["another"],
                concurrency=1,
                stage="running",
            )
        )
        stolen = database.run(AdoptOrphans(thief, STALLED, 100))
        if theft is Theft.KEEP:
            return
        succeeds = theft is Theft.SUCCEED
        completions = [
            Completion(
                job_id=orphan.job.id or 0,
                attempts=orphan.job.attempts,
                status=Status.SUCCEEDED if succeeds else Status.TODO,
                retry=None if succeeds else RetryDecision(),
            )
            for orphan in stolen
        ]
        database.run(FinishJobs(thief, completions))
        database.run(UnregisterWorker(thief))
