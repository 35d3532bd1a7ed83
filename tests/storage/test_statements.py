"""Every verb is a statement that the server takes, with the parameters that it asks for."""

from __future__ import annotations

from typing import Any, cast

import attrs
import psycopg
import pytest

from trio_queue import management, verbs
from trio_queue._storage.memory_manage import ANSWER
from trio_queue._storage.queries import QUERIES
from trio_queue._storage.statements import statement_of
from trio_queue.completion import Completion
from trio_queue.jobs import Job, Status
from trio_queue.testing import InMemoryDatabase
from trio_queue.verbs import Verb

JOB = Job(task_name="t")
VERBS: list[Verb[Any]] = [
    verbs.DeferJobs([JOB]),
    verbs.DeferPeriodicJob(JOB, "", 1),
    verbs.RegisterWorker(
        worker_name=None, host="h", pid=1, version="", queues=None, concurrency=1, stage="s"
    ),
    verbs.UpdateWorkerStage(1, "s"),
    verbs.UpdateHeartbeat(1),
    verbs.UnregisterWorker(1),
    verbs.PruneStalledWorkers(1),
    verbs.FetchJobs(1, ("a",), 1),
    verbs.HasEligibleJob(None),
    verbs.FinishJobs(1, [Completion(job_id=1, attempts=0, status=Status.FAILED)]),
    verbs.ReleaseJobs(1, {1}),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a set will do
    verbs.ListJobsToAbort(1),
    verbs.AdoptJobs(1, 2, [(3, 0)]),
    verbs.AdoptOrphans(1, 30, 10),
    management.ListJobs(),
    management.ListQueues(),
    management.ListTasks(),
    management.ListLocks(),
    management.ListEvents(1),
    management.ListWorkers(),
    management.GetJobStatus(1),
    management.CancelJob(1),
    management.RetryJob(job_id=1),
    management.FinishJob(1, Status.FAILED),
    management.ListStalledJobs(),
    management.DeleteOldJobs(nb_hours=1, statuses=[Status.FAILED]),
    management.CheckConnection(),
]


def test_no_verb_is_forgotten() -> None:
    """Here, in memory, and among the queries."""
    every: set[type[Verb[Any]]] = {
        kind
        for kind in cast("list[type[Verb[Any]]]", Verb.__subclasses__())
        # What tests made up is not a verb of the port.
        if kind.__module__ in {verbs.__name__, management.__name__}
    }
    assert {type(verb) for verb in VERBS} == every
    assert set(ANSWER.registry) - {object} == every
    assert {kind.name for kind in every} <= set(QUERIES)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_the_query_asks_for_what_the_verb_gives(verb: Verb[Any]) -> None:
    statement = statement_of(verb, None)
    assert set(statement.parameters) == set(QUERIES[verb.name].parameters)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_the_server_takes_it(verb: Verb[Any], queue_database: str) -> None:
    statement = statement_of(verb, None)
    with psycopg.connect(queue_database) as connection:
        try:
            rows = connection.execute(statement.query.placeholders, statement.parameters).fetchall()
        except psycopg.errors.RaiseException:
            assert isinstance(verb, management.RetryJob | management.FinishJob)
            return
        if not isinstance(verb, management.GetJobStatus):
            statement.read(rows)


def test_a_verb_without_a_meaning_in_memory() -> None:
    @attrs.frozen
    class Dance(Verb[None]):
        name = "dance"

    with pytest.raises(NotImplementedError, match="Dance"):
        ANSWER(Dance(), InMemoryDatabase().tables)
