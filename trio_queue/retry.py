"""When a job that failed is tried again: strategies and their decisions."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import TypeAlias

import attrs

from trio_queue import utils
from trio_queue.jobs import Job
from trio_queue.types import TimeDeltaParams


class RetryDecision:
    """That a job is tried again, when, and what changes with it."""

    def __init__(
        self,
        *,
        retry_at: datetime.datetime | None = None,
        retry_in: TimeDeltaParams | None = None,
        priority: int | None = None,
        queue: str | None = None,
        lock: str | None = None,
    ) -> None:
        """Say when to try again.

        Args:
            retry_at: The job runs no sooner than this moment (with a time zone).
            retry_in: The job runs no sooner than this long after its row is written, by the
                database's clock. Without either it may run at once.
            priority: The new priority; None keeps it.
            queue: The new queue; None keeps it.
            lock: The new lock; None keeps it.

        Raises:
            ValueError: Both moments are given, or one without a time zone.
        """
        if retry_at is not None and retry_in is not None:
            raise ValueError("give retry_at or retry_in, not both")
        if retry_at is not None and retry_at.utcoffset() is None:
            raise ValueError(f"retry_at needs a time zone: {retry_at!r} has none")
        self._retry_at = retry_at
        #: How long after the row is written; None where a moment was given, or none at all.
        self.delay: datetime.timedelta | None = (
            None if retry_in is None else utils.timedelta_from_params(retry_in)
        )
        self.priority = priority
        self.queue = queue
        self.lock = lock

    @property
    def retry_at(self) -> datetime.datetime | None:
        """The moment of the next try: the one given, or, of a delay, counted from now."""
        return self._retry_at if self.delay is None else utils.after(self.delay)

    def __repr__(self) -> str:
        given = {
            "retry_at": self._retry_at,
            "retry_in": self.delay,
            "priority": self.priority,
            "queue": self.queue,
            "lock": self.lock,
        }
        told = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
        return f"RetryDecision({told})"


class BaseRetryStrategy:
    """Inherit from this and write `get_retry_decision` for a strategy of your own."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Decide what becomes of a job that raised.

        Args:
            exception: What it raised; `exceptions.JobAborted` where a shutdown interrupted it.
            job: The job; `job.attempts` is 0 when its first try has failed.

        Returns:
            When to try again, or None to give up.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks get_retry_decision()")


@attrs.define(kw_only=True)
class RetryStrategy(BaseRetryStrategy):
    """The usual strategies, which may be combined.

    The wait before the next try is
    `wait + linear_wait * attempts + exponential_wait ** (attempts + 1)` seconds, where `attempts`
    is 0 after the first failure.
    """

    #: How many retries at most; None: no limit.
    max_attempts: int | None = None
    #: Seconds, the same before every retry.
    wait: int = 0
    #: Seconds more for each retry: 3 waits 0, 3, 6, 9 seconds.
    linear_wait: int = 0
    #: Seconds to the power of the retry: 3 waits 3, 9, 27, 81 seconds.
    exponential_wait: int = 0
    #: Only these are retried; None: every exception.
    retry_exceptions: Iterable[type[BaseException]] | None = attrs.field(
        default=None, converter=attrs.converters.optional(tuple)
    )

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """See `BaseRetryStrategy.get_retry_decision`."""
        if self.max_attempts and job.attempts >= self.max_attempts:
            return None
        if self.retry_exceptions and not isinstance(exception, tuple(self.retry_exceptions)):
            return None
        wait = self.wait + self.linear_wait * job.attempts
        # Past a century the exact figure is of no use, and large powers are slow to compute.
        if self.exponential_wait:
            exponent = min(job.attempts + 1, 4096)
            wait += min(self.exponential_wait**exponent, 100 * 365 * 86_400)
        return RetryDecision(retry_in={"seconds": wait})


RetryValue: TypeAlias = bool | int | BaseRetryStrategy


def get_retry_strategy(retry: RetryValue) -> BaseRetryStrategy | None:
    """The strategy that a task's `retry=` means: False never, True without end, a number so often."""
    if isinstance(retry, BaseRetryStrategy):
        return retry
    if not retry:
        return None
    return RetryStrategy() if retry is True else RetryStrategy(max_attempts=retry)
