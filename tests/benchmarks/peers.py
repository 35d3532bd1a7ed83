"""A server for measurements, and what is read off while they run."""

from __future__ import annotations

import itertools
import resource
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import attrs
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.fix_postgres import apply_schema
from trio_queue.embedded import EmbeddedServer

#: A throw-away server leaves out what a server does that nobody has tuned; here it does it.
SETTINGS: dict[str, str | int] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}

#: Seconds from the start of an idle worker to its measurement: a session tells what it did when
#: it rests, and ten seconds late at most.
SETTLING = 12


@attrs.define
class Bench:
    """A server, and databases on it."""

    server: EmbeddedServer
    _numbers: Iterator[int] = attrs.field(factory=itertools.count)

    @classmethod
    @contextmanager
    def opened(cls, settings: dict[str, str | int] = SETTINGS) -> Generator[Bench]:
        """A throw-away server; unless told otherwise, with PostgreSQL's default configuration: it syncs what it commits."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            # On disk, and where the account can reach it that root runs the server as.
            Path(folder).chmod(0o755)
            place = Path(folder) / "server"
            with EmbeddedServer(place, ephemeral=True, settings=settings) as server:
                yield cls(server)

    def database(self, *, ours: bool) -> str:
        """A fresh database with our schema or with Procrastinate's own."""
        name = f"bench_{next(self._numbers)}"
        with psycopg.connect(self.server.conninfo(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        conninfo = self.server.conninfo(name)
        if ours:
            apply_schema(conninfo)
        else:
            schema = (resources.files("procrastinate") / "sql" / "schema.sql").read_bytes()
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute(schema)
        return conninfo


@contextmanager
def idling(name: str, bench: Bench, conninfo: str, seconds: float) -> Generator[list[float]]:
    """Measure what the block costs; the list tells, after it, the transactions per second."""

    def usage() -> tuple[float, int]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime, used.ru_nvcsw

    database = conninfo_to_dict(conninfo)["dbname"]
    # From another database: what measures is not counted.
    with psycopg.connect(bench.server.conninfo(), autocommit=True) as connection:

        def transactions() -> int:
            row = connection.execute(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s",
                [database],
            ).fetchone()
            assert row is not None
            return int(row[0])

        before, (cpu, switches) = transactions(), usage()
        result: list[float] = []
        yield result
        cpu_after, switches_after = usage()
        result.append((transactions() - before) / seconds)
    print(
        f"idle: {name}: {(switches_after - switches) / seconds:.2f} wake-ups a second, "
        f"{1000 * (cpu_after - cpu) / seconds:.2f} ms of CPU a second"
    )
