"""Every verb is a statement that the server takes, with the parameters that it asks for."""

from __future__ import annotations

from typing import Any, cast

import attrs
import psycopg
import pytest

from trio_queue import store
from trio_queue._storage.memory_manage import ANSWER
from trio_queue._storage.queries import QUERIES
from trio_queue._storage.statements import statement_of
from trio_queue.completion import Completion
from trio_queue.jobs import Job, Status
from trio_queue.store import Verb
from trio_queue.testing import InMemoryDatabase

JOB = Job(task_name="t")
VERBS: list[Verb[Any]] = [
    store.DeferJobs([JOB]),
    store.DeferPeriodicJob(JOB, "", 1),
    store.RegisterWorker(
        worker_name=None, host="h", pid=1, version="", queues=None, concurrency=1, stage="s"
    ),
    store.UpdateWorkerStage(1, "s"),
    store.UpdateHeartbeat(1),
    store.UnregisterWorker(1),
    store.PruneStalledWorkers(1),
    store.FetchJobs(1, ("a",), 1),
    store.HasEligibleJob(None),
    store.FinishJobs(1, [Completion(job_id=1, attempts=0, status=Status.FAILED)]),
    store.ReleaseJobs(1, {1}),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a set will do
    store.ListJobsToAbort(1),
    store.AdoptJobs(1, 2, [(3, 0)]),
    store.AdoptOrphans(1, 30, 10),
    store.ListJobs(),
    store.ListQueues(),
    store.ListTasks(),
    store.ListLocks(),
    store.ListEvents(1),
    store.ListWorkers(),
    store.GetJobStatus(1),
    store.CancelJob(1),
    store.RetryJob(job_id=1),
    store.FinishJob(1, Status.FAILED),
    store.ListStalledJobs(),
    store.DeleteOldJobs(nb_hours=1, statuses=[Status.FAILED]),
    store.CheckConnection(),
]


def test_no_verb_is_forgotten() -> None:
    """Here, in memory, and among the queries."""
    every: set[type[Verb[Any]]] = {
        kind
        for kind in cast("list[type[Verb[Any]]]", Verb.__subclasses__())
        # What tests made up is not a verb of the port.
        if kind.__module__ == store.__name__
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
            assert isinstance(verb, store.RetryJob | store.FinishJob)
            return
        if not isinstance(verb, store.GetJobStatus):
            statement.read(rows)


def test_a_verb_without_a_meaning_in_memory() -> None:
    @attrs.frozen
    class Dance(Verb[None]):
        name = "dance"

    with pytest.raises(NotImplementedError, match="Dance"):
        ANSWER(Dance(), InMemoryDatabase().tables)
