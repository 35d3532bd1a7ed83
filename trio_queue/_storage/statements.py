"""Verbs as SQL: which text, which parameters, how its rows are read.

The text of a verb is the named query of the same name. Its parameters are the verb's fields by
name, but where a verb carries jobs or completions: those become arrays, one for each column, so
that a batch is one statement (a large one is sent in parts, see `batches`). Rows are read by position.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, TypeVar

import attrs

from trio_queue import management, utils, verbs
from trio_queue._pg.direct import Rows
from trio_queue._storage import rows
from trio_queue._storage.batches import parts_of
from trio_queue._storage.encoding import (
    Dumps,
    check_end_status,
    check_job,
    check_name,
    check_priority,
    check_queue,
    check_text,
    encode_args,
    plain_array,
)
from trio_queue._storage.queries import QUERIES
from trio_queue._storage.senders import Statement
from trio_queue.completion import Completion
from trio_queue.exceptions import JobNotFound, NoResult
from trio_queue.jobs import Batch, Job, Status
from trio_queue.verbs import Verb

R = TypeVar("R")
Reader = Callable[[Rows], Any]


def statement_of(verb: Verb[R], dumps: Dumps | None) -> Statement[R]:
    """The statement that a verb is.

    Args:
        verb: What is to be said.
        dumps: The user's own JSON encoder; None: the standard one.

    Raises:
        InvalidArguments: A task's argument cannot be stored.
        InvalidOption: Another value of the verb cannot be.
    """
    check(verb)
    if isinstance(verb, verbs.DeferJobs):
        return _statement_of_batch(verb, dumps)
    return Statement(
        QUERIES[verb.name], parameters_of(verb, dumps), _reader(verb), _queueing_locks(verb)
    )


def _statement_of_batch(verb: verbs.DeferJobs, dumps: Dumps | None) -> Statement[Any]:
    jobs = verb.jobs
    parts = parts_of(jobs, dumps)
    sent_first, parameters = next(parts)
    return Statement(
        QUERIES[verb.name],
        parameters,
        _ids,
        _queueing_locks(verb),
        more=None if len(sent_first) == len(jobs) else (more for _, more in parts),
        # Only their arguments differ, and these are text.
        is_uniform=isinstance(jobs, Batch),
    )


# -- parameters ---------------------------------------------------------------------------------


@functools.singledispatch
def parameters_of(verb: Any, dumps: Dumps | None) -> dict[str, Any]:  # noqa: ARG001  # one signature for all
    """The parameters of a verb's query."""
    return {name: _plain(getattr(verb, name)) for name in _fields(verb.__class__)}


@functools.cache
def _fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in attrs.fields(kind))


@parameters_of.register
def _defer_periodic_job(verb: verbs.DeferPeriodicJob, dumps: Dumps | None) -> dict[str, Any]:
    job = verb.job
    return {
        "queue": job.queue,
        "task_name": job.task_name,
        "priority": job.priority,
        "lock": job.lock,
        "queueing_lock": job.queueing_lock,
        "args": encode_args(job, dumps),
        "periodic_id": verb.periodic_id,
        "defer_timestamp": verb.defer_timestamp,
    }


@parameters_of.register
def _finish_jobs(verb: verbs.FinishJobs, dumps: Dumps | None) -> dict[str, Any]:  # noqa: ARG001  # one signature for all
    done = verb.completions
    return {
        "worker_id": verb.worker_id,
        "job_ids": plain_array([completion.job_id for completion in done]),
        "attempts": plain_array([completion.attempts for completion in done]),
        "statuses": plain_array([completion.status.value for completion in done]),
        **_FINISHED_PLAINLY,
        **(_more_than_finished(done) if any(map(_has_more, done)) else {}),
    }


def _has_more(completion: Completion) -> bool:
    return completion.status is Status.TODO or completion.delete or completion.reason is not None


#: What is sent where every job has ended and there is no more to tell: nearly always.
_FINISHED_PLAINLY: Final[dict[str, None]] = dict.fromkeys(
    (
        "deletes",
        "if_abort_requested",
        "reasons",
        "retries",
        "retry_at",
        "retry_in",
        "priorities",
        "queues",
        "locks",
    )
)


def _more_than_finished(done: Sequence[Completion]) -> dict[str, Any]:
    retries = [completion.retry for completion in done]
    return {
        "deletes": [completion.delete for completion in done],
        "if_abort_requested": [completion.if_abort_requested.value for completion in done],
        "reasons": [completion.reason for completion in done],
        #: Whether the attempt counts of a job that is given back.
        "retries": [retry is not None for retry in retries],
        "retry_at": [_retry_at(completion) for completion in done],
        "retry_in": [_retry_in(completion) for completion in done],
        "priorities": [retry and retry.priority for retry in retries],
        "queues": [retry and retry.queue for retry in retries],
        "locks": [retry and retry.lock for retry in retries],
    }


@parameters_of.register
def _adopt_jobs(verb: verbs.AdoptJobs, dumps: Dumps | None) -> dict[str, Any]:  # noqa: ARG001  # one signature for all
    return {
        "worker_id": verb.worker_id,
        "lost_id": verb.lost_id,
        "job_ids": [job_id for job_id, _ in verb.jobs],
        "attempts": [attempts for _, attempts in verb.jobs],
    }


def _retry_at(completion: Completion) -> Any:
    retry = completion.retry
    if retry is None or retry.delay is not None:
        return utils.utcmax() if _is_for_ever(completion) else None
    return retry.retry_at


def _retry_in(completion: Completion) -> float | None:
    """Seconds after the write, by the server's clock."""
    delay = completion.retry_delay
    return None if delay is None or _is_for_ever(completion) else delay.total_seconds()


def _is_for_ever(completion: Completion) -> bool:
    """Whether the delay leads beyond the moments that a timestamp can tell."""
    delay = completion.retry_delay
    return delay is not None and utils.after(delay) == utils.utcmax()


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return value.value
        case str() | None:
            return value
        case tuple() | list() | set() | frozenset():
            members: list[Any] = [*value]
            return [_plain(member) for member in members]
        case _:
            return value


def _queueing_locks(verb: Verb[Any]) -> tuple[str | None, ...]:
    match verb:
        case verbs.DeferJobs(jobs=Batch() as jobs):
            return (jobs.job.queueing_lock,) * len(jobs)
        case verbs.DeferJobs(jobs=jobs):
            return tuple(job.queueing_lock for job in jobs)
        case verbs.DeferPeriodicJob(job=job):
            return (job.queueing_lock,)
        case _:
            return ()


# -- what is refused before it is sent ----------------------------------------------------------


def check(verb: Verb[Any]) -> None:
    """Refuse what the columns cannot hold, with a clear error. Raises InvalidOption."""
    match verb:
        case verbs.DeferJobs(jobs=Batch(job=job)):
            check_job(job)
        case verbs.DeferJobs(jobs=jobs):
            # Jobs differ by their arguments, mostly: what they share is looked at once.
            for job in {_columns_of_text(job): job for job in jobs}.values():
                check_job(job)
        case verbs.DeferPeriodicJob(job=job, periodic_id=periodic_id):
            check_job(job)
            check_name("periodic_id", periodic_id)
        case management.RetryJob(priority=priority, queue=queue, lock=lock):
            check_text("lock", lock)
            if queue is not None:
                check_queue(queue)
            if priority is not None:
                check_priority(priority)
        case management.FinishJob(status=status):
            check_end_status(status)
        case _:
            pass


def _columns_of_text(job: Job) -> tuple[Any, ...]:
    return job.task_name, job.queue, job.lock, job.queueing_lock, job.priority


# -- rows ---------------------------------------------------------------------------------------


def _nothing(_: Rows) -> None:
    return None


def _value(found: Rows) -> Any:
    if not found:
        raise NoResult
    return found[0][0]


def _values(found: Rows) -> list[Any]:
    return [row[0] for row in found]


def _ids(found: Rows) -> list[int]:
    """The ids of each part of a batch, together."""
    return found[0][0] if len(found) == 1 else [job_id for row in found for job_id in row[0]]


def _is_something(found: Rows) -> bool:
    return bool(found) and found[0][0] is not None and found[0][0] is not False


def _status(found: Rows) -> Status:
    if not found or found[0][0] is None:
        raise JobNotFound
    return Status(found[0][0])


def _each(make: Callable[[Any], Any]) -> Reader:
    return lambda found: [make(row) for row in found]


_READERS: Final[dict[type[Verb[Any]], Reader]] = {
    verbs.DeferPeriodicJob: _value,
    verbs.RegisterWorker: _value,
    verbs.UpdateWorkerStage: _nothing,
    verbs.UpdateHeartbeat: _is_something,
    verbs.UnregisterWorker: _nothing,
    verbs.PruneStalledWorkers: _values,
    verbs.FetchJobs: rows.fetched_from_rows,
    verbs.HasEligibleJob: _value,
    verbs.FinishJobs: _each(rows.finished_from_row),
    verbs.ReleaseJobs: _each(rows.finished_from_row),
    verbs.ListJobsToAbort: _values,
    verbs.AdoptJobs: _values,
    verbs.AdoptOrphans: _each(rows.orphan_from_row),
    management.ListJobs: _each(rows.job_from_row),
    management.ListQueues: _each(rows.group_count_from_row),
    management.ListTasks: _each(rows.group_count_from_row),
    management.ListLocks: _each(rows.group_count_from_row),
    management.ListEvents: _each(rows.event_from_row),
    management.ListWorkers: _each(rows.worker_from_row),
    management.GetJobStatus: _status,
    management.CancelJob: _is_something,
    management.RetryJob: _nothing,
    management.FinishJob: _nothing,
    management.ListStalledJobs: _each(rows.job_from_row),
    management.DeleteOldJobs: rows.deleted_from_rows,
    management.CheckConnection: _is_something,
}


def _reader(verb: Verb[Any]) -> Reader:
    return _READERS[type(verb)]
