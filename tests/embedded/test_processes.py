"""Who starts the server and who stops it, with real processes that end in every way."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.embedded.users import Caller, User, live_processes
from tests.waiting import wait_for_end, wait_for_unlock, wait_until
from trio_queue.embedded.binaries import BINARIES_VARIABLE
from trio_queue.embedded.locks import SUPERVISOR_LOCK

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_queue.embedded import Binaries


def answers(conninfo: str) -> bool:
    with psycopg.connect(conninfo) as connection:
        return connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("number", [None, signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_server_stops_after_its_last_user_however_it_ended(
    caller: Caller, server_directory: Path, number: int | None
) -> None:
    with User(caller, server_directory) as user:
        assert answers(user.conninfo)
        user.end(number)
    wait_for_end(user.postgres)
    wait_for_end(user.supervisor)
    assert not live_processes(str(server_directory))
    # A clean stop removes it; only a crash leaves it.
    assert not list(server_directory.glob("postgresql-*/postmaster.pid"))


def test_the_server_lives_until_the_last_of_two_users_goes(
    caller: Caller, server_directory: Path
) -> None:
    with User(caller, server_directory) as first, User(caller, server_directory) as second:
        assert first.postgres == second.postgres
        starter, other = (first, second)
        starter.end(signal.SIGKILL)
        assert answers(other.conninfo)
        assert live_processes(str(server_directory))
        other.end(signal.SIGKILL)
        wait_for_end(other.postgres)
        wait_for_end(other.supervisor)


def test_a_running_server_obeys_its_users_not_signals(
    caller: Caller, server_directory: Path
) -> None:
    with User(caller, server_directory) as user:
        assert answers(user.conninfo)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(user.supervisor, number)
        assert answers(user.conninfo)


def test_eight_starts_at_once_make_one_server(caller: Caller, server_directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(User(caller, server_directory)) for _ in range(8)]
        assert len({user.postgres for user in users}) == 1
        assert all(answers(user.conninfo) for user in users)


def test_eight_throwaway_servers_come_and_go_in_one_directory(
    caller: Caller, throwaway_directory: Path
) -> None:
    """The directory is removed while the next user is waiting for its locks."""
    with contextlib.ExitStack() as stack:
        users = [
            stack.enter_context(User(caller, throwaway_directory, ephemeral=True)) for _ in range(4)
        ]
        for user in users:
            assert answers(user.conninfo)
            user.end(signal.SIGKILL)
            users.append(stack.enter_context(User(caller, throwaway_directory, ephemeral=True)))
            if len(users) > 8:
                break
    wait_until(lambda: not (throwaway_directory).exists(), "the directory to go")


def test_a_number_in_postmaster_pid_that_is_another_process_now(
    caller: Caller, server_directory: Path
) -> None:
    with User(caller, server_directory) as user:
        assert answers(user.conninfo)
        os.kill(user.supervisor, signal.SIGKILL)
        user.end(signal.SIGKILL)
        wait_for_end(user.postgres)
    (data,) = (path.parent for path in server_directory.glob("postgresql-*/PG_VERSION"))
    pid_file = data / "postmaster.pid"
    owner = data.stat().st_uid
    # PostgreSQL believes in any process of its own account; and this one even names the cluster.
    watch = ["tail", "-f", str(data / "PG_VERSION")]
    with subprocess.Popen(
        watch, user=owner if os.geteuid() == 0 else None, stdout=subprocess.DEVNULL
    ) as stranger:
        pid_file.write_text(
            f"{stranger.pid}\n{data}\n1700000000\n5432\n{server_directory}/socket\n\n  1  2\nready   \n"
        )
        (server_directory / "socket" / ".s.PGSQL.5432.lock").write_text(f"{stranger.pid}\n")
        for path in (pid_file, server_directory / "socket" / ".s.PGSQL.5432.lock"):
            shutil.chown(path, owner)
        with User(caller, server_directory) as later:
            assert answers(later.conninfo)
            assert later.postgres != stranger.pid
        assert stranger.poll() is None
        stranger.kill()


def test_a_killed_server_is_started_again(caller: Caller, server_directory: Path) -> None:
    with User(caller, server_directory) as user:
        with psycopg.connect(user.conninfo) as connection:
            connection.execute("create table kept as select 42 as answer")
        os.kill(user.postgres, signal.SIGKILL)
        with User(caller, server_directory) as later:
            assert later.postgres != user.postgres
            with psycopg.connect(later.conninfo) as connection:
                assert connection.execute("select answer from kept").fetchone() == (42,)
            # The first is a user still.
            later.end()
            assert answers(user.conninfo)


def test_a_killed_supervisor_leaves_no_server_behind(
    caller: Caller, server_directory: Path
) -> None:
    with User(caller, server_directory) as user:
        with psycopg.connect(user.conninfo) as connection:
            connection.execute("create table kept as select 42 as answer")
        os.kill(user.supervisor, signal.SIGKILL)
        with User(caller, server_directory) as later:
            wait_for_end(user.postgres)
            with psycopg.connect(later.conninfo) as connection:
                assert connection.execute("select answer from kept").fetchone() == (42,)


def test_supervisor_and_user_killed_together_leave_nothing(
    caller: Caller, throwaway_directory: Path
) -> None:
    with User(caller, throwaway_directory, ephemeral=True) as user:
        assert answers(user.conninfo)
        os.kill(user.supervisor, signal.SIGSTOP)  # so that it cannot notice that the user goes
        user.end(signal.SIGKILL)
        os.kill(user.supervisor, signal.SIGKILL)
        wait_for_end(user.postgres)


def test_the_last_user_of_a_killed_throwaway_supervisor_removes_the_files(
    caller: Caller, throwaway_directory: Path
) -> None:
    directory = throwaway_directory.with_name("has its socket elsewhere")
    with User(caller, directory, ephemeral=True) as user:
        outside = Path(user.answer["socket_directory"])
        assert outside.parent != directory
        os.kill(user.supervisor, signal.SIGKILL)
        wait_for_end(user.postgres)
        wait_for_unlock(directory / SUPERVISOR_LOCK)
        user.end()
    assert not directory.exists()
    assert not outside.exists()


def test_a_cluster_is_never_seen_half_made(caller: Caller, server_directory: Path) -> None:
    # Where this process stands still for as long as initdb takes it is too late: once more, elsewhere.
    directories = (server_directory.with_name(f"server-{number}") for number in range(10))
    directory = next(each for each in directories if leaves_half_made(caller, each))
    with User(caller, directory) as user:
        assert answers(user.conninfo)
    assert not list(directory.glob("init-*"))


def leaves_half_made(caller: Caller, directory: Path) -> bool:
    """Start a server there, and kill its user while initdb is at work; False: that was done by then."""
    directory.mkdir(0o700)
    caller.own(directory)

    def has_begun() -> bool:
        return any(directory.glob("init-*/cluster/base")) or any(directory.glob("postgresql-*"))

    with User(caller, directory) as user:
        wait_until(has_begun, "initdb at work")
        user.end(signal.SIGKILL)
    return not any(directory.glob("postgresql-*"))


def test_a_killed_starters_initdb_is_waited_for(
    caller: Caller,
    place: Path,
    server_directory: Path,
    fake_binaries: Callable[[str, str], Binaries],
) -> None:
    """It goes on without its caller; another start must not clear its files away under it."""
    signs = place / "signs"
    signs.mkdir()
    signs.chmod(0o777)
    go_on = signs / "go on"
    os.mkfifo(go_on)
    go_on.chmod(0o666)
    slow = fake_binaries(
        f": > {signs}/begun; read go < '{go_on}'; exit 1", "echo 'postgres (PostgreSQL) 18.1'"
    )
    environment = {BINARIES_VARIABLE: str(slow.directory)}
    # Open at both ends: neither side can hang because the other has died.
    with go_on.open("r+b", buffering=0) as pipe:
        with User(caller, server_directory, environment) as killed:
            wait_until((signs / "begun").exists, "initdb to begin")
            killed.end(signal.SIGKILL)
        with User(caller, server_directory, start_timeout=0.0) as too_early:
            assert "waited in vain for another start" in too_early.error
        pipe.write(b"go\n")
        with User(caller, server_directory) as user:
            assert answers(user.conninfo)


def test_a_throwaway_server_leaves_no_file(caller: Caller, throwaway_directory: Path) -> None:
    with User(caller, throwaway_directory, ephemeral=True, tcp=True) as user:
        assert answers(user.conninfo)
        user.end(signal.SIGKILL)
    wait_for_end(user.supervisor)
    assert not throwaway_directory.exists()
