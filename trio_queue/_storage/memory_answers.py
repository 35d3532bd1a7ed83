"""One function for each verb says what it does to the tables in memory; here they are found."""

from __future__ import annotations

import functools
from typing import Any

from trio_queue._storage.memory_tables import Tables
from trio_queue.verbs import Verb


@functools.singledispatch
def answer(verb: Verb[Any], tables: Tables) -> Any:
    """Do what a verb says, inside a transaction of the tables.

    Raises:
        NotImplementedError: There is no function for this verb.
        Exception: What the verb says.
    """
    raise NotImplementedError(f"{type(verb).__name__} means nothing in memory")
