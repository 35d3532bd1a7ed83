"""The tables in memory, with what constraints, triggers and transactions do to them on PostgreSQL."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

from trio_queue._storage.encoding import Dumps, Loads, as_stored, check_job, encode_args
from trio_queue._storage.memory_rows import (
    EventRow,
    News,
    Orphan,
    PeriodicRow,
    WorkerRow,
)
from trio_queue._storage.rows import JOB_COLUMNS, JobRow, job_from_row
from trio_queue.exceptions import AlreadyEnqueued, ConnectorException
from trio_queue.jobs import Job
from trio_queue.store import AbortRequested, JobInserted

#: The event that a change of status writes; changes that are not listed write none.
_EVENTS: dict[tuple[str, str], str] = {
    ("todo", "doing"): "started",
    ("todo", "cancelled"): "cancelled",
    ("todo", "failed"): "cancelled",
    ("todo", "succeeded"): "cancelled",
    ("doing", "todo"): "deferred_for_retry",
    ("doing", "failed"): "failed",
    ("doing", "succeeded"): "succeeded",
    ("doing", "aborted"): "aborted",
    ("failed", "todo"): "retried",
}


class Tables:
    """The state of a database, changed inside `transaction()` only.

    Not thread-safe: whoever owns it holds a lock around each transaction.
    """

    def __init__(
        self,
        clock: Callable[[], datetime.datetime],
        *,
        dumps: Dumps | None = None,
        loads: Loads | None = None,
    ) -> None:
        self.clock = clock
        self._dumps, self._loads = dumps, loads
        self.jobs: dict[int, JobRow] = {}
        #: How long the arguments of each job are as JSON.
        self.sizes: dict[int, int] = {}
        self.events: dict[int, list[EventRow]] = {}
        self.workers: dict[int, WorkerRow] = {}
        self.periodic_defers: list[PeriodicRow] = []
        self.orphans: list[Orphan] = []
        # Like sequences, these do not roll back: an id is never used twice.
        self.job_ids: itertools.count[int] = itertools.count(1)
        self.event_ids: itertools.count[int] = itertools.count(1)
        self.worker_ids: itertools.count[int] = itertools.count(1)
        #: When the transaction began: what `now()` answers in all of its statements.
        self.now: datetime.datetime = clock()
        self._undo: list[Callable[[], object]] = []
        self._news: list[News] = []

    # -- transactions ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Generator[list[News]]:
        """All that is done in the block, or nothing of it. Gives the news, complete at the end."""
        self.now, self._undo, self._news = self.clock(), [], []
        try:
            yield self._news
        except BaseException:
            for step in reversed(self._undo):
                step()
            self._news.clear()
            raise

    # -- jobs -----------------------------------------------------------------------------------

    def insert_jobs(self, jobs: Iterable[Job]) -> list[int]:
        """Insert jobs as `todo` in one statement, with their events; the ids in their order."""
        rows: list[JobRow] = []
        sizes: list[int] = []
        for job in jobs:
            check_job(job)
            text = encode_args(job, self._dumps)
            sizes.append(len(text))
            rows.append(
                {
                    "id": 0,
                    "queue_name": job.queue,
                    "task_name": job.task_name,
                    "priority": job.priority,
                    "lock": job.lock,
                    "queueing_lock": job.queueing_lock,
                    "args": as_stored(text, self._loads),
                    "status": "todo",
                    "scheduled_at": job.scheduled_at,
                    "attempts": 0,
                    "abort_requested": False,
                    "worker_id": None,
                }
            )
        queueing_locks = [row["queueing_lock"] for row in rows]
        for row, size in zip(rows, sizes, strict=True):
            row["id"] = next(self.job_ids)
            self._refuse_second_waiting(row, queueing_locks)
            self.jobs[row["id"]] = row
            self.sizes[row["id"]] = size
            self.events[row["id"]] = []
            self._undo.append(functools.partial(self._forget_job, row["id"]))
        for row in rows:
            if row["scheduled_at"] is not None:
                self.write_event(row["id"], "scheduled", at=row["scheduled_at"])
            self.write_event(row["id"], "deferred")
        self.tell_waiting(rows)
        return [row["id"] for row in rows]

    def update_job(
        self,
        row: JobRow,
        *,
        details: dict[str, Any] | None = None,
        event: str | None = None,
        **changes: Any,
    ) -> None:
        """Change columns of a job, in one statement, with the events that this writes.

        Args:
            row: The job.
            details: Worker, attempt and reason, to stand beside the event of the new status.
            event: The event, where the change of status has none of its own.
            **changes: The columns.

        Raises:
            AlreadyEnqueued: Another job waits with its queueing lock.
            ConnectorException: A constraint does not allow it.
        """
        before: JobRow = row.copy()
        row.update(changes)  # type: ignore[typeddict-item]  # columns by name, as in an UPDATE
        self._undo.append(lambda: row.update(before))
        waits = row["status"] == "todo"
        if waits and row["abort_requested"]:
            raise ConnectorException(
                f"job {row['id']} cannot wait again: an abort was requested of it "
                "(check constraint check_not_todo_abort_requested)"
            )
        if waits:
            self._refuse_second_waiting(row, [row["queueing_lock"]])
        if row["status"] == "doing":
            self._refuse_second_running(row)
        if "abort_requested" in changes and row["abort_requested"]:
            self.write_event(row["id"], "abort_requested")
            if not before["abort_requested"] and row["status"] == "doing":
                self._news.append(News(row["queue_name"], AbortRequested(row["id"])))
        if waits and row["scheduled_at"] is not None:
            self.write_event(row["id"], "scheduled", at=row["scheduled_at"])
        event = event or _EVENTS.get((before["status"], row["status"]))
        if event is not None:
            self.write_event(row["id"], event, **(details or {}))
        self._tell_ready(row, before)

    def delete_job(self, row: JobRow) -> None:
        """Delete a job, with its events; the moments it was deferred for stay taken."""
        job_id = row["id"]
        events = self.events.pop(job_id, [])
        del self.jobs[job_id]
        size = self.sizes.pop(job_id)
        linked = [periodic for periodic in self.periodic_defers if periodic.job_id == job_id]
        for periodic in linked:
            periodic.job_id = None

        def undo() -> None:
            self.jobs[job_id], self.events[job_id], self.sizes[job_id] = row, events, size
            for periodic in linked:
                periodic.job_id = job_id

        self._undo.append(undo)
        self._set_orphans(*(orphan for orphan in self.orphans if orphan.job_id != job_id))
        if row["status"] in {"todo", "doing"}:
            self._tell_free(row["lock"])

    def write_event(
        self, job_id: int, type_: str, *, at: datetime.datetime | None = None, **details: Any
    ) -> None:
        """Write an event, now unless another moment is given."""
        events = self.events.setdefault(job_id, [])
        events.append(
            EventRow(
                id=next(self.event_ids), job_id=job_id, type=type_, at=at or self.now, **details
            )
        )
        self._undo.append(events.pop)

    def _forget_job(self, job_id: int) -> None:
        del self.jobs[job_id], self.events[job_id], self.sizes[job_id]

    def by_rank(self, rows: Iterable[JobRow]) -> list[JobRow]:
        """The jobs in the order in which they start: by priority, then by id."""
        return sorted(rows, key=lambda row: (-row["priority"], row["id"]))

    def sorted_jobs(self) -> list[JobRow]:
        """Every job, by id (a rolled back deletion puts its row at the end)."""
        return [self.jobs[job_id] for job_id in sorted(self.jobs)]

    # -- workers --------------------------------------------------------------------------------

    def take_turn(self, worker_id: int, turn: int | None) -> bool:
        """Whether it is this call's turn: none that is numbered higher has begun."""
        worker = self.workers.get(worker_id)
        if worker is None or turn is None:
            return True
        if worker.last_turn >= turn:
            return False
        worker.last_turn = turn
        return True

    def delete_workers(self, worker_ids: Iterable[int]) -> None:
        """Delete workers; their running jobs lose them and are noted as orphans."""
        for worker_id in worker_ids:
            worker = self.workers.pop(worker_id, None)
            if worker is None:
                continue
            self._undo.append(functools.partial(self.workers.__setitem__, worker_id, worker))
            for row in self.sorted_jobs():
                if row["worker_id"] == worker_id and row["status"] == "doing":
                    self._note_orphan(row, worker_id)
                    self.update_job(row, worker_id=None)

    def _note_orphan(self, row: JobRow, worker_id: int) -> None:
        run = (row["id"], row["attempts"])
        self._set_orphans(
            *(known for known in self.orphans if (known.job_id, known.attempts) != run),
            Orphan(job_id=row["id"], attempts=row["attempts"], worker_id=worker_id),
        )

    def forget_orphan(self, job_id: int, attempts: int) -> None:
        """Delete the note that this run of a job lost its worker, where there is one."""
        run = (job_id, attempts)
        self._set_orphans(
            *(known for known in self.orphans if (known.job_id, known.attempts) != run)
        )

    def _set_orphans(self, *orphans: Orphan) -> None:
        before = self.orphans
        self.orphans = [*orphans]
        self._undo.append(lambda: setattr(self, "orphans", before))

    # -- news -----------------------------------------------------------------------------------

    def tell_waiting(self, rows: Sequence[JobRow]) -> None:
        """News of jobs that wait: one for each of their queues."""
        self._news += [
            News(queue, JobInserted()) for queue in sorted({row["queue_name"] for row in rows})
        ]

    def _tell_ready(self, row: JobRow, before: JobRow) -> None:
        """News of jobs that wait although nobody inserted them: this one, or its lock's next."""
        if row["status"] == before["status"]:
            return
        if row["status"] == "todo":  # for later, too
            self._news.append(News(row["queue_name"], JobInserted()))
        if row["status"] != "doing" and before["status"] in {"todo", "doing"}:
            self._tell_free(before["lock"])

    def _tell_free(self, lock: str | None) -> None:
        """News of the first job that waits for a lock, if it is due."""
        if lock is None:
            return
        waiting = (
            row for row in self.jobs.values() if row["lock"] == lock and row["status"] == "todo"
        )
        for first in self.by_rank(waiting)[:1]:
            if self._is_due(first):
                self._news.append(News(first["queue_name"], JobInserted()))

    def _is_due(self, row: JobRow) -> bool:
        return row["scheduled_at"] is None or row["scheduled_at"] <= self.now

    # -- constraints ----------------------------------------------------------------------------

    def waits_with(self, queueing_lock: str | None, *, other_than: int) -> bool:
        """Whether another job waits with this queueing lock."""
        return queueing_lock is not None and any(
            other["queueing_lock"] == queueing_lock
            and other["status"] == "todo"
            and other["id"] != other_than
            for other in self.jobs.values()
        )

    def _refuse_second_waiting(self, row: JobRow, queueing_locks: list[str | None]) -> None:
        if self.waits_with(row["queueing_lock"], other_than=row["id"]):
            raise AlreadyEnqueued(
                f"a job with the queueing lock {row['queueing_lock']!r} is already waiting",
                queueing_locks=queueing_locks,
            )

    def _refuse_second_running(self, row: JobRow) -> None:
        lock = row["lock"]
        if lock is not None and any(
            other["lock"] == lock and other["status"] == "doing" and other is not row
            for other in self.jobs.values()
        ):
            raise ConnectorException(f"a job with the lock {lock!r} is already running")


def to_job(row: JobRow) -> Job:
    """The job that a row is, a copy that does not change with it."""
    values: dict[str, Any] = {**row, "args": _copy(row["args"])}
    return job_from_row([values[column] for column in JOB_COLUMNS])


def _copy(value: Any) -> Any:
    match value:
        case dict():
            entries: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  # a cast is redundant to mypy
            return {key: _copy(entry) for key, entry in entries.items()}
        case list():
            members: list[Any] = value  # pyright: ignore[reportUnknownVariableType]  # a cast is redundant to mypy
            return [_copy(member) for member in members]
        case _:
            return value
