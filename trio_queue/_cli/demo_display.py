"""How the demo shows itself: a table that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trio_queue._cli.demo_tasks import KINDS, Kind, has_ended
from trio_queue._cli.output import STATUS_STYLES, make_table, plain
from trio_queue.jobs import Job
from trio_queue.worker import Stage

STATUSES = ("todo", "doing", "succeeded", "failed")
#: Seconds between two plain lines.
LINE_INTERVAL = 1.0
#: How many of the worker's lines are shown below the table.
LOG_LINES = 3


class _Listener(logging.Handler):
    """Hears what the worker logs: its last lines, and each stage as it is reached."""

    def __init__(self, heard_stage: Callable[[Stage], None]) -> None:
        super().__init__(logging.INFO)
        self.lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self._heard_stage = heard_stage

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if (stage := getattr(record, "stage", None)) is not None:
            self._heard_stage(Stage(stage))


class Display:
    """Shows how far the jobs are."""

    def __init__(self, console: Console, *, logger: logging.Logger, logs_shown: bool) -> None:
        """Make one.

        Args:
            console: Where to; if it is no terminal, plain lines are printed.
            logger: The worker's.
            logs_shown: The log goes to stderr, as was asked for: then there are plain lines too.
        """
        self._console = console
        self._logger = logger
        self._logs_shown = logs_shown
        self._listener = _Listener(self._heard_stage)
        self._jobs: Sequence[Job] = ()
        self._stage = Stage.STARTING
        #: That every job has ended stops the worker, too; what is not that is a signal.
        self.all_have_ended = False
        self._live: Live | None = None
        self._began = time.monotonic()
        self._last_line = -LINE_INTERVAL
        self._last_told: Stage | None = None

    @contextmanager
    def shown(self) -> Generator[None]:
        """Show it while the block lasts."""
        self._began = time.monotonic()
        before = self._logger.propagate, self._logger.level
        self._logger.addHandler(self._listener)
        if not self._logs_shown:
            # The failures here are part of the show: their tracebacks would look like real ones.
            self._logger.propagate = False
            self._logger.setLevel(logging.INFO)
        try:
            if self._console.is_terminal and not self._logs_shown:
                # No thread of its own: it is drawn when there is something new. At the end the
                # summary takes its place.
                with Live(console=self._console, auto_refresh=False, transient=True) as self._live:
                    yield
            else:
                yield
        finally:
            self._live = None
            self._logger.removeHandler(self._listener)
            self._logger.propagate, level = before
            self._logger.setLevel(level)

    def update(self, jobs: Sequence[Job]) -> None:
        """Show these jobs, every one of the demo."""
        self._jobs = jobs
        self._show()

    def _heard_stage(self, stage: Stage) -> None:
        # At once, whenever the next look at the jobs is: a drain may be short.
        self._stage = stage
        self._show()

    @property
    def _is_stopping_by_signal(self) -> bool:
        return self._stage in {Stage.DRAINING, Stage.ABORTING} and not self.all_have_ended

    def _show(self) -> None:
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
            return
        seconds = time.monotonic() - self._began
        told = self._stage if self._is_stopping_by_signal else None
        if seconds - self._last_line >= LINE_INTERVAL or told is not self._last_told:
            counts = ", ".join(f"{_count(self._jobs, status)} {status}" for status in STATUSES)
            self._console.print(f"{seconds:5.1f} s  {counts}", soft_wrap=True)
            self._last_line = seconds
        if told is not None and told is not self._last_told:
            self._console.print(_stopping(self._jobs, told), soft_wrap=True)
        self._last_told = told

    def _picture(self) -> Group:
        jobs = self._jobs
        ended = sum(map(has_ended, jobs))
        bar = ProgressBar(total=max(len(jobs), 1), completed=ended, width=40)
        head = Table.grid(padding=(0, 1))
        seconds = time.monotonic() - self._began
        head.add_row(bar, f"{ended} of {len(jobs)} jobs have ended, {seconds:.1f} s")
        foot: list[Text] = [
            Text(plain(line).plain, style="dim", no_wrap=True, overflow="ellipsis")
            for line in self._listener.lines
        ]
        if self._is_stopping_by_signal:
            foot.append(Text(_stopping(jobs, self._stage), style="bold yellow"))
        elif self._stage is Stage.RUNNING:
            foot.append(
                Text("Ctrl-C stops the worker, as it would stop one of yours.", style="dim")
            )
        return Group(head, count_table(self._console, jobs), *foot)


def _stopping(jobs: Sequence[Job], stage: Stage) -> str:
    running = _count(jobs, "doing")
    if stage is Stage.DRAINING:
        return (
            f"Draining: it fetches no more jobs, and waits for the {running} that run. "
            "Ctrl-C again aborts them."
        )
    return f"Aborting: {running} jobs are asked to give up."


def count_table(console: Console, jobs: Sequence[Job]) -> Table:
    """How many jobs of each kind have which status."""
    more = [each for each in ("aborted", "cancelled") if _count(jobs, each)]
    statuses = [*STATUSES, *more]
    table = make_table(console, "task", "what it shows", "jobs", *statuses, "retried")
    for column in table.columns[3:]:
        column.justify = "right"
    for kind in KINDS:
        table.add_row(*_row(kind, jobs, statuses))
    return table


def _row(kind: Kind, jobs: Sequence[Job], statuses: Sequence[str]) -> list[Text]:
    mine = [job for job in jobs if job.task_name == kind.task.name]
    # `attempts` counts the tries that have ended: the last one is not another.
    retried = sum(job.attempts > 1 or (job.attempts == 1 and not has_ended(job)) for job in mine)

    def number(count: int, style: str = "") -> Text:
        return Text(str(count), style=style) if count else Text("")

    return [
        Text(kind.task.name),
        Text(kind.told),
        number(len(mine)),
        *(number(_count(mine, status), STATUS_STYLES[status]) for status in statuses),
        number(retried),
    ]


def _count(jobs: Sequence[Job], status: str) -> int:
    return sum(job.status == status for job in jobs)


def show_summary(console: Console, jobs: Sequence[Job]) -> None:
    """What became of the jobs."""
    console.print()
    console.print("What became of them:", style="bold")
    console.print(count_table(console, jobs))
    if waiting := _count(jobs, "todo"):
        told = "1 job still waits" if waiting == 1 else f"{waiting} jobs still wait"
        console.print(
            f"{told}: the worker was stopped before that, and the next one would run what is left. "
            "The next demo removes it.",
            soft_wrap=True,
        )
    console.print()


SuppressedPrint = Callable[[str], None]
