"""trio_queue: the PostgreSQL job queue for Trio."""

# A module imports only from the floors below its own; a test holds it to that.
#
#   7  entry     __main__
#   6  doors     _cli  testing
#   5  house     app  manager  listing
#   4d hosts     from_asyncio  from_thread
#   4c worker    worker  _worker
#   4b storage   schema  _storage  sql
#   4a driver    _pg  embedded
#   3  registry  builtin_tasks > blueprints > middleware > job_context > periodic > tasks
#                > deferring > validation
#   2  ports     store  connector  owners
#   1  nouns     jobs  retry  cron  completion
#   0  words     exceptions  types  utils  log  _version

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trio_queue._version import __version__
from trio_queue.app import App
from trio_queue.blueprints import Blueprint
from trio_queue.completion import InterruptedJobs
from trio_queue.connector import BaseConnector
from trio_queue.job_context import AbortReason, JobContext
from trio_queue.retry import BaseRetryStrategy, RetryDecision, RetryStrategy
from trio_queue.tasks import Task

if TYPE_CHECKING:
    from trio_queue._storage.connector import PsycopgConnector
    from trio_queue._storage.sync_connector import SyncPsycopgConnector
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
    "SyncPsycopgConnector",
    "Task",
    "Worker",
    "__version__",
]

# What brings psycopg or the worker's machinery in is imported when it is first asked for: a program
# that tests its tasks in memory pays for neither.
_LAZY = {
    "PsycopgConnector": "trio_queue._storage.connector",
    "SyncPsycopgConnector": "trio_queue._storage.sync_connector",
    "Worker": "trio_queue.worker",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
