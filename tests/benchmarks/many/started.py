"""An App for the command line to import, with nothing in it but one task."""

from __future__ import annotations

import trio_queue

app = trio_queue.App(connector=trio_queue.PsycopgConnector())


@app.task(name="noop", queue="bench")
async def noop() -> None:
    """Do nothing."""
