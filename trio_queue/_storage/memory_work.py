"""What the verbs of deferring and working do to the tables in memory."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Sequence
from typing import Any

from trio_queue import utils, verbs
from trio_queue._storage.encoding import check_name
from trio_queue._storage.memory_answers import answer
from trio_queue._storage.memory_rows import PeriodicRow, WorkerRow
from trio_queue._storage.memory_tables import Tables, to_job
from trio_queue._storage.rows import JobRow
from trio_queue.completion import RELEASED, Completion
from trio_queue.exceptions import WorkerGone
from trio_queue.jobs import AbortReason, Status

#: Seconds before the latest moment of a periodic task; see trio_queue_defer_periodic_job_v1.
_MOMENTS_REMEMBERED = 3600


@answer.register
def defer_jobs(verb: verbs.DeferJobs, tables: Tables) -> list[int]:
    """See DeferJobs."""
    return tables.insert_jobs(verb.jobs)


@answer.register
def defer_periodic_job(verb: verbs.DeferPeriodicJob, tables: Tables) -> int | None:
    """See DeferPeriodicJob."""
    check_name("task name", verb.job.task_name)
    check_name("periodic_id", verb.periodic_id)
    same_task = [
        row
        for row in tables.periodic_defers
        if (row.task_name, row.periodic_id) == (verb.job.task_name, verb.periodic_id)
    ]
    moment = verb.defer_timestamp
    if any(
        row.defer_timestamp == moment or row.defer_timestamp > moment + _MOMENTS_REMEMBERED
        for row in same_task
    ):
        return None
    [job_id] = tables.insert_jobs([verb.job.evolve(scheduled_at=None)])
    before = tables.periodic_defers
    tables.periodic_defers = [
        row
        for row in before
        if row not in same_task or row.defer_timestamp >= moment - _MOMENTS_REMEMBERED
    ]
    tables.periodic_defers.append(
        PeriodicRow(
            task_name=verb.job.task_name,
            periodic_id=verb.periodic_id,
            defer_timestamp=moment,
            job_id=job_id,
        )
    )
    return job_id


@answer.register
def register_worker(verb: verbs.RegisterWorker, tables: Tables) -> int:
    """See RegisterWorker."""
    worker_id = next(tables.worker_ids)
    tables.workers[worker_id] = WorkerRow(
        id=worker_id,
        last_heartbeat=tables.now,
        name=verb.worker_name,
        host=verb.host,
        pid=verb.pid,
        version=verb.version,
        queues=None if verb.queues is None else tuple(verb.queues),
        concurrency=verb.concurrency,
        stage=verb.stage,
        since=tables.now,
    )
    return worker_id


@answer.register
def update_worker_stage(verb: verbs.UpdateWorkerStage, tables: Tables) -> None:
    """See UpdateWorkerStage."""
    worker = tables.workers.get(verb.worker_id)
    if worker is not None:
        worker.stage, worker.since = verb.stage, tables.now


@answer.register
def update_heartbeat(verb: verbs.UpdateHeartbeat, tables: Tables) -> bool:
    """See UpdateHeartbeat."""
    worker = tables.workers.get(verb.worker_id)
    if worker is None:
        return False
    worker.last_heartbeat = tables.now
    return True


@answer.register
def unregister_worker(verb: verbs.UnregisterWorker, tables: Tables) -> None:
    """See UnregisterWorker."""
    tables.delete_workers([verb.worker_id])


@answer.register
def prune_stalled_workers(verb: verbs.PruneStalledWorkers, tables: Tables) -> list[int]:
    """See PruneStalledWorkers."""
    oldest = tables.now - datetime.timedelta(seconds=verb.seconds_since_heartbeat)
    stalled = [worker.id for worker in tables.workers.values() if worker.last_heartbeat < oldest]
    tables.delete_workers(stalled)
    return stalled


@answer.register
def fetch_jobs(verb: verbs.FetchJobs, tables: Tables) -> verbs.Fetched:
    """See FetchJobs."""
    if not tables.take_turn(verb.worker_id, verb.turn):
        return verbs.Fetched([])
    startable = _startable(tables, verb.queues, verb.limit)
    rows = _within(tables, startable, verb.max_bytes)
    if rows and verb.worker_id not in tables.workers:
        raise WorkerGone
    for row in rows:
        tables.update_job(row, status="doing", worker_id=verb.worker_id)
    # On PostgreSQL they were locked for a moment, and whoever looked then found nothing.
    tables.tell_waiting(startable[len(rows) :])
    jobs = [to_job(row) for row in rows]
    if jobs and (len(rows) < len(startable) or len(rows) == verb.limit):
        return verbs.Fetched(jobs, found_all=False)
    return verbs.Fetched(jobs, _next_scheduled_in(tables, verb.queues) if verb.limit > 0 else None)


def _within(tables: Tables, rows: list[JobRow], max_bytes: int | None) -> list[JobRow]:
    """The first of these jobs that hold no more than so many bytes of arguments together; one at least."""
    if max_bytes is None:
        return rows
    held = itertools.accumulate(tables.sizes[row["id"]] for row in rows)
    within = sum(1 for _ in itertools.takewhile(lambda bytes_: bytes_ <= max_bytes, held))
    return rows[: max(within, 1)]


@answer.register
def has_eligible_job(verb: verbs.HasEligibleJob, tables: Tables) -> bool:
    """See HasEligibleJob."""
    return bool(_startable(tables, verb.queues, 1))


def _next_scheduled_in(tables: Tables, queues: Sequence[str] | None) -> float | None:
    moments = [
        row["scheduled_at"]
        for row in tables.jobs.values()
        if row["status"] == "todo"
        and row["scheduled_at"] is not None
        and row["scheduled_at"] > tables.now
        and (queues is None or row["queue_name"] in queues)
    ]
    return (min(moments) - tables.now).total_seconds() if moments else None


@answer.register
def finish_jobs(verb: verbs.FinishJobs, tables: Tables) -> list[verbs.Finished]:
    """See FinishJobs."""
    return [
        verbs.Finished(completion.job_id, status)
        for completion in verb.completions
        if (status := _complete(tables, verb.worker_id, completion)) is not completion.status
    ]


@answer.register
def release_jobs(verb: verbs.ReleaseJobs, tables: Tables) -> list[verbs.Finished]:
    """See ReleaseJobs."""
    if not tables.take_turn(verb.worker_id, verb.turn):
        return []
    held = [
        row
        for row in tables.sorted_jobs()
        if row["status"] == "doing"
        and row["worker_id"] == verb.worker_id
        and row["id"] not in verb.keep
    ]
    return [
        verbs.Finished(
            row["id"],
            _give_back(tables, row, {}, if_abort_requested=Status.ABORTED, reason=RELEASED),
        )
        for row in held
    ]


@answer.register
def list_jobs_to_abort(verb: verbs.ListJobsToAbort, tables: Tables) -> list[int]:
    """See ListJobsToAbort."""
    return [
        row["id"]
        for row in tables.sorted_jobs()
        if row["status"] == "doing"
        and row["abort_requested"]
        and row["worker_id"] == verb.worker_id
    ]


def _startable(tables: Tables, queues: Sequence[str] | None, limit: int) -> list[JobRow]:
    """The first jobs that may start, as so many fetches of one job would take them."""
    taken: list[JobRow] = []
    held = {row["lock"] for row in tables.jobs.values() if row["status"] == "doing"}
    held.discard(None)
    for row in tables.by_rank(row for row in tables.jobs.values() if row["status"] == "todo"):
        if len(taken) >= limit:
            break
        if row["lock"] is not None:
            if row["lock"] in held:
                continue
            # The first of its lock: it starts or, future or of another queue, holds the others.
            held.add(row["lock"])
        if queues is not None and row["queue_name"] not in queues:
            continue
        if row["scheduled_at"] is not None and row["scheduled_at"] > tables.now:
            continue
        taken.append(row)
    return taken


def _complete(tables: Tables, worker_id: int, completion: Completion) -> Status | None:
    row = tables.jobs.get(completion.job_id)
    if row is None:
        return completion.status if completion.delete else None
    counted = completion.status is not Status.TODO or completion.retry is not None
    if (row["status"], row["worker_id"], row["attempts"]) != (
        "doing",
        worker_id,
        completion.attempts,
    ):
        return _already(row, worker_id, completion, counted)
    if completion.status is Status.TODO:
        return _give_back(
            tables,
            row,
            _retry_changes(tables, row, completion) if counted else {},
            if_abort_requested=completion.if_abort_requested,
            reason=completion.reason,
        )
    if completion.delete:
        tables.delete_job(row)
        return completion.status
    tables.update_job(
        row,
        details=_details(worker_id, completion.attempts, completion.reason),
        status=completion.status.value,
        attempts=row["attempts"] + 1,
        abort_requested=False,
    )
    return completion.status


def _already(row: JobRow, worker_id: int, completion: Completion, counted: bool) -> Status | None:
    """The row's status, where an earlier try of the same write made it what it is."""
    status = Status(row["status"])
    attempts = completion.attempts + counted
    if completion.delete or row["attempts"] != attempts:
        return None
    if completion.status is not Status.TODO:
        return status if status is completion.status else None
    given_back = {Status.TODO, Status.CANCELLED, completion.if_abort_requested}
    return status if row["worker_id"] == worker_id and status in given_back else None


def _retry_changes(tables: Tables, row: JobRow, completion: Completion) -> dict[str, Any]:
    retry = completion.retry
    assert retry is not None
    retry_at = retry.retry_at
    if retry.delay is not None:
        retry_at = utils.after(max(retry.delay, datetime.timedelta()), tables.now)
    return {
        "attempts": row["attempts"] + 1,
        "scheduled_at": retry_at,
        "priority": row["priority"] if retry.priority is None else retry.priority,
        "queue_name": row["queue_name"] if retry.queue is None else retry.queue,
        "lock": row["lock"] if retry.lock is None else retry.lock,
    }


def _give_back(
    tables: Tables,
    row: JobRow,
    changes: dict[str, Any],
    *,
    if_abort_requested: Status,
    reason: str | None,
) -> Status:
    """Make a running job wait again, or end it where it cannot."""
    attempts = changes.get("attempts", row["attempts"])

    def told(*more: str) -> dict[str, Any]:
        reasons = [each for each in (reason, *more) if each is not None]
        return _details(row["worker_id"], row["attempts"], "; ".join(reasons) or None)

    if row["abort_requested"]:
        tables.update_job(
            row,
            details=told(AbortReason.USER_REQUEST.value),
            status=if_abort_requested.value,
            attempts=attempts,
            abort_requested=False,
        )
        return if_abort_requested
    if tables.waits_with(row["queueing_lock"], other_than=row["id"]):
        tables.update_job(
            row,
            details=told(f'another job waits with the queueing lock "{row["queueing_lock"]}"'),
            event="cancelled",
            status="cancelled",
            attempts=attempts,
        )
        return Status.CANCELLED
    tables.update_job(row, details=told(), status="todo", **changes)
    return Status.TODO


def _details(worker_id: int | None, attempt: int, reason: str | None) -> dict[str, Any]:
    if reason is None:
        return {}
    return {"worker_id": worker_id, "attempt": attempt, "reason": reason}


#: With the functions of this module.
WORKING = answer
