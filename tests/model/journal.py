"""A database in memory that writes down what each statement does to the rows of jobs."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator
from typing import Any, TypeVar

import trio
import trio.testing

from tests.fix_worker import FaultyConnector
from tests.model.record import Change, Record, Row
from trio_queue.testing import FaultyStore, InMemoryDatabase, InMemoryJobStore
from trio_queue.verbs import RegisterWorker, Verb

R = TypeVar("R")

#: Statements, more than any script brings about.
TOO_OFTEN = 1_500
#: When a worker that has not ended, long after it should have, is let go of by force.
HUNG = 400.0


class JournalDatabase(InMemoryDatabase):
    """Compares every row before and after each transaction."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.record = record
        #: The number of each row's job in the script, by the row's id.
        self.numbers: dict[int, int] = {}
        self._order = itertools.count()
        self._by_worker = True
        self._asked = 0
        self._before: dict[int, Row] = {}

    def next_order(self) -> int:
        """A number for something that happens now, higher than those of all before."""
        return next(self._order)

    @contextlib.contextmanager
    def somebody_else(self) -> Generator[None]:
        """What is said in the block is not the worker's."""
        self._by_worker = False
        try:
            yield
        finally:
            self._by_worker = True

    def run(self, verb: Verb[R]) -> R:
        self._asked += 1
        if self._asked > TOO_OFTEN:
            # A planted bug may ask without end in one moment: then it is time to give up.
            self._asked = 0
            clock = trio.lowlevel.current_clock()
            assert isinstance(clock, trio.testing.MockClock)
            clock.jump(HUNG)
        answer = super().run(verb)
        if isinstance(verb, RegisterWorker) and self._by_worker:
            self.record.worker_ids.add(max(self.tables.workers))
        rows = self.rows()
        for job_id in sorted(rows.keys() | self._before.keys()):
            before, after = self._before.get(job_id), rows.get(job_id)
            if before != after:
                self._note(verb, job_id, before, after)
        self._before = rows
        return answer

    def rows(self) -> dict[int, Row]:
        """Every row, by id."""
        return {job_id: self._row(row) for job_id, row in self.tables.jobs.items()}

    def _row(self, row: Any) -> Row:
        due = row["scheduled_at"]
        return Row(
            status=row["status"],
            attempts=row["attempts"],
            worker_id=row["worker_id"],
            abort_requested=row["abort_requested"],
            due_at=due and round((due - self.clock()).total_seconds() + trio.current_time(), 6),
        )

    def _note(self, verb: Verb[Any], job_id: int, before: Row | None, after: Row | None) -> None:
        events = self.tables.events.get(job_id)
        self.record.changes.append(
            Change(
                order=self.next_order(),
                at=trio.current_time(),
                # A row is inserted before its number is known: it is the last.
                job=self.numbers.setdefault(job_id, self.next_number),
                verb=verb.name,
                by_worker=self._by_worker,
                before=before,
                after=after,
                reason=events[-1].reason if events else None,
            )
        )

    #: The number of the job that is being deferred.
    next_number = 0


class JournalConnector(FaultyConnector):
    """The journal as an App's connector, with faults on order."""

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.journal = JournalDatabase(record)
        self.database = self.journal
        self.store = FaultyStore(InMemoryJobStore(self.database))
