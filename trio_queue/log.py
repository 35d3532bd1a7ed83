"""The log's vocabulary: every record of ours carries an `action` that a filter or an alert can name."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What a log record is about. The names that Procrastinate has are kept, so that its users' filters go on working."""

    #: A worker has its row, listens, and begins to fetch.
    START_WORKER = "start_worker"
    #: A worker drains or aborts; again every few seconds while jobs still run. A warning where some
    #: were asked to stop and go on.
    WORKER_STAGE = "worker_stage"
    #: A worker leaves at the third signal: other workers rescue what runs.
    WORKER_LEAVES = "worker_leaves"
    #: A worker has stopped: no job of it runs any more.
    STOP_WORKER = "stop_worker"
    #: An error has ended the command `trio-queue worker`, or kept it from starting.
    WORKER_FAILED = "worker_failed"
    #: A worker outside of the main thread cannot hear signals.
    WORKER_NO_SIGNALS = "worker_no_signals"
    #: The asyncio loop around a worker was closed, or left standing, before the worker had stopped.
    HOST_LOOP_CLOSED = "host_loop_closed"
    #: Code of a job's that asyncio runs, and that nobody waits for, raised something.
    ASYNCIO_ERROR = "asyncio_error"
    #: A pooler keeps a worker from hearing notifications: it polls.
    CANNOT_LISTEN = "cannot_listen"
    #: A part of the worker raised what it cannot recover from: the worker drains, then raises it.
    SERVICE_FAILED = "service_failed"
    #: A job's body begins.
    START_JOB = "start_job"
    #: A job returned.
    JOB_SUCCESS = "job_success"
    #: A job failed for good.
    JOB_ERROR = "job_error"
    #: A job failed and is tried again.
    JOB_ERROR_RETRY = "job_error_retry"
    #: A job was aborted for good.
    JOB_ABORTED = "job_aborted"
    #: A job was interrupted by a shutdown and is tried again.
    JOB_ABORTED_RETRY = "job_aborted_retry"
    #: A job goes back to its queue, its attempt not counted.
    JOB_REQUEUED = "job_requeued"
    #: A job's task is not known here; once for each name.
    TASK_NOT_FOUND = "task_not_found"
    #: A retry strategy raised: its job is not tried again.
    RETRY_STRATEGY_ERROR = "retry_strategy_error"
    #: What became of a job could not be written: its row stays `doing`.
    OUTCOME_NOT_WRITTEN = "outcome_not_written"
    #: The worker was taken for dead, or a job of it is no longer its own.
    LEASE_LOST = "lease_lost"
    #: A job of a dead worker was taken over; it says what became of it.
    RESCUED_JOBS = "rescued_jobs"
    #: Jobs of a claim whose answer was lost were given back.
    RELEASED_JOBS = "released_jobs"
    #: The database stopped answering; once for each outage.
    DATABASE_AWAY = "database_away"
    #: The database answers again.
    DATABASE_BACK = "database_back"
    #: Jobs were inserted.
    JOBS_DEFERRED = "jobs_deferred"
    #: Jobs are about to be inserted.
    ABOUT_TO_DEFER_JOBS = "about_to_defer_jobs"
    #: A periodic job was inserted for its moment.
    PERIODIC_TASK_DEFERRED = "periodic_task_deferred"
    #: Another worker has inserted the periodic job for this moment.
    PERIODIC_TASK_ALREADY_DEFERRED = "periodic_task_already_deferred"
    #: There are no periodic tasks to look after.
    PERIODIC_DEFERRER_NO_TASK = "periodic_deferrer_no_task"
    #: A periodic job was left out: one with its queueing lock waits.
    SKIP_PERIODIC_TASK_QUEUEING_LOCK = "skip_periodic_task_queueing_lock"
    #: The last moment of a periodic task is too long ago (`max_delay`).
    IGNORE_PERIODIC_TASK = "ignore_periodic_task"
    #: A periodic task was declared.
    REGISTERING_PERIODIC_TASK = "registering_periodic_task"
    #: An App takes over the tasks of a Blueprint.
    LOADING_BLUEPRINT = "loading_blueprint"
    #: The modules of `import_paths` are imported.
    IMPORTED_TASKS = "imported_tasks"
    #: A job's task is defined in the main module, and a worker will not find it there.
    APP_DEFINED_IN_MAIN = "app_defined_in___main__"


def fields(action: Action, **values: Any) -> dict[str, Any]:
    """The `extra=` of a log record: its action and what else a reader may filter on."""
    return {"action": action.value, **values}
