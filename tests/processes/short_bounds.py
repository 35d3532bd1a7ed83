"""The command line, with shorter bounds of every wait: `python -m tests.processes.short_bounds ...`."""

from __future__ import annotations

import pytest

from tests.short_bounds import shorten_bounds
from trio_queue import _cli

if __name__ == "__main__":
    shorten_bounds(pytest.MonkeyPatch(), 0.5)
    _cli.main()
