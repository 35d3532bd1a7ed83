"""trio_queue: the PostgreSQL job queue for Trio."""

from __future__ import annotations

__version__ = "0.1.0"
