"""Start processes of the test application, and see that none is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.processes.application import CONNINFO

ROOT = Path(__file__).parents[2]


@contextmanager
def started(conninfo: str, *arguments: str) -> Generator[subprocess.Popen[bytes]]:
    """A process of the application; killed, if it still runs, when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.processes.application", *arguments],
        cwd=ROOT,
        env={**os.environ, CONNINFO: conninfo},
        stdin=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
