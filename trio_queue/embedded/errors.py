"""What can be wrong with an embedded server, as one error."""

from __future__ import annotations


class EmbeddedServerError(Exception):
    """The embedded PostgreSQL server cannot be found, started or reached.

    The message says what was tried and who must do what about it.
    """
