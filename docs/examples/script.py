"""A script: no event loop, no server. It defers a job and waits for what becomes of it.

Make the queue's tables, once, and run it:

    export DATABASE_URL=postgresql://user@host/name
    trio-queue schema --apply
    python script.py 20

It works the queue by itself, until no job is left. Where workers run already, let them:

    trio-queue --app=script.queue worker
    python script.py 20 --elsewhere
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import trio_queue
from trio_queue.jobs import Status

queue = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=os.environ["DATABASE_URL"]))


@queue.task(name="make_thumbnails", retry=2)
def make_thumbnails(pictures: int) -> str:
    """A sync task. The worker runs it in a thread."""
    for _ in range(pictures):
        time.sleep(0.01)  # your work stands here
    return f"{pictures} pictures"


def wait_for_end(job_id: int) -> Status:
    """Wait until a job has ended, wherever it runs. Returns how."""
    while True:
        status = queue.job_manager.get_job_status(job_id)
        if status not in {Status.TODO, Status.DOING}:
            return status
        time.sleep(0.2)


def main() -> int:
    """Defer a job and see it end."""
    parser = argparse.ArgumentParser(description="Make thumbnails of so many pictures.")
    parser.add_argument("pictures", type=int)
    parser.add_argument("--elsewhere", action="store_true", help="let a running worker do it")
    arguments = parser.parse_args()
    with queue.open():
        job_id = make_thumbnails.defer(pictures=arguments.pictures)
        if not arguments.elsewhere:
            queue.run_worker(wait=False)
        status = wait_for_end(job_id)
    print(f"job {job_id}: {status.value}")
    return 0 if status is Status.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
