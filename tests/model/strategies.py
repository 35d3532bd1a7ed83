"""Draw scripts."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from tests.model.script import (
    ALL,
    REFUSABLE,
    VERBS,
    AbortJob,
    Ask,
    AskWorker,
    Ending,
    Ill,
    JobSpec,
    Missed,
    OnCancel,
    Prune,
    Refusal,
    Script,
    Step,
    Theft,
    Trouble,
)
from trio_queue.completion import InterruptedJobs
from trio_queue.jobs import DeleteJobCondition

T = TypeVar("T")

#: Steps come at whole seconds and bodies end at halves, but for a few that meet in one moment.
MOMENTS = st.integers(1, 16).map(float)
LENGTHS = st.sampled_from([1.5, 4.5, 9.5, 9.5, 20.5, 20.5, 0.0, 2.0])
SLOW_START = 2.25
LONGEST_OUTAGE = 26.0

JOBS = st.builds(
    JobSpec,
    seconds=LENGTHS,
    ending=st.sampled_from([Ending.RETURN, Ending.RAISE, *Ending]),
    on_cancel=st.sampled_from([*OnCancel, OnCancel.THREAD, OnCancel.THREAD]),
    retries=st.sampled_from([0, 0, 1, 2]),
    retry_wait=st.sampled_from([0, 3]),
    interrupted_jobs=st.sampled_from([None, None, *InterruptedJobs]),
    lock=st.sampled_from([None, "lock"]),
    queueing_lock=st.sampled_from([None, None, None, "queueing lock"]),
    deferred_at=st.one_of(st.just(0.0), st.just(0.0), MOMENTS),
)
ASKS = st.builds(AskWorker, at=MOMENTS, how=st.sampled_from(Ask))
ABORTS = st.builds(AbortJob, at=MOMENTS, job=st.integers(0, 3))
TROUBLES = st.builds(
    Trouble,
    at=MOMENTS,
    verb=st.sampled_from([*VERBS, ALL, ALL, *["fetch_jobs", "finish_jobs"] * 3]),
    ill=st.sampled_from(Ill),
    seconds=st.sampled_from([0.75, 3.25, 8.25, 14.25, 25.25]),
)
PRUNES = st.builds(Prune, at=MOMENTS, theft=st.sampled_from(Theft))
REFUSALS = st.builds(Refusal, at=MOMENTS, verb=st.sampled_from(REFUSABLE))
STEPS: st.SearchStrategy[Step] = st.one_of(
    ASKS,
    ABORTS,
    ASKS,
    ASKS,
    TROUBLES,
    TROUBLES,
    TROUBLES,
    PRUNES,
    REFUSALS,
    st.builds(Missed, at=MOMENTS),
)


def _possible(script: Script) -> bool:
    """What the model tells of: no trouble while it starts, no third death, no longer outage."""
    if script.slow_start and any(trouble.at <= SLOW_START for trouble in script.troubles):
        return False
    if sum(trouble.seconds for trouble in script.troubles) > LONGEST_OUTAGE:
        return False  # the goodbye would end without the server: the row is left to go stale
    return sum(isinstance(step, Prune) for step in script.steps) <= 2


def _so_many(items: st.SearchStrategy[T], at_most: int) -> st.SearchStrategy[tuple[T, ...]]:
    """One to so many, each number as often as the next: `lists` prefers few."""
    return st.integers(1, at_most).flatmap(
        lambda number: st.tuples(*[items] * number)  # pyright: ignore[reportUnknownLambdaType]  # flatmap does not say it
    )


SCRIPTS = st.builds(
    Script,
    jobs=_so_many(JOBS, 4),
    steps=_so_many(STEPS, 6).map(lambda steps: tuple(sorted(steps, key=lambda step: step.at))),
    concurrency=st.integers(1, 3),
    prefetch=st.sampled_from([None, None, 0, 1, 3]),
    thread_limit=st.sampled_from([None, 1]),
    wait=st.booleans(),
    listen=st.booleans(),
    graceful_timeout=st.sampled_from([None, None, 0.0, 2.25, 6.25, 6.25]),
    interrupted_jobs=st.sampled_from(InterruptedJobs),
    delete_jobs=st.sampled_from([DeleteJobCondition.NEVER, *DeleteJobCondition]),
    slow_start=st.sampled_from([0.0, 0.0, 0.0, SLOW_START]),
    order=st.integers(0, 1_000),
).filter(_possible)
