"""The heartbeat's thread: it beats whatever the event loop does, and it ends."""

from __future__ import annotations

import logging
import threading
from typing import Any

import psycopg
import pytest
import trio

from tests.conformance.conftest import registration
from trio_queue._storage import heartbeat
from trio_queue._storage.heartbeat import beating
from trio_queue._storage.parameters import Parameters
from trio_queue._storage.store import PostgresJobStore
from trio_queue.store import UnregisterWorker


def heartbeat_threads() -> list[threading.Thread]:
    return [
        thread for thread in threading.enumerate() if thread.name.startswith("trio_queue heartbeat")
    ]


async def test_a_blocked_event_loop_keeps_its_lease(queue_database: str) -> None:
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        worker_id = await store.run(registration())
        with psycopg.connect(queue_database, autocommit=True) as observer:
            async with store.keep_alive(worker_id, 0.01):
                # No checkpoint in here: the loop is blocked until three beats are seen.
                seen: set[Any] = set()
                while len(seen) < 4:
                    seen.add(
                        observer.execute(
                            "SELECT last_heartbeat FROM procrastinate_workers"
                        ).fetchone()
                    )
    assert heartbeat_threads() == []


async def test_a_server_that_goes_away_and_comes_back(
    queue_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        worker_id = await store.run(registration())
        with psycopg.connect(queue_database, autocommit=True) as observer:
            async with store.keep_alive(worker_id, 0.01) as lease:
                # Its statement stands there once it has beaten.
                while not terminate_heartbeat(observer):
                    await trio.lowlevel.checkpoint()
                while "the database is back" not in caplog.text:
                    await trio.lowlevel.checkpoint()
                assert caplog.text.count("heartbeat of worker") == 2
                await store.run(UnregisterWorker(worker_id))
                await lease.wait_lost()


def terminate_heartbeat(observer: psycopg.Connection[Any]) -> bool:
    """Throw the heartbeat's connection out; whether it had one."""
    found = observer.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND query LIKE '%heartbeat%' AND state = 'idle'"
    )
    return found.fetchone() is not None


async def test_a_thread_that_hangs_in_the_server_is_cut_off(
    queue_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "STOP_TIMEOUT", 0.01)
    hangs = threading.Event()
    connections: list[psycopg.Connection[Any]] = []

    def connect() -> psycopg.Connection[Any]:
        connections.append(psycopg.connect(queue_database, autocommit=True))
        return connections[0]

    def beat(connection: psycopg.Connection[Any], _: int) -> bool:
        hangs.set()
        connection.execute("SELECT pg_sleep(600)")
        return True

    async with beating(connect, beat, 1, 10):
        await trio.to_thread.run_sync(hangs.wait)
    for thread in heartbeat_threads():
        await trio.to_thread.run_sync(thread.join)
    assert connections[0].closed


def never_beats(_: psycopg.Connection[Any], worker_id: int) -> bool:
    raise AssertionError(worker_id)


async def test_a_thread_that_cannot_be_ended_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeat, "STOP_TIMEOUT", 0.01)
    hangs, go_on = threading.Event(), threading.Event()

    def connect() -> psycopg.Connection[Any]:
        hangs.set()
        go_on.wait()
        raise psycopg.OperationalError("at last")

    with trio.CancelScope() as scope:
        async with beating(connect, never_beats, 1, 10):
            await trio.to_thread.run_sync(hangs.wait)
            # In a cancelled scope, too.
            scope.cancel()
    assert "left behind" in caplog.text
    [thread] = heartbeat_threads()
    assert thread.daemon
    go_on.set()
    thread.join()


async def test_the_body_of_the_block_decides_what_is_raised(queue_database: str) -> None:
    async with PostgresJobStore(Parameters(queue_database, {})) as store:
        with pytest.raises(ZeroDivisionError):
            async with store.keep_alive(1, 10):
                raise ZeroDivisionError
