"""Two libraries on one database: both defer, two workers of each work, and workers of ours are killed meanwhile.

`TRIO_QUEUE_TEST_SCALE=5` tries it with 10,000 jobs.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import attrs
import procrastinate
import psycopg
import pytest

import trio_queue
from tests.beside.fleet import Fleet, fleet, kill, stop
from tests.beside.mixture import ENDS
from tests.beside.runs import Run, make_table, read_runs
from tests.fix_schemas import SCALE
from tests.waiting import wait_until
from trio_queue import schema

JOBS = 2_000 * SCALE
KILLS = 3 * SCALE
PATIENCE = 60.0 * (1 + SCALE)

logger = logging.getLogger(__name__)


@attrs.define
class Trial:
    """The database, the processes on it, and what was done to them."""

    conninfo: str
    connection: psycopg.Connection[Any]
    processes: Fleet
    ours: list[subprocess.Popen[str]] = attrs.Factory(list[subprocess.Popen[str]])
    theirs: list[subprocess.Popen[str]] = attrs.Factory(list[subprocess.Popen[str]])
    #: When a process of ours was dead, by the server's clock.
    killed: dict[int, datetime] = attrs.Factory(dict[int, datetime])
    asked: set[int] = attrs.Factory(set[int])
    #: How many workers of Procrastinate's ended by a race.
    raced: int = 0

    def value(self, text: str, parameters: Any = None) -> Any:
        """The one value that a query answers."""
        ((found,),) = self.connection.execute(text.encode(), parameters).fetchall()
        return found

    def start_worker_of_ours(self) -> None:
        """Start one."""
        self.ours.append(self.processes.start("our", "work", "default", "10"))

    def kill_one_of_ours(self) -> None:
        """Kill the older one while it holds jobs, and start another in its place."""
        oldest = self.ours.pop(0)
        held = "SELECT count(*) FROM procrastinate_jobs j JOIN trio_queue_workers w USING (worker_id) WHERE j.status = 'doing' AND w.pid = %s"
        wait_until(lambda: self.value(held, [oldest.pid]) > 0, "a job under it", PATIENCE)
        pid = kill(oldest)
        self.killed[pid] = self.value("SELECT clock_timestamp()")
        self.start_worker_of_ours()

    def ask_for_aborts(self) -> None:
        """Of each run that waits for it, by the one client and by the other."""
        waiting = [
            run
            for run in read_runs(self.connection)
            if run.task == "until_aborted" and run.ended is None and run.id not in self.asked
        ]
        ours = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=self.conninfo))
        for run in waiting:
            self.asked.add(run.id)
            if run.job_id % 2:
                with ours.open():
                    ours.job_manager.cancel_job_by_id(run.job_id, abort=True)
            else:
                asyncio.run(abort_by_stock(self.conninfo, run.job_id))

    def wait_runs(self, count: int) -> None:
        """Wait until so many runs have begun."""

        def has_begun() -> bool:
            return self.has_ended() or self.value("SELECT count(*) FROM runs") >= count

        wait_until(has_begun, f"run {count}", PATIENCE)

    def replace_those_that_raced(self) -> None:
        """Start another in the place of a worker of Procrastinate's that lost a race for a lock.

        Two that race for the next job of one lock meet in its unique index. Its fetch lets the error
        through, and its worker drains and ends: rare, and not our doing.
        """
        for ended in [each for each in self.theirs if each.poll() is not None]:
            told = self.processes.complaints(ended)
            assert "procrastinate_jobs_lock_idx_v1" in told, told
            self.raced += 1
            self.theirs.remove(ended)
            self.theirs.append(self.processes.start("stock", "work", "default", "10"))

    def has_ended(self) -> bool:
        """Whether every job has; and no process of ours has, but those that were killed."""
        self.ask_for_aborts()
        self.replace_those_that_raced()
        assert [each.poll() for each in self.ours] == [None, None]
        return not self.value(
            "SELECT EXISTS (SELECT FROM procrastinate_jobs"
            " WHERE status IN ('todo', 'doing') AND queue_name = 'default')"
        )


async def abort_by_stock(conninfo: str, job_id: int) -> None:
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=conninfo))
    async with app.open_async():
        await app.job_manager.cancel_job_by_id_async(job_id, abort=True)


@pytest.fixture
def trial(stock_database: str) -> Iterator[Trial]:
    """On a database that Procrastinate made and we took over."""
    with (
        psycopg.connect(stock_database, autocommit=True) as connection,
        fleet(stock_database) as processes,
    ):
        schema.apply(connection)
        make_table(connection)
        yield Trial(stock_database, connection, processes)


@pytest.mark.timeout(PATIENCE * 3)
def test_every_job_ends_and_none_runs_again_without_a_death_of_ours(trial: Trial) -> None:
    held_by_stock = kill_a_stock_worker_that_holds_a_job(trial)
    deferring = [
        trial.processes.start(library, "defer", str(JOBS // 2)) for library in ("stock", "our")
    ]
    trial.theirs += [trial.processes.start("stock", "work", "default", "10") for _ in range(2)]
    for _ in range(2):
        trial.start_worker_of_ours()
    # With that of the one that was killed.
    wait_until(
        lambda: trial.value("SELECT count(*) FROM procrastinate_workers") == 5, "them", PATIENCE
    )
    started = time.monotonic()
    for number in range(1, KILLS + 1):
        trial.wait_runs(number * JOBS // (KILLS + 1))
        trial.kill_one_of_ours()
    refused = [int(process.communicate(timeout=PATIENCE)[0]) for process in deferring]
    wait_until(trial.has_ended, "the end of the last job", PATIENCE)
    took = time.monotonic() - started
    logger.info(
        "%d jobs in %.0f s; killed: %d; of Procrastinate's, ended by a race: %d",
        *(JOBS, took, len(trial.killed), trial.raced),
    )
    assert [stop(each, PATIENCE) for each in trial.ours] == [0, 0]
    for each in trial.theirs:
        stop(each, PATIENCE)

    runs = read_runs(trial.connection)
    superseded = superseded_jobs(trial)
    check_ends(trial, sum(refused), superseded)
    check_runs(runs, trial.killed, superseded)
    check_locks(runs, trial.killed)
    assert {run.library for run in runs} == {"procrastinate", "trio_queue"}
    # What a killed worker of Procrastinate's held stays as Procrastinate leaves it.
    ((status, attempts),) = trial.connection.execute(
        "SELECT status::text, attempts FROM procrastinate_jobs WHERE id = %s", [held_by_stock]
    ).fetchall()
    assert (status, attempts) == ("doing", 0)


def kill_a_stock_worker_that_holds_a_job(trial: Trial) -> int:
    """The job that it held, in a queue that nobody else asks."""
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=trial.conninfo))
    with app.open():
        job_id = app.configure_task("until_aborted", queue="apart").defer(number=0)
    worker = trial.processes.start("stock", "work", "apart", "1")
    wait_until(lambda: trial.value("SELECT count(*) FROM runs") == 1, "its run", PATIENCE)
    kill(worker)
    trial.connection.execute("TRUNCATE runs")
    return job_id


def superseded_jobs(trial: Trial) -> set[int]:
    """Jobs of killed workers that could not wait again: meanwhile another waited with their queueing lock."""
    found = trial.connection.execute(
        "SELECT j.id FROM procrastinate_jobs j WHERE j.status = 'cancelled' AND j.queueing_lock IS NOT NULL"
        " AND EXISTS (SELECT FROM procrastinate_events e JOIN trio_queue_event_details d ON d.event_id = e.id"
        " WHERE e.job_id = j.id AND d.reason IS NOT NULL)"
    )
    return {job_id for (job_id,) in found}


def check_ends(trial: Trial, refused: int, superseded: set[int]) -> None:
    """Every job has ended as its task does; those that a queueing lock refused are not there."""
    ends = trial.connection.execute(
        "SELECT DISTINCT task_name, status::text FROM procrastinate_jobs"
        " WHERE queue_name = 'default' AND NOT id = ANY (%s)",
        [list(superseded)],
    ).fetchall()
    assert sorted(ends) == sorted(ENDS.items())
    jobs = trial.value("SELECT count(*) FROM procrastinate_jobs WHERE queue_name = 'default'")
    assert jobs == JOBS - refused


def check_runs(runs: list[Run], killed: dict[int, datetime], superseded: set[int]) -> None:
    """A job runs again only where it failed to be retried, or its process was killed."""
    of_job: defaultdict[int, list[Run]] = defaultdict(list)
    for run in runs:
        of_job[run.job_id].append(run)
    for each in of_job.values():
        for run in each[:-1]:
            is_retried = run.task == "flaky" and run.attempt == 0 and run.ended is not None
            assert is_retried or run.pid in killed, each
        last = each[-1]
        is_given_up = last.task == "until_aborted" or last.job_id in superseded
        assert last.pid in killed if is_given_up and last.ended is None else last.ended, each
        assert last.job_id not in superseded or last.pid in killed, each


def check_locks(runs: list[Run], killed: dict[int, datetime]) -> None:
    """One at a time; and of a lock whose jobs came one after the other, in that order."""
    of_lock: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.lock is not None:
            of_lock[run.lock].append(run)
    assert len(of_lock) >= 10
    for lock, each in of_lock.items():
        for run, following in itertools.pairwise(each):
            assert (run.ended or killed[run.pid]) <= following.started, (run, following)
        ids = [run.job_id for run in each]
        assert lock.startswith("shared") or ids == sorted(ids), lock
