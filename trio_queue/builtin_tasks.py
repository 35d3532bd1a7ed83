"""Tasks that every App has, under the namespace `builtin`."""

from __future__ import annotations

from trio_queue.blueprints import Blueprint
from trio_queue.job_context import JobContext

builtin: Blueprint = Blueprint()

#: The names under which Procrastinate defers `remove_old_jobs`.
PROCRASTINATE_NAMES = (
    "builtin:procrastinate.builtin_tasks.remove_old_jobs",
    "procrastinate.builtin_tasks.remove_old_jobs",
)


@builtin.task(pass_context=True, queue="builtin")
async def remove_old_jobs(
    context: JobContext,
    *,
    max_hours: int,
    queue: str | None = None,
    remove_failed: bool | None = False,
    remove_cancelled: bool | None = False,
    remove_aborted: bool | None = False,
) -> int:
    """Delete jobs that ended long ago, and their events, for good, in bites that block nobody.

    Aborted, it stops at once; what was deleted is gone.

    Args:
        context: The job's context.
        max_hours: Jobs that ended longer ago are deleted.
        queue: Only the jobs of this queue; None: of every queue.
        remove_failed: Delete failed jobs too, not only those that succeeded.
        remove_cancelled: Delete cancelled jobs too.
        remove_aborted: Delete aborted jobs too.

    Returns:
        How many were deleted; the log of the job's end tells it.
    """
    deleted: int = await context.app.job_manager.delete_old_jobs(
        nb_hours=max_hours,
        queue=queue,
        include_failed=remove_failed,
        include_cancelled=remove_cancelled,
        include_aborted=remove_aborted,
    )
    return deleted
