"""Which event loop runs here, and that sync code must not block it."""

from __future__ import annotations

import sys

import sniffio

from trio_queue.exceptions import AppNotOpen

_IN_A_LOOP = (
    "this is a sync call in the thread of an event loop, which it would block while the database "
    "is asked: await defer_async(), or the method whose name ends in _async. (Sync code in other "
    "threads may call it; and so may this, if you accept that, after app.open().)"
)


def library() -> str | None:
    """The library of the running event loop; None outside of one."""
    try:
        return sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return None


def is_trio() -> bool:
    """Whether Trio's is the running event loop."""
    return library() == "trio"


def refuse_in_a_loop() -> None:
    """Refuse a sync call that would block the running event loop. Raises AppNotOpen."""
    if library() is not None or _is_in_callback():
        raise AppNotOpen(_IN_A_LOOP)


def _is_in_callback() -> bool:
    """Whether asyncio's loop runs here, though none of its tasks: sniffio tells of tasks only."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
