"""Fixtures are plugins, one concern a file."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from pathlib import Path

from trio_queue.embedded.directories import memory_directory

# In the background of a shell that knows no jobs, Ctrl-C is ignored, and what is started here inherits that: the tests that
# press it would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A hundred clusters come and go. ext4 takes no inode again for five seconds after it was free, and looks at each that it
# passes over: making files was half of what the tests of the embedded server cost.
if (memory := memory_directory()) and Path(tempfile.gettempdir()) == Path("/tmp"):
    os.environ["TMPDIR"] = tempfile.tempdir = str(memory)

pytest_plugins = [
    "tests.fix_hosts",
    "tests.fix_postgres",
    "tests.fix_pooler",
    "tests.fix_promises",
    "tests.fix_proxy",
    "tests.fix_schemas",
    "tests.fix_hypothesis",  # after the one that it imports
]


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through three thousand tests again and again."""
    gc.collect()
    gc.freeze()
