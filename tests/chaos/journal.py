"""What jobs and deferring processes write down themselves: a line for each begin and each end.

A file for each process, opened to append, one write and one fsync a line: what a process has
written is there, whatever ends it. Only the last line of a file may be half a line.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from tests.chaos.history import Deferral, How, Run
from trio_queue import JobContext
from trio_queue.exceptions import JobAborted


class Journal:
    """The journal of one process."""

    def __init__(self, path: Path, process: str) -> None:
        self._process = process
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)

    def write(self, what: str, **values: Any) -> None:
        """Write a line; it is on the disk when this returns."""
        line = {
            "what": what,
            "process": self._process,
            "pid": os.getpid(),
            "wall": time.time(),
            "monotonic": time.monotonic(),
            **values,
        }
        os.write(self._descriptor, json.dumps(line).encode() + b"\n")
        os.fsync(self._descriptor)

    @contextmanager
    def running(self, context: JobContext) -> Generator[None]:
        """Around a job's body: its begin, and how it ended."""
        run, job = uuid.uuid4().hex, context.job
        self.write(
            "begin",
            run=run,
            job=job.id,
            attempt=job.attempts,
            worker_id=job.worker_id,
            lock=job.lock,
            task=job.task_name,
        )
        how = How.RETURNED
        try:
            yield
        except (trio.Cancelled, JobAborted):
            how = How.INTERRUPTED
            raise
        except BaseException:
            how = How.RAISED
            raise
        finally:
            reason = context.abort_reason()
            self.write("end", run=run, how=how.value, reason=reason.value if reason else None)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, as JSON objects; half a line at its end is none."""
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.splitlines()]


def read_runs(lines: Iterable[dict[str, Any]]) -> list[Run]:
    """The runs that begins and ends tell of."""
    told = list(lines)
    ends = {line["run"]: line for line in told if line["what"] == "end"}
    return [
        Run(
            run_id=line["run"],
            job_id=line["job"],
            attempt=line["attempt"],
            process=line["process"],
            worker_id=line["worker_id"],
            lock=line["lock"],
            began=line["wall"],
            ended=end["wall"] if end else None,
            how=How(end["how"]) if end else None,
            reason=end["reason"] if end else None,
        )
        for line in told
        if line["what"] == "begin"
        for end in [ends.get(line["run"])]
    ]


def read_deferrals(lines: Iterable[dict[str, Any]]) -> list[Deferral]:
    """The jobs that were deferred, by the account of who deferred them."""
    return [
        Deferral(job_id=line["job"], token=line["token"])
        for line in lines
        if line["what"] == "deferred"
    ]
