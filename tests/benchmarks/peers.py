"""A server for measurements, databases on it, and the applications that are measured."""

from __future__ import annotations

import gc
import itertools
import logging
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import LiteralString, TypeVar

import attrs
import procrastinate
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

import trio_queue
from tests.benchmarks import machine
from tests.benchmarks.figures import Figure
from tests.fix_postgres import apply_schema
from trio_queue.embedded import EmbeddedServer
from trio_queue.verbs import RegisterWorker

T = TypeVar("T")

#: A throw-away server leaves out what a server does that nobody has tuned; here it does it.
SETTINGS: dict[str, str | int] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}
QUEUE = "bench"
#: For a conninfo: a commit does not wait for the disk.
NO_SYNC = " options='-c synchronous_commit=off'"
#: Seconds from the start of an idle worker to its measurement: a session tells what it did when
#: it rests, and ten seconds late at most.
SETTLING = 12
#: How a log is written that somebody reads.
LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


@attrs.define
class Cost:
    """What something took; told after the block that took it."""

    seconds: float = 0.0
    client_cpu: float = 0.0
    #: None: it cannot be told here.
    server_cpu: float | None = None

    def figures(self, what: str, peer: str, jobs: int) -> Iterator[Figure]:
        """Jobs per second, and what a job costs either side."""
        yield Figure(what, "jobs/s", peer, jobs / self.seconds)
        yield Figure(f"{what}: client", "µs of CPU a job", peer, 1e6 * self.client_cpu / jobs)
        if self.server_cpu is not None:
            yield Figure(f"{what}: server", "µs of CPU a job", peer, 1e6 * self.server_cpu / jobs)


@attrs.define
class Bench:
    """A server, and databases on it."""

    server: EmbeddedServer
    #: Where files may be written.
    folder: Path
    #: Only to see that everything runs: of everything a little.
    quick: bool = False
    #: The number of the round, from 0 on.
    round: int = 0
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)

    @classmethod
    @contextmanager
    def opened(
        cls, settings: Mapping[str, str | int] = SETTINGS, *, quick: bool = False
    ) -> Generator[Bench]:
        """A throw-away server; unless told otherwise with PostgreSQL's default configuration.

        So it syncs what it commits. Where it is only to be seen that it runs, it does not.
        """
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            # On disk, and where the account can reach it that root runs the server as.
            Path(folder).chmod(0o755)
            place = Path(folder) / "server"
            with EmbeddedServer(
                place, ephemeral=True, settings={} if quick else settings
            ) as server:
                yield cls(server, Path(folder), quick)

    def some(self, many: int, few: int = 20) -> int:
        """So many, or a few where it is only to be seen that it runs."""
        return min(many, few) if self.quick else many

    def in_turn(self, peers: Mapping[str, T]) -> Iterator[tuple[str, T]]:
        """The peers, another one first in each round."""
        items = list(peers.items())
        start = self.round % len(items)
        yield from items[start:] + items[:start]

    def database(self, *, ours: bool) -> str:
        """A fresh database with our schema or with Procrastinate's own. It stays."""
        name = f"bench_{next(self._numbers)}"
        self._admin("CREATE DATABASE {}", name)
        conninfo = self.server.conninfo(name)
        if ours:
            apply_schema(conninfo)
        else:
            schema = (resources.files("procrastinate") / "sql" / "schema.sql").read_bytes()
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute(schema)
        return conninfo

    @contextmanager
    def fresh_database(self, *, ours: bool = True) -> Generator[str]:
        """A `database` that is dropped after the block: no autovacuum of it disturbs the next."""
        conninfo = self.database(ours=ours)
        try:
            yield conninfo
        finally:
            self._admin("DROP DATABASE {} WITH (FORCE)", str(conninfo_to_dict(conninfo)["dbname"]))

    def _admin(self, statement: LiteralString, name: str) -> None:
        with psycopg.connect(self.server.conninfo(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))

    @contextmanager
    def cost(self) -> Generator[Cost]:
        """Measure the block. What was done before it is written and cleaned away first."""
        pid = machine.server_pid(self.server.state.data)
        with psycopg.connect(self.server.conninfo(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        gc.collect()
        cost = Cost()
        server, client, began = machine.server_cpu(pid), time.process_time(), time.perf_counter()
        yield cost
        cost.seconds = time.perf_counter() - began
        cost.client_cpu = time.process_time() - client
        after = machine.server_cpu(pid)
        if server is not None and after is not None:
            cost.server_cpu = after - server

    @contextmanager
    def logging_at_info(self) -> Generator[Path]:
        """Everything from INFO on is written to a file, formatted as people read it."""
        path = self.folder / "log"
        root = logging.getLogger()
        handler = logging.FileHandler(path, mode="w")
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield path
        finally:
            root.setLevel(level)
            root.removeHandler(handler)
            handler.close()


def our_app(conninfo: str) -> trio_queue.App:
    """Our application with a task that does nothing."""
    app = trio_queue.App(connector=trio_queue.PsycopgConnector(conninfo=conninfo))

    @app.task(name="noop", queue=QUEUE)
    async def noop(number: int) -> None:
        pass

    return app


def stock_app(conninfo: str, *, sync: bool = False) -> procrastinate.App:
    """Procrastinate's, as its documentation makes one."""
    connector = procrastinate.SyncPsycopgConnector if sync else procrastinate.PsycopgConnector
    app = procrastinate.App(connector=connector(conninfo=conninfo))

    @app.task(name="noop", queue=QUEUE)
    async def noop(number: int) -> None:
        pass

    return app


def registration(concurrency: int) -> RegisterWorker:
    """A row for what is no worker, but claims like one."""
    return RegisterWorker(
        worker_name="bench",
        host="bench",
        pid=1,
        version=trio_queue.__version__,
        queues=[QUEUE],
        concurrency=concurrency,
        stage="running",
    )


def fill(conninfo: str, count: int, *, task: str = "noop") -> None:
    """Insert jobs that wait, and let the server know its tables."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            " SELECT %s, %s, jsonb_build_object('number', n) FROM generate_series(1, %s) n",
            [QUEUE, task, count],
        )
        connection.execute("VACUUM ANALYZE")


def check_succeeded(conninfo: str, count: int) -> None:
    """Refuse the figure of a run that lost something. Raises AssertionError."""
    with psycopg.connect(conninfo) as connection:
        done = connection.execute(
            "SELECT count(*), sum(attempts), (SELECT count(*) FROM procrastinate_events"
            " WHERE type = 'succeeded') FROM procrastinate_jobs WHERE status = 'succeeded'"
        ).fetchone()
    assert done == (count, count, count), f"{done} of {count} jobs succeeded, once, with an event"
