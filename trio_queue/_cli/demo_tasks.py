"""The tasks of the demo, one for each kind of job."""

from __future__ import annotations

import datetime
import time
import zlib
from collections.abc import Sequence

import attrs
import trio

from trio_queue.blueprints import Blueprint
from trio_queue.deferring import ConfigureTaskOptions
from trio_queue.job_context import JobContext
from trio_queue.jobs import Job
from trio_queue.retry import RetryStrategy
from trio_queue.tasks import AnyTask
from trio_queue.types import JSONDict

#: The demo neither runs nor shows anybody else's jobs: they are in other queues.
QUEUE = "demo"
NAMESPACE = "demo"

#: Seconds. The scheduled job, and with it the demo, ends after this.
SCHEDULED_IN = 3.0

blueprint = Blueprint()


class SimulatedError(Exception):
    """Something that goes wrong in the demo, on purpose."""


@blueprint.task(name="greet", queue=QUEUE)
async def greet(name: str) -> str:
    """An async job: others run while it waits."""
    await trio.sleep(0.15)
    return f"Hello, {name}!"


@blueprint.task(name="checksum", queue=QUEUE)
def checksum(number: int) -> int:
    """A sync job: it blocks, and so runs in a thread."""
    time.sleep(0.1)
    return zlib.crc32(b"%d" % number)


@blueprint.task(name="report", queue=QUEUE)
async def report(month: str) -> str:
    """A long job: a worker that is asked to stop waits for it."""
    await trio.sleep(1.2)
    return month


@blueprint.task(name="transfer", queue=QUEUE)
async def transfer(account: str, amount: int) -> int:
    """One of many jobs with the same lock: they run one after the other."""
    del account
    await trio.sleep(0.05)
    return amount


@blueprint.task(name="announce", queue=QUEUE)
async def announce(urgency: str) -> str:
    """A job with a priority: the urgent ones run first."""
    await trio.sleep(0.05)
    return urgency


@blueprint.task(name="flaky", queue=QUEUE, retry=RetryStrategy(max_attempts=3), pass_context=True)
async def flaky(context: JobContext) -> None:
    """A job that fails the first time, and succeeds when it is retried."""
    await trio.sleep(0.05)
    if context.job.attempts == 0:
        raise SimulatedError("the network is down, this time")


@blueprint.task(name="hopeless", queue=QUEUE)
async def hopeless(invoice: int) -> None:
    """A job that fails for good."""
    await trio.sleep(0.05)
    raise SimulatedError(f"there is no invoice {invoice}")


@blueprint.task(name="reminder", queue=QUEUE)
async def reminder(text: str) -> str:
    """A job that is scheduled for later."""
    await trio.lowlevel.checkpoint()
    return text


@blueprint.periodic(cron="* * * * * */2")
@blueprint.task(name="tick", queue=QUEUE)
async def tick(timestamp: int) -> str:
    """A periodic job: the worker defers one every two seconds."""
    await trio.lowlevel.checkpoint()
    return f"{datetime.datetime.fromtimestamp(timestamp, tz=datetime.UTC):%H:%M:%S}"


@attrs.frozen
class Kind:
    """What the demo shows about one task."""

    task: AnyTask
    told: str
    #: The arguments of each job of it, and how it is deferred.
    jobs: Sequence[tuple[JSONDict, ConfigureTaskOptions]] = ()

    def groups(self) -> list[tuple[ConfigureTaskOptions, list[JSONDict]]]:
        """The jobs that one statement defers: those that are deferred in the same way."""
        groups: list[tuple[ConfigureTaskOptions, list[JSONDict]]] = []
        for arguments, options in self.jobs:
            same = next((each for known, each in groups if known == options), None)
            if same is None:
                groups.append((options, [arguments]))
            else:
                same.append(arguments)
        return groups

    @property
    def is_periodic(self) -> bool:
        """Whether the worker itself defers its jobs."""
        return self.task is tick


_NAMES = ("Ada", "Barbara", "Edsger", "Grace", "Katherine", "Nathaniel", "Radia", "Tony")
_URGENCIES = (("at leisure", -10), ("as usual", 0), ("urgent", 10))
_MONTHS = ("01", "02", "03", "04", "05", "06")
_EMPTY: ConfigureTaskOptions = {}

KINDS = (
    Kind(greet, "async", tuple(({"name": _NAMES[n % 8]}, _EMPTY) for n in range(120))),
    Kind(checksum, "sync, in threads", tuple(({"number": n}, _EMPTY) for n in range(60))),
    Kind(
        report,
        "long, 1.2 s each",
        # Some from the beginning, some later: so a Ctrl-C finds one that runs.
        tuple(
            ({"month": month}, {"priority": 20} if month < "04" else _EMPTY) for month in _MONTHS
        ),
    ),
    Kind(
        transfer,
        "6 locks, one at a time each",
        tuple(
            ({"account": f"A{n % 6}", "amount": n}, {"lock": f"demo-account-A{n % 6}"})
            for n in range(36)
        ),
    ),
    Kind(
        announce,
        "priorities, urgent first",
        tuple(
            ({"urgency": urgency}, {"priority": priority})
            for urgency, priority in _URGENCIES
            for _ in range(15)
        ),
    ),
    Kind(flaky, "fails, is retried, succeeds", tuple(({}, _EMPTY) for _ in range(20))),
    Kind(hopeless, "fails for good", tuple(({"invoice": n}, _EMPTY) for n in range(1, 6))),
    Kind(
        reminder,
        f"scheduled, {SCHEDULED_IN:g} s later",
        (({"text": "tea"}, {"schedule_in": {"seconds": SCHEDULED_IN}}),),
    ),
    Kind(tick, "periodic, every 2 s"),
)


def has_ended(job: Job) -> bool:
    """Whether nothing more will happen to a job."""
    return job.status not in {"todo", "doing"}
