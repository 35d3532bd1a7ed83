"""What a listening connection hears, as the port's notifications."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
import trio
from psycopg import Notify

from trio_queue._pg.listener import Gap, Listener
from trio_queue._storage.encoding import ANY_QUEUE_CHANNEL, MAX_QUEUE_BYTES, queue_channel
from trio_queue.log import Action, fields
from trio_queue.store import AbortRequested, JobInserted, Missed, Notification, Outages

logger = logging.getLogger("trio_queue.worker")

#: Seconds until it is tried again where reconnecting failed for a reason that may not pass.
RETRY_DELAY = 5.0


def channels(queues: Sequence[str] | None) -> list[str]:
    """The channels on which news of these queues goes out (None: of all).

    A queue with a name too long for a channel has no news: no job can be deferred to it.
    """
    if queues is None:
        return [ANY_QUEUE_CHANNEL]
    short = [queue for queue in queues if len(queue.encode()) <= MAX_QUEUE_BYTES]
    return [queue_channel(queue) for queue in short] or [ANY_QUEUE_CHANNEL]


class PostgresNotifications:
    """Notifications of a `Listener`. Silent, it has heard everything."""

    def __init__(self, listener: Listener, outages: Outages | None = None) -> None:
        self._listener = listener
        self._outages = outages

    async def wait(self) -> Sequence[Notification]:
        """See Notifications."""
        while True:
            try:
                heard = await self._listener.next()
            except psycopg.Error as error:
                # A role that was dropped, a password that was changed: somebody may mend it, and
                # the worker polls meanwhile.
                if self._outages is not None:
                    self._outages.began("notifications", error)
                await trio.sleep(RETRY_DELAY)
                continue
            if isinstance(heard, Gap):
                if self._outages is not None:
                    self._outages.ended("notifications")
                return [Missed()]
            if notifications := understand(heard):
                return notifications


class NothingHeard:
    """Notifications where none arrive: said once, and the worker polls."""

    def __init__(self) -> None:
        logger.warning(
            "This worker hears of no jobs and of no aborts, it only polls: a pooler between it and PostgreSQL lends its session "
            "to others. Give it listen_notify=False, or a conninfo that leads past the pooler",
            extra=fields(Action.CANNOT_LISTEN),
        )

    async def wait(self) -> Sequence[Notification]:
        """See Notifications."""
        await trio.sleep_forever()


def understand(heard: Iterable[Notify]) -> list[Notification]:
    """What these say, each thing once; what nobody knows is left out."""
    understood: list[Notification] = []
    for notify in heard:
        notification = _understand(notify)
        if notification is None:
            logger.debug("unknown notification on %s: %r", notify.channel, notify.payload)
        elif notification not in understood:
            understood.append(notification)
    return understood


def _understand(notify: Notify) -> Notification | None:
    try:
        payload: Any = json.loads(notify.payload)
    except (ValueError, RecursionError):  # anybody may notify anything
        return None
    match payload:
        case {"type": "job_inserted"}:
            return JobInserted()
        case {"type": "abort_job_requested", "job_id": int(job_id)}:
            return AbortRequested(job_id)
        case _:
            return None
