"""The bodies of jobs are written for Trio, whatever the host."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _jobs_in_asyncio(jobs_in_asyncio: None) -> None:
    """Under an asyncio host, jobs are its tasks."""
