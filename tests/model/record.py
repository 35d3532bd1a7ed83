"""What happened when a script was played, as data."""

from __future__ import annotations

from enum import Enum

import attrs

from tests.model.script import Ask, Script, Theft
from trio_queue.jobs import AbortReason


class End(Enum):
    """How a body left its task."""

    RETURNED = "returned"
    RAISED = "raised"
    JOB_ABORTED = "raised nothing but JobAborted"
    CANCELLED = "ended by the cancel of its scope"
    STRAY = "raised a Cancelled of its own"
    EXITED = "raised KeyboardInterrupt or SystemExit"


@attrs.define
class Body:
    """One run of a job's body, as it saw it itself."""

    job: int
    #: The row's `attempts` when it was claimed.
    attempts: int
    began_at: float
    #: Where its beginning and its end stand among all that happened.
    began: int
    ended: int | None = None
    #: When it was cancelled, and why it then was told to be.
    heard_at: float | None = None
    heard_reason: AbortReason | None = None
    ended_at: float | None = None
    #: Whether it was told that the worker drains, and why to stop, when it ended.
    shutting_down: bool = False
    reason: AbortReason | None = None
    end: End | None = None


@attrs.frozen
class Row:
    """What matters of a job's row."""

    status: str
    attempts: int
    worker_id: int | None
    abort_requested: bool
    #: Seconds of fake time, as everything here.
    due_at: float | None


@attrs.frozen
class Change:
    """A statement changed a row; `before` None: it inserted it; `after` None: it deleted it."""

    #: Where it stands among all that happened.
    order: int
    at: float
    job: int
    verb: str
    #: Whether the worker did it, or somebody else.
    by_worker: bool
    before: Row | None
    after: Row | None
    #: Beside the last event.
    reason: str | None


@attrs.frozen
class Asked:
    """The worker was asked to stop; `how` None: a service of its could not recover."""

    at: float
    how: Ask | None


@attrs.frozen
class AbortedByUser:
    """A user asked for the abort of a job that was `doing`."""

    at: float
    job: int


@attrs.frozen
class Pruned:
    """The worker's row was deleted."""

    at: float
    theft: Theft


@attrs.define
class Record:
    """Everything that can be seen from outside of a worker. Jobs are told by their number in the script."""

    script: Script
    bodies: list[Body] = attrs.field(factory=list[Body])
    changes: list[Change] = attrs.field(factory=list[Change])
    asked: list[Asked] = attrs.field(factory=list[Asked])
    aborted: list[AbortedByUser] = attrs.field(factory=list[AbortedByUser])
    pruned: list[Pruned] = attrs.field(factory=list[Pruned])
    #: The ids that the worker had.
    worker_ids: set[int] = attrs.field(factory=set[int])
    #: Seconds since the worker's last heartbeat, at the most, while a body ran.
    oldest_beat: float = 0
    #: How `run()` ended.
    ended_at: float = 0
    hung: bool = False
    error: BaseException | None = None
    was_cancelled: bool = False
    #: What is left.
    rows: dict[int, Row] = attrs.field(factory=dict[int, Row])
    workers_left: list[int] = attrs.field(factory=list[int])
