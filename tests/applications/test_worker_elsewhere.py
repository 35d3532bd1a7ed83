"""The example applications whose worker is a process of its own, as their heads say."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg.types.json import Jsonb

from tests.applications.program import Program

THUMBNAILS = ("make_thumbnails", {"pictures": 1})


@pytest.mark.parametrize(
    ("module", "task", "arguments"),
    [
        ("fastapi_app", *THUMBNAILS),
        ("django_app", "send_receipt", {"order_id": 1}),
        ("aiohttp_app", *THUMBNAILS),
        ("starlette_app", *THUMBNAILS),
        ("plain_asyncio", *THUMBNAILS),
        ("plain_trio", *THUMBNAILS),
        ("script", *THUMBNAILS),
    ],
)
def test_the_command_line_works_its_jobs(
    program: Program, module: str, task: str, arguments: dict[str, Any]
) -> None:
    program.database.execute("CREATE TABLE shop_order (id integer, receipt_sent boolean)")
    program.rows(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
        " VALUES ('default', %s, %s) RETURNING id",
        task,
        Jsonb(arguments),
    )
    worker = program.start("-m", "trio_queue", f"--app={module}.queue", "worker", "--one-shot")
    assert worker.wait_end() == 0, worker.said
    assert program.statuses() == ["succeeded"], worker.said
    program.is_gone(worker)
