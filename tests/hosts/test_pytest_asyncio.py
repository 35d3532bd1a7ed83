"""A user's tests under pytest-asyncio, in both of its modes, in a session of their own.

In this session, where Trio runs the async tests, that plugin is not loaded: see `addopts`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import ROOT
from tests.hosts.application import Application

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pytest_asyncio") is None,
    reason="pytest-asyncio is not installed: it is in the dependency group `test`",
)

SETTINGS = """
[pytest]
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = function
filterwarnings = error
addopts = -p pytest_asyncio.plugin -p no:cacheprovider
"""


def in_auto_mode(tests: str) -> str:
    """As it is written there: without marks, and with pytest's own fixtures."""
    kept = [line for line in tests.splitlines() if line.strip() != "@pytest.mark.asyncio"]
    return "\n".join(kept).replace("@pytest_asyncio.fixture\n", "@pytest.fixture\n")


@pytest.mark.parametrize("mode", ["strict", "auto"])
def test_a_users_tests(application: Application, tmp_path: Path, mode: str) -> None:
    tests = Path(__file__).with_name("users_tests.py").read_text()
    (tmp_path / "test_users.py").write_text(in_auto_mode(tests) if mode == "auto" else tests)
    (tmp_path / "pytest.ini").write_text(SETTINGS.format(mode=mode))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest"],
        cwd=tmp_path,
        env={
            **os.environ,
            "DATABASE_URL": application.database.info.dsn,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "6 passed" in ran.stdout
    assert application.statuses == ["succeeded"] * 6
    assert application.workers == 0


def test_pytest_asyncio_is_not_loaded_here(pytestconfig: pytest.Config) -> None:
    assert not pytestconfig.pluginmanager.hasplugin("asyncio")
