"""What the log says of a worker's stages: who asked, what still holds it, what the next ask does.

Somebody reads this at night, who has to decide whether to wait, to ask again, or to kill.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import sys
from collections.abc import Callable
from typing import Any

import attrs
import trio

from trio_queue._worker.options import Options
from trio_queue._worker.running import RunningJob, RunningJobs
from trio_queue._worker.shutdown import Change, Shutdown, Stage
from trio_queue.log import Action, fields
from trio_queue.utils import duration, queues_display

#: Seconds between two lines that say what a drain still waits for.
REPORT_INTERVAL = 5.0

#: As many characters of a job's call: its arguments may be as long as they like.
CALL_LENGTH = 120


@attrs.frozen
class Situation:
    """What holds a worker at one moment."""

    #: The jobs whose bodies run, the one that began first at the front.
    running: tuple[RunningJob, ...]
    #: Those of them that were asked to stop so long ago that they should have, the longest first.
    deaf: tuple[RunningJob, ...]
    #: How many were claimed and have not begun.
    not_begun: int
    #: How many have ended, and their outcomes are still to be written.
    unwritten: int
    #: By Trio's clock.
    now: float
    #: Since when the database is away, by Trio's clock; infinity: it is there.
    away_since: float

    @classmethod
    def of(cls, jobs: RunningJobs, away_since: float) -> Situation:
        """What it is now."""
        now = trio.current_time()
        bodies = [job for job in jobs if job.started and not job.ended]
        deaf = [job for job in bodies if now - job.asked_at >= REPORT_INTERVAL]
        return cls(
            running=tuple(sorted(bodies, key=lambda job: job.started_at)),
            deaf=tuple(sorted(deaf, key=lambda job: job.asked_at)),
            not_begun=sum(not job.started and not job.ended for job in jobs),
            unwritten=sum(job.ended for job in jobs),
            now=now,
            away_since=away_since,
        )

    def __str__(self) -> str:
        return "; ".join(filter(None, [self._bodies(), self._deaf(), self._others()]))

    def _bodies(self) -> str:
        if not self.running:
            return "" if self.not_begun or self.unwritten else "no job runs"
        oldest = self.running[0]
        told = f"{_call(oldest)} for {duration(self.now - oldest.started_at)}"
        if len(self.running) == 1:
            return f"1 job runs, {told}"
        return f"{len(self.running)} jobs run, the oldest is {told}"

    def _deaf(self) -> str:
        if not self.deaf:
            return ""
        first = self.deaf[0]
        ago = duration(self.now - first.asked_at)
        if len(self.deaf) == 1:
            told = "it" if self.running == self.deaf else _call(first)
            told += f" was asked to stop {ago} ago and goes on"
        else:
            told = f"{len(self.deaf)} were asked to stop and go on, {_call(first)} since {ago}"
        threads = sum(not job.interruptible for job in self.deaf)
        if threads:
            which = "it runs" if len(self.deaf) == 1 else f"{threads} of them run"
            told += f" ({which} in a thread, which cannot be interrupted: should_abort() tells it)"
        return told

    def _others(self) -> str:
        told: list[str] = []
        if self.not_begun:
            told.append(f"{self.not_begun} not begun, to go back to the queue")
        if self.unwritten:
            told.append(f"{self.unwritten} ended, to be written")
        if self.away_since < math.inf:
            told.append(f"the database is away for {duration(self.now - self.away_since)}")
        return ", ".join(told)

    def fields(self) -> dict[str, Any]:
        """The same for programs."""
        told: dict[str, Any] = {
            "running": len(self.running),
            "not_begun": self.not_begun,
            "unwritten": self.unwritten,
        }
        if self.running:
            told["oldest"] = self._job(self.running[0])
        if self.away_since < math.inf:
            told["database_away"] = round(self.now - self.away_since, 3)
        if self.deaf:
            told["deaf"] = [self._job(job) for job in self.deaf]
        return told

    def _job(self, running: RunningJob) -> dict[str, Any]:
        told: dict[str, Any] = {
            "job_id": running.id,
            "task": running.job.task_name,
            "seconds": round(self.now - running.started_at, 3),
            "in_thread": not running.interruptible,
        }
        if running.reason is not None:
            asked = round(self.now - running.asked_at, 3)
            told |= {"asked_to_stop": running.reason.value, "seconds_since_asked": asked}
        return told


class StageReporter:
    """The lines of one worker about its stages."""

    def __init__(
        self,
        *,
        options: Options,
        running: RunningJobs,
        shutdown: Shutdown,
        logger: logging.Logger,
    ) -> None:
        self._options = options
        self._running = running
        self._shutdown = shutdown
        self._logger = logger
        self._name = options.name or "worker"
        self._who = ""
        #: Since when the database is away, by Trio's clock; infinity: it is there.
        self.away_since: Callable[[], float] = lambda: math.inf

    def changed(self, change: Change, worker_id: int | None) -> None:
        """The stage has changed."""
        self._who = change.who
        match change.after:
            case Stage.RUNNING:
                self._say(Action.START_WORKER, self._started(worker_id), worker_id)
            case Stage.STOPPED:
                self._say(Action.STOP_WORKER, self._stopped(change), worker_id)
            case stage:
                text = f"Worker {self._name} is {stage.value} ({change.who}): "
                self._say_situation(text, worker_id)

    def still(self, worker_id: int | None) -> None:
        """It still drains or aborts, some seconds later."""
        self._say_situation(f"Worker {self._name} is still {self._stage.value}: ", worker_id)

    def leaves(self, status: int, worker_id: int | None) -> None:
        """It leaves at the third signal. Called from the signal's handler."""
        self._who = signal.Signals(status - 128).name
        situation = Situation.of(self._running, self.away_since())
        text = f"Worker {self._name} leaves at once ({self._who}, the third signal): {situation}"
        if situation.running:
            text += "; other workers rescue that"
        self._say(Action.WORKER_LEAVES, text, worker_id, logging.WARNING, **situation.fields())

    @property
    def _stage(self) -> Stage:
        return self._shutdown.stage

    def _started(self, worker_id: int | None) -> str:
        queues, concurrency = queues_display(self._options.queues), self._options.concurrency
        text = f"Starting worker {self._name} on {queues}, concurrency {concurrency}"
        return text if worker_id is None else f"{text} (worker {worker_id})"

    def _stopped(self, change: Change) -> str:
        if change.before is Stage.STARTING:
            return f"Stopped worker {self._name} before it had started ({change.who})"
        return f"Stopped worker {self._name}: {change.who}{self._since_asked()}"

    def _since_asked(self) -> str:
        """How long after the ask it is; nothing where nobody asked, or where no clock tells."""
        with contextlib.suppress(RuntimeError):
            if self._shutdown.asked_at < math.inf:
                after = trio.current_time() - self._shutdown.asked_at
                return f", {duration(after)} after it was asked"
        return ""

    def _say_situation(self, text: str, worker_id: int | None) -> None:
        situation = Situation.of(self._running, self.away_since())
        next_ask = self._next_ask() if situation.running else ""
        # A job that does not listen may hold the worker until somebody kills it.
        level = logging.WARNING if situation.deaf else logging.INFO
        more = situation.fields() | {"next_ask": next_ask} if next_ask else situation.fields()
        if (aborts_in := self._aborts_in()) is not None:
            more["aborts_in"] = round(aborts_in, 3)
        text += "; ".join(filter(None, [str(situation), next_ask]))
        self._say(Action.WORKER_STAGE, text, worker_id, level, **more)

    def _aborts_in(self) -> float | None:
        """Seconds until running jobs are aborted by time."""
        if self._stage is not Stage.DRAINING or self._shutdown.deadline == math.inf:
            return None
        return max(0.0, self._shutdown.deadline - trio.current_time())

    def _next_ask(self) -> str:
        if self._stage is Stage.ABORTING:
            return self._when_aborting()
        aborts_in = self._aborts_in()
        if aborts_in is None:
            told = "it waits however long that takes"
        else:
            told = f"it aborts in {duration(aborts_in)} (shutdown_graceful_timeout)"
        if self._shutdown.asks:
            now = "" if aborts_in is None else " now"
            return f"{told}, ask again to abort{now} ({self._how()})"
        ask = "two signals abort" if self._options.install_signal_handlers else "abort() aborts"
        return f"{told}, {ask}{'' if aborts_in is None else ' now'}"

    def _when_aborting(self) -> str:
        missing = 3 - self._shutdown.asks
        if self._options.exit_on_third_signal and missing > 0:
            signals = {1: "a third signal leaves", 2: "two more signals leave"}
            leave = signals.get(missing, "three signals leave")
            return f"it waits for the end, {leave} at once, and other workers rescue what runs"
        return "it waits for the end, only SIGKILL ends it sooner"

    def _how(self) -> str:
        """How whoever asked asks again."""
        by_key = self._who in {"SIGINT", "Ctrl-C"} and _is_terminal()
        if by_key or self._who == "Ctrl-C":
            return "Ctrl-C"
        return "another signal" if self._options.install_signal_handlers else "in the same way"

    def _say(
        self,
        action: Action,
        text: str,
        worker_id: int | None,
        level: int = logging.INFO,
        **more: Any,
    ) -> None:
        worker = {
            "name": self._options.name,
            "worker_id": worker_id,
            "queues": list(self._options.queues or []),
        }
        extra = fields(action, stage=self._stage.value, who=self._who, **more, worker=worker)
        self._logger.log(level, "%s", text, extra=extra)


def _call(running: RunningJob) -> str:
    call = running.job.call_string
    return call if len(call) <= CALL_LENGTH else f"{call[: CALL_LENGTH - 1]}…"


def _is_terminal() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
