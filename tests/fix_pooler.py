"""A pooler in transaction mode before the tests' server.

The stand-in of `pooler.py`; or a real PgBouncer, where `TRIO_QUEUE_PGBOUNCER` names its program.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import attrs
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.fix_postgres import PostgresServer
from tests.waiting import wait_until

PROGRAM = os.environ.get("TRIO_QUEUE_PGBOUNCER", "")

_SETTINGS = """\
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
pool_mode = transaction
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
default_pool_size = {size}
max_client_conn = 500
"""


@attrs.frozen
class Pooled:
    """A database behind a pooler.

    Attributes:
        conninfo: The way through the pooler.
        direct: The way past it.
    """

    conninfo: str
    direct: str


def pooling(direct: str, size: int) -> AbstractContextManager[str]:
    """A pooler before a server, with so many connections to each database; how to reach it."""
    return _pgbouncer(direct, size) if PROGRAM else _stand_in(direct, size)


def _through(direct: str, port: int) -> str:
    place = conninfo_to_dict(direct)
    return make_conninfo(
        "",
        host="127.0.0.1",
        port=port,
        dbname=place["dbname"],
        user=place["user"],
        sslmode="disable",
        gssencmode="disable",
    )


@contextmanager
def _stand_in(direct: str, size: int) -> Generator[str]:
    command = [sys.executable, "-m", "tests.pooler", direct, str(size)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield _through(direct, int(process.stdout.readline()))
        finally:
            process.stdin.close()
            process.wait()


@contextmanager
def _pgbouncer(direct: str, size: int) -> Generator[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        own_port = found.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "pgbouncer.ini"
        settings.write_text(
            _SETTINGS.format(
                **{"password": "", **conninfo_to_dict(direct)}, own_port=own_port, size=size
            )
        )
        command = [PROGRAM, "-q", str(settings)]
        if os.geteuid() == 0:  # it refuses root
            shutil.chown(folder, "nobody")
            shutil.chown(settings, "nobody")
            command += ["-u", "nobody"]
        conninfo = _through(direct, own_port)
        process = subprocess.Popen(command)
        try:
            wait_until(lambda: _answers(conninfo), "PgBouncer")
            yield conninfo
        finally:
            process.terminate()
            process.wait()


def _answers(conninfo: str) -> bool:
    try:
        psycopg.connect(conninfo).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="session")
def pooler(postgres_server: PostgresServer) -> Iterator[str]:
    """How to reach the server through a pooler with two connections to each database."""
    with pooling(postgres_server.conninfo(tcp=True), 2) as conninfo:
        yield conninfo


@pytest.fixture
def pooled(pooler: str, queue_database: str) -> Pooled:
    """A fresh database with the queue's schema, behind the pooler."""
    name = conninfo_to_dict(queue_database)["dbname"]
    return Pooled(make_conninfo(pooler, dbname=name), queue_database)
