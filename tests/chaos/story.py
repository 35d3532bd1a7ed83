"""Tells a small history for the check's own tests: what happened, step by step, on a clock of its own."""

from __future__ import annotations

import attrs

from tests.chaos.check import check
from tests.chaos.history import (
    Change,
    Deferral,
    Event,
    Hearing,
    History,
    How,
    NotWritten,
    Process,
    Row,
    Run,
    Written,
)

_EVENTS = {"todo": "deferred_for_retry", "doing": "started"}


class Story:
    """A history in the making. Each step happens a second after the one before."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._rows: dict[int, Row] = {}
        self._events: list[Event] = []
        self._changes: list[Change] = []
        self._runs: dict[int, Run] = {}
        self._deferrals: list[Deferral] = []
        self._hearings: list[Hearing] = []
        self._not_written: list[NotWritten] = []
        self._written: list[Written] = []
        self._processes: dict[str, Process] = {}
        self.complaints: list[str] = []

    def tell(self) -> History:
        """All that happened so far."""
        return History(
            rows=tuple(self._rows.values()),
            events=tuple(self._events),
            changes=tuple(self._changes),
            runs=tuple(self._runs.values()),
            processes=tuple(self._processes.values()),
            hearings=tuple(self._hearings),
            not_written=tuple(self._not_written),
            written=tuple(self._written),
            deferrals=tuple(self._deferrals),
            complaints=tuple(self.complaints),
        )

    def tick(self, seconds: float = 1.0) -> float:
        """Time passes."""
        self.now += seconds
        return self.now

    # -- in the database --------------------------------------------------------------------------

    def deferred(self, job_id: int, task: str = "quick", **more: str) -> None:
        token = more.pop("token", f"token {job_id}")
        self._rows[job_id] = Row(
            id=job_id, task=task, status="todo", attempts=0, token=token, **more
        )
        self._deferrals.append(Deferral(job_id=job_id, token=token))
        self.event(job_id, "deferred")

    def claimed(self, job_id: int, worker_id: int = 1) -> None:
        self._change(job_id, "doing", worker_id)

    def closed(
        self, job_id: int, status: str = "succeeded", reason: str | None = None, counted: int = 1
    ) -> None:
        self._change(job_id, status, None, reason)
        row = self._rows[job_id]
        self._rows[job_id] = attrs.evolve(row, attempts=row.attempts + counted)

    def rescued(self, job_id: int, status: str = "todo") -> None:
        self.closed(job_id, status, "worker_died")

    def taken_over(self, job_id: int, worker_id: int) -> None:
        """A worker, another or the same under a new id, takes the row over."""
        self._changes.append(
            Change(
                number=len(self._changes) + 1,
                job_id=job_id,
                at=self.tick(),
                before="doing",
                after="doing",
                attempts=self._rows[job_id].attempts,
                worker_id=worker_id,
            )
        )

    def abort_requested(self, job_id: int) -> None:
        self.event(job_id, "abort_requested")

    def event(self, job_id: int, type: str, reason: str | None = None) -> None:
        number = len(self._events) + 1
        self._events.append(
            Event(id=number, job_id=job_id, type=type, at=self.tick(), reason=reason)
        )

    def forget_event(self) -> None:
        """The last event was never written."""
        self._events.pop()

    def forget_row(self, job_id: int) -> None:
        """The row is not there at the end."""
        del self._rows[job_id]

    def _change(
        self, job_id: int, status: str, worker_id: int | None, reason: str | None = None
    ) -> None:
        row = self._rows[job_id]
        self.event(job_id, _EVENTS.get(status, status), reason)
        self._changes.append(
            Change(
                number=len(self._changes) + 1,
                job_id=job_id,
                at=self.now,
                before=row.status,
                after=status,
                attempts=row.attempts,
                worker_id=worker_id,
            )
        )
        self._rows[job_id] = attrs.evolve(row, status=status)

    # -- in a worker ------------------------------------------------------------------------------

    def began(self, job_id: int, process: str = "a", worker_id: int = 1, **more: int) -> int:
        """A body begins under the last claim; answers the run's number."""
        self._processes.setdefault(
            process, Process(name=process, is_worker=True, ended=9999.0, status=0, asks=1)
        )
        number = len(self._runs)
        row = self._rows[job_id]
        self._runs[number] = Run(
            run_id=f"run {number}",
            job_id=job_id,
            attempt=more.get("attempt", row.attempts),
            process=process,
            worker_id=worker_id,
            lock=row.lock,
            began=self.tick(),
        )
        return number

    def ended(self, run: int, how: How = How.RETURNED, reason: str | None = None) -> None:
        self._runs[run] = attrs.evolve(self._runs[run], ended=self.tick(), how=how, reason=reason)

    def heard(self, process: str, *job_ids: int) -> None:
        """A worker logs that these jobs are not its own any more."""
        self._hearings.append(Hearing(process=process, at=self.tick(), job_ids=frozenset(job_ids)))

    def wrote(self, process: str, job_id: int, status: str) -> None:
        """A worker logs that this outcome is in the row."""
        self._written.append(Written(process=process, job_id=job_id, status=status))

    def could_not_write(self, process: str, job_id: int) -> None:
        self._not_written.append(NotWritten(process=process, job_id=job_id, at=self.tick()))

    def killed(self, process: str) -> None:
        self.process(process, status=-9, doomed=self.tick())

    def process(
        self,
        name: str,
        *,
        status: int = 0,
        asks: int = 0,
        asked: float | None = None,
        doomed: float | None = None,
        is_worker: bool = True,
        error: str | None = None,
        started: float | None = 0.0,
        had_stopped: bool = False,
        worker_ids: frozenset[int] = frozenset(),
    ) -> None:
        """A process ends, now."""
        self._processes[name] = Process(
            name=name,
            is_worker=is_worker,
            ended=self.now + 0.01,
            status=status,
            asks=asks,
            asked=asked,
            doomed=doomed,
            error=error,
            started=started,
            had_stopped=had_stopped,
            worker_ids=worker_ids,
        )


def found(story: Story) -> list[str]:
    """Which promises were broken."""
    return [violation.promise for violation in check(story.tell()).violations]


def ran(story: Story, job_id: int, how: How = How.RETURNED, reason: str | None = None) -> None:
    """A job is claimed, and its body runs to its end."""
    story.claimed(job_id)
    story.ended(story.began(job_id), how, reason)
