"""Python 3.14, which trio-asyncio does not fit: asyncio tasks of a Trio program run in a thread by themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: elsewhere it may be imported already."""
    return subprocess.run(
        [sys.executable, "-m", "tests.hosts.without_trio_asyncio", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("how", ["does not fit", "missing"])
def test_where_it_cannot_be_imported_a_thread_serves(how: str) -> None:
    ran = run(how)
    assert (ran.returncode, ran.stdout) == (0, "asyncio jobs\n"), ran.stderr


def test_asked_for_by_name_it_says_why_it_cannot() -> None:
    ran = run("does not fit", "trio-asyncio")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        "ImportError: trio-asyncio does not fit this Python (module 'asyncio.events' has no attribute"
        " 'BaseDefaultEventLoopPolicy'): asyncio_backend=\"thread\" needs nothing of it"
    )
