"""Odd places, foreign places, and places that must not be removed."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.embedded.conftest import IS_ROOT
from tests.waiting import wait_until
from trio_queue.embedded import Binaries, EmbeddedServer, EmbeddedServerError
from trio_queue.embedded.account import server_account
from trio_queue.embedded.directories import (
    claim_directory,
    default_directory,
    make_throwaway_directory,
    socket_directory,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ODD_NAMES = [
    "a space", "it's", 'say "hi"', "a,b", "$HOME", "a;b", "Grüße-日本", "back\\slash", "100%", "`id`", "a\nb", "@x", "{}", "x" * 200,
]  # fmt: skip  # one a line would fill the screen


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_and_long_paths(place: Path, binaries: Binaries, name: str) -> None:
    directory = place / name / "server"
    if IS_ROOT:
        (place / name).mkdir(0o755)
    with EmbeddedServer(directory, ephemeral=True, tcp=True, binaries=binaries) as server:
        with psycopg.connect(server.conninfo("postgres")) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        outside = Path(server.state.socket_directory)
        assert len(str(outside)) < 88
        # Private, and owned by the server's account: nobody else can pose as the server.
        assert outside.stat().st_mode & 0o077 == 0
        assert outside.stat().st_uid == server_account().uid
    wait_until(lambda: not directory.exists() and not outside.exists(), "the files to go")


@pytest.mark.parametrize("name", ["a$b", 'a"b', "a`b", "a b'c"])
def test_programs_at_an_odd_path(place: Path, binaries: Binaries, name: str) -> None:
    """`initdb` runs `postgres` through a shell, which would expand what stands in the path."""
    if binaries.tree is None:
        pytest.skip("a system's programs cannot be moved")
    moved = binaries.copied_to(place / name)
    with (
        EmbeddedServer(place / "server", ephemeral=True, binaries=moved) as server,
        psycopg.connect(server.conninfo()) as connection,
    ):
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_directory_of_another_owner_is_refused(place: Path) -> None:
    foreign = place / "foreign"
    foreign.mkdir()
    if IS_ROOT:
        shutil.chown(foreign, "nobody")
    else:
        foreign = Path("/usr")
    with pytest.raises(EmbeddedServerError, match=r"belongs to the user id .* run as its owner"):
        EmbeddedServer(foreign).start()
    assert not (foreign / "start.lock").exists()


def test_a_directory_that_others_may_write_is_refused(place: Path) -> None:
    place.chmod(0o777)
    with pytest.raises(EmbeddedServerError, match="chmod go-w"):
        claim_directory(place)


@pytest.mark.parametrize("ephemeral", [False, True])
def test_a_directory_with_other_files_is_refused_and_left_alone(
    place: Path, ephemeral: bool
) -> None:
    (place / "thesis.txt").touch()
    with pytest.raises(EmbeddedServerError, match="files that no embedded server made"):
        EmbeddedServer(place, ephemeral=ephemeral).start()
    assert list(place.iterdir()) == [place / "thesis.txt"]


def test_a_directory_that_cannot_be_made_is_one_clear_error(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"cannot be used .*: choose another one"):
        EmbeddedServer(place / "file" / "server").start()


def test_a_lasting_server_is_not_taken_for_a_throwaway_one(place: Path, binaries: Binaries) -> None:
    directory = place / "server"
    with EmbeddedServer(directory, binaries=binaries) as server:
        with psycopg.connect(server.conninfo()) as connection:
            connection.execute("create table kept as select 42 as answer")
        with pytest.raises(EmbeddedServerError, match="lasting server's data"):
            EmbeddedServer(directory, ephemeral=True, binaries=binaries).start()
    with pytest.raises(EmbeddedServerError, match="lasting server's data"):
        EmbeddedServer(directory, ephemeral=True, binaries=binaries).start()
    with (
        EmbeddedServer(directory, binaries=binaries) as server,
        psycopg.connect(server.conninfo()) as connection,
    ):
        assert connection.execute("select answer from kept").fetchone() == (42,)


def test_a_throwaway_server_is_not_taken_for_a_lasting_one(place: Path, binaries: Binaries) -> None:
    with (
        EmbeddedServer(place / "server", ephemeral=True, binaries=binaries),
        pytest.raises(EmbeddedServerError, match="will be removed"),
    ):
        EmbeddedServer(place / "server", binaries=binaries).start()


@pytest.mark.parametrize("squat", ["symlink", "file", "open to others", "of another owner"])
def test_something_in_the_way_of_the_socket_directory(place: Path, squat: str) -> None:
    account = server_account()
    long = place / ("x" * 100)
    outside, is_outside = socket_directory(long, account)
    assert is_outside
    outside.rmdir()
    try:
        match squat:
            case "symlink":
                target = place / "target"
                target.mkdir(0o700)
                outside.symlink_to(target)
            case "file":
                outside.touch(0o600)
            case "open to others":
                outside.mkdir()
                outside.chmod(0o755)
            case _:
                if not IS_ROOT:
                    return  # only root can give a directory away
                outside.mkdir(0o700)
                os.chown(outside, 54321, 54321)
        with pytest.raises(EmbeddedServerError, match="must be a private directory"):
            socket_directory(long, account)
    finally:
        if outside.is_dir() and not outside.is_symlink():
            outside.rmdir()
        else:
            outside.unlink(missing_ok=True)


def test_the_socket_stands_in_an_ordinary_short_directory(place: Path) -> None:
    assert socket_directory(place, server_account()) == (place / "socket", False)


def test_the_default_directories() -> None:
    expected = r"/var/lib/trio-queue" if IS_ROOT else r".*trio-queue.*"
    assert re.fullmatch(expected, str(default_directory()))


def test_a_throwaway_directory_is_private_and_empty() -> None:
    made = make_throwaway_directory()
    try:
        assert made.stat().st_mode & 0o777 == 0o700
        assert not list(made.iterdir())
    finally:
        made.rmdir()


def test_a_failed_throwaway_start_leaves_no_files(
    place: Path, fake_binaries: Callable[[str, str], Binaries]
) -> None:
    broken = fake_binaries("echo out of luck; exit 3", "echo 'postgres (PostgreSQL) 18.1'")
    with pytest.raises(EmbeddedServerError, match=r"initdb .* failed \(3\):\nout of luck"):
        EmbeddedServer(place / "server", ephemeral=True, binaries=broken).start()
    assert not (place / "server").exists()
