"""Every test of the worker has a database in memory, an App on it, and faults on order."""

from __future__ import annotations

from tests.fix_worker import app, connector, gate, store

__all__ = ["app", "connector", "gate", "store"]
