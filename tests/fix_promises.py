"""`@pytest.mark.promise(...)`: which rows of the documentation's tables a test proves."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "promise(*rows): the rows of docs/how-a-worker-stops.md that this test proves, each as "
        '"heading / first cell"; see test_promises.py',
    )
