"""The bodies of a script's jobs: they do what they are told to, and write down what they see."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, assert_never
from unittest import mock

import trio
import trio.testing

from tests.model.journal import JournalDatabase
from tests.model.record import Body, End
from tests.model.script import Ending, JobSpec, OnCancel
from trio_queue import App, JobContext, RetryStrategy
from trio_queue.exceptions import JobAborted

#: Seconds that the clean-up of a cancelled body takes.
CLEAN_UP = 1.0


class ThreadsAreBusy:
    """Holds a mock clock while a thread works: it would take the time for idle, and jump."""

    def __init__(self, clock: trio.testing.MockClock) -> None:
        self._clock = clock
        self._busy = 0

    def _add(self, number: int) -> None:
        self._busy += number
        self._clock.autojump_threshold = float("inf") if self._busy else 0

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """While every thread is counted."""
        start = trio.to_thread.run_sync

        async def run_sync(*args: Any, **kwargs: Any) -> Any:
            self._add(+1)
            try:
                return await start(*args, **kwargs)
            finally:
                self._add(-1)

        with mock.patch.object(trio.to_thread, "run_sync", run_sync):
            yield

    async def sleep(self, seconds: float) -> None:
        """From a thread, by way of Trio: its time passes."""
        self._add(-1)
        try:
            await trio.sleep(seconds)
        finally:
            self._add(+1)


class Bodies:
    """Makes the tasks of a script's jobs."""

    def __init__(self, database: JournalDatabase, clock: trio.testing.MockClock) -> None:
        self._database = database
        self._clock = clock
        self.threads = ThreadsAreBusy(clock)

    def register(self, app: App, number: int, spec: JobSpec) -> None:
        """Make the task of a job, under its number."""
        strategy = RetryStrategy(max_attempts=spec.retries, wait=spec.retry_wait)
        app.task(
            name=str(number),
            pass_context=True,
            retry=strategy if spec.retries else False,
            interrupted_jobs=spec.interrupted_jobs,
        )(self._function(number, spec))

    def _function(self, number: int, spec: JobSpec) -> Callable[[JobContext], Any]:
        def in_thread(context: JobContext) -> None:
            with self._body(number, context) as body:
                if spec.seconds:
                    trio.from_thread.run(self.threads.sleep, spec.seconds)
                trio.from_thread.run(_end, spec.ending, body)

        async def on_trio(context: JobContext) -> None:
            with self._body(number, context) as body:
                await _live(spec, body, context)

        return in_thread if spec.on_cancel is OnCancel.THREAD else on_trio

    @contextlib.contextmanager
    def _body(self, number: int, context: JobContext) -> Generator[Body]:
        database = self._database
        body = Body(
            job=number,
            attempts=context.job.attempts,
            began_at=self._clock.current_time(),
            began=database.next_order(),
        )
        database.record.bodies.append(body)
        try:
            yield body
        finally:
            body.ended = database.next_order()
            body.ended_at = self._clock.current_time()
            body.reason, body.shutting_down = context.should_abort(), context.shutting_down()


async def _live(spec: JobSpec, body: Body, context: JobContext) -> None:
    try:
        if spec.seconds:
            with trio.CancelScope(shield=spec.on_cancel is OnCancel.DEAF):
                await trio.sleep(spec.seconds)
    except trio.Cancelled:
        body.heard_at, body.heard_reason = trio.current_time(), context.should_abort()
        if await _hear(spec, body):
            return
    await _end(spec.ending, body)


async def _hear(spec: JobSpec, body: Body) -> bool:
    """What a body does when it is cancelled; inside the handler. Answers whether it returns."""
    match spec.on_cancel:
        case OnCancel.HEED:
            body.end = End.CANCELLED
            raise  # noqa: PLE0704 - the Cancelled that is being handled
        case OnCancel.CLEAN_UP:
            with trio.CancelScope(shield=True):
                await trio.sleep(CLEAN_UP)
            body.end = End.CANCELLED
            raise  # noqa: PLE0704 - as above
        case OnCancel.RETURN:
            body.end = End.RETURNED
            return True
        case OnCancel.RAISE:
            body.end = End.RAISED
            raise ValueError("its clean-up failed")
        case OnCancel.JOB_ABORTED:
            body.end = End.JOB_ABORTED
            raise JobAborted
        case OnCancel.GO_ON:
            with trio.CancelScope(shield=True):
                await trio.sleep_until(body.began_at + spec.seconds)
            return False
        case OnCancel.DEAF | OnCancel.THREAD:
            raise AssertionError("it cannot hear a cancel")
        case _:
            assert_never(spec.on_cancel)


#: What each ending is seen as.
ENDS = {
    Ending.RETURN: End.RETURNED,
    Ending.RAISE: End.RAISED,
    Ending.JOB_ABORTED: End.JOB_ABORTED,
    Ending.JOB_ABORTED_GROUP: End.JOB_ABORTED,
    Ending.MIXED_GROUP: End.RAISED,
    Ending.STRAY: End.STRAY,
    Ending.KEYBOARD_INTERRUPT: End.EXITED,
    Ending.SYSTEM_EXIT: End.EXITED,
}


async def _end(ending: Ending, body: Body) -> None:
    body.end = ENDS[ending]
    match ending:
        case Ending.RETURN:
            return
        case Ending.RAISE:
            raise ValueError("it failed")
        case Ending.JOB_ABORTED:
            raise JobAborted
        case Ending.JOB_ABORTED_GROUP:
            raise ExceptionGroup("of a nursery", [JobAborted(), ExceptionGroup("", [JobAborted()])])
        case Ending.MIXED_GROUP:
            raise ExceptionGroup("of a nursery", [JobAborted(), ValueError("it failed")])
        case Ending.STRAY:
            await _raise_stray()
        case Ending.KEYBOARD_INTERRUPT:
            raise KeyboardInterrupt
        case Ending.SYSTEM_EXIT:
            raise SystemExit(3)
        case _:
            assert_never(ending)


async def _raise_stray() -> None:
    kept: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as cancelled:
            kept.append(cancelled)
    raise kept[0]
