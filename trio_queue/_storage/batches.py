"""A batch in parts: as many jobs as the server is given at a time.

All parts are one transaction. PostgreSQL takes no more than 256 MiB as one JSON array, and less is in memory on either side; and
the next part is made while the server works on the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from trio_queue._storage.encoding import Dumps, encode_batch
from trio_queue.jobs import Batch, Job

#: Jobs of a part. Two parts of a thousand each gain nothing against one of two thousand; each part has a notification.
MAX_JOBS: Final = 2_000
#: Characters of a part's arguments; one job may have more. As jsonb, numbers may take six times as much.
MAX_SIZE: Final = 16 * 2**20
#: Jobs that are encoded first, to see how large they are; and how many times as many the next time.
FEW: Final = 16


def parts_of(
    jobs: Sequence[Job], dumps: Dumps | None
) -> Iterator[tuple[Sequence[Job], dict[str, Any]]]:
    """Yield the jobs of each part, and the parameters that defer them; one part of nothing where there are no jobs.

    Args:
        jobs: The batch.
        dumps: The user's own JSON encoder; None: the standard one.

    Raises:
        InvalidArguments: The arguments of a job cannot be stored.
    """
    start, few = 0, FEW
    while True:
        left = len(jobs) - start
        # What is little more than a part is one.
        most = left if 2 * left <= 3 * MAX_JOBS else MAX_JOBS
        count, arguments = _encode_part(jobs[start : start + most], few, dumps)
        part = jobs[start : start + count]
        # One document of arguments for each job, alike or not: it tells how many there are.
        yield part, {**_columns(part), "args": arguments}
        start += count
        if start >= len(jobs):
            return
        few = min(FEW, max(1, MAX_SIZE * count // len(arguments)))


def _columns(jobs: Sequence[Job]) -> dict[str, list[Any] | None]:
    """The columns of jobs but their arguments: what is the same for all is sent once, and nothing as nothing."""
    differing = [jobs.job] if isinstance(jobs, Batch) else jobs
    return {
        "queues": _column([job.queue for job in differing]),
        "task_names": _column([job.task_name for job in differing]),
        "priorities": _column([job.priority for job in differing]),
        "locks": _column([job.lock for job in differing]),
        "queueing_locks": _column([job.queueing_lock for job in differing]),
        "scheduled_at": _column([job.scheduled_at for job in differing]),
    }


def _column(values: list[Any]) -> list[Any] | None:
    if not values or values.count(values[0]) < len(values):
        return values
    return None if values[0] is None else values[:1]


def _encode_part(jobs: Sequence[Job], few: int, dumps: Dumps | None) -> tuple[int, str]:
    """Encode jobs until a part is full: how many, and their JSON array."""
    texts: list[str] = []
    taken, room, count = 0, MAX_SIZE, few
    while taken < len(jobs) and count:
        some = jobs[taken : taken + count]
        text = encode_batch(some, dumps)[1:-1]
        if len(text) > room and (texts or len(some) > 1):
            # These are larger than those before: with fewer of them, or in the next part.
            count = len(some) // 2
            continue
        texts.append(text)
        taken += len(some)
        room = max(0, room - len(text))
        # As many as fit if they are like these; they may be larger, and what is too much is in memory first.
        count = min(room * len(some) // max(len(text), 1), FEW * taken)
    return taken, f"[{','.join(texts)}]"
