"""The interactive shell: look at jobs, retry and cancel some, without leaving it."""

from __future__ import annotations

import cmd
import inspect
import shlex
from collections.abc import Callable
from typing import IO, Any

from trio_queue import utils
from trio_queue._cli.values import IDS, not_an_id
from trio_queue.exceptions import JobNotFound, TrioQueueException
from trio_queue.jobs import Job
from trio_queue.manager import JobManager

_FILTERS = ("queue", "task", "status", "lock")
_JOB_FILTERS = ("id", *_FILTERS, "queueing_lock")
_STATUSES = ("todo", "doing", "succeeded", "failed", "cancelled", "aborted")


class ShellError(Exception):
    """What was typed is wrong."""


class Shell(cmd.Cmd):
    """A line for each command, as Procrastinate's shell has them.

    Args:
        job_manager: Of an App that is open for sync code.
        stdout: Where the answers go; errors too, as there is nobody but the one who types.
    """

    intro = "The shell of trio_queue. help or ? lists the commands, exit or Ctrl-D leaves.\n"
    prompt = "trio-queue> "

    def __init__(self, job_manager: JobManager, stdout: IO[str] | None = None) -> None:
        super().__init__(stdout=stdout)
        self._manager = job_manager
        #: Whether the last command could not be done.
        self.has_failed = False

    # -- the loop -------------------------------------------------------------------------------

    def cmdloop(self, intro: Any = None) -> None:
        """Read commands until `exit`, or the end of the input. Ctrl-C gives up the line."""
        while True:
            try:
                super().cmdloop(intro)
            except KeyboardInterrupt:
                self._print()
                intro = ""
            else:
                return

    def onecmd(self, line: str) -> bool:
        """Do what a line says. Returns whether to leave; what is wrong is told in a line."""
        self.has_failed = False
        try:
            return bool(super().onecmd(line))
        except (ShellError, TrioQueueException) as error:
            self._fail(str(error))
            return False

    def emptyline(self) -> bool:
        """Do nothing, where `cmd` would repeat the last command."""
        return False

    def default(self, line: str) -> None:
        """Say that there is no such command."""
        name = line.split(maxsplit=1)[0]
        known = ", ".join(each[3:] for each in self.get_names() if each.startswith("do_"))
        raise ShellError(f"there is no command {name!r}, but {known}")

    def _print(self, text: str = "") -> None:
        self.stdout.write(f"{text}\n")

    def _fail(self, text: str) -> None:
        self.has_failed = True
        self._print(f"Error: {text}")

    # -- the commands ---------------------------------------------------------------------------

    def do_help(self, arg: str) -> None:
        """List the commands; `help COMMAND` explains one."""
        function: Callable[[str], Any] | None = getattr(self, f"do_{arg}", None) if arg else None
        if function is None:
            super().do_help(arg)
        else:
            self._print(inspect.getdoc(function) or "")

    def do_exit(self, _: str) -> bool:
        """Leave."""
        return True

    def do_EOF(self, _: str) -> bool:  # noqa: N802  # what cmd calls the end of the input
        """Leave (Ctrl-D)."""
        self._print()
        return True

    def do_list_jobs(self, arg: str) -> None:
        """List the jobs that fit every filter.

        Usage: list_jobs [id=ID] [queue=QUEUE] [task=TASK] [status=STATUS] [lock=LOCK]
                         [queueing_lock=LOCK] [details]

        details: tell more of each. Quote a value with spaces.
        """
        filters = _read_filters(arg, _JOB_FILTERS, flags=("details",))
        details = filters.pop("details", False)
        if "id" in filters:
            filters["id"] = _read_id(filters["id"])
        for job in self._manager.list_jobs(**filters):
            self._print(_shown(job, details=details))

    def do_list_queues(self, arg: str) -> None:
        """List the queues, and how many jobs of each status each has.

        Usage: list_queues [queue=QUEUE] [task=TASK] [status=STATUS] [lock=LOCK]
        """
        self._list_groups(self._manager.list_queues, arg)

    def do_list_tasks(self, arg: str) -> None:
        """List the tasks, and how many jobs of each status each has.

        Usage: list_tasks [queue=QUEUE] [task=TASK] [status=STATUS] [lock=LOCK]
        """
        self._list_groups(self._manager.list_tasks, arg)

    def do_list_locks(self, arg: str) -> None:
        """List the locks, and how many jobs of each status each has.

        Usage: list_locks [queue=QUEUE] [task=TASK] [status=STATUS] [lock=LOCK]
        """
        self._list_groups(self._manager.list_locks, arg)

    def _list_groups(self, ask: Callable[..., list[dict[str, Any]]], arg: str) -> None:
        for group in ask(**_read_filters(arg, _FILTERS)):
            counts = ", ".join(f"{status}: {group[status]}" for status in _STATUSES)
            self._print(f"{group['name']}: {group['jobs_count']} jobs ({counts})")

    def do_retry(self, arg: str) -> None:
        """Let a job wait again that failed, or that is `doing` under a dead worker.

        Usage: retry JOB_ID
        """
        job_id = _read_id(arg)
        self._job(job_id)
        self._manager.retry_job_by_id(job_id, retry_at=utils.utcnow().replace(microsecond=0))
        self._print(_shown(self._job(job_id)))

    def do_cancel(self, arg: str) -> None:
        """Cancel a job that waits.

        Usage: cancel JOB_ID
        """
        job_id = _read_id(arg)
        is_cancelled = self._manager.cancel_job_by_id(job_id)
        job = self._job(job_id)
        self._print(_shown(job))
        if not is_cancelled:
            self._fail(f"job {job_id} is `{job.status}`, and does not wait")

    def _job(self, job_id: int) -> Job:
        for job in self._manager.list_jobs(id=job_id):
            return job
        raise JobNotFound(f"there is no job {job_id}")


def _read_filters(arg: str, known: tuple[str, ...], flags: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read `name=value` words, and words that stand alone."""
    try:
        words = shlex.split(arg)
    except ValueError as error:
        raise ShellError(f"{error}: {arg}") from None
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name in flags and not equals:
            found[name] = True
        elif name in known and equals:
            found[name] = value
        else:
            usage = [*(f"{each}=..." for each in known), *flags]
            raise ShellError(f"{word!r} is not a filter: there are {', '.join(usage)}")
    return found


def _read_id(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        told = f"not {text!r}" if text else "such as 12"
        raise ShellError(f"give the number of a job, {told}") from None
    if number not in IDS:
        raise ShellError(not_an_id(number))
    return number


def _shown(job: Job, *, details: bool = False) -> str:
    told = f"#{job.id} {job.task_name} on {job.queue} - [{job.status}]"
    if details:
        more = {
            "attempts": job.attempts,
            "priority": job.priority,
            "scheduled_at": job.scheduled_at,
            "args": job.task_kwargs,
            "lock": job.lock,
        }
        told += f" ({', '.join(f'{name}={value}' for name, value in more.items())})"
    return told
