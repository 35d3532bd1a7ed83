"""Where it happens: the server, and processes that reach it through a proxy of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import psycopg
import trio

from tests.chaos.application import CONNINFO
from tests.fix_proxy import CutTheWire, Direction, Message, Proxy
from tests.worker_on_postgres.private_server import PrivateServer

ROOT = Path(__file__).parents[2]

#: The chaos run's own account of what happens to rows: who claimed, at which attempt.
_NOTE_CHANGES = """
CREATE TABLE chaos_changes (
    number bigserial PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    job_id bigint, before text, after text, attempts int, worker_id bigint);
CREATE FUNCTION chaos_note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chaos_changes (job_id, before, after, attempts, worker_id)
    VALUES (NEW.id, OLD.status::text, NEW.status::text, OLD.attempts, NEW.worker_id);
    RETURN NULL;
END $$;
CREATE TRIGGER chaos_note_change AFTER UPDATE ON procrastinate_jobs FOR EACH ROW
    WHEN (OLD.status <> NEW.status OR OLD.worker_id IS DISTINCT FROM NEW.worker_id)
    EXECUTE FUNCTION chaos_note_change();
"""


class Wire:
    """A process's way to the server, and what is wrong with it; faults of one kind may overlap."""

    def __init__(self, server: PrivateServer) -> None:
        self.proxy = Proxy(server)
        self.proxy.on_message = self._pass
        self._frozen = self._refused = 0
        self._dead_below = 0
        self._answers_left: int | None = None

    def freeze(self) -> None:
        self._frozen += 1
        if self._frozen == 1:
            self.proxy.freeze()

    def thaw(self) -> None:
        self._frozen -= 1
        if self._frozen == 0:
            self.proxy.thaw()

    async def refuse(self) -> None:
        self._refused += 1
        await self.proxy.refuse()

    def accept(self) -> None:
        self._refused -= 1
        if self._refused == 0:
            self.proxy.accept()

    def half_open(self) -> None:
        """From the connections that are there nothing comes through any more; new ones work."""
        self._dead_below = self.proxy.accepted

    def cut_before_answer(self, skipped: int) -> None:
        """Cut the connection that is next to be told that a statement is done, after so many."""
        self._answers_left = skipped

    async def _pass(self, message: Message) -> None:
        if message.connection < self._dead_below:
            await trio.sleep_forever()
        is_answer = message.direction is Direction.TO_CLIENT and message.kind == "C"
        if self._answers_left is not None and is_answer:
            self._answers_left -= 1
            if self._answers_left < 0:
                self._answers_left = None
                raise CutTheWire


@attrs.define
class Living:
    """A process of a place, and what was done to it."""

    name: str
    process: trio.Process
    asks: int = 0
    asked: float | None = None
    doomed: float | None = None
    suspended: int = 0

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.process.returncode is not None:
            return
        if number == signal.SIGTERM:
            self.asks += 1
            self.asked = self.asked or time.time()
        if number == signal.SIGKILL or self.asks == 3:
            self.doomed = self.doomed or time.time()
        self.process.send_signal(number)

    def suspend(self) -> None:
        self.suspended += 1
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.suspended -= 1
        if not self.suspended:
            self.send(signal.SIGCONT)


class Place:
    """A place for a process, which is started again whenever it ends, until the place is closed."""

    def __init__(self, scene: Scene, name: str, *arguments: str) -> None:
        self.name = name
        self.wire = Wire(scene.server)
        self.is_worker = arguments[0] == "work"
        self.living: Living | None = None
        self._scene = scene
        self._arguments = arguments
        self._closing = False
        self._closed = trio.Event()
        self._count = 0

    async def keep(self) -> None:
        """Keep a process running, until the place is closed and the last one has ended."""
        while not self._closing:
            self._count += 1
            living = await self._start(f"{self.name}.{self._count}")
            self.living = living
            try:
                await living.process.wait()
            finally:  # nothing outlives the run, however it ends
                if living.process.returncode is None:
                    living.process.kill()
            self.living = None
            self._scene.note_end(living, is_worker=self.is_worker)
        self._closed.set()

    async def _start(self, name: str) -> Living:
        command, *rest = self._arguments
        folder = self._scene.folder
        with (folder / "errors" / f"{name}.txt").open("wb") as errors:
            process = await trio.lowlevel.open_process(
                [
                    sys.executable,
                    "-m",
                    "tests.chaos.application",
                    command,
                    str(folder),
                    name,
                    *rest,
                ],
                cwd=ROOT,
                env={**os.environ, CONNINFO: self.wire.proxy.conninfo(self._scene.conninfo)},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        return Living(name, process)

    async def wait_up(self, patience: float = 15.0) -> Living:
        """Wait for a process that works, or, when patience ends, for one that lives."""
        deadline = trio.current_time() + patience
        while self.living is None or (  # noqa: ASYNC110 - a process's log signals nothing
            not self._has_started(self.living) and trio.current_time() < deadline
        ):
            await trio.sleep(0.05)
        return self.living

    def _has_started(self, living: Living) -> bool:
        if not self.is_worker:
            return True
        log = self._scene.folder / "logs" / f"{living.name}.jsonl"
        return log.exists() and b'"start_worker"' in log.read_bytes()[:20_000]

    async def close(self, number: signal.Signals, patience: float) -> bool:
        """Send the signal to the process and start no other; whether it ended in time."""
        self._closing = True
        if self.living:
            self.living.send(number)
        with trio.move_on_after(patience):
            await self._closed.wait()
            return True
        while not self._closed.is_set():
            if self.living:
                self.living.process.kill()
            await trio.sleep(0.05)
        return False


class Scene:
    """The server and the places."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("journals", "logs", "errors"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.server = PrivateServer(fsync="on", full_page_writes="on", log_connections="off")
        self.conninfo = self.server.conninfo(tcp=True)
        with psycopg.connect(self.server.conninfo(), autocommit=True) as admin:
            admin.execute(_NOTE_CHANGES.encode())
        self.changing_server = trio.Lock()
        self.workers: list[Place] = []
        self.deferrers: list[Place] = []

    @property
    def places(self) -> list[Place]:
        return [*self.workers, *self.deferrers]

    def note_end(self, living: Living, *, is_worker: bool) -> None:
        """Write down how a process ended."""
        line = {
            "name": living.name,
            "is_worker": is_worker,
            "ended": time.time(),
            "status": living.process.returncode,
            "asks": living.asks,
            "asked": living.asked,
            "doomed": living.doomed,
        }
        with (self.folder / "processes.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    async def ask(self, statement: str, *parameters: Any) -> Sequence[tuple[Any, ...]]:
        """Say something to the database, past all proxies; again while the server is away."""

        def say() -> Sequence[tuple[Any, ...]]:
            with psycopg.connect(
                self.server.conninfo(),
                autocommit=True,
                connect_timeout=5,
                application_name="chaos itself",
            ) as connection:
                return connection.execute(statement.encode(), parameters).fetchall()

        while True:
            try:
                return await trio.to_thread.run_sync(say)
            except psycopg.OperationalError:
                await trio.sleep(0.1)

    async def restart_server(self, number: signal.Signals, pause: float) -> None:
        """End the server by a signal, and start it again after a pause."""
        async with self.changing_server:
            await trio.to_thread.run_sync(self.server.kill, number)
            await trio.sleep(pause)
            await self.server.start_again()
