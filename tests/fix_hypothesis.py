"""Hypothesis in an ordinary run: the same examples each time, and no clock.

A run decides whether a change lands: what it tries must be the change's doing. `TRIO_QUEUE_TEST_SCALE` above 1 searches.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from tests.fix_schemas import SCALE

settings.register_profile(
    "trio_queue",
    derandomize=SCALE == 1,
    # How long an example takes, and is drawn for, is the machine's: a process may stand still meanwhile.
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("trio_queue")
