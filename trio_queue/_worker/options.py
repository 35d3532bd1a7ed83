"""The options of a worker: each is named, explained, given its default and checked here, once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

import attrs

from trio_queue.completion import InterruptedJobs, StalledJobs
from trio_queue.exceptions import InvalidOption
from trio_queue.jobs import DeleteJobCondition
from trio_queue.middleware import TaskMiddleware, WorkerMiddleware, check_worker_middleware
from trio_queue.owners import AsyncioBackend


class WorkerOptions(TypedDict, total=False):
    """What `Worker(app, ...)`, `App.run_worker` and `App.run_worker_async` take. See `Options`."""

    queues: Iterable[str] | None
    name: str | None
    concurrency: int
    prefetch: int | None
    wait: bool
    fetch_job_polling_interval: float
    abort_job_polling_interval: float
    shutdown_graceful_timeout: float | None
    listen_notify: bool
    delete_jobs: str | DeleteJobCondition | None
    additional_context: dict[str, Any] | None
    install_signal_handlers: bool
    update_heartbeat_interval: float
    stalled_worker_timeout: float
    task_middleware: Sequence[TaskMiddleware] | None
    worker_middleware: Sequence[WorkerMiddleware] | None
    interrupted_jobs: str | InterruptedJobs
    stalled_jobs: str | StalledJobs
    stalled_jobs_limit: int
    exit_on_third_signal: bool
    thread_limit: int | None
    asyncio_backend: str | AsyncioBackend | None


def _option(default: Any, help: str, check: Any = None) -> Any:
    return attrs.field(default=default, converter=check, metadata={"help": help})


def _refuse(name: str, value: object, wanted: str) -> InvalidOption:
    return InvalidOption(f"worker option {name}={value!r}: it must be {wanted}")


def _seconds(name: str, *, zero: bool = False) -> Any:
    wanted = "a finite number of seconds, " + ("zero or more" if zero else "more than zero")

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _refuse(name, value, wanted)
        if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
            raise _refuse(name, value, wanted)
        return float(value)

    return check


def _count(name: str, *, zero: bool = False) -> Any:
    least = 0 if zero else 1

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _refuse(name, value, f"a whole number, {least} or more")
        return value

    return check


def _queues(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        raise _refuse("queues", value, f"a list of names, such as [{value!r}]")
    names = tuple(value)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise _refuse("queues", names, "a list of names with one at least, or None for every queue")
    return tuple(dict.fromkeys(names))


def _flag(name: str) -> Any:
    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise _refuse(name, value, "True or False")
        return value

    return check


def _delete_jobs(value: Any) -> DeleteJobCondition:
    try:
        return DeleteJobCondition.NEVER if value is None else DeleteJobCondition(value)
    except ValueError:
        raise _refuse("delete_jobs", value, "'never', 'successful' or 'always'") from None


def _interrupted_jobs(value: Any) -> InterruptedJobs:
    try:
        return InterruptedJobs(value)
    except ValueError:
        raise _refuse("interrupted_jobs", value, "'retry', 'requeue' or 'abort'") from None


def _stalled_jobs(value: Any) -> StalledJobs:
    try:
        return StalledJobs(value)
    except ValueError:
        raise _refuse("stalled_jobs", value, "'requeue', 'retry', 'fail' or 'leave'") from None


def _asyncio_backend(value: Any) -> AsyncioBackend:
    try:
        return AsyncioBackend(value)
    except ValueError:
        raise _refuse("asyncio_backend", value, "'trio-asyncio', 'thread' or None") from None


def _mapping(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return dict(value or {})


def _task_middleware(value: Sequence[TaskMiddleware] | None) -> Sequence[TaskMiddleware]:
    return tuple(value or ())


def _worker_middleware(value: Sequence[WorkerMiddleware] | None) -> Sequence[WorkerMiddleware]:
    check_worker_middleware(value or ())
    return tuple(value or ())


@attrs.frozen(kw_only=True)
class Options:
    """A worker's options, checked. Times are in seconds."""

    queues: tuple[str, ...] | None = _option(
        None, "Work only these queues; by default every queue.", _queues
    )
    name: str | None = _option("worker", "The worker's name, in the log and in JobContext.")
    concurrency: int = _option(1, "How many jobs run at once.", _count("concurrency"))
    prefetch: int | None = _option(
        None,
        "How many jobs to claim ahead, to begin as soon as others end; by default as many as the "
        "worker's present pace begins within a tenth of a second, none while jobs take longer.",
        attrs.converters.optional(_count("prefetch", zero=True)),
    )
    wait: bool = _option(
        True, "Wait for new jobs; if not, stop when no job is left to do.", _flag("wait")
    )
    fetch_job_polling_interval: float = _option(
        5.0,
        "Look for jobs at least so often, in seconds, whatever was notified.",
        _seconds("fetch_job_polling_interval"),
    )
    abort_job_polling_interval: float = _option(
        5.0,
        "While jobs run, look for requests to abort them at least so often, in seconds.",
        _seconds("abort_job_polling_interval"),
    )
    shutdown_graceful_timeout: float | None = _option(
        None,
        "How long running jobs may go on after a stop is asked, in seconds, before they are "
        "aborted; by default as long as they take.",
        attrs.converters.optional(_seconds("shutdown_graceful_timeout", zero=True)),
    )
    listen_notify: bool = _option(
        True,
        "Hear of new jobs and of aborts at once, over one more connection; if not, only poll.",
        _flag("listen_notify"),
    )
    delete_jobs: DeleteJobCondition = _option(
        DeleteJobCondition.NEVER,
        "Which jobs to delete when they end: never, successful or always.",
        _delete_jobs,
    )
    additional_context: Mapping[str, Any] = _option(
        None, "What jobs find in context.additional_context.", _mapping
    )
    install_signal_handlers: bool = _option(
        True,
        "Stop on SIGINT and SIGTERM: the first drains, the second aborts.",
        _flag("install_signal_handlers"),
    )
    update_heartbeat_interval: float = _option(
        10.0,
        "Tell the database so often, in seconds, that this worker is alive.",
        _seconds("update_heartbeat_interval"),
    )
    stalled_worker_timeout: float = _option(
        30.0,
        "A worker not heard of for so long, in seconds, is taken for dead.",
        _seconds("stalled_worker_timeout"),
    )
    task_middleware: Sequence[TaskMiddleware] = _option(
        None,
        "Middleware around every task that this worker runs.",
        _task_middleware,
    )
    worker_middleware: Sequence[WorkerMiddleware] = _option(
        None,
        "Async middleware around every job that this worker runs.",
        _worker_middleware,
    )
    interrupted_jobs: InterruptedJobs = _option(
        InterruptedJobs.RETRY,
        "What becomes of jobs that a shutdown interrupts: retry (their strategy decides, "
        "else aborted), requeue (back to the queue, the attempt not counted) or abort.",
        _interrupted_jobs,
    )
    stalled_jobs: StalledJobs = _option(
        StalledJobs.REQUEUE,
        "What becomes of the jobs of workers that died: requeue (run again, the attempt counted), "
        "retry (their strategy decides, else failed), fail or leave.",
        _stalled_jobs,
    )
    stalled_jobs_limit: int = _option(
        3,
        "A job under which so many workers died fails: it may be what kills them.",
        _count("stalled_jobs_limit"),
    )
    exit_on_third_signal: bool = _option(
        False,
        "Leave at once on the third signal: the jobs that still run are rescued by other workers.",
        _flag("exit_on_third_signal"),
    )
    thread_limit: int | None = _option(
        None,
        "How many sync jobs run in threads at once; by default as many as run at all.",
        attrs.converters.optional(_count("thread_limit")),
    )
    asyncio_backend: AsyncioBackend | None = _option(
        None,
        "What runs asyncio tasks under a Trio host: trio-asyncio (a loop on top of Trio) or thread "
        "(a loop in a thread of its own); by default the first that can be used.",
        attrs.converters.optional(_asyncio_backend),
    )

    def __attrs_post_init__(self) -> None:
        if self.stalled_worker_timeout <= self.update_heartbeat_interval:
            raise _refuse(
                "stalled_worker_timeout",
                self.stalled_worker_timeout,
                f"longer than update_heartbeat_interval ({self.update_heartbeat_interval:g} s), "
                "or living workers would be taken for dead",
            )


def read_options(given: Mapping[str, Any]) -> Options:
    """Check a worker's options.

    Raises:
        InvalidOption: One has a value that it cannot have, or there is none of this name.
    """
    unknown = set(given) - {field.name for field in attrs.fields(Options)}
    if unknown:
        raise InvalidOption(
            f"there is no worker option {min(unknown)!r}; "
            f"there are {', '.join(field.name for field in attrs.fields(Options))}"
        )
    return Options(**given)
