"""Real processes that use a server, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]


@attrs.frozen
class Caller:
    """Who runs a process, and with what Python and packages.

    Attributes:
        uid: The user id to switch to; None for our own.
        python: The interpreter.
        packages: Where it finds trio_queue and what that needs.
    """

    uid: int | None
    python: str
    packages: str

    def own(self, directory: Path) -> Path:
        """Give a directory to this caller."""
        if self.uid is not None:
            os.chown(directory, self.uid, self.uid)
        return directory

    def environment(self, changes: Mapping[str, str] | None = None) -> dict[str, str]:
        """A bare environment: no home, and a PATH without PostgreSQL."""
        bare = {"PATH": "/nonexistent", "PYTHONPATH": self.packages, "PYTHONDONTWRITEBYTECODE": "1"}
        chosen = {
            name: value for name, value in os.environ.items() if name.startswith("TRIO_QUEUE_")
        }
        return bare | chosen | dict(changes or {})

    def popen(
        self, program: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.python, str(Path(self.packages) / program.relative_to(ROOT)), *arguments],
            cwd="/",
            env=self.environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=self.uid,
            group=self.uid,
            extra_groups=None if self.uid is None else [],
        )


class User:
    """A process that is a user of a server, from `with` to its end."""

    def __init__(
        self,
        caller: Caller,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        program = Path(__file__).with_name("user_process.py")
        argument = json.dumps({"directory": str(directory), **options})
        self.process = caller.popen(program, argument, environment=environment)
        self._answer: dict[str, Any] | None = None

    @property
    def answer(self) -> dict[str, Any]:
        """What it said; waits until it has started the server, or failed to."""
        if self._answer is None:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, f"the user process died: {self.process.wait()}"
            answer: dict[str, Any] = json.loads(line)
            self._answer = answer
        return self._answer

    @property
    def conninfo(self) -> str:
        assert "error" not in self.answer, self.answer["error"]
        return str(self.answer["conninfo"])

    @property
    def postgres(self) -> int:
        assert "error" not in self.answer, self.answer["error"]
        return int(self.answer["postgres_pid"])

    @property
    def supervisor(self) -> int:
        return int(self.answer["supervisor_pid"])

    @property
    def error(self) -> str:
        assert "error" in self.answer, "it started"
        return str(self.answer["error"])

    def end(self, number: int | None = None) -> None:
        """Let it leave, or kill it by a signal; returns when it has ended."""
        if number is not None:
            self.process.send_signal(number)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.end()


def live_processes(word: str) -> list[int]:
    """Processes (not dead ones that nobody reaped) with that word in their arguments or as their directory."""
    if not Path("/proc/self").is_dir():
        listed = subprocess.run(
            ["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True, check=True
        )
        return [int(line.split()[0]) for line in listed.stdout.splitlines() if word in line]
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = os.fsdecode((process / "cmdline").read_bytes())
            where = str((process / "cwd").readlink())
        except OSError:
            continue
        if int(process.name) != os.getpid() and (word in arguments or word in where):
            found.append(int(process.name))
    return found


def own_python() -> Caller:
    return Caller(None, sys.executable, str(ROOT))
