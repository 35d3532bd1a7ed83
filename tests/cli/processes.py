"""A process of the command line: read what it says, send it signals, see it end."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

import attrs

from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]

#: A terminal that was inherited sends no signals: the leader of a session has to take it.
_AT_THE_TERMINAL = (
    "import fcntl, os, sys, termios;"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


@attrs.define
class Process:
    """A process and what it has said so far, on stdout and stderr together."""

    popen: subprocess.Popen[bytes]
    _output: IO[bytes]
    said: str = ""

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        terminal: bool = False,
        cwd: Path = ROOT,
    ) -> Self:
        """Start one, in a session of its own.

        Args:
            command: The program and its arguments.
            environment: Its environment.
            terminal: Whether it runs at a terminal of its own, in the foreground.
            cwd: Where it works.
        """
        if not terminal:
            popen = subprocess.Popen(
                command,
                env=environment,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            assert popen.stdout is not None
            return cls(popen, popen.stdout)
        ours, its = pty.openpty()
        popen = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _AT_THE_TERMINAL, *command],
            env={**environment, "TERM": "xterm", "COLUMNS": "100", "LINES": "50"},
            cwd=cwd,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        return cls(popen, os.fdopen(ours, "rb", buffering=0))

    def wait_said(self, text: str, times: int = 1) -> str:
        """Wait until it has said a text so often. Returns all that it has said.

        Raises:
            AssertionError: It ended without.
        """
        deadline = time.monotonic() + 2 * PATIENCE
        while self.said.count(text) < times:
            assert self._read(), f"it ended without saying {text!r}: {self.said}"
            assert time.monotonic() < deadline, f"it does not say {text!r}: {self.said}"
        return self.said

    def wait_end(self) -> int:
        """Read all that it says, and wait for its end. Returns its exit code."""
        while self._read():
            pass
        return self.popen.wait(PATIENCE)

    def type(self, text: str) -> None:
        """Type on its terminal."""
        os.write(self._output.fileno(), text.encode())

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def type_keys(self, keys: bytes) -> None:
        """Type at its terminal: b"\\x03" is Ctrl-C."""
        os.write(self._output.fileno(), keys)

    def kill_now(self) -> None:
        """Kill it, if it still runs; what it said can still be read."""
        self.popen.kill()
        self.popen.wait()

    def kill(self) -> None:
        """Kill it, if it still runs, and forget it."""
        self.kill_now()
        self._output.close()

    def _read(self) -> bool:
        readable, _, _ = select.select([self._output], [], [], 2 * PATIENCE)
        assert readable, f"it neither says anything nor ends; it said: {self.said}"
        try:
            some = os.read(self._output.fileno(), 65536)
        except OSError:  # a terminal that nobody has open any more
            return False
        self.said += some.decode(errors="replace")
        return bool(some)
