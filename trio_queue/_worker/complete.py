"""Write what became of jobs: whatever gathered while the last write was under way, in one statement."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, groupby
from typing import ParamSpec

import trio

from trio_queue._worker.database import WRITE_BOUND, Backoff, Database
from trio_queue._worker.lease import Lease
from trio_queue._worker.report import Reporter
from trio_queue._worker.running import RunningJob, RunningJobs
from trio_queue._worker.services import Supervisor
from trio_queue._worker.shutdown import Shutdown
from trio_queue.completion import without_retry
from trio_queue.exceptions import OutcomesNotWritten
from trio_queue.verbs import Finished, FinishJobs

P = ParamSpec("P")


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
        written: Callable[[Sequence[RunningJob]], None],
        reporter: Reporter,
        supervisor: Supervisor,
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
        self._supervisor = supervisor
        self._ended: list[RunningJob] = []
        self._added = trio.Event()
        #: Set where a stop could not wait for the database any longer: the worker raises it.
        self.error: OutcomesNotWritten | None = None
        self._given_up: list[str] = []

    def add(self, running: RunningJob) -> None:
        """Take a job whose body has ended, and what is to be written for it."""
        self._ended.append(running)
        self._added.set()

    async def write(self) -> None:
        """Write outcomes as they come, without end; a service.

        Run again where it raises, which only a bug of ours makes it do: what has ended meanwhile is
        still to be written. What it was about to write is let go of: kept, it would keep `run()` from
        ever ending.
        """
        while True:
            await self._added.wait()
            self._added = trio.Event()
            batch, self._ended = self._ended, []
            groups = _by_worker_id(batch)
            while groups:
                try:
                    await self._write(groups[0])
                except BaseException as error:
                    held = set(self._running)
                    self._ended[:0] = chain.from_iterable(groups[1:])
                    self._added.set()
                    self._leave([each for each in groups[0] if each in held], repr(error))
                    raise
                del groups[0]

    async def _write(self, batch: list[RunningJob]) -> None:
        """Write these, however long the database is away; let go of them when it is done."""
        verb = FinishJobs(
            batch[0].worker_id,
            [running.completion for running in batch if running.completion is not None],
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
        if contested:
            self._let_go([running for running in batch if running not in contested], answers)
            await self._settle(contested, verb.worker_id)
        else:
            self._let_go(batch, answers)

    def _contested(
        self, batch: Sequence[RunningJob], answers: Sequence[Finished]
    ) -> list[RunningJob]:
        refused = {answer.job_id for answer in answers if answer.status is None}
        if not refused:
            return []
        return [running for running in batch if running.completion and running.id in refused]

    async def _settle(self, contested: list[RunningJob], written_under: int) -> None:
        """Writes that matched no row: the job was taken from us, or the worker's own row was lost.

        In the second case the jobs that nobody has taken yet are ours again under the new id; they
        may be so already, where the heartbeat noticed the loss between two tries.
        """
        await self._lease.check()
        ours = [running for running in contested if running.worker_id != written_under]
        lost = [running for running in contested if running not in ours]
        self._let_go(lost, [Finished(running.id, None) for running in lost])
        if ours:
            await self._write(ours)

    async def _write_apart(self, batch: list[RunningJob], error: Exception) -> None:
        """One row that the database refuses must not hold the others."""
        if len(batch) > 1:
            for running in batch:
                await self._write([running])
            return
        [running] = batch
        if running.completion is not None and running.completion.retry is not None:
            # It may be the strategy's decision that no row can hold.
            self._say(self._reporter.retry_refused, running, error)
            running.completion = without_retry(running.completion)
            await self._write([running])
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

    def _give_up(self, batch: list[RunningJob]) -> None:
        self._given_up += [running.job.call_string for running in batch]
        self.error = OutcomesNotWritten(
            "the worker stopped while the database was away: the outcomes of these jobs could not "
            "be written, their rows stay `doing` until they are rescued: "
            + ", ".join(self._given_up)
        )
        self._leave(batch, "the database is away, and the worker stops")

    def _leave(self, batch: list[RunningJob], error: object) -> None:
        self._running.leave(batch)
        self._written(batch)
        self._say(self._reporter.not_written, batch, error)

    def _let_go(self, batch: list[RunningJob], answers: Sequence[Finished]) -> None:
        statuses = {answer.job_id: answer.status for answer in answers}
        self._say(self._reporter.ended, batch, statuses)
        self._running.let_go(batch)
        self._written(batch)

    def _say(self, line: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Log. A handler of the user's that raises keeps no row from being written."""
        self._supervisor.call("the log of a job", line, *args, **kwargs)


def _by_worker_id(batch: list[RunningJob]) -> list[list[RunningJob]]:
    """What is written in one statement; what is not written at all comes last.

    A second id is there only after a lease was lost.
    """
    ids = {running.worker_id if running.completion else None for running in batch}
    if len(ids) == 1:
        return [batch]
    batch.sort(key=_worker_id)
    return [list(group) for _, group in groupby(batch, key=_worker_id)]


def _worker_id(running: RunningJob) -> float:
    return running.worker_id if running.completion else math.inf
