"""psycopg 3, native on Trio: connections, a pool, a listener. It knows nothing of jobs.

Bottom up: `errors` tells which failures pass by themselves; `waiting` drives psycopg's generators;
`cancelling` brings a connection to rest; `connecting` reaches a server; `connection` and `cursor`
are psycopg's, for Trio; `direct` sends statements without a cursor, `in_turn` one several times in a transaction, `text_format` writes their parameters; `pool` lends connections and keeps no task of its own; `listener` hears notifications and says when it
may have missed some.
"""

from __future__ import annotations

from trio_queue._pg.connection import TrioConnection
from trio_queue._pg.cursor import TrioCursor
from trio_queue._pg.errors import PoolClosed, PoolTimeout, describe_conninfo, is_transient
from trio_queue._pg.listener import Gap, Heard, Listener
from trio_queue._pg.pool import Pool
from trio_queue._pg.pool_statistics import PoolStatistics

__all__ = [
    "Gap",
    "Heard",
    "Listener",
    "Pool",
    "PoolClosed",
    "PoolStatistics",
    "PoolTimeout",
    "TrioConnection",
    "TrioCursor",
    "describe_conninfo",
    "is_transient",
]
