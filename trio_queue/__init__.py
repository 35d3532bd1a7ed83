"""trio_queue: the PostgreSQL job queue for Trio."""

# A module imports only from the floors below its own; a test holds it to that.
#
#   7  entry     __main__
#   6  doors     _cli  testing
#   5  house     app  manager  listing
#   4d hosts     from_asyncio
#   4c worker    worker  _worker
#   4b storage   schema  _storage  sql
#   4a driver    _pg  embedded
#   -- loops     _loops: Trio and asyncio in one process; sees 0-2
#   3  registry  builtin_tasks > blueprints > middleware > job_context > periodic > tasks
#                > deferring > validation
#   2  ports     store  verbs  management  connector  owners
#   1  nouns     jobs  retry  cron  completion
#   0  words     exceptions  types  utils  log  _version

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_queue._version import __version__

if TYPE_CHECKING:
    from trio_queue import builtin_tasks as builtin_tasks
    from trio_queue import exceptions as exceptions
    from trio_queue import job_context as job_context
    from trio_queue import jobs as jobs
    from trio_queue import manager as manager
    from trio_queue import middleware as middleware
    from trio_queue import retry as retry
    from trio_queue import schema as schema
    from trio_queue import tasks as tasks
    from trio_queue import testing as testing
    from trio_queue import types as types
    from trio_queue import utils as utils
    from trio_queue._storage.connector import PsycopgConnector, SyncPsycopgConnector
    from trio_queue.app import App
    from trio_queue.blueprints import Blueprint
    from trio_queue.completion import InterruptedJobs, StalledJobs
    from trio_queue.connector import BaseConnector
    from trio_queue.job_context import AbortReason, JobContext
    from trio_queue.retry import BaseRetryStrategy, RetryDecision, RetryStrategy
    from trio_queue.tasks import Task
    from trio_queue.worker import Worker

__all__ = [
    "AbortReason",
    "App",
    "BaseConnector",
    "BaseRetryStrategy",
    "Blueprint",
    "InterruptedJobs",
    "JobContext",
    "PsycopgConnector",
    "RetryDecision",
    "RetryStrategy",
    "StalledJobs",
    "SyncPsycopgConnector",
    "Task",
    "Worker",
    "__version__",
]

# Imported when first asked for: a program that tests its tasks in memory pays neither for psycopg nor
# for the worker's machinery, and one that only wants an embedded server for none of it.
_LAZY = {
    "AbortReason": "job_context",
    "App": "app",
    "BaseConnector": "connector",
    "BaseRetryStrategy": "retry",
    "Blueprint": "blueprints",
    "InterruptedJobs": "completion",
    "JobContext": "job_context",
    "PsycopgConnector": "_storage.connector",
    "RetryDecision": "retry",
    "RetryStrategy": "retry",
    "StalledJobs": "completion",
    "SyncPsycopgConnector": "_storage.connector",
    "Task": "tasks",
    "Worker": "worker",
}
_MODULES = frozenset(
    {
        "builtin_tasks",
        "exceptions",
        "job_context",
        "jobs",
        "manager",
        "middleware",
        "retry",
        "schema",
        "tasks",
        "testing",
        "types",
        "utils",
    }
)


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(f"trio_queue.{_LAZY[name]}"), name)
    if name in _MODULES:
        return importlib.import_module(f"trio_queue.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
