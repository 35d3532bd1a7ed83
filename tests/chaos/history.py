"""What happened in a run, as data: from the database, the jobs' journals, the workers' logs.

Moments are seconds since the epoch: one machine, one clock for all of it.
"""

from __future__ import annotations

from enum import Enum

import attrs


@attrs.frozen(kw_only=True)
class Row:
    """A job's row at the end."""

    id: int
    task: str
    status: str
    attempts: int
    lock: str | None = None
    queueing_lock: str | None = None
    #: Drawn by who deferred it, the same for no two jobs; None: deferred by a fault.
    token: str | None = None


@attrs.frozen(kw_only=True)
class Event:
    """An event of the database. The order of their ids is the order of events."""

    id: int
    job_id: int
    type: str
    at: float
    reason: str | None = None


@attrs.frozen(kw_only=True)
class Change:
    """A change of a job's row, noted by a trigger of the chaos run's own."""

    number: int
    job_id: int
    at: float
    before: str
    after: str
    #: The row's attempts before the change.
    attempts: int
    #: The worker's id after the change; at a claim: who claimed.
    worker_id: int | None


class How(Enum):
    """How a body ended, by its own account."""

    RETURNED = "returned"
    INTERRUPTED = "interrupted"  #: The cancel of its scope, or JobAborted.
    RAISED = "raised"


@attrs.frozen(kw_only=True)
class Run:
    """One run of a job's body, by its own account."""

    run_id: str
    job_id: int
    attempt: int
    #: The process, by its name: no two processes of a run have the same.
    process: str
    #: The worker's id that the job was claimed under.
    worker_id: int
    lock: str | None
    began: float
    #: None: the process died before.
    ended: float | None = None
    how: How | None = None
    #: Why it had been asked to stop, when it ended.
    reason: str | None = None


@attrs.frozen(kw_only=True)
class Process:
    """A worker's process, or a deferring one."""

    name: str
    is_worker: bool
    ended: float
    #: As `subprocess` tells it: negative is a signal.
    status: int
    #: How often SIGTERM was sent to it, and when first.
    asks: int = 0
    asked: float | None = None
    #: When it was sent the signal that it cannot survive: SIGKILL, the third SIGTERM.
    doomed: float | None = None
    #: When it said that it works; None: it never did.
    started: float | None = 0.0
    #: It had said that it has stopped: every row is written, its own is gone.
    had_stopped: bool = False
    #: The ids of its worker: another after each loss of its row.
    worker_ids: frozenset[int] = frozenset()
    #: The type of the exception that it ended by.
    error: str | None = None


@attrs.frozen(kw_only=True)
class Hearing:
    """A LEASE_LOST line of a worker's log: it has heard that these jobs are no longer its own."""

    process: str
    at: float
    job_ids: frozenset[int]


@attrs.frozen(kw_only=True)
class NotWritten:
    """An OUTCOME_NOT_WRITTEN line: the worker left the row to the rescue, and said so."""

    process: str
    job_id: int
    at: float


@attrs.frozen(kw_only=True)
class Written:
    """A line that says: this outcome of this job is in its row."""

    process: str
    job_id: int
    status: str


@attrs.frozen(kw_only=True)
class Deferral:
    """A deferring process was told that this job is in the database."""

    job_id: int
    token: str


@attrs.frozen(kw_only=True)
class History:
    """All of it."""

    rows: tuple[Row, ...] = ()
    events: tuple[Event, ...] = ()
    changes: tuple[Change, ...] = ()
    runs: tuple[Run, ...] = ()
    processes: tuple[Process, ...] = ()
    hearings: tuple[Hearing, ...] = ()
    not_written: tuple[NotWritten, ...] = ()
    written: tuple[Written, ...] = ()
    deferrals: tuple[Deferral, ...] = ()
    #: Lines of the logs that no worker should have to write, and what is left at the end.
    complaints: tuple[str, ...] = ()
