"""The server's disk is full: outcomes are kept, and written once there is room again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.processes.fleet import Fleet
from tests.waiting import wait_for_unlock
from trio_queue.embedded.locks import SUPERVISOR_LOCK

ROOT = Path(__file__).parents[2]


def why_not() -> str | None:
    """Why this process cannot mount a small disk of its own; None: it can."""
    if os.geteuid() != 0:
        return "only root can mount a small disk"
    if shutil.which("unshare") is None:
        return "there is no `unshare` to make a mount namespace with"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"this root may not mount: {tried.stderr.strip()}" if tried.returncode else None


REASON = why_not()


class SmallDisk:
    """A server in a mount namespace, whose queue lives on a small disk."""

    def __init__(self, directory: Path) -> None:
        self._process = subprocess.Popen(
            [
                "unshare",
                "--mount",
                sys.executable,
                "-m",
                "tests.processes.small_disk",
                str(directory),
            ],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.conninfo = self._process.stdout.readline().strip()
        assert self.conninfo, "the server did not start"

    def order(self, what: str) -> None:
        """`fill` the disk, or `free` it; it is done when this returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture
def small_disk() -> Iterator[SmallDisk]:
    directory = Path(tempfile.mkdtemp(prefix="tq-disk-", dir="/tmp"))
    directory.chmod(0o755)
    disk = SmallDisk(directory)
    yield disk
    disk.close()
    wait_for_unlock(directory / "server" / SUPERVISOR_LOCK)
    shutil.rmtree(directory)


def fill_pages(fleet: Fleet) -> None:
    """The disk is full; let there be no room in the table of events either."""
    for count in (500, 1):
        with contextlib.suppress(psycopg.errors.DiskFull):
            while True:
                fleet.database.execute(
                    "INSERT INTO procrastinate_events (job_id, type)"
                    " SELECT 1, 'scheduled' FROM generate_series(1, %s)",
                    [count],
                )


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_outcomes_are_kept_until_there_is_room(small_disk: SmallDisk, tmp_path: Path) -> None:
    fleet = Fleet(small_disk.conninfo, tmp_path)
    try:
        jobs = [fleet.defer("hold"), fleet.defer("hold_in_thread")]
        waiting = fleet.defer("work", queue="later")
        worker = fleet.start("-c", "2")
        for job in jobs:
            fleet.wait_told(job, "began")
        small_disk.order("fill")
        fill_pages(fleet)
        fleet.open_gate()
        worker.wait_said("Lost the database (finish_jobs: ")
        assert "No space left on device" in worker.said
        for job in jobs:
            fleet.wait_told(job, "ended")
            assert fleet.row(job) == ("doing", 0)
        worker.send(signal.SIGTERM)
        worker.wait_said("is draining")
        assert worker.popen.poll() is None
        assert fleet.row(jobs[0]) == ("doing", 0)

        small_disk.order("free")
        assert worker.wait_end() == 0, worker.said
        for job in jobs:
            assert fleet.row(job) == ("succeeded", 1)
            assert fleet.events(job) == ["deferred", "started", "succeeded"]
            assert fleet.told(job) == ["began", "ended"]
        assert "The database is back after" in worker.said
        assert "could not be written" not in worker.said
        assert fleet.row(waiting)[0] in {"todo", "succeeded"}
        fleet.is_quiet()
    finally:
        fleet.close()
