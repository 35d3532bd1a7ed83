"""Drawn scripts: whatever happens in whatever order, every row ends as the model says.

By default a few hundred, always the same ones. A long search draws new ones:

    MODEL_SEARCH=20000 pytest tests/model/test_model.py --hypothesis-seed=1

A script that it finds is printed, and belongs into `KEPT` below, beside the mend.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.model.judge import faults
from tests.model.play import play
from tests.model.script import ALL, Ending, Ill, JobSpec, OnCancel, Prune, Script, Theft, Trouble
from tests.model.strategies import SCRIPTS

pytestmark = pytest.mark.runs_trio

SEARCH = os.environ.get("MODEL_SEARCH")

#: What a search once found, and is mended.
KEPT = {
    "the row's loss is noticed between two tries of a write": Script(
        steps=(Trouble(1, "finish_jobs", Ill.FAIL, 3.25), Prune(1, Theft.NONE))
    ),
    "a rescue while the worker adopts its own jobs": Script(
        (JobSpec(20.5), JobSpec(20.5, deferred_at=4)),
        (Trouble(3, "adopt_jobs", Ill.FAIL, 8.25), Prune(4, Theft.NONE)),
    ),
    "a job ends while it is being adopted": Script(
        (JobSpec(4.5),), (Trouble(1, "adopt_jobs", Ill.FAIL, 8.25), Prune(2, Theft.NONE))
    ),
    "the new row is lost before the jobs are adopted": Script(
        steps=(
            Prune(1, Theft.NONE),
            Trouble(1, "adopt_jobs", Ill.FAIL, 3.25),
            Prune(2, Theft.NONE),
        )
    ),
    "a claim and the write before it, both without an answer": Script(
        (JobSpec(4.5, ending=Ending.RAISE, retries=1),), (Trouble(3, ALL, Ill.LOSE, 3.25),)
    ),
}


@settings(
    max_examples=int(SEARCH or 300),
    # The same scripts in every run, unless it is a search.
    derandomize=SEARCH is None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    phases=(Phase.generate, Phase.shrink),
)
@given(SCRIPTS)
def test_every_row_ends_as_the_model_says(script: Script) -> None:
    assert faults(play(script)) == []


@pytest.mark.parametrize("script", KEPT.values(), ids=KEPT)
def test_what_was_found_once_stays_mended(script: Script) -> None:
    assert faults(play(script)) == []


def test_a_script_is_repeatable() -> None:
    script = Script(
        (JobSpec(), JobSpec(4.5, on_cancel=OnCancel.THREAD), JobSpec(9.5)),
        (Trouble(1, "finish_jobs", Ill.FAIL, 3.25),),
        order=3,
    )
    one, another = play(script), play(script)
    assert one.bodies == another.bodies
    assert one.changes == another.changes
