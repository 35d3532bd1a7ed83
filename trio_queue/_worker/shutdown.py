"""How a worker stops: the stages, the table of what moves it from one to the next, and their owner.

A stage never goes back. Whoever wants the worker to stop posts an event here; nobody keeps a
second flag. An event that the table does not know in the present stage is an error of ours.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from enum import Enum

import attrs
import trio

from trio_queue._worker.shared_event import SharedEvent


class Stage(Enum):
    """Where a worker is in its life."""

    STARTING = "starting"  #: It opens what it needs, and registers.
    RUNNING = "running"  #: It fetches jobs and runs them.
    DRAINING = "draining"  #: It fetches no more; running jobs go on.
    ABORTING = "aborting"  #: Running jobs are asked to give up.
    STOPPED = "stopped"  #: The last job has ended, and its row is written.


class Event(Enum):
    """What can happen to a worker's stage."""

    STARTED = "it listens and is registered"
    STOP = "stop(), the cancel of the scope around run(), a service that cannot recover"
    ABORT = "abort()"
    FIRST_ASK = "the first signal, or cancel of the run_worker_async task"
    NEXT_ASK = "the second or a later one"
    DEADLINE = "shutdown_graceful_timeout has passed since it was first asked to stop"
    NO_JOB_LEFT = "wait=False and no job is left"
    JOB_EXITED = "a job raised KeyboardInterrupt or SystemExit"
    ENDED = "the last job has ended and its row is written"


STARTING, RUNNING, DRAINING, ABORTING, STOPPED = Stage

#: From each stage, what each event leads to.
TRANSITIONS: dict[Stage, dict[Event, Stage]] = {
    STARTING: {
        Event.STARTED: RUNNING,
        Event.STOP: STOPPED,
        Event.ABORT: STOPPED,
        Event.FIRST_ASK: STOPPED,
        Event.ENDED: STOPPED,  # opening failed
    },
    RUNNING: {
        Event.STOP: DRAINING,
        Event.ABORT: ABORTING,
        Event.FIRST_ASK: DRAINING,
        Event.NO_JOB_LEFT: DRAINING,
        Event.JOB_EXITED: ABORTING,
    },
    DRAINING: {
        Event.STOP: DRAINING,
        Event.ABORT: ABORTING,
        Event.FIRST_ASK: DRAINING,  # it drains for another reason: nothing new
        Event.NEXT_ASK: ABORTING,
        Event.DEADLINE: ABORTING,
        Event.NO_JOB_LEFT: DRAINING,
        Event.JOB_EXITED: ABORTING,
        Event.ENDED: STOPPED,
    },
    ABORTING: {
        Event.STOP: ABORTING,
        Event.ABORT: ABORTING,
        Event.FIRST_ASK: ABORTING,
        Event.NEXT_ASK: ABORTING,
        Event.DEADLINE: ABORTING,
        Event.NO_JOB_LEFT: ABORTING,
        Event.JOB_EXITED: ABORTING,
        Event.ENDED: STOPPED,
    },
    STOPPED: {
        # a stop that came while it was starting: what it had begun ends here too
        Event.STARTED: STOPPED,
        Event.STOP: STOPPED,
        Event.ABORT: STOPPED,
        Event.FIRST_ASK: STOPPED,
        Event.NEXT_ASK: STOPPED,
        Event.DEADLINE: STOPPED,
        Event.ENDED: STOPPED,
    },
}

#: Events by which somebody wants the worker to stop: the deadline counts from the first of them.
ASKED = frozenset({Event.STOP, Event.ABORT, Event.FIRST_ASK, Event.NEXT_ASK})


@attrs.frozen
class Change:
    """A worker's stage has changed."""

    before: Stage
    after: Stage
    event: Event
    #: Who or what caused it, as the log says it.
    who: str


class Shutdown:
    """The stage of one worker, and the only way to change it.

    `stop`, `abort` and `ask` may be called from any thread and from signal handlers, before,
    while and after the worker runs; none is lost.
    """

    def __init__(self, graceful_timeout: float | None = None) -> None:
        self.stage = STARTING
        #: When somebody first wanted it to stop, by Trio's clock; infinity: nobody has.
        self.asked_at = math.inf
        self.asks = 0
        #: Set when the stage is reached or passed.
        self.draining = SharedEvent()
        self.aborting = trio.Event()
        #: Told of every change, on Trio's thread (before the run: on the caller's).
        self.on_change: Callable[[Change], None] = lambda _: None
        self._graceful_timeout = graceful_timeout
        self._changed = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        # Reentrant: a signal handler of the user's may ask in the middle of an ask.
        self._attaching = threading.RLock()

    # -- who wants the worker to stop -------------------------------------------------------------

    def stop(self, who: str) -> None:
        """Finish the running jobs, then stop."""
        self.post(Event.STOP, who)

    def abort(self, who: str) -> None:
        """Abort the running jobs, then stop."""
        self.post(Event.ABORT, who)

    def ask(self, who: str) -> None:
        """Ask once: the first time it drains, the second time it aborts."""
        self.post(None, who)

    # -- the machinery ----------------------------------------------------------------------------

    def attach(self) -> None:
        """From here on, changes happen on this Trio thread."""
        with self._attaching:
            self._token = trio.lowlevel.current_trio_token()

    def post(self, event: Event | None, who: str) -> None:
        """Let an event happen (None: an ask), at once on Trio's thread, else as soon as it can."""
        with self._attaching:
            token = self._token
            if token is None:
                self._happen(event, who, math.inf)
                return
        if _is_here(token):
            self._happen(event, who, trio.current_time())
            return
        self._hand_over(token, event, who)

    def post_from_signal(self, who: str) -> None:
        """An ask, from a signal handler: it may interrupt any line of ours, so it only hands over.

        A lock could be held by the very code that was interrupted.
        """
        if self._token is not None:
            self._hand_over(self._token, None, who)

    def _hand_over(self, token: trio.lowlevel.TrioToken, event: Event | None, who: str) -> None:
        posted_at = time.monotonic()

        def happen() -> None:
            # The loop may have been blocked: the deadline counts from the ask.
            delay = time.monotonic() - posted_at
            self._happen(event, who, trio.current_time() - delay)

        try:
            token.run_sync_soon(happen)
        except trio.RunFinishedError:
            return  # the worker has stopped with its loop: nothing is left to ask

    def _happen(self, event: Event | None, who: str, now: float) -> None:
        if event is None:
            self.asks += 1
            event = Event.FIRST_ASK if self.asks == 1 else Event.NEXT_ASK
        before = self.stage
        self.stage = TRANSITIONS[before][event]
        if event in ASKED:
            self.asked_at = min(self.asked_at, now)
        if self.stage in {DRAINING, ABORTING, STOPPED}:
            self.draining.set()
        if self.stage in {ABORTING, STOPPED}:
            self.aborting.set()
        self._changed.set()
        self._changed = trio.Event()
        if self.stage is not before:
            self.on_change(Change(before, self.stage, event, who))

    # -- what the worker waits for ----------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When running jobs are aborted, by Trio's clock; infinity: not by time."""
        if self._graceful_timeout is None:
            return math.inf
        return self.asked_at + self._graceful_timeout

    async def wait_change(self) -> None:
        """Wait for the next event, whether or not it changes the stage."""
        await self._changed.wait()

    async def drains_within(self, seconds: float) -> bool:
        """Wait so many seconds, or until it drains. Answers whether it does."""
        with trio.move_on_after(seconds):
            await self.draining.wait()
        return self.draining.is_set()

    async def wait_aborting(self) -> None:
        """Wait until jobs are to be aborted, and see to it that the deadline is kept."""
        while not self.aborting.is_set():
            with trio.CancelScope(deadline=self.deadline) as patience:
                await self.wait_change()
            if patience.cancelled_caught:
                assert self._graceful_timeout is not None
                self.post(
                    Event.DEADLINE, f"shutdown_graceful_timeout of {self._graceful_timeout:g} s"
                )


def _is_here(token: trio.lowlevel.TrioToken) -> bool:
    try:
        return trio.lowlevel.current_trio_token() is token
    except RuntimeError:
        return False
