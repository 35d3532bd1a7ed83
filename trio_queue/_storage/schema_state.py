"""What the schema should be, as data, and what a database is to this version.

`sql/schema.sql` makes what Procrastinate's client knows, on an empty database; the files in
`sql/migrations/` make that, or a database that Procrastinate created, ours. So each function stands
in one place, and the whole is both in order.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import attrs

from trio_queue.exceptions import SchemaError

Rows: TypeAlias = Sequence[tuple[Any, ...]]

APPLY_COMMAND: Final = "trio-queue schema --apply"
_NO_TRANSACTION = "-- trio-queue: no-transaction"

#: What the client of Procrastinate 3.10 calls, and the trigger functions that we go on using. An older
#: database lacks one of these; more it may have.
PROCRASTINATE_FUNCTIONS: Final = (
    "procrastinate_defer_jobs_v1",
    "procrastinate_defer_periodic_job_v2",
    "procrastinate_fetch_job_v2",
    "procrastinate_finish_job_v1",
    "procrastinate_cancel_job_v1",
    "procrastinate_retry_job_v2",
    "procrastinate_register_worker_v1",
    "procrastinate_unregister_worker_v1",
    "procrastinate_update_heartbeat_v1",
    "procrastinate_prune_stalled_workers_v1",
    "procrastinate_notify_queue_abort_job_v1",
    "procrastinate_trigger_abort_requested_events_procedure_v1",
    "procrastinate_trigger_function_scheduled_events_v1",
)

#: Its triggers on its tables. Another one would act beside ours, which take the place of some of these.
PROCRASTINATE_TRIGGERS: Final = (
    "procrastinate_jobs_notify_queue_job_inserted_v1",
    "procrastinate_jobs_notify_queue_job_aborted_v1",
    "procrastinate_trigger_status_events_insert_v1",
    "procrastinate_trigger_status_events_update_v1",
    "procrastinate_trigger_scheduled_events_v1",
    "procrastinate_trigger_abort_requested_events_v1",
    "procrastinate_trigger_delete_jobs_v1",
)


# -- what it should be --------------------------------------------------------------------------


@attrs.frozen
class Migration:
    """A step that every database of ours has taken. Safe to take again."""

    #: The file's name without `.sql`; names sort in the order of the steps.
    name: str
    text: str
    #: False: its statements are sent one by one, each on its own, since indexes are built beside
    #: the running queue.
    in_transaction: bool

    @property
    def statements(self) -> tuple[str, ...]:
        """What is sent, one after the other."""
        if self.in_transaction:
            return (self.text,)
        pieces = (_without_comments(piece).strip() for piece in self.text.split(";\n"))
        return tuple(piece for piece in pieces if piece)

    @property
    def record(self) -> str:
        """The statements that note it. The comment is what STATE_QUERY reads, without the table."""
        return (
            f"INSERT INTO trio_queue_migrations (name) VALUES ('{self.name}') ON CONFLICT DO NOTHING;\n"  # noqa: S608  # a file's name
            f"COMMENT ON TABLE trio_queue_migrations IS '{self.name}';\n"
        )


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))


def _sql() -> Path:
    return Path(str(importlib.resources.files("trio_queue").joinpath("sql")))


def _load_migrations() -> tuple[Migration, ...]:
    files = sorted((_sql() / "migrations").glob("*.sql"))
    texts = ((file.stem, file.read_text(encoding="utf-8")) for file in files)
    return tuple(
        Migration(name, text, in_transaction=not text.startswith(_NO_TRANSACTION))
        for name, text in texts
    )


#: Every migration, in order.
MIGRATIONS: Final = _load_migrations()


def get_schema() -> str:
    """The whole schema, for an empty database: run it in one transaction, with `psql -1 -f` say."""
    parts = [(_sql() / "schema.sql").read_text(encoding="utf-8")]
    for migration in MIGRATIONS:
        # On an empty table there is nobody to build the index beside.
        parts += [migration.text.replace("INDEX CONCURRENTLY", "INDEX"), migration.record]
    return "\n".join(parts)


def get_restoring_sql() -> str:
    """What gives the tables back to Procrastinate: one statement, one transaction."""
    return (_sql() / "restore" / "procrastinate.sql").read_text(encoding="utf-8")


def get_migrations_path() -> str:
    """The folder of the migrations, which sort by name."""
    return str(_sql() / "migrations")


# -- what it is ---------------------------------------------------------------------------------


class SchemaKind(Enum):
    """What a database is to this version."""

    ABSENT = "absent"  #: It has no tables of a queue.
    PROCRASTINATE = "procrastinate"  #: Procrastinate made it, and we have not taken it over.
    OLD_PROCRASTINATE = "old_procrastinate"  #: The same, by a version before 3.10.
    UNKNOWN_PROCRASTINATE = "unknown_procrastinate"  #: The same, by one that we do not know.
    INCOMPLETE = "incomplete"  #: Ours; migrations of this version are missing.
    CURRENT = "current"  #: Ours, as this version knows it.
    NEWER = "newer"  #: Ours, by a newer version, with all that this one needs.
    BROKEN = "broken"  #: Ours by its record, but something has been removed.


@attrs.frozen
class SchemaState:
    """What a database is, and what it lacks."""

    kind: SchemaKind
    #: Names of functions, indexes or triggers that are not there, or (indexes) are not valid; of an unknown
    #: version of Procrastinate, those of its triggers that nobody expects.
    missing: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether workers and defers of this version can work with it."""
        return self.kind in {SchemaKind.CURRENT, SchemaKind.NEWER}


def _literals(names: Sequence[str]) -> str:
    return "ARRAY[" + ", ".join(f"'{name}'" for name in names) + "]::text[]"


def _found(pattern: str) -> list[str]:
    every = "\n".join(_without_comments(migration.text) for migration in MIGRATIONS)
    return list(dict.fromkeys(re.findall(pattern, every)))


def _state_query() -> str:
    functions = _found(r"CREATE OR REPLACE FUNCTION (\w+)")
    indexes = _found(r"CREATE INDEX CONCURRENTLY IF NOT EXISTS (\w+)")
    triggers = [
        f"{trigger} {function}"
        for trigger, function in cast(
            "list[tuple[str, str]]",
            _found(r"CREATE (?:OR REPLACE )?TRIGGER (\w+)[^;]+?EXECUTE FUNCTION (\w+)\(\)"),
        )
    ]
    # Every name is one of this package's own files.
    return f"""
SELECT to_regclass('procrastinate_jobs') IS NOT NULL AS has_jobs,
       to_regclass('trio_queue_migrations') IS NOT NULL AS is_ours,
       obj_description(to_regclass('trio_queue_migrations'), 'pg_class') AS last_migration,
       ARRAY(SELECT name FROM unnest({_literals(PROCRASTINATE_FUNCTIONS)}) name
              WHERE to_regproc(name) IS NULL) AS missing_of_procrastinate,
       ARRAY(SELECT DISTINCT tgname::text FROM pg_catalog.pg_trigger
              WHERE NOT tgisinternal AND tgname ^@ 'procrastinate_' AND tgname <> ALL ({_literals(PROCRASTINATE_TRIGGERS)})
                AND tgrelid IN (to_regclass('procrastinate_jobs'), to_regclass('procrastinate_events'),
                                to_regclass('procrastinate_periodic_defers'), to_regclass('procrastinate_workers'))
              ORDER BY 1) AS unknown_triggers,
       ARRAY(SELECT name FROM unnest({_literals(functions)}) name WHERE to_regproc(name) IS NULL)
       || ARRAY(SELECT name FROM unnest({_literals(indexes)}) name
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                                    WHERE i.indexrelid = to_regclass(name) AND i.indisvalid))
       || ARRAY(SELECT split_part(pair, ' ', 1) FROM unnest({_literals(triggers)}) pair
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                                    WHERE t.tgname = split_part(pair, ' ', 1) AND t.tgenabled <> 'D'
                                      AND t.tgfoid = to_regproc(split_part(pair, ' ', 2))::oid)) AS missing
""".strip()  # noqa: S608  # no value from outside


#: Answers one row, on any database, from which `read_state` tells what it is.
STATE_QUERY: Final = _state_query()


def read_state(rows: Rows) -> SchemaState:
    """Tell what a database is from its answer to STATE_QUERY."""
    has_jobs, is_ours, last_migration, missing_of_procrastinate, unknown, missing = rows[0]
    newest = MIGRATIONS[-1].name
    if not has_jobs:
        return SchemaState(SchemaKind.ABSENT)
    if not is_ours:
        return _state_of_procrastinate(tuple(missing_of_procrastinate), tuple(unknown))
    if last_migration is None or last_migration < newest:
        return SchemaState(SchemaKind.INCOMPLETE, tuple(missing))
    if missing or missing_of_procrastinate:
        return SchemaState(SchemaKind.BROKEN, (*missing_of_procrastinate, *missing))
    return SchemaState(SchemaKind.CURRENT if last_migration == newest else SchemaKind.NEWER)


def _state_of_procrastinate(missing: tuple[str, ...], unknown: tuple[str, ...]) -> SchemaState:
    if missing:
        return SchemaState(SchemaKind.OLD_PROCRASTINATE, missing)
    if unknown:
        return SchemaState(SchemaKind.UNKNOWN_PROCRASTINATE, unknown)
    return SchemaState(SchemaKind.PROCRASTINATE)


_DESCRIPTIONS: Final = {
    SchemaKind.ABSENT: "there are no tables of a queue: run `{apply}`",
    SchemaKind.PROCRASTINATE: (
        "Procrastinate made its tables; to let trio_queue work them too, run `{apply}`"
    ),
    SchemaKind.OLD_PROCRASTINATE: (
        "a version of Procrastinate before 3.10 made its tables ({missing} is missing): apply "
        "Procrastinate's own migrations up to 3.10 (those named `post` too), then run `{apply}`"
    ),
    SchemaKind.UNKNOWN_PROCRASTINATE: (
        "Procrastinate made its tables, and left triggers there that this version of trio_queue does not "
        "know ({missing}): if they are of an older version, apply Procrastinate's own migrations up to 3.10 "
        "(those named `post` too); if of a newer one, take a newer trio_queue. Then run `{apply}`"
    ),
    SchemaKind.INCOMPLETE: "migrations of this version of trio_queue are missing: run `{apply}`",
    SchemaKind.CURRENT: "the schema is the one that this version of trio_queue knows",
    SchemaKind.NEWER: "a newer version of trio_queue made the schema; it has all that this one needs",
    SchemaKind.BROKEN: (
        "something has been removed from the schema ({missing}), or a newer version of trio_queue "
        "did without it: run `{apply}` with the newest version that you use"
    ),
}


def describe(state: SchemaState) -> str:
    """Say what a database is and, where it has to be mended, by which command."""
    return _DESCRIPTIONS[state.kind].format(apply=APPLY_COMMAND, missing=", ".join(state.missing))


def check_usable(rows: Rows, address: str) -> None:
    """Refuse a database that this version cannot work with.

    Args:
        rows: Its answer to STATE_QUERY.
        address: Names it, without a password.

    Raises:
        SchemaError: It says what the database is, and which command mends it.
    """
    state = read_state(rows)
    if not state.is_usable:
        raise SchemaError(f"the database at {address}: {describe(state)}")


# -- back to Procrastinate ----------------------------------------------------------------------

#: The foreign keys that are there and have not been checked yet: table and name.
UNCHECKED_QUERY: Final = """
SELECT conrelid::regclass::text, conname FROM pg_catalog.pg_constraint
 WHERE contype = 'f' AND NOT convalidated AND conrelid IN (to_regclass('procrastinate_jobs'),
       to_regclass('procrastinate_events'), to_regclass('procrastinate_periodic_defers'))
""".strip()

#: Of each table the statement that clears what a foreign key does not let be; a range of ids is added.
#: Jobs of workers that are gone are usual (ours leave finished ones as they are), the others should not be.
CLEARING: Final = {
    "procrastinate_jobs": (
        "UPDATE procrastinate_jobs SET worker_id = NULL WHERE worker_id IS NOT NULL"
        " AND NOT EXISTS (SELECT FROM procrastinate_workers w WHERE w.id = worker_id)"
    ),
    "procrastinate_events": (
        "DELETE FROM procrastinate_events"
        " WHERE NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.id = job_id)"
    ),
    "procrastinate_periodic_defers": (
        "UPDATE procrastinate_periodic_defers SET job_id = NULL WHERE job_id IS NOT NULL"
        " AND NOT EXISTS (SELECT FROM procrastinate_jobs j WHERE j.id = job_id)"
    ),
}
