"""Deleting old jobs, in bites that block nobody."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable

import attrs
import sniffio

from trio_queue.exceptions import InvalidOption
from trio_queue.jobs import Status
from trio_queue.listing import Listing
from trio_queue.management import DeleteOldJobs

#: What `prune_jobs` may delete.
ENDED = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.ABORTED)


class Pruning(Listing):
    """The methods of `JobManager` that delete old jobs."""

    async def delete_old_jobs(
        self,
        nb_hours: float,
        queue: str | None = None,
        include_failed: bool | None = False,
        include_cancelled: bool | None = False,
        include_aborted: bool | None = False,
    ) -> int:
        """Delete jobs that ended long ago, and their events: `prune_jobs` by Procrastinate's name.

        Args:
            nb_hours: They ended longer ago.
            queue: Only the jobs of this queue.
            include_failed: Failed ones too, not only those that succeeded.
            include_cancelled: Cancelled ones too.
            include_aborted: Aborted ones too.

        Returns:
            How many were deleted.
        """
        statuses = [Status.SUCCEEDED]
        if include_failed:
            statuses.append(Status.FAILED)
        if include_cancelled:
            statuses.append(Status.CANCELLED)
        if include_aborted:
            statuses.append(Status.ABORTED)
        return await self._prune(nb_hours, statuses, queue, dry_run=False)

    async def prune_jobs(
        self,
        older_than: datetime.timedelta,
        statuses: Iterable[Status | str] = (Status.SUCCEEDED,),
        queue: str | None = None,
        *,
        dry_run: bool = False,
    ) -> int:
        """Delete jobs that ended long ago, and their events, in bites that block nobody.

        A bite is one transaction of a thousand jobs at most, and of some fifty milliseconds; jobs that
        somebody works on are skipped. After each one it rests for as long as the bite took, so that
        workers, vacuum and replicas keep up. Cancelled, it stops at once: what was deleted is gone, the
        rest is for the next time.

        Args:
            older_than: They ended longer ago.
            statuses: They ended like this.
            queue: Only the jobs of this queue.
            dry_run: Delete nothing, only count.

        Returns:
            How many were deleted, or would be.

        Raises:
            InvalidOption: A status is none that a job ends with.
        """
        wanted = [_ended(status) for status in statuses]
        hours = older_than / datetime.timedelta(hours=1)
        return await self._prune(hours, wanted, queue, dry_run=dry_run)

    async def _prune(
        self, nb_hours: float, statuses: list[Status], queue: str | None, *, dry_run: bool
    ) -> int:
        verb = DeleteOldJobs(nb_hours=nb_hours, statuses=statuses, queue=queue, only_count=dry_run)
        total = 0
        while True:
            began = time.perf_counter()
            deleted = await self.connector.run_async(verb)
            total += deleted.count
            if deleted.walked_to is None:
                return total
            if not dry_run:
                await _sleep(time.perf_counter() - began)
            verb = attrs.evolve(verb, after_id=deleted.walked_to)


def _ended(status: Status | str) -> Status:
    try:
        ended = Status(status)
    except ValueError:
        ended = None
    if ended not in ENDED:
        known = ", ".join(each.value for each in ENDED)
        raise InvalidOption(f"jobs that are {status!s} are not pruned: give some of {known}")
    return ended


async def _sleep(seconds: float) -> None:
    if sniffio.current_async_library() == "trio":
        import trio

        await trio.sleep(seconds)
    else:
        import asyncio

        await asyncio.sleep(seconds)
