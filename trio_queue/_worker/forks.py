"""A body that forks its process: the child ends where the body does, and never enters the worker.

The child has copies of everything, also of the connections to the database and of the event
loop's descriptors: one statement, or one wait, of its own would break the parent's.
"""

from __future__ import annotations

import os
import traceback
from types import TracebackType
from typing import NoReturn

__all__ = ["OneProcess"]


# How often this process is the child of a fork. Asking for the process's id at both ends of each job
# took a third of a microsecond.
_forks = 0


def _count_fork() -> None:
    global _forks  # noqa: PLW0603 - a fact of the process
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class OneProcess:
    """What enters the block leaves it; a child that was forked inside ends where it would leave it.

    The child's exit status is what Python's would be: 0 where the block was left normally, that of
    a SystemExit, else 1, with the traceback on stderr.
    """

    __slots__ = ("_forks",)

    def __enter__(self) -> None:
        self._forks = _forks

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._forks != _forks:
            _end_child(error)


def _end_child(error: BaseException | None) -> NoReturn:
    status = 0
    try:
        match error:
            case None | SystemExit(code=None):
                text = ""
            case SystemExit(code=int(code)):
                text, status = "", code & 0xFF
            case SystemExit(code=code):
                text, status = f"{code}\n", 1
            case _:
                text, status = "".join(traceback.format_exception(error)), 1
        # Neither sys.stderr nor the log: a thread that is gone may have held their locks.
        os.write(2, text.encode(errors="backslashreplace"))
    finally:
        # No clean-up: what it would clean up, the connections first, is the parent's.
        os._exit(status)
