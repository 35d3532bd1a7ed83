"""Compare what happened with the model: every change of every row, every body, and the end."""

from __future__ import annotations

import math
from collections.abc import Iterator

import attrs

from tests.model import model
from tests.model.ending import ending_faults
from tests.model.liveness import idle_faults, overlap_faults
from tests.model.model import SAME, Hearing, Stages
from tests.model.outcomes import ANYTHING, Case, Written, given_back, written
from tests.model.record import Body, Change, End, Pruned, Record, Row
from tests.model.runs import Run
from tests.model.script import OnCancel, Theft
from tests.model.treatment import body_faults
from trio_queue.jobs import AbortReason


def faults(record: Record) -> list[str]:
    """Where the worker broke its contract; empty: nowhere."""
    return list(dict.fromkeys(_Judge(record).faults()))


@attrs.define
class _JobState:
    """Who has a job, as the changes of its row tell."""

    row: Row
    #: The run of ours that the row belongs to, if it does.
    run: Run | None = None
    #: It was taken over from a dead worker, in order to end it.
    rescued: bool = False


class _Judge:
    def __init__(self, record: Record) -> None:
        self._record = record
        self._script = record.script
        exits = [body.ended_at for body in record.bodies if body.end is End.EXITED]
        self._stages: Stages = model.stages(
            record.script, record.asked, [at for at in exits if at is not None]
        )
        self._jobs: dict[int, _JobState] = {}
        self._runs: list[Run] = []
        self._bodies = list(record.bodies)

    def faults(self) -> Iterator[str]:
        for change in self._record.changes:
            for fault in self._follow(change):
                yield f"job {change.job} at {change.at:g}: {fault} ({change})"
        for run in self._runs:
            for fault in self._run_faults(run):
                yield f"job {run.job}, claimed at {run.claimed_at:g}: {fault} ({run})"
        yield from overlap_faults(self._record, self._runs)
        yield from idle_faults(self._record, self._runs, self._stages)
        yield from ending_faults(self._record, self._stages)

    # -- the rows, change by change ---------------------------------------------------------------

    def _follow(self, change: Change) -> Iterator[str]:
        if change.before is None:
            assert change.after is not None
            self._jobs[change.job] = _JobState(change.after)
            return
        state = self._jobs[change.job]
        if change.by_worker:
            yield from self._worker_did(change, change.before, state)
        else:
            self._somebody_did(change, change.before, state)
        if change.after is not None:
            state.row = change.after
        else:
            del self._jobs[change.job]

    def _somebody_did(self, change: Change, before: Row, state: _JobState) -> None:
        # It may be taken at a later loss than the one that it was orphaned by.
        lost = before.status == "doing" and change.verb in {"unregister_worker", "adopt_orphans"}
        if lost and state.run is not None:
            state.run.lost = self._prune_at(change.at)
        if change.verb == "adopt_orphans" or before.status != "doing":
            state.run = None
        if change.after is None or change.after.status != "doing":
            state.run = None

    def _prune_at(self, at: float) -> Pruned:
        return next(prune for prune in self._record.pruned if prune.at == at)

    def _worker_did(self, change: Change, before: Row, state: _JobState) -> Iterator[str]:
        match change.verb:
            case "fetch_jobs":
                yield from self._claimed(change, before, state)
            case "adopt_jobs" if state.run is not None:
                state.run.lost = None
            case "adopt_orphans":
                if state.run is not None and state.run.body is not None:
                    yield "it took its own running job for a dead worker's"
                state.run, state.rescued = None, True
            case "unregister_worker":
                pass  # what is left `doing` at the end is judged there
            case "finish_jobs" | "release_jobs" if state.rescued:
                state.rescued = False
                died = change.verb == "finish_jobs"  # else the goodbye gave it back
                reason = "worker_died" if died else "released"
                may = self._given_back(change, before, reason=reason, counted=died)
                yield from self._wrote(change, [may])
            case "finish_jobs" | "release_jobs" if state.run is not None:
                yield from self._ended(change, before, state.run)
                state.run = None
            case _:
                yield f"the worker did {change.verb} to a row that it does not have"

    def _claimed(self, change: Change, before: Row, state: _JobState) -> Iterator[str]:
        assert change.after is not None
        if before.status != "todo" or change.after.attempts != before.attempts:
            yield "a claim changed more than it may"
        if self._stages.never_ran:
            yield "it was claimed although the worker was stopped before it ran"
        if change.at > self._stages.draining_at + SAME:
            yield f"it was claimed after the drain began at {self._stages.draining_at:g}"
        state.run = Run(change.job, change.order, change.at, body=self._next_body(change))
        self._runs.append(state.run)

    def _next_body(self, claim: Change) -> Body | None:
        """The body that this claim began, if it began one: before the next claim of its attempt.

        A thread that had started when its lease was found lost may begin after the next attempt's.
        """
        assert claim.after is not None
        attempts = claim.after.attempts
        later = (
            change.order
            for change in self._record.changes
            if change.job == claim.job
            and change.verb == "fetch_jobs"
            and change.order > claim.order
            and change.after
            and change.after.attempts == attempts
        )
        before = next(later, math.inf)
        for body in self._bodies:
            if (body.job, body.attempts) != (claim.job, attempts):
                continue
            if claim.order < body.began < before:
                self._bodies.remove(body)
                return body
        return None

    # -- what the worker writes -------------------------------------------------------------------

    def _ended(self, change: Change, before: Row, run: Run) -> Iterator[str]:
        run.written, run.written_at = change.order, change.at
        body = run.body
        if body is not None and body.began < change.order:
            if change.verb == "release_jobs":
                yield "it was released after its body had begun"
                return
            if body.ended is None or body.ended > change.order:
                yield "its row was written before its body had ended"
                return
            if body.end is None:
                yield "its body was ended by what it neither did nor was told"
                return
            yield from self._wrote(change, self._outcomes(run, body, change, before))
            return
        reason = "shutdown; not begun" if change.verb == "finish_jobs" else "released"
        may: list[Written | None] = [self._given_back(change, before, reason=reason)]
        user = [told for told in self._told(run) if told.reason is AbortReason.USER_REQUEST]
        if change.verb == "finish_jobs":
            if user:
                may.append(
                    self._outcome(run, End.CANCELLED, AbortReason.USER_REQUEST, change, before)
                )
            if change.at < self._stages.draining_at - SAME and not user:
                yield "a job that had not begun was given back although nothing drains"
        yield from self._wrote(change, may)

    def _outcomes(self, run: Run, body: Body, change: Change, before: Row) -> list[Written | None]:
        assert body.end is not None
        assert body.ended_at is not None
        reasons = {body.reason}
        if body.reason is None:  # told in the same moment, after its last look
            reasons |= {
                told.reason for told in self._told(run) if told.earliest <= body.ended_at + SAME
            }
        ends = {body.end}
        if body.end is End.STRAY and body.reason is not None:
            ends.add(End.CANCELLED)  # Trio cannot tell one Cancelled from another
        return [
            self._outcome(run, end, reason, change, before) for end in ends for reason in reasons
        ]

    def _outcome(
        self, run: Run, end: End, reason: AbortReason | None, change: Change, before: Row
    ) -> Written | None:
        case = Case(
            script=self._script,
            spec=self._script.jobs[run.job],
            row=before,
            reason=reason,
            lock_is_taken=self._lock_is_taken(change.job),
        )
        return written(case, end)

    def _given_back(
        self, change: Change, before: Row, *, reason: str, counted: bool = False
    ) -> Written:
        taken = self._lock_is_taken(change.job)
        return given_back(before, counted=counted, reason=reason, lock_is_taken=taken)

    def _lock_is_taken(self, job: int) -> bool:
        lock = self._script.jobs[job].queueing_lock
        return lock is not None and any(
            state.row.status == "todo" and self._script.jobs[other].queueing_lock == lock
            for other, state in self._jobs.items()
            if other != job
        )

    def _wrote(self, change: Change, may: list[Written | None]) -> Iterator[str]:
        after = change.after
        allowed = [one for one in may if one is not None]
        for one in allowed:
            if after is None or one.status is None:
                if after is None and one.status is None:
                    return
                continue
            reason = change.reason if one.reason == ANYTHING else one.reason
            if (after.status, after.attempts, change.reason) == (one.status, one.attempts, reason):
                if after.abort_requested:
                    yield "the request to abort it is still set"
                return
        yield f"it may become {allowed or 'nothing'}"

    # -- the runs ---------------------------------------------------------------------------------

    def _told(self, run: Run) -> list[Hearing]:
        return model.hearings(
            self._script,
            run.job,
            run.claimed_at,
            run.lost,
            stages=self._stages,
            aborted=self._record.aborted,
            pruned=self._record.pruned,
        )

    def _run_faults(self, run: Run) -> Iterator[str]:
        if run.body is None:
            yield from self._unbegun_faults(run)
            return
        told = self._told(run)
        body = run.body
        spec = self._script.jobs[run.job]
        yield from body_faults(spec, body, told)
        too_late = min(self._stages.draining_at, *(hearing.latest for hearing in told), math.inf)
        if body.began_at > too_late + SAME:
            yield f"its body began after it was to stop at {too_late:g}"
        waits_for_thread = spec.on_cancel is OnCancel.THREAD
        latest = model.settled(self._script.troubles, run.claimed_at, "fetch_jobs")
        if (
            body.began_at > latest + SAME
            and not waits_for_thread
            and not self._got_place(run, body)
        ):
            yield f"its body did not begin by {latest:g}"
        yield from self._notice_faults(body)
        yield from self._write_faults(run, body)

    def _got_place(self, run: Run, body: Body) -> bool:
        """Whether it was claimed ahead, and began when another body ended."""
        return bool(self._script.prefetch) and any(
            other is not run
            and other.body is not None
            and other.body.ended_at is not None
            and abs(other.body.ended_at - body.began_at) <= SAME
            for other in self._runs
        )

    def _notice_faults(self, body: Body) -> Iterator[str]:
        """A drain is told to the bodies that run, and nothing else is."""
        if body.ended_at is None or abs(body.ended_at - self._stages.draining_at) <= SAME:
            return
        if body.shutting_down is not (self._stages.draining_at < body.ended_at):
            yield f"when it ended, context.shutting_down() was {body.shutting_down}"

    def _write_faults(self, run: Run, body: Body) -> Iterator[str]:
        if body.ended_at is None or (run.lost and run.lost.theft is not Theft.NONE):
            return
        latest = model.settled(self._script.troubles, body.ended_at, "finish_jobs")
        if any(abs(prune.at - body.ended_at) <= 30 for prune in self._record.pruned):
            latest = max(latest, model.settled_lease(self._script, latest))
        if run.written_at is None:
            if self._record.rows.get(run.job, None) is not None and not model.may_give_up(
                self._script
            ):
                yield "its outcome was never written"
        elif run.written_at > latest + SAME:
            yield f"its row was written at {run.written_at:g}, not by {latest:g}"

    def _unbegun_faults(self, run: Run) -> Iterator[str]:
        told = self._told(run)
        waits = self._script.jobs[run.job].on_cancel is OnCancel.THREAD
        reasons = [
            run.lost is not None,
            self._stages.draining_at <= (run.written_at or self._record.ended_at) + SAME,
            any(hearing.reason is AbortReason.USER_REQUEST for hearing in told),
            model.settled(self._script.troubles, run.claimed_at, "fetch_jobs") > run.claimed_at,
            any(
                prune.at <= run.claimed_at <= model.settled_lease(self._script, prune.at)
                for prune in self._record.pruned
            ),
        ]
        if not any(reasons):
            yield "it was claimed and did not begin"
        # Its row counts as held while a lost run of the same job goes on.
        earlier = [
            each.ended_at or 0
            for each in self._record.bodies
            if each.job == run.job and each.began < run.claimed
        ]
        # Claimed ahead, it may wait until the worker drains.
        until = self._stages.draining_at if self._script.prefetch else 0
        latest = model.given_back_by(self._script, max(run.claimed_at, *earlier, until))
        if not run.lost and not told and (run.written_at or 0) > latest + SAME and not waits:
            yield f"it did not begin, and was given back at {run.written_at:g}, not by {latest:g}"
        is_left = run.written_at is None and run.lost is None and run.job in self._record.rows
        if is_left and not model.may_give_up(self._script):
            yield "it was claimed and neither run nor given back"
