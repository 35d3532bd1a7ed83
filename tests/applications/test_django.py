"""Django's ASGI application in docs/examples: a job that shares the transaction of its request."""

from __future__ import annotations

import signal

import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.applications.program import Program
from tests.cli.processes import Process
from tests.waiting import wait_until


@pytest.fixture
def django(program: Program) -> Process:
    """The server, on a database with its tables."""
    assert program.start("django_app.py").wait_end() == 0
    return program.serve(("-m", "uvicorn", "django_app:application", "--lifespan=on", "--port=0"))


def test_an_orders_receipt_is_sent(program: Program, django: Process) -> None:
    status, answer = program.ask("/orders", b"product=tea")
    assert status == 202
    program.wait_status(answer["job"], "succeeded")
    assert program.ask(f"/jobs/{answer['job']}") == (200, {"status": "succeeded"})
    assert program.ask("/jobs/4711")[0] == 404
    assert program.rows("SELECT product, receipt_sent FROM shop_order") == [("tea", True)]
    # The job's thread has closed Django's connection.
    wait_until(
        lambda: (
            program.rows("SELECT FROM pg_stat_activity WHERE query LIKE 'UPDATE%%shop_order%%'")
            == []
        ),
        "the end of the job's connection",
    )
    stopped(program, django)


def test_a_transaction_that_is_rolled_back_takes_its_job_with_it(
    program: Program, django: Process
) -> None:
    # Where the job were inserted by another connection it would be there.
    assert program.ask("/orders", b"product=tea&card=expired")[0] == 402
    assert program.rows("SELECT * FROM shop_order") == []
    assert program.jobs() == []
    # Ids are not given back: that one was really inserted.
    assert program.ask("/orders", b"product=tea")[1] == {"order": 2, "job": 2}
    program.wait_status(2, "succeeded")
    stopped(program, django)


def test_a_signal_lets_a_running_job_write(program: Program, django: Process) -> None:
    [(order_id,)] = program.rows(
        "INSERT INTO shop_order (product, receipt_sent) VALUES ('tea', false) RETURNING id"
    )
    with psycopg.connect(program.conninfo) as holder:
        # The job waits for this row, in its thread.
        holder.execute("SELECT FROM shop_order FOR UPDATE")
        [(job_id,)] = program.rows(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
            " VALUES ('default', 'send_receipt', %s) RETURNING id",
            Jsonb({"order_id": order_id}),
        )
        wait_until(
            lambda: bool(program.rows("SELECT FROM pg_locks WHERE NOT granted")), "the job to wait"
        )
        django.send(signal.SIGTERM)
        wait_until(
            lambda: program.rows("SELECT stage FROM trio_queue_workers") == [("draining",)],
            "the worker to drain",
        )
        assert program.statuses() == ["doing"]
    program.wait_status(job_id, "succeeded")
    ended(program, django)
    assert program.rows("SELECT receipt_sent FROM shop_order") == [(True,)]


def stopped(program: Program, django: Process) -> None:
    django.send(signal.SIGTERM)
    ended(program, django)


def ended(program: Program, django: Process) -> None:
    assert django.wait_end() == -signal.SIGTERM, django.said
    assert "Traceback" not in django.said
    program.is_gone(django)
