"""How many jobs to claim ahead of free places: what begins soon, at the pace of the last claims.

A job that waits here for a place cannot run elsewhere, nor let a more urgent one pass. So the default follows the pace: of
short jobs two thousand are claimed ahead, of long ones none. Where the pace breaks off and claimed jobs wait after all, they are
given back, and for a while nothing is claimed ahead.
"""

from __future__ import annotations

import math

import trio

#: Seconds: what begins within them, at the present pace, is claimed ahead.
HORIZON = 0.1
#: As many at most. At a concurrency of 100 no-op jobs drained at 36,300/s with a thousand ahead, 38,000/s with two thousand,
#: and 38,900/s with four (two rounds): a claim then never waits for the one before it.
MAX_AHEAD = 2_000
#: So many jobs in so many seconds are a pace; fewer are not, however short they were: the next may be long.
SAMPLE = 100
WINDOW = 1.0
#: Seconds that a job may wait for a place; then it is given back.
MAX_AGE = 1.0
#: Seconds after that in which nothing is claimed ahead.
DISTRUST = 10.0
#: Bytes of arguments that one claim may hold, as the database counts them: 16 jobs of 1 MB. As Python objects they take a few times that.
CLAIM_BYTES = 16 * 2**20
#: Seconds that a claim may take before the next ones ask for less. Jobs with megabytes of arguments take long to send: a
#: thousand of them at once took more memory than there was, or longer than a claim may, and then it was in vain, each time.
LONG_CLAIM = 0.5


class Pace:
    """The pace of one worker.

    Args:
        fixed: So many are claimed ahead, whatever the pace; None: by pace.
    """

    def __init__(self, fixed: int | None) -> None:
        self._fixed = fixed
        self._per_second = 0.0
        self._begun = 0
        self._measured_at = 0.0
        self._distrusted_until = -math.inf
        #: How many to claim at once, at most.
        self.most = math.inf

    @property
    def is_fixed(self) -> bool:
        """Whether the pace does not matter."""
        return self._fixed is not None

    def ahead(self) -> int:
        """How many to claim ahead."""
        if self._fixed is not None:
            return self._fixed
        if trio.current_time() < self._distrusted_until:
            return 0
        return min(MAX_AHEAD, int(self._per_second * HORIZON))

    def measure(self, begun: int) -> None:
        """Take note at a claim of how many jobs have begun, ever."""
        now = trio.current_time()
        elapsed, count = now - self._measured_at, begun - self._begun
        if elapsed > WINDOW:
            self._per_second = 0.0
        elif count >= SAMPLE and elapsed > 0:
            self._per_second = count / elapsed
        else:
            return
        self._begun, self._measured_at = begun, now

    def claim_took(self, seconds: float, claimed: int) -> None:
        """A claim was answered: the next ones ask for what can be sent in time."""
        if claimed and seconds > LONG_CLAIM:
            self.most = max(1, int(claimed * LONG_CLAIM / seconds))
        elif claimed >= self.most and seconds <= LONG_CLAIM / 2:
            self.most *= 2

    def claim_was_full(self, claimed: int) -> None:
        """A claim held as many bytes as one may: the next ones ask for few more jobs than that.

        What is asked for is locked until it is clear how much of it fits: others find nothing there.
        """
        self.most = min(self.most, 2 * claimed)

    def claim_was_cut(self, asked: int) -> None:
        """A claim was not answered in time: it may have been for so much."""
        self.most = max(1, asked // 8)

    def break_off(self) -> None:
        """Jobs waited too long: nothing is claimed ahead for a while."""
        self._per_second = 0.0
        self._distrusted_until = trio.current_time() + DISTRUST
