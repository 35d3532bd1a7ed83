"""What the unmodified client relies on is there as Procrastinate makes it; what differs is listed here."""

from __future__ import annotations

import pytest

from tests.sql.table import Connection, rows
from trio_queue import schema

TYPES = """
SELECT t.typname, e.enumlabel FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid
 WHERE t.typname ^@ 'procrastinate_' ORDER BY t.typname, e.enumsortorder
"""
COLUMNS = """
SELECT c.relname, c.relkind::text, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.attidentity::text, pg_get_expr(d.adbin, d.adrelid)
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relname ^@ 'procrastinate_' AND c.relkind IN ('r', 'c', 'S') AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY c.relname, a.attnum
"""
FUNCTIONS = """
SELECT proname, pg_get_function_arguments(oid), pg_get_function_result(oid), prokind::text, provolatile::text
  FROM pg_proc WHERE proname ^@ 'procrastinate_' ORDER BY proname
"""
CONSTRAINTS = """
SELECT conname, conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE conrelid::regclass::text ^@ 'procrastinate_' AND contype NOT IN ('f', 'n') ORDER BY conname
"""
FOREIGN_KEYS = """
SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid::regclass::text ^@ 'procrastinate_' ORDER BY conname
"""
INDEXES = """
SELECT indexname, indexdef FROM pg_indexes
 WHERE tablename ^@ 'procrastinate_' AND NOT indexname ^@ 'trio_queue_' ORDER BY indexname
"""
TRIGGERS = """
SELECT tgname, tgrelid::regclass::text, pg_get_triggerdef(oid) FROM pg_trigger
 WHERE NOT tgisinternal AND tgname ^@ 'procrastinate_' ORDER BY tgname
"""

#: The triggers that are of another kind here, under the same names.
REPLACED_TRIGGERS = {
    "procrastinate_jobs_notify_queue_job_inserted_v1",
    "procrastinate_trigger_delete_jobs_v1",
    "procrastinate_trigger_scheduled_events_v1",
    "procrastinate_trigger_status_events_insert_v1",
    "procrastinate_trigger_status_events_update_v1",
}
#: What the foreign keys did is done by triggers.
REPLACED_FOREIGN_KEYS = [
    ("procrastinate_events_job_id_fkey",),
    ("procrastinate_jobs_worker_id_fkey",),
    ("procrastinate_periodic_defers_job_id_fkey",),
]


@pytest.mark.parametrize("catalog", [TYPES, COLUMNS, FUNCTIONS, CONSTRAINTS, INDEXES])
def test_a_database_of_ours_has_what_procrastinates_has(
    connection: Connection, stock: Connection, catalog: str
) -> None:
    expected = rows(stock, catalog)
    assert expected
    assert rows(connection, catalog) == expected


@pytest.mark.parametrize("catalog", [TYPES, COLUMNS, FUNCTIONS, CONSTRAINTS, INDEXES])
def test_a_database_taken_over_keeps_what_procrastinate_made(
    stock: Connection, catalog: str
) -> None:
    expected = rows(stock, catalog)
    schema.apply(stock)
    assert rows(stock, catalog) == expected


@pytest.mark.parametrize("taken_over", [False, True])
def test_triggers_have_the_same_names_and_differ_where_listed(
    connection: Connection, stock: Connection, *, taken_over: bool
) -> None:
    expected = {row[0]: row for row in rows(stock, TRIGGERS)}
    if taken_over:
        schema.apply(stock)
    found = {row[0]: row for row in rows(stock if taken_over else connection, TRIGGERS)}
    assert set(found) == set(expected)
    different = {
        name for name, row in found.items() if _normal(row[2]) != _normal(expected[name][2])
    }
    assert different == REPLACED_TRIGGERS


def test_the_foreign_keys_are_gone(connection: Connection, stock: Connection) -> None:
    assert rows(stock, FOREIGN_KEYS) == REPLACED_FOREIGN_KEYS
    schema.apply(stock)
    assert rows(stock, FOREIGN_KEYS) == []
    assert rows(connection, FOREIGN_KEYS) == []


OURS = """
SELECT 'function' AS kind, proname::text AS name, pg_get_functiondef(oid) AS definition FROM pg_proc WHERE proname ^@ 'trio_queue_'
UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE indexname ^@ 'trio_queue_'
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'column', attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod) || attnotnull
  FROM pg_attribute WHERE attrelid::regclass::text ^@ 'trio_queue_' AND attnum > 0
ORDER BY kind, name
"""


def test_both_ways_to_our_schema_lead_to_the_same_one(
    connection: Connection, stock: Connection
) -> None:
    schema.apply(stock)
    expected = [
        row
        for row in rows(connection, OURS)
        if not row[1].startswith("procrastinate_jobs_notify_queue_job_aborted")
    ]
    found = [
        row
        for row in rows(stock, OURS)
        if not row[1].startswith("procrastinate_jobs_notify_queue_job_aborted")
    ]
    unlike = {row[1] for row in set(expected) ^ set(found)}
    # A condition in other words.
    assert unlike <= {"procrastinate_trigger_abort_requested_events_v1"}


def in_other_words(one: Connection, other: Connection) -> set[str]:
    """The triggers, of either, that mean something else in the other database."""
    found, expected = (
        {row[0]: _normal(row[2]) for row in rows(each, TRIGGERS)} for each in (one, other)
    )
    return {name for name, _ in found.items() ^ expected.items()}


def _normal(definition: str) -> str:
    """Conditions that mean the same in other words."""
    return (
        definition.split(" WHEN ", maxsplit=1)[0] + definition.rsplit(" EXECUTE ", maxsplit=1)[-1]
    )
