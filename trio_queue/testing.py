"""For your tests: a database in memory, and a store with faults."""

from __future__ import annotations

from trio_queue._storage.faults import Fault, FaultError, FaultyStore
from trio_queue._storage.memory import InMemoryDatabase, InMemoryJobStore
from trio_queue._storage.memory_connector import InMemoryConnector

__all__ = [
    "Fault",
    "FaultError",
    "FaultyStore",
    "InMemoryConnector",
    "InMemoryDatabase",
    "InMemoryJobStore",
]
