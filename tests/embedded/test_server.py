from __future__ import annotations

import fcntl
import json
import threading
from typing import TYPE_CHECKING

import attrs
import psycopg
import pytest
import trio

from tests.embedded.users import live_processes
from tests.waiting import wait_for_end, wait_until
from trio_queue.embedded import (
    Binaries,
    EmbeddedServer,
    EmbeddedServerError,
    ServerState,
    open_embedded_server,
)
from trio_queue.embedded.locks import START_LOCK, SUPERVISOR_LOCK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class GaveUpError(Exception):
    pass


async def test_from_trio(place: Path, binaries: Binaries) -> None:
    async with open_embedded_server(place / "server", ephemeral=True, binaries=binaries) as server:
        pid = server.state.postgres_pid
        with psycopg.connect(server.conninfo()) as connection:
            assert connection.execute("select current_user").fetchone() == ("postgres",)
    await trio.to_thread.run_sync(wait_for_end, pid)


async def test_cancelled_while_it_starts(
    place: Path, fake_binaries: Callable[[str, str], Binaries]
) -> None:
    """initdb hangs; the cancel kills it, and nothing stays."""
    signs = place / "signs"
    signs.mkdir()
    signs.chmod(0o777)
    hanging = fake_binaries(
        f": > {signs}/begun; sleep 1000; exit 1", "echo 'postgres (PostgreSQL) 18.1'"
    )

    async def start() -> None:
        async with open_embedded_server(place / "server", ephemeral=True, binaries=hanging):
            raise AssertionError("it cannot have started")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        await trio.to_thread.run_sync(wait_until, (signs / "begun").exists, "initdb to begin")
        nursery.cancel_scope.cancel()
    assert not (place / "server").exists()


def test_given_up_while_the_server_starts(place: Path, binaries: Binaries) -> None:
    """The supervisor sees that nobody waits any more, and stops what it started."""
    # Where it is ready before this process looks again it is too late: once more, elsewhere.
    directories = (place / f"server-{number}" for number in range(10))
    directory = next(each for each in directories if gives_up(each, binaries))
    wait_until(lambda: not live_processes(str(place)), "the server to go")
    with EmbeddedServer(directory, binaries=binaries) as later:
        psycopg.connect(later.conninfo()).close()


def gives_up(directory: Path, binaries: Binaries) -> bool:
    """Start a server there, and give up while it starts; False: it has started, and is stopped."""

    def give_up() -> None:
        if list(directory.glob("postgresql-*.log")):
            raise GaveUpError

    server = EmbeddedServer(directory, binaries=binaries)
    try:
        server.start(give_up)
    except GaveUpError:
        return True
    server.close()
    return False


def test_a_start_that_takes_too_long(
    place: Path, fake_binaries: Callable[[str, str], Binaries]
) -> None:
    hanging = fake_binaries("sleep 1000; exit 1", "echo 'postgres (PostgreSQL) 18.1'")
    with pytest.raises(EmbeddedServerError, match="did not end in time: give it more"):
        EmbeddedServer(place / "server", binaries=hanging, start_timeout=0.0).start()
    assert not live_processes(str(place))


def test_a_server_that_does_not_start_says_why(place: Path, binaries: Binaries) -> None:
    wrong = {"no_such_setting": "1"}
    with pytest.raises(
        EmbeddedServerError, match=r"(?s)did not start in .*no_such_setting.*its log"
    ):
        EmbeddedServer(place / "server", settings=wrong, binaries=binaries).start()
    with EmbeddedServer(place / "server", binaries=binaries) as mended:
        psycopg.connect(mended.conninfo()).close()


def test_what_a_supervisor_wrote_of_a_server_that_is_dead_now(
    place: Path, binaries: Binaries
) -> None:
    """Between the server's death and its supervisor's end: not joined, but waited for."""
    dead = ServerState(
        str(place), 5432, tcp=False, data=str(place), supervisor_pid=1, postgres_pid=1
    )
    for name in (START_LOCK, SUPERVISOR_LOCK):
        (place / name).touch()
    with (place / SUPERVISOR_LOCK).open("w") as held:
        held.write(json.dumps(attrs.asdict(dead)))
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedServerError, match="neither runs nor stops: end its supervisor"):
            EmbeddedServer(place, binaries=binaries, start_timeout=0.0).start()
    with EmbeddedServer(place, binaries=binaries) as server:
        psycopg.connect(server.conninfo()).close()


def test_threads_at_once(place: Path, binaries: Binaries) -> None:
    servers = [EmbeddedServer(place / "server", binaries=binaries) for _ in range(8)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.state.postgres_pid for server in servers}) == 1
    for server in servers:
        server.close()


def test_settings_and_tcp(place: Path, binaries: Binaries) -> None:
    with EmbeddedServer(
        place / "server",
        ephemeral=True,
        tcp=True,
        settings={"max_connections": 33},
        binaries=binaries,
    ) as server:
        with psycopg.connect(server.conninfo(tcp=True)) as connection:
            row = connection.execute(
                "select current_setting('max_connections'), current_setting('fsync'), inet_server_addr()::text"
            ).fetchone()
        assert row == ("33", "off", "127.0.0.1/32")
        assert server.conninfo("other name") == (
            f"host={server.state.socket_directory} port={server.state.port} user=postgres dbname='other name'"
        )
        assert "psql" in server.psql_command()


def test_tcp_that_a_running_server_does_not_have(place: Path, binaries: Binaries) -> None:
    with EmbeddedServer(place / "server", binaries=binaries) as server:
        with pytest.raises(EmbeddedServerError, match="does not listen on TCP"):
            server.conninfo(tcp=True)
        with pytest.raises(EmbeddedServerError, match="runs without TCP"):
            EmbeddedServer(place / "server", tcp=True, binaries=binaries).start()


def test_a_lasting_server_is_durable_and_has_no_tcp(place: Path, binaries: Binaries) -> None:
    with (
        EmbeddedServer(place / "server", binaries=binaries) as server,
        psycopg.connect(server.conninfo()) as connection,
    ):
        row = connection.execute(
            "select current_setting('fsync'), current_setting('listen_addresses')"
        ).fetchone()
        assert row == ("on", "")


def test_used_before_the_start_and_started_twice(place: Path, binaries: Binaries) -> None:
    server = EmbeddedServer(place / "server", ephemeral=True, binaries=binaries)
    with pytest.raises(EmbeddedServerError, match="has not been started"):
        server.conninfo()
    server.close()  # harmless
    with server, pytest.raises(EmbeddedServerError, match="started already"):
        server.start()
    server.close()


def test_another_major_versions_data_is_left_alone_and_named(
    place: Path, binaries: Binaries, caplog: pytest.LogCaptureFixture
) -> None:
    directory = place / "server"
    (directory / "postgresql-13").mkdir(parents=True)
    (directory / "start.lock").touch()
    with EmbeddedServer(directory, binaries=binaries):
        assert "the data of postgresql-13 stays where it is" in caplog.text
    assert (directory / "postgresql-13").is_dir()
