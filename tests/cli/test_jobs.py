"""`defer`, `jobs`, `workers`, `schema`, `healthchecks`: what they say and do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.cli.conftest import APP
from trio_queue.schema import get_schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

pytestmark = pytest.mark.usefixtures("on_queue")


def listed(run: Callable[..., Result], *filters: str) -> list[dict[str, Any]]:
    result = run("jobs", "list", "--json", *filters)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def ids(run: Callable[..., Result], *filters: str) -> list[int]:
    return [job["id"] for job in listed(run, *filters)]


def test_defer_with_every_option(run: Callable[..., Result]) -> None:
    result = run(
        *("-a", APP, "defer", "add", '{"a": 1, "b": 2}', "--queue", "q", "--lock", "l"),
        *("--queueing-lock", "ql", "--priority", "3", "--at", "2100-01-01T00:00:00+01:00"),
    )
    assert (result.exit_code, result.stdout) == (0, "1\n")
    (job,) = listed(run)
    assert job["task_kwargs"] == {"a": 1, "b": 2}
    assert (job["queue"], job["lock"], job["queueing_lock"], job["priority"]) == ("q", "l", "ql", 3)
    assert job["scheduled_at"] == "2099-12-31T23:00:00+00:00"


def test_defer_takes_its_options_from_the_environment_too(run: Callable[..., Result]) -> None:
    env = {
        "PROCRASTINATE_APP": APP,
        "TRIO_QUEUE_DEFER_JSON_ARGS": '{"a": 1, "b": 2}',
        "PROCRASTINATE_DEFER_QUEUE": "theirs",
        "TRIO_QUEUE_DEFER_QUEUE": "ours",
        "PROCRASTINATE_DEFER_LOCK": "their lock",
        "TRIO_QUEUE_DEFER_PRIORITY": "",
    }
    assert run("defer", "add", env=env).exit_code == 0
    (job,) = listed(run)
    assert (job["queue"], job["lock"], job["priority"]) == ("ours", "their lock", 0)


def test_defer_in_some_seconds_an_unknown_task_without_an_app(run: Callable[..., Result]) -> None:
    assert run("defer", "--unknown", "somewhere.else", "--in", "3600").exit_code == 0
    (job,) = listed(run)
    assert (job["task_name"], job["task_kwargs"]) == ("somewhere.else", {})
    assert job["scheduled_at"] is not None


def test_a_queueing_lock_that_is_taken(run: Callable[..., Result]) -> None:
    command = ["defer", "--unknown", "t", "--queueing-lock", "one"]
    assert run(*command).exit_code == 0
    again = run(*command)
    assert again.exit_code == 1
    assert again.stderr == "Error: a job with the queueing lock 'one' is already waiting\n"
    ignored = run(*command, "-i")
    assert (ignored.exit_code, ignored.stdout) == (0, "")
    assert "(ignored)" in ignored.stderr


def test_list_filters(run: Callable[..., Result]) -> None:
    for queue, lock in (("a", "x"), ("a", "y"), ("b", "x")):
        run("defer", "--unknown", f"in_{queue}", "--queue", queue, "--lock", lock)
    run("jobs", "cancel", "2")
    assert ids(run) == [1, 2, 3]
    assert ids(run, "--queue", "a") == [1, 2]
    assert ids(run, "--lock", "x") == [1, 3]
    assert ids(run, "--task", "in_b") == [3]
    assert ids(run, "--status", "cancelled") == [2]
    assert ids(run, "--queue", "a", "--lock", "x") == [1]
    assert ids(run, "--after-id", "1") == [2, 3]


def test_list_shows_the_newest_unless_asked_for_more(run: Callable[..., Result]) -> None:
    for _ in range(3):
        run("defer", "--unknown", "t")
    assert ids(run, "--limit", "2") == [2, 3]
    assert ids(run, "--limit", "1", "--after-id", "1") == [2]
    assert "newest 2" in run("jobs", "list", "--limit", "2").stderr
    assert run("jobs", "list", "--limit", "3").stderr == ""


def test_list_without_jobs(run: Callable[..., Result]) -> None:
    result = run("jobs", "list", "--status", "failed")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No job fits.\n")


def test_the_table_is_not_cut_in_a_pipe_and_shows_text_as_it_is(run: Callable[..., Result]) -> None:
    text = "x" * 300 + "\x1b[31m[bold]"
    run("defer", "--unknown", "t", json.dumps({"text": text}), "--queue", "q[red]\n")
    stdout = run("jobs", "list").stdout
    assert json.dumps({"text": text}) in stdout
    assert "q[red]\\n" in stdout
    assert "\x1b" not in stdout
    assert len(stdout.splitlines()) == 2


def test_show_one_job_with_its_events(run: Callable[..., Result]) -> None:
    run("defer", "--unknown", "t", '{"a": 1}', "--lock", "l")
    run("jobs", "cancel", "1")
    stdout = run("jobs", "show", "1").stdout
    for text in ("cancelled", '{"a": 1}', "deferred", "default"):
        assert text in stdout
    told = json.loads(run("jobs", "show", "1", "--json").stdout)
    assert [event["type"] for event in told["events"]] == ["deferred", "cancelled"]
    missing = run("jobs", "show", "99")
    assert (missing.exit_code, missing.stderr) == (1, "Error: there is no job 99\n")


def test_cancel_delete_and_abort(run: Callable[..., Result]) -> None:
    for _ in range(3):
        run("defer", "--unknown", "t")
    assert run("jobs", "cancel", "1").stdout == "Job 1 is cancelled.\n"
    assert run("jobs", "cancel", "--delete", "2").stdout == "Job 2 is deleted.\n"
    assert run("jobs", "abort", "3").stdout == "Job 3 is cancelled.\n"
    assert ids(run) == [1, 3]
    ended = run("jobs", "abort", "3")
    assert (ended.exit_code, ended.stderr) == (
        1,
        "Error: job 3 is `cancelled`, and cannot be aborted\n",
    )
    again = run("jobs", "cancel", "1", "99")
    assert again.exit_code == 1
    assert again.stderr.splitlines() == [
        "Error: job 1 is `cancelled`, and does not wait",
        "Error: there is no job 99",
    ]


def test_retry_and_abort_of_a_running_job(run: Callable[..., Result], on_queue: str) -> None:
    run("defer", "--unknown", "t")
    with psycopg.connect(on_queue, autocommit=True) as connection:
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing'")
        assert run("jobs", "retry", "1", "--priority", "5").stdout == "Job 1 waits again.\n"
        (job,) = listed(run)
        assert (job["status"], job["priority"]) == ("todo", 5)
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing'")
    refused = run("jobs", "cancel", "1")
    assert refused.exit_code == 1
    assert "`trio-queue jobs abort 1` asks it to stop" in refused.stderr
    assert run("jobs", "abort", "1").stdout == "Job 1 is asked to abort.\n"
    assert "doing (abort requested)" in run("jobs", "list").stdout
    again = run("jobs", "retry", "1")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "job 1 was asked to abort" in again.stderr
    (job,) = listed(run)
    assert job["status"] == "doing"


def test_retry_does_what_it_can_and_says_what_it_cannot(
    run: Callable[..., Result], on_queue: str
) -> None:
    run("defer", "--unknown", "t")
    with psycopg.connect(on_queue, autocommit=True) as connection:
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing'")
        connection.execute("UPDATE procrastinate_jobs SET status = 'failed'")
    result = run("jobs", "retry", "99", "1", "--in", "3600", "--queue", "night")
    assert (result.exit_code, result.stdout) == (1, "Job 1 waits again.\n")
    assert result.stderr == "Error: there is no job 99\n"
    (job,) = listed(run)
    assert (job["queue"], job["status"]) == ("night", "todo")
    assert job["scheduled_at"] is not None


def test_a_retry_later_than_any_moment_is_for_the_last_one(
    run: Callable[..., Result], on_queue: str
) -> None:
    run("defer", "--unknown", "t")
    with psycopg.connect(on_queue, autocommit=True) as connection:
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing'")
    assert run("jobs", "retry", "1", "--in", "1e99").stdout == "Job 1 waits again.\n"
    (job,) = listed(run)
    assert job["scheduled_at"].startswith("9999-12-31")


REGISTER = """
    SELECT trio_queue_register_worker_v1('night', 'hive', 12, '1.2.3', ARRAY['mail'], 5, 'running')
"""


def test_workers(run: Callable[..., Result], on_queue: str) -> None:
    assert run("workers").stderr == "No worker is registered.\n"
    with psycopg.connect(on_queue, autocommit=True) as connection:
        connection.execute("SELECT procrastinate_register_worker_v1()")
        connection.execute(REGISTER)
        table = run("workers").stdout
        head, foreign, ours = (line.split() for line in table.splitlines())
        assert head[-3:] == ["running", "heard", "of"]
        assert foreign[:2] == ["1", "Procrastinate"]
        assert ours[:7] == ["2", "night", "hive", "12", "1.2.3", "mail", "running"]
        assert "0/5" in ours
        assert "dead" not in table
        connection.execute(
            "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '45 seconds'"
        )
    foreign_line, our_line = (line.rstrip() for line in run("workers").stdout.splitlines()[1:])
    assert our_line.endswith(" s ago: dead")
    assert foreign_line.endswith(" s ago: dead, or it drains")
    assert "dead" not in run("workers", "--stalled-after", "90").stdout
    told = [json.loads(line) for line in run("workers", "--json").stdout.splitlines()]
    assert [(one["id"], one["is_foreign"], one["is_stalled"]) for one in told] == [
        (1, True, True),
        (2, False, True),
    ]
    assert told[1]["version"] == "1.2.3"
    assert 45 <= told[1]["seconds_since_heartbeat"] < 600


def test_what_a_worker_holds(run: Callable[..., Result], on_queue: str) -> None:
    for task in ("one", "two", "three"):
        run("defer", "--unknown", task)
    refused = run("jobs", "--worker", "1")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "there is no worker 1: `trio-queue workers` lists those that there are" in refused.stderr
    with psycopg.connect(on_queue, autocommit=True) as connection:
        connection.execute(REGISTER)
        assert run("jobs", "--worker", "1").stderr == "Worker 1 holds no job.\n"
        connection.execute("SELECT trio_queue_fetch_jobs_v2(NULL, 1, 2, NULL)")
        connection.execute("UPDATE procrastinate_jobs SET status = 'succeeded' WHERE id = 1")
    head, line = run("jobs", "--worker", "1").stdout.splitlines()
    assert head.split()[-1] == "started"
    assert line.split()[:2] == ["2", "doing"]
    (told,) = map(json.loads, run("jobs", "--worker", "1", "--json").stdout.splitlines())
    assert (told["id"], told["worker_id"]) == (2, 1)
    assert told["started_at"] is not None


def test_worker_and_a_command_exclude_each_other(run: Callable[..., Result]) -> None:
    for arguments in (["--worker", "1", "list"], ["--json", "list"]):
        result = run("jobs", *arguments)
        assert result.exit_code == 2
        assert "stands without a command, or after it" in result.stderr
    bare = run("jobs")
    assert bare.exit_code == 2
    assert "Usage: trio-queue jobs" in bare.stderr


def test_a_reason_stands_beside_its_event(run: Callable[..., Result], on_queue: str) -> None:
    run("defer", "--unknown", "t")
    with psycopg.connect(on_queue, autocommit=True) as connection:
        connection.execute(REGISTER)
        connection.execute("SELECT trio_queue_fetch_jobs_v2(NULL, 1, 2, NULL)")
        connection.execute("SELECT trio_queue_release_jobs_v1(1, NULL)")
    head, *_, last = run("jobs", "show", "1").stdout.splitlines()[-4:]
    assert head.split() == ["when", "event", "attempt", "worker", "reason"]
    assert last.split()[2:] == ["deferred_for_retry", "0", "1", "released"]
    told = json.loads(run("jobs", "show", "1", "--json").stdout)["events"][-1]
    assert (told["reason"], told["worker_id"], told["attempt"]) == ("released", 1, 0)


def test_the_greatest_id_is_one_that_a_job_may_have(run: Callable[..., Result]) -> None:
    for id_ in (2**63 - 1, -(2**63)):
        result = run("jobs", "show", "--", str(id_))
        assert (result.exit_code, result.stderr) == (1, f"Error: there is no job {id_}\n")
        assert run("jobs", "list", "--after-id", str(id_)).exit_code == 0


def test_healthchecks(run: Callable[..., Result]) -> None:
    result = run("--app", APP, "healthchecks")
    assert result.stdout == "App: OK\nDatabase connection: OK\nTables: OK\n"
    assert run("healthchecks").stdout == "Database connection: OK\nTables: OK\n"


def test_schema(run: Callable[..., Result], database: str) -> None:
    assert run("schema", "--read").stdout.strip() == get_schema().strip()
    assert run("schema", "--migrations-path").stdout.strip().endswith("migrations")
    assert run("--database", database, "schema", "--check").exit_code == 1
    # The default is to apply; twice does no harm, and the option may stand on either side.
    assert run("--database", database, "schema").exit_code == 0
    assert run("schema", "--apply", "--database", database).exit_code == 0
    assert run("schema", "--check", "--check", "--database", database).exit_code == 0
    assert run("jobs", "list", "--database", database).exit_code == 0
