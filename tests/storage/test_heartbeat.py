"""The heartbeat's thread: it beats whatever the event loop does, and it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any

import psycopg
import pytest
import trio

from tests.conformance.conftest import registration
from tests.fix_proxy import Proxy
from tests.storage.told import Told
from tests.waiting import eventually
from trio_queue._pg.bounded import BoundedConnection
from trio_queue._storage import heartbeat
from trio_queue._storage.heartbeat import HeartbeatThread, beating
from trio_queue._storage.parameters import Parameters
from trio_queue._storage.store import HeartbeatLine, PostgresJobStore
from trio_queue.management import ListWorkers
from trio_queue.verbs import UnregisterWorker


def heartbeat_threads() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith(("trio_queue heartbeat", "trio_queue exit"))
    ]


@pytest.mark.promise("Leases and fences / a job holds the CPU and blocks the event loop")
async def test_a_blocked_event_loop_keeps_its_lease(queue_database: str) -> None:
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        worker_id = await store.run(registration())
        with psycopg.connect(queue_database, autocommit=True) as observer:
            async with store.keep_alive(worker_id, 0.01):
                # No checkpoint in here: the loop is blocked until three beats are seen.
                wait_beats(observer, 4)
    assert heartbeat_threads() == []


def wait_beats(observer: psycopg.Connection[Any], count: int) -> None:
    """Wait, and block, until so many moments of a heartbeat have been seen."""
    seen: set[Any] = set()
    while len(seen) < count:
        seen.add(observer.execute("SELECT last_heartbeat FROM procrastinate_workers").fetchone())


async def test_a_beat_is_seen_by_others_whatever_the_keywords_say(queue_database: str) -> None:
    parameters = Parameters(queue_database, {"autocommit": False})
    async with PostgresJobStore(parameters) as store:
        worker_id = await store.run(registration())
        line = HeartbeatLine(parameters)
        with (
            psycopg.connect(queue_database, autocommit=True) as observer,
            contextlib.closing(line.connect()) as connection,
        ):
            observer.execute("UPDATE procrastinate_workers SET last_heartbeat = '-infinity'")
            assert line.beat(connection, worker_id)
            (found,) = observer.execute(
                "SELECT isfinite(last_heartbeat) FROM procrastinate_workers"
            ).fetchall()
            assert found == (True,)


async def test_a_lost_connection_is_replaced_at_once(queue_database: str) -> None:
    told = Told()
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        store.tell_outages(told)
        worker_id = await store.run(registration())
        with psycopg.connect(queue_database, autocommit=True) as observer:
            async with store.keep_alive(worker_id, 0.01) as lease:
                # Its statement stands there once it has beaten.
                while not terminate_heartbeat(observer):
                    await trio.lowlevel.checkpoint()
                await store.run(UnregisterWorker(worker_id))
                await lease.wait_lost()
    assert told.history == []  # the database was never away


async def test_a_server_that_goes_away_and_comes_back(queue_database: str, proxy: Proxy) -> None:
    told = Told()
    async with PostgresJobStore(Parameters(proxy.conninfo(queue_database), {})) as store:
        store.tell_outages(told)
        worker_id = await store.run(registration())
        async with store.keep_alive(worker_id, 0.01) as lease:
            await proxy.refuse()
            await eventually(lambda: bool(told.history), "the heartbeat to notice")
            proxy.accept()
            await eventually(lambda: len(told.history) > 1, "the heartbeat to notice")
            await store.run(UnregisterWorker(worker_id))
            await lease.wait_lost()
    assert told.history == ["heartbeat lost", "heartbeat back"]


#: The backend that the heartbeat's thread has, between two beats.
BACKEND = (
    " FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    " AND query LIKE '%heartbeat%' AND state = 'idle'"
)


def terminate_heartbeat(observer: psycopg.Connection[Any]) -> bool:
    """Throw the heartbeat's connection out; whether it had one."""
    found = observer.execute(f"SELECT pg_terminate_backend(pid) {BACKEND}".encode())
    return found.fetchone() is not None


def heartbeat_backend(observer: psycopg.Connection[Any]) -> int:
    """The pid of the backend that the heartbeat's thread has."""
    while True:
        found = observer.execute(f"SELECT pid {BACKEND}".encode()).fetchone()
        if found is not None:
            return int(found[0])


@contextlib.contextmanager
def frozen_heartbeat(observer: psycopg.Connection[Any]) -> Generator[None]:
    """The heartbeat's backend answers nothing, while its socket stays open.

    Between two beats: in the middle of one it would hold the row.
    """
    is_idle = "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = %s"
    while True:
        pid = heartbeat_backend(observer)
        os.kill(pid, signal.SIGSTOP)
        # Looked at again: it may have begun one since it was found.
        if observer.execute(is_idle, [pid]).fetchone() == (True,):
            break
        os.kill(pid, signal.SIGCONT)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


# -- a beat that hangs --------------------------------------------------------------------------


async def test_a_beat_on_a_frozen_server_ends_on_a_unix_socket_too(
    queue_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_TIMEOUT", 0.1)
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        worker_id = await store.run(registration())
        with psycopg.connect(queue_database, autocommit=True) as observer:
            assert observer.info.host.startswith("/")
            async with store.keep_alive(worker_id, 1):
                with frozen_heartbeat(observer):
                    # By another connection, while the first one hangs.
                    wait_beats(observer, 2)


async def test_leaving_the_block_calls_off_a_beat_that_hangs(queue_database: str) -> None:
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        worker_id = await store.run(registration())
        line = HangingLine(queue_database)
        async with beating(line, worker_id, 10):
            await trio.to_thread.run_sync(line.hangs.wait)
        assert heartbeat_threads() == []
        assert line.connections[0].closed


class RecordedLine(HeartbeatLine):
    """It keeps its connections."""

    def __init__(self, conninfo: str) -> None:
        super().__init__(Parameters(conninfo, {}))
        self.connections: list[BoundedConnection] = []
        self.has_beaten = threading.Event()

    def beat(self, connection: BoundedConnection, worker_id: int) -> bool:
        is_there = super().beat(connection, worker_id)
        self.has_beaten.set()
        return is_there

    def connect(self) -> BoundedConnection:
        self.connections.append(super().connect())
        return self.connections[-1]


class HangingLine(RecordedLine):
    """Its beats wait for an answer that does not come."""

    def __init__(self, conninfo: str) -> None:
        super().__init__(conninfo)
        self.hangs = threading.Event()

    def beat(self, connection: BoundedConnection, worker_id: int) -> bool:
        connection.execute("SET statement_timeout = 0")
        self.hangs.set()
        connection.execute("SELECT pg_sleep(600)")
        raise AssertionError(worker_id)


class NeverLine(HeartbeatLine):
    """It does not come back from connecting until it is let go."""

    def __init__(self) -> None:
        super().__init__(Parameters("", {}))
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def connect(self) -> BoundedConnection:
        self.hangs.set()
        self.go_on.wait()
        raise psycopg.OperationalError("at last")


async def test_a_thread_that_cannot_be_ended_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeat, "STOP_TIMEOUT", 0.01)
    line = NeverLine()
    with trio.CancelScope() as scope:
        async with beating(line, 1, 10):
            await trio.to_thread.run_sync(line.hangs.wait)
            # In a cancelled scope, too.
            scope.cancel()
    assert "left behind" in caplog.text
    threads = heartbeat_threads()
    assert threads
    assert all(thread.daemon for thread in threads)
    line.go_on.set()
    for thread in threads:
        await trio.to_thread.run_sync(thread.join)


async def test_the_body_of_the_block_decides_what_is_raised(queue_database: str) -> None:
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        with pytest.raises(ZeroDivisionError):
            async with store.keep_alive(1, 10):
                raise ZeroDivisionError


# -- the end of the process ---------------------------------------------------------------------


class Ended(threading.Event):
    """In the place of the end of the process."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[int] = []

    def __call__(self, status: int) -> None:
        self.statuses.append(status)
        self.set()


@pytest.mark.parametrize("terminated", [False, True])
async def test_the_row_is_deleted_and_then_the_process_ends(
    queue_database: str, *, terminated: bool
) -> None:
    ended = Ended()
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        worker_id = await store.run(registration())
        line = RecordedLine(queue_database)
        thread = HeartbeatThread(line, worker_id, 600, ended)
        thread.start()
        # The server may be idle while its answer is still to be read: a beat would be called off.
        await trio.to_thread.run_sync(line.has_beaten.wait)
        with psycopg.connect(queue_database, autocommit=True) as observer:
            if terminated:
                # The connection that is there is of no use any more.
                assert terminate_heartbeat(observer)
        thread.exit_process(143)
        await trio.to_thread.run_sync(ended.wait)
        assert await store.run(ListWorkers()) == []
        await thread.stop()
    assert len(line.connections) == 1 + terminated
    assert ended.statuses == [143]


async def test_a_beat_that_hangs_does_not_keep_the_row(queue_database: str) -> None:
    ended = Ended()
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        worker_id = await store.run(registration())
        line = HangingLine(queue_database)
        thread = HeartbeatThread(line, worker_id, 600, ended)
        thread.start()
        await trio.to_thread.run_sync(line.hangs.wait)
        thread.exit_process(130)
        await trio.to_thread.run_sync(ended.wait)
        assert await store.run(ListWorkers()) == []
        await thread.stop()
    assert len(line.connections) == 2
    assert ended.statuses == [130]


async def test_the_process_ends_although_the_thread_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "EXIT_TIMEOUT", 0.01)
    ended, line = Ended(), NeverLine()
    thread = HeartbeatThread(line, 1, 600, ended)
    thread.start()
    await trio.to_thread.run_sync(line.hangs.wait)
    thread.exit_process(143)
    await trio.to_thread.run_sync(ended.wait)
    line.go_on.set()
    await thread.stop()
    assert ended.statuses == [143]


async def test_after_the_block_there_is_nothing_to_wait_for(queue_database: str) -> None:
    ended = Ended()
    thread = HeartbeatThread(HeartbeatLine(Parameters(queue_database, {})), 1, 600, ended)
    thread.start()
    await thread.stop()
    thread.exit_process(143)
    assert ended.statuses == [143]


class Blocked:
    """A process with a job that blocks its main thread. See `blocked_process`."""

    def __init__(self, process: trio.Process, output: trio.abc.ReceiveStream) -> None:
        self._process, self._output = process, output
        self._heard = ""

    async def wait_said(self, what: str) -> None:
        while what not in self._heard:
            more = await self._output.receive_some()
            assert more, f"it ended, having said: {self._heard}"
            self._heard += more.decode()

    async def end(self) -> int:
        """Send three signals, wait for its end; its exit status."""
        for count in (1, 2, 3):
            # One by one: two that are pending at once are one.
            self._process.send_signal(signal.SIGTERM)
            await self.wait_said(f"signal {count}")
        return await self._process.wait()


@contextlib.asynccontextmanager
async def blocked(conninfo: str, *, wire: str | None = None) -> AsyncGenerator[Blocked]:
    """Start such a process, over this wire, and wait until it runs its job."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name) VALUES ('q', 't')"
        )
    command = [sys.executable, "-m", "tests.storage.blocked_process", wire or conninfo]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with process.stdout:
            child = Blocked(process, process.stdout)
            await child.wait_said("runs 1 under 1\n")
            yield child
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.mark.promise(
    "What asks for it / SIGINT or SIGTERM for the third time, with exit_on_third_signal"
)
async def test_the_third_signal_ends_a_blocked_process_and_leaves_its_job_to_the_rescue(
    queue_database: str,
) -> None:
    async with blocked(queue_database) as child:
        assert await child.end() == 128 + signal.SIGTERM
    with psycopg.connect(queue_database) as connection:
        assert connection.execute("SELECT * FROM procrastinate_workers").fetchall() == []
        noted = connection.execute("SELECT job_id, attempts, worker_id FROM trio_queue_orphans")
        assert noted.fetchall() == [(1, 0, 1)]


async def test_the_third_signal_ends_it_on_a_frozen_wire_too(
    queue_database: str, proxy: Proxy
) -> None:
    async with blocked(queue_database, wire=proxy.conninfo(queue_database)) as child:
        proxy.freeze()
        assert await child.end() == 128 + signal.SIGTERM
        with psycopg.connect(queue_database) as connection:
            # The rescue will find its row when it is stale.
            assert len(connection.execute("SELECT * FROM procrastinate_workers").fetchall()) == 1
