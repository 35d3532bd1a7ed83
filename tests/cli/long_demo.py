"""The demo, which here ends only when it is asked to: `python -m tests.cli.long_demo demo`.

Its scheduled job is an hour off, so that one always waits; and where `LONG_REPORTS` is set, so are the ends of its reports.
"""

from __future__ import annotations

import os

import trio

from trio_queue._cli import demo_tasks, main

LONG_REPORTS = "TRIO_QUEUE_TEST_LONG_REPORTS"
HOUR = 3600.0


async def report(month: str) -> str:
    """Last for an hour."""
    await trio.sleep(HOUR)
    return month


if __name__ == "__main__":
    for kind in demo_tasks.KINDS:
        for _, options in kind.jobs:
            if "schedule_in" in options:
                options["schedule_in"] = {"seconds": HOUR}
    if os.environ.get(LONG_REPORTS):
        demo_tasks.report.func = report
    main()
