"""What the verbs of leases do to the tables in memory."""

from __future__ import annotations

import datetime

from trio_queue import verbs
from trio_queue._storage.memory_answers import answer
from trio_queue._storage.memory_tables import Tables, to_job
from trio_queue._storage.memory_work import WORKING
from trio_queue._storage.rows import JobRow
from trio_queue.completion import WORKER_DIED
from trio_queue.exceptions import WorkerGone

#: With the verbs of working, which its import registers.
LEASES = WORKING


@answer.register
def adopt_jobs(verb: verbs.AdoptJobs, tables: Tables) -> list[int]:
    """See AdoptJobs."""
    holders = {None, verb.lost_id, verb.worker_id}
    runs = {(job_id, attempts) for job_id, attempts in verb.jobs}
    rows = [
        row
        for row in tables.sorted_jobs()
        if row["status"] == "doing"
        and row["worker_id"] in holders
        and (row["id"], row["attempts"]) in runs
    ]
    _take(tables, rows, verb.worker_id)
    return [row["id"] for row in rows]


@answer.register
def adopt_orphans(verb: verbs.AdoptOrphans, tables: Tables) -> list[verbs.Orphan]:
    """See AdoptOrphans."""
    if verb.limit <= 0 or not tables.take_turn(verb.worker_id, verb.turn):
        return []
    lease = datetime.timedelta(seconds=verb.stalled_after)
    for worker in tables.workers.values():
        if worker.last_heartbeat > tables.now + max(lease, datetime.timedelta()):
            worker.last_heartbeat = tables.now  # the clock was set back
    oldest = tables.now - lease
    tables.delete_workers(
        [
            worker.id
            for worker in tables.workers.values()
            if worker.last_heartbeat < oldest and worker.id != verb.worker_id
        ]
    )
    rows: list[JobRow] = []
    for note in sorted(tables.orphans, key=lambda note: (note.job_id, note.attempts)):
        if len(rows) == verb.limit:
            break
        row = tables.jobs.get(note.job_id)
        if row is not None and (row["status"], row["worker_id"], row["attempts"]) == (
            "doing",
            None,
            note.attempts,
        ):
            rows.append(row)
        else:
            # It ended or moved on: nobody's orphan.
            tables.forget_orphan(note.job_id, note.attempts)
    _take(tables, rows, verb.worker_id)
    return [verbs.Orphan(to_job(row), _deaths(tables, row)) for row in rows]


def _take(tables: Tables, rows: list[JobRow], worker_id: int) -> None:
    if any(row["worker_id"] != worker_id for row in rows) and worker_id not in tables.workers:
        raise WorkerGone
    for row in rows:
        tables.update_job(row, worker_id=worker_id)
        tables.forget_orphan(row["id"], row["attempts"])


def _deaths(tables: Tables, row: JobRow) -> int:
    return 1 + sum(event.reason == WORKER_DIED for event in tables.events[row["id"]])
