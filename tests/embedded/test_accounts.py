"""Root, ordinary users, users unknown to the system, and the environments they bring."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path
from typing import NoReturn

import attrs
import psycopg
import pytest

from tests.embedded.conftest import IS_ROOT
from tests.embedded.users import Caller, User
from tests.waiting import wait_for_end
from trio_queue.embedded import Binaries, EmbeddedServer, EmbeddedServerError
from trio_queue.embedded.account import clean_environment, server_account

HOSTILE = {
    "LANG": "xx_YY.UTF-8",
    "LC_MESSAGES": "xx_YY.UTF-8",
    "LANGUAGE": "xx",
    "TZ": "Nowhere/At_All",
    "PGDATA": "/nonexistent",
    "PGPORT": "not a port",
    "PGHOST": "db.example.invalid",
    "PGOPTIONS": "-c no_such_setting=1",
    "PGCLIENTENCODING": "nonsense",
    "NOTIFY_SOCKET": "/nonexistent/notify",
}


@pytest.mark.parametrize(
    "environment", [{"LANG": "xx_YY.UTF-8"}, {"LC_ALL": "de_DE@nowhere"}, HOSTILE]
)
def test_the_environment_does_not_reach_the_server(
    caller: Caller, server_directory: Path, environment: dict[str, str]
) -> None:
    with User(caller, server_directory, environment) as user:
        with psycopg.connect(user.conninfo) as connection:
            row = connection.execute(
                "select current_setting('TimeZone'), current_setting('server_encoding'),"
                " current_setting('lc_messages'), current_setting('listen_addresses')"
            ).fetchone()
        assert row == ("UTC", "UTF8", "C", "")


def test_the_server_runs_as_an_account_that_is_not_root(
    caller: Caller, server_directory: Path
) -> None:
    with User(caller, server_directory) as user:
        uid = Path(f"/proc/{user.postgres}").stat().st_uid
        assert uid != 0
        assert uid == (server_account().uid if caller.uid is None else caller.uid)


def test_a_second_user_id_cannot_use_the_directory(
    place: Path, ordinary_user: Caller, binaries: Binaries
) -> None:
    if not IS_ROOT:
        pytest.skip("only root can run a process as somebody else")
    with (
        EmbeddedServer(place / "server", binaries=binaries),
        User(ordinary_user, place / "server") as other,
    ):
        assert "belongs to the user id 0" in other.error


def test_a_user_id_without_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_uid: int) -> NoReturn:
        raise KeyError

    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(EmbeddedServerError, match=r"user id 54321 has no entry .* add an entry"):
        server_account()


@pytest.mark.skipif(not IS_ROOT, reason="only root can run a process as an unknown user id")
def test_a_process_with_a_user_id_without_an_entry(place: Path, ordinary_user: Caller) -> None:
    unknown = attrs.evolve(ordinary_user, uid=54321)
    with User(unknown, place / "where it may not write") as user:
        assert "user id 54321 has no entry" in user.error


def test_root_without_an_account_to_run_as(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_name: str) -> NoReturn:
        raise KeyError

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    with pytest.raises(EmbeddedServerError, match="neither an account 'postgres' nor 'nobody'"):
        server_account()


def test_root_runs_it_as_postgres_else_as_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"nobody": pwd.getpwnam("nobody")}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", known.__getitem__)
    assert server_account().name == "nobody"
    known["postgres"] = pwd.getpwuid(os.getuid())
    assert server_account().name == "postgres"
    assert server_account().switch


def test_the_clean_environment_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KEPT", "yes")
    cleaned = clean_environment()
    assert not (set(HOSTILE) & set(cleaned))
    assert cleaned["KEPT"] == "yes"
    assert cleaned["LC_ALL"] == "C"


@pytest.mark.skipif(not IS_ROOT, reason="only root's server runs as another account")
class TestRootsServer:
    def test_programs_that_its_account_cannot_reach_are_copied(
        self, place: Path, binaries: Binaries
    ) -> None:
        if binaries.tree is None:
            pytest.skip("a system's programs cannot be moved")
        closed = place / "closed"
        closed.mkdir(0o700)
        hidden = binaries.copied_to(closed / "one")
        directory = place / "server"
        with EmbeddedServer(directory, binaries=hidden) as server:
            postgres = server.state.postgres_pid
            assert Path(f"/proc/{postgres}/exe").readlink().is_relative_to(directory / "binaries")
        wait_for_end(postgres)
        # An upgrade is another copy, and the only one.
        earlier = list((directory / "binaries").iterdir())
        upgraded = binaries.copied_to(closed / "two")
        with EmbeddedServer(directory, binaries=upgraded) as server:
            copies = list((directory / "binaries").iterdir())
            assert len(copies) == 1
            assert copies != earlier
        assert closed.stat().st_mode & 0o777 == 0o700

    def test_a_directory_that_its_account_cannot_reach_is_a_clear_error(
        self, place: Path, binaries: Binaries
    ) -> None:
        closed = place / "closed"
        closed.mkdir(0o700)
        with pytest.raises(EmbeddedServerError, match="must be able to reach"):
            EmbeddedServer(closed / "server", binaries=binaries).start()
        assert closed.stat().st_mode & 0o777 == 0o700

    def test_a_private_directory_of_roots_own_is_passed_through_not_shown(
        self, place: Path, binaries: Binaries
    ) -> None:
        directory = place / "server"
        directory.mkdir(0o700)
        with EmbeddedServer(directory, binaries=binaries):
            assert directory.stat().st_mode & 0o777 == 0o711
            assert directory.stat().st_uid == 0


def test_another_local_user_cannot_connect(
    place: Path, ordinary_user: Caller, binaries: Binaries
) -> None:
    """Neither through the socket nor, without the password, through TCP."""
    with EmbeddedServer(place / "server", ephemeral=True, tcp=True, binaries=binaries) as server:
        without = server.conninfo(tcp=True).replace(server.password, "guessed")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(without)
        if ordinary_user.uid is not None:
            done = subprocess.run(
                [
                    ordinary_user.python,
                    "-c",
                    "import socket, sys; socket.socket(1).connect(sys.argv[1])",
                    f"{server.state.socket_directory}/.s.PGSQL.{server.state.port}",
                ],
                user=ordinary_user.uid,
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
            assert "PermissionError" in done.stderr
