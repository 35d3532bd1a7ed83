"""Every test of the worker has a database in memory, an App on it, and faults on order."""

from __future__ import annotations

import pytest

from tests.fix_worker import app, connector, gate, store

__all__ = ["app", "connector", "gate", "store"]


@pytest.fixture(autouse=True)
def _jobs_in_asyncio(jobs_in_asyncio: None) -> None:
    """Under an asyncio host, jobs are its tasks."""
