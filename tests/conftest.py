"""Fixtures are plugins, one concern a file."""

from __future__ import annotations

import signal

# In the background of a shell that knows no jobs, Ctrl-C is ignored, and what is started here inherits that: the tests that
# press it would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.fix_hosts",
    "tests.fix_postgres",
    "tests.fix_promises",
    "tests.fix_proxy",
    "tests.fix_schemas",
]
