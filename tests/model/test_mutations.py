"""The model finds planted bugs: each of these scripts passes on the worker, and fails on the bug."""

from __future__ import annotations

import attrs
import pytest

from tests.model.judge import faults
from tests.model.mutations_of_rows import MUTATIONS_OF_ROWS
from tests.model.mutations_of_stopping import MUTATIONS_OF_STOPPING
from tests.model.planting import Mutation, planted
from tests.model.play import play

pytestmark = pytest.mark.runs_trio

MUTATIONS = (*MUTATIONS_OF_STOPPING, *MUTATIONS_OF_ROWS)

#: Orders of Trio's tasks that each script is played in.
ORDERS = range(4)


def found(mutation: Mutation) -> list[str]:
    """What the model finds in any of the orders."""
    scripts = (attrs.evolve(mutation.script, order=order) for order in ORDERS)
    return [fault for script in scripts for fault in faults(play(script))]


def _marks(mutation: Mutation) -> list[pytest.MarkDecorator]:
    if mutation.name == "a body begins that was told to stop before":
        return [pytest.mark.only_trio("on its way into asyncio a body is looked after once more")]
    return []


@pytest.mark.parametrize(
    "mutation",
    [pytest.param(mutation, id=mutation.name, marks=_marks(mutation)) for mutation in MUTATIONS],
)
def test_a_planted_bug_is_found(mutation: Mutation) -> None:
    assert found(mutation) == []
    with planted(mutation):
        assert found(mutation) != []


def test_a_bug_that_cannot_be_planted_any_more_says_so() -> None:
    stale = attrs.evolve(MUTATIONS[0], old="a text that is not there")
    with (
        pytest.raises(AssertionError, match="has changed, say anew how to plant it"),
        planted(stale),
    ):
        pass
