"""Write what became of jobs: whatever gathered while the last write was under way, in one statement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, groupby

import attrs
import trio

from trio_queue._worker.database import WRITE_BOUND, Backoff, Database
from trio_queue._worker.lease import Lease
from trio_queue._worker.report import Ended, Reporter
from trio_queue._worker.running import RunningJobs
from trio_queue._worker.shutdown import Shutdown
from trio_queue.completion import without_retry
from trio_queue.exceptions import OutcomesNotWritten
from trio_queue.store import Finished, FinishJobs


class Completer:
    """Writes outcomes for one worker. A job keeps its place until its row is written."""

    def __init__(
        self,
        *,
        database: Database,
        running: RunningJobs,
        shutdown: Shutdown,
        lease: Lease,
        patience: float,
        written: Callable[[Sequence[Ended]], None],
        reporter: Reporter,
    ) -> None:
        self._database = database
        self._running = running
        self._shutdown = shutdown
        self._lease = lease
        self._patience = patience
        # A try that is longer than the lease would outlast it.
        self._bound = min(WRITE_BOUND, patience)
        self._written = written
        self._reporter = reporter
        self._ended: list[Ended] = []
        self._added = trio.Event()
        #: Set where a stop could not wait for the database any longer: the worker raises it.
        self.error: OutcomesNotWritten | None = None
        self._given_up: list[str] = []

    def add(self, ended: Ended) -> None:
        """Take the outcome of a job whose body has ended."""
        self._ended.append(ended)
        self._added.set()

    async def write(self) -> None:
        """Write outcomes as they come, without end; a service.

        Run again where it raises, which only a bug of ours or a log handler makes it do: what has
        ended meanwhile is still to be written. What it was about to write is let go of: kept, it
        would keep `run()` from ever ending.
        """
        while True:
            await self._added.wait()
            self._added = trio.Event()
            batch, self._ended = self._ended, []
            batch.sort(key=_worker_id)  # stable; a second id is there only after a lease was lost
            groups = [list(group) for _, group in groupby(batch, key=_worker_id)]
            while groups:
                try:
                    await self._write(groups[0])
                except Exception as error:
                    held = set(self._running)
                    self._ended[:0] = chain.from_iterable(groups[1:])
                    self._added.set()
                    self._leave([each for each in groups[0] if each.running in held], repr(error))
                    raise
                del groups[0]

    async def _write(self, batch: list[Ended]) -> None:
        """Write these, however long the database is away; let go of them when it is done."""
        verb = FinishJobs(
            batch[0].running.worker_id,
            [ended.completion for ended in batch if ended.completion is not None],
        )
        backoff = Backoff()
        failing_since = math.inf
        answers: list[Finished] = []
        while verb.completions:
            try:
                answers = await self._database.run(verb, bound=self._bound)
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, the next batch is to be written
                if not self._database.is_transient(error):
                    await self._write_apart(batch, error)
                    return
                failing_since = min(failing_since, trio.current_time())
                if self._must_give_up(failing_since):
                    self._give_up(batch)
                    return
                await trio.sleep(backoff.next())
        contested = self._contested(batch, answers)
        self._let_go([ended for ended in batch if ended not in contested], answers)
        if contested:
            await self._settle(contested, verb.worker_id)

    def _contested(self, batch: Sequence[Ended], answers: Sequence[Finished]) -> list[Ended]:
        refused = {answer.job_id for answer in answers if answer.status is None}
        return [ended for ended in batch if ended.completion and ended.running.id in refused]

    async def _settle(self, contested: list[Ended], written_under: int) -> None:
        """Writes that matched no row: the job was taken from us, or the worker's own row was lost.

        In the second case the jobs that nobody has taken yet are ours again under the new id; they
        may be so already, where the heartbeat noticed the loss between two tries.
        """
        await self._lease.check()
        ours = [ended for ended in contested if ended.running.worker_id != written_under]
        self._let_go([ended for ended in contested if ended not in ours], [])
        if ours:
            await self._write(ours)

    async def _write_apart(self, batch: list[Ended], error: Exception) -> None:
        """One row that the database refuses must not hold the others."""
        if len(batch) > 1:
            for ended in batch:
                await self._write([ended])
            return
        [ended] = batch
        if ended.completion is not None and ended.completion.retry is not None:
            # It may be the strategy's decision that no row can hold.
            self._reporter.retry_refused(ended, error)
            await self._write([attrs.evolve(ended, completion=without_retry(ended.completion))])
            return
        self._leave(batch, error)

    def _must_give_up(self, failing_since: float) -> bool:
        # Until then no other worker touches these rows; from then on they are the rescue's. Other
        # verbs may be answered meanwhile: a write that never is must not hold a stop either.
        # As long as a job runs the worker is there anyway, and goes on trying.
        patience_ends = min(self._database.away_since, failing_since) + self._patience
        return (
            self._shutdown.draining.is_set()
            and not self._running.bodies
            and trio.current_time() >= patience_ends
        )

    def _give_up(self, batch: list[Ended]) -> None:
        self._given_up += [ended.running.job.call_string for ended in batch]
        self.error = OutcomesNotWritten(
            "the worker stopped while the database was away: the outcomes of these jobs could not "
            "be written, their rows stay `doing` until they are rescued: "
            + ", ".join(self._given_up)
        )
        self._leave(batch, "the database is away, and the worker stops")

    def _leave(self, batch: list[Ended], error: object) -> None:
        self._running.leave(ended.running for ended in batch)
        self._written(batch)
        self._reporter.not_written(batch, error)

    def _let_go(self, batch: list[Ended], answers: Sequence[Finished]) -> None:
        statuses = {answer.job_id: answer.status for answer in answers}
        try:
            for ended in batch:
                self._reporter.ended(ended, statuses.get(ended.running.id))
        finally:  # a log handler of the user's may raise: the rows are written all the same
            self._running.let_go(ended.running for ended in batch)
            self._written(batch)


def _worker_id(ended: Ended) -> float:
    return ended.running.worker_id if ended.completion else math.inf
