"""The log's vocabulary: every record of ours carries an `action` that a filter or an alert can name."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """What a log record is about. The names that Procrastinate has are kept, so that its users' filters go on working."""

    START_WORKER = "start_worker"
    WORKER_STAGE = "worker_stage"
    STOP_WORKER = "stop_worker"
    WORKER_NO_SIGNALS = "worker_no_signals"
    SERVICE_FAILED = "service_failed"
    START_JOB = "start_job"
    JOB_SUCCESS = "job_success"
    JOB_ERROR = "job_error"
    JOB_ERROR_RETRY = "job_error_retry"
    JOB_ABORTED = "job_aborted"
    JOB_ABORTED_RETRY = "job_aborted_retry"
    JOB_REQUEUED = "job_requeued"
    TASK_NOT_FOUND = "task_not_found"
    RETRY_STRATEGY_ERROR = "retry_strategy_error"
    OUTCOME_NOT_WRITTEN = "outcome_not_written"
    LEASE_LOST = "lease_lost"
    RELEASED_JOBS = "released_jobs"
    DATABASE_AWAY = "database_away"
    DATABASE_BACK = "database_back"
    JOBS_DEFERRED = "jobs_deferred"
    ABOUT_TO_DEFER_JOBS = "about_to_defer_jobs"
    PERIODIC_TASK_DEFERRED = "periodic_task_deferred"
    PERIODIC_TASK_ALREADY_DEFERRED = "periodic_task_already_deferred"
    PERIODIC_DEFERRER_NO_TASK = "periodic_deferrer_no_task"
    SKIP_PERIODIC_TASK_QUEUEING_LOCK = "skip_periodic_task_queueing_lock"
    IGNORE_PERIODIC_TASK = "ignore_periodic_task"
    REGISTERING_PERIODIC_TASK = "registering_periodic_task"
    LOADING_BLUEPRINT = "loading_blueprint"
    IMPORTED_TASKS = "imported_tasks"
    APP_DEFINED_IN_MAIN = "app_defined_in___main__"


def fields(action: Action, **values: Any) -> dict[str, Any]:
    """The `extra=` of a log record: its action and what else a reader may filter on."""
    return {"action": action.value, **values}
