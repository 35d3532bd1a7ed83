"""Every named query, as a real server understands it: its parameters and its columns."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from tests.sql.table import Connection
from trio_queue import management, verbs
from trio_queue._storage.queries import QUERIES, parse, query

JOB = (
    "id bigint, queue_name character varying, task_name character varying, priority integer, lock text, "
    "queueing_lock text, args jsonb, status text, scheduled_at timestamp with time zone, attempts integer, "
    "abort_requested boolean, worker_id bigint"
)
COUNTS = "name text, jobs_count bigint, stats json"
FILTERS = (
    "queue character varying, task character varying, status procrastinate_job_status, lock text"
)

#: Name: parameters, columns.
EXPECTED = {
    "defer_jobs": (
        (
            "queues text[], task_names text[], priorities integer[], locks text[], queueing_locks text[], args jsonb, "
            "scheduled_at timestamp with time zone[]"
        ),
        "ids bigint[]",
    ),
    "defer_periodic_job": (
        (
            "queue character varying, lock character varying, queueing_lock character varying, "
            "task_name character varying, priority integer, periodic_id character varying, defer_timestamp bigint, args jsonb"
        ),
        "id bigint",
    ),
    "register_worker": (
        "worker_name text, host text, pid integer, version text, queues text[], concurrency integer, stage text",
        "worker_id bigint",
    ),
    "update_worker_stage": ("worker_id bigint, stage text", "nothing text"),
    "update_heartbeat": ("worker_id bigint", "alive boolean"),
    "unregister_worker": ("worker_id bigint", "nothing text"),
    "prune_stalled_workers": ("seconds_since_heartbeat double precision", "worker_id bigint"),
    "fetch_jobs": (
        "queues character varying[], worker_id bigint, limit integer, turn bigint, max_bytes bigint",
        JOB + ", next_in double precision",
    ),
    "has_eligible_job": ("queues character varying[]", "eligible boolean"),
    "finish_jobs": (
        (
            "worker_id bigint, job_ids bigint[], attempts integer[], statuses text[], retries boolean[], "
            "retry_at timestamp with time zone[], retry_in double precision[], priorities integer[], queues text[], "
            "locks text[], if_abort_requested text[], deletes boolean[], reasons text[]"
        ),
        "job_id bigint, status text",
    ),
    "release_jobs": ("worker_id bigint, keep bigint[], turn bigint", "job_id bigint, status text"),
    "adopt_jobs": (
        "worker_id bigint, lost_id bigint, job_ids bigint[], attempts integer[]",
        "id bigint",
    ),
    "adopt_orphans": (
        "worker_id bigint, stalled_after double precision, limit integer, turn bigint",
        JOB + ", deaths integer",
    ),
    "list_jobs_to_abort": ("worker_id bigint", "id bigint"),
    "list_jobs": (
        (
            "newest boolean, id bigint, queue character varying, task character varying, status procrastinate_job_status, "
            "lock text, queueing_lock text, worker_id bigint, after_id bigint, limit bigint"
        ),
        JOB,
    ),
    "list_queues": (FILTERS, COUNTS),
    "list_tasks": (FILTERS, COUNTS),
    "list_locks": (FILTERS, COUNTS),
    "list_events": (
        "job_id bigint",
        "id bigint, job_id bigint, type text, at timestamp with time zone, worker_id bigint, attempt integer, reason text",
    ),
    "list_workers": (
        "",
        (
            "id bigint, last_heartbeat timestamp with time zone, name text, host text, pid integer, version text, "
            "queues text[], concurrency integer, stage text, since timestamp with time zone, running bigint, "
            "seconds_since_heartbeat double precision"
        ),
    ),
    "get_job_status": ("job_id bigint", "status text"),
    "cancel_job": ("job_id bigint, abort boolean, delete_job boolean", "done boolean"),
    "retry_job": (
        (
            "job_id bigint, retry_at timestamp with time zone, priority integer, queue character varying, "
            "lock character varying"
        ),
        "nothing text",
    ),
    "finish_job": (
        "job_id bigint, status procrastinate_job_status, delete_job boolean",
        "nothing text",
    ),
    "list_stalled_jobs": (
        (
            "queue character varying, task_name character varying, nb_seconds double precision, "
            "seconds_since_heartbeat double precision"
        ),
        JOB,
    ),
    "delete_old_jobs": (
        (
            "statuses text[], nb_hours double precision, queue text, limit integer, after_id bigint, "
            "only_count boolean"
        ),
        "deleted integer, walked_to bigint",
    ),
    "check_connection": ("", "ready boolean"),
}


MODULES = {verbs.__name__, management.__name__}


def test_every_verb_has_its_query_and_every_query_its_verb() -> None:
    # The type parameter of a list of subclasses is nobody's.
    subclasses: list[Any] = list(cast("Any", verbs.Verb).__subclasses__())
    # What tests made up is not a verb of the port.
    ours = {verb.name for verb in subclasses if verb.__module__ in MODULES}
    assert set(QUERIES) == ours == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_server_prepares_and_describes_it(connection: Connection, name: str) -> None:
    found = QUERIES[name]
    # Nothing may be left over for Python.
    assert b"%" not in found.command.text
    parameters, columns = _describe(connection, found.command.text)
    told = ", ".join(f"{a} {b}" for a, b in zip(found.parameters, parameters, strict=True))
    assert (told, columns) == EXPECTED[name]


def _describe(connection: Connection, text: bytes) -> tuple[list[str], str]:
    pgconn = connection.pgconn
    prepared = pgconn.prepare(b"", text)
    assert not prepared.error_message, prepared.error_message
    described = pgconn.describe_prepared(b"")
    types = [described.param_type(i) for i in range(described.nparams)]
    columns = [(described.fname(i), described.ftype(i)) for i in range(described.nfields)]

    def name_of(oid: int) -> str:
        return str(connection.execute("SELECT format_type(%s, NULL)", [oid]).fetchall()[0][0])

    return (
        [name_of(oid) for oid in types],
        ", ".join(f"{(name or b'').decode()} {name_of(oid)}" for name, oid in columns),
    )


def test_the_text_of_a_query_by_its_name() -> None:
    assert query("has_eligible_job").startswith("SELECT trio_queue_has_eligible_job_v1(")
    with pytest.raises(KeyError):
        query("nonsense")


def test_parameters_are_found_once_each_in_order_and_descriptions_are_not_sent() -> None:
    (found,) = parse(
        "-- a file\n-- name: some\n-- What it is: %(not)s\n"
        "SELECT %(b)s::double precision, %(a)s::int[], %(b)s::double precision %% 5;\n"
    )
    assert dict(found.types) == {"b": "double precision", "a": "int[]"}
    assert found.parameters == ("b", "a")
    assert found.placeholders == (
        b"SELECT %(b)s::double precision, %(a)s::int[], %(b)s::double precision %% 5"
    )
    assert found.command.name == b"trio_queue_some"
    assert found.command.text == (
        b"SELECT $1::double precision, $2::int[], $1::double precision % 5"
    )


@pytest.mark.parametrize("text", ["SELECT %(a)s", "SELECT %(a)s::int, %(a)s::bigint"])
def test_a_parameter_without_one_type_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("%(a)s")):
        list(parse(f"-- name: some\n{text}"))


def test_what_is_left_to_psycopg() -> None:
    (found,) = parse("-- name: some\nSELECT %(a)s::int, %(b)s::boolean[]")
    assert found.encode({"a": 1, "b": [True, None]}) == [b"1", b"{t,NULL}"]
    # The server would not read these texts as integers.
    assert found.encode({"a": 1.0, "b": None}) is None
    assert found.encode({"a": True, "b": None}) is None
    assert found.encode({"a": None, "b": [1.5]}) is None


def test_a_name_without_a_query_is_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("-- name: empty")):
        list(parse("-- name: empty\n-- name: some\nSELECT 1"))
