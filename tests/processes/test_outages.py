"""The server goes away under workers that are processes of their own, and comes back."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.processes.fleet import Fleet, ended_by
from tests.waiting import wait_until
from tests.worker_on_postgres.private_server import PrivateServer

RAN_ONCE = ["deferred", "started", "succeeded"]
BACKENDS = (
    " FROM pg_stat_activity WHERE datname = current_database()"
    " AND backend_type = 'client backend' AND application_name NOT IN ('the test itself', 'others')"
)


@pytest.fixture(scope="module")
def private_server() -> Iterator[PrivateServer]:
    server = PrivateServer(tcp=False, max_connections=20, superuser_reserved_connections=3)
    yield server
    server.close()


@contextlib.contextmanager
def stopped(server: PrivateServer, fleet: Fleet) -> Generator[None]:
    """A fast shutdown: what `systemctl restart postgresql` does."""
    server.kill(signal.SIGINT)
    yield
    server.restart()
    fleet.reconnect()


@contextlib.contextmanager
def crashed(server: PrivateServer, fleet: Fleet) -> Generator[None]:
    """The machine, or the container, of the server is gone."""
    server.kill(signal.SIGKILL)
    yield
    server.restart()
    fleet.reconnect()


@contextlib.contextmanager
def beheaded(server: PrivateServer, fleet: Fleet) -> Generator[None]:
    """The postmaster alone is killed: its children end by themselves."""
    server.kill(signal.SIGKILL, alone=True)
    yield
    server.restart()
    fleet.reconnect()


@contextlib.contextmanager
def crowded(server: PrivateServer, fleet: Fleet) -> Generator[None]:
    """The worker's connections are taken from it, and others take every one that there is."""
    others: list[psycopg.Connection] = []

    def use_up() -> None:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                others.append(psycopg.connect(fleet.conninfo, application_name="others"))

    def used_up() -> bool:
        fleet.rows(f"SELECT pg_terminate_backend(pid) {BACKENDS}")
        use_up()
        return fleet.rows(f"SELECT pid {BACKENDS}") == []

    use_up()
    wait_until(used_up, "every connection to be somebody else's")
    yield
    for other in others:
        other.close()


@pytest.mark.parametrize("away", [stopped, crashed, beheaded, crowded])
def test_running_jobs_run_on_and_are_written_once_it_is_back(
    private_server: PrivateServer,
    tmp_path: Path,
    away: Callable[[PrivateServer, Fleet], contextlib.AbstractContextManager[None]],
) -> None:
    fleet = Fleet(private_server.conninfo(), tmp_path)
    try:
        jobs = [fleet.defer("hold"), fleet.defer("hold_in_thread")]
        waiting = fleet.defer("work", lock="one")
        worker = fleet.start("-n", "survivor", "-c", "2", "-p", "3600")
        for job in jobs:
            fleet.wait_told(job, "began")
        [before] = fleet.rows("SELECT id FROM procrastinate_workers")
        with away(private_server, fleet):
            fleet.open_gate()
            for job in jobs:
                fleet.wait_told(job, "ended")
            worker.wait_said("Lost the database")
            assert worker.popen.poll() is None
        for job in (*jobs, waiting):
            fleet.wait_status(job, "succeeded")
            assert fleet.row(job) == ("succeeded", 1)
            assert fleet.events(job) == RAN_ONCE
            assert fleet.told(job) == ["began", "ended"]
        worker.wait_said("The database is back after")
        assert fleet.rows("SELECT id FROM procrastinate_workers") == [before]
        # It listens again: nothing else would tell it of this one.
        more = fleet.defer("work")
        fleet.wait_status(more, "succeeded")
        assert ended_by([worker], signal.SIGTERM) == [0]
        for trouble in ("could not be written", "taken for dead", "Traceback", "service"):
            assert trouble not in worker.said
        fleet.is_quiet()
    finally:
        fleet.close()


def test_connections_are_terminated_one_by_one(fleet: Fleet) -> None:
    """Each in turn, three rounds, while jobs run: each job runs once."""
    workers = [fleet.start("-n", name, "-c", "3") for name in ("one", "two")]
    for worker in workers:
        worker.wait_said("Starting worker")
    held = [fleet.defer("hold"), fleet.defer("hold_in_thread")]
    for job in held:
        fleet.wait_told(job, "began")
    jobs: list[int] = []
    terminated = 0
    for _ in range(3):
        for (pid,) in fleet.rows(f"SELECT pid {BACKENDS}"):
            jobs += [fleet.defer("work", lock=lock) for lock in (None, "a", "b")]
            terminated += fleet.value("SELECT pg_terminate_backend(%s, 5000)::int", pid)
        for job in jobs:
            fleet.wait_status(job, "succeeded")
    assert terminated >= 3 * 2, "each worker has one connection at least"
    fleet.open_gate()
    for job in held:
        fleet.wait_status(job, "succeeded")
    assert ended_by(workers, signal.SIGTERM) == [0, 0]
    for job in held + jobs:
        assert fleet.row(job) == ("succeeded", 1)
        assert fleet.events(job) == RAN_ONCE
        assert fleet.told(job) == ["began", "ended"]
    for worker in workers:
        assert "taken for dead" not in worker.said
        assert "Traceback" not in worker.said
    fleet.is_quiet()
