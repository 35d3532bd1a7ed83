"""The detached parent of a PostgreSQL server: starts it, and stops it after its last user.

Run as a program of its own (`python -I -S supervisor.py OPTIONS`) and therefore limited to the standard
library: it must not depend on the environment, or the package, that its users bring along.

Its life hangs on one thing, the exclusive lock on `users.lock`, which the kernel grants when no user
is left, however the last one ended. Signals do not end it: a service manager sends SIGTERM to every process of a
service at once, while the worker still needs its database to drain. Killed outright, it takes the server along
(on Linux by the kernel's parent-death signal; elsewhere the next supervisor stops the orphan).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST_LOG = 10_000_000
_PR_SET_PDEATHSIG = 1
_PASSING_FAILURES = ("pre-existing shared memory block", "could not create any TCP/IP sockets")


class SupervisorOptions(NamedTuple):
    """What a supervisor is told, as one JSON argument.

    Attributes:
        directory: The server's directory, with the lock files.
        data: The cluster.
        postgres: The server program.
        log: Where the server's messages go.
        socket_directory: Where its Unix socket goes; private to this server.
        remove_socket_directory: Whether that directory goes away with the server.
        settings: Settings of the server.
        tcp: Whether to listen on a free port of 127.0.0.1 too.
        uid: The account to run the server as, None for the caller's; `gid` is its group.
        ephemeral: Stop at once, without writing anything out, and remove the files below.
        remove: The files and directories to remove after an ephemeral server, in this order.
        lock: The descriptor of `supervisor.lock`, locked.
        timeout: Seconds to wait for the server to be ready.
    """

    directory: str
    data: str
    postgres: str
    log: str
    socket_directory: str
    remove_socket_directory: bool
    settings: dict[str, str]
    tcp: bool
    uid: int | None
    gid: int | None
    ephemeral: bool
    remove: list[str]
    lock: int
    timeout: float


class _StartFailedError(Exception):
    """The server did not start; the message is for the user who waits."""


def command_line(pid: int) -> list[str]:
    """Return the arguments of a live process; empty when it is gone, or dead and only not yet reaped."""
    if Path("/proc/self").is_dir():
        try:
            # After the program's name, which may hold anything, comes the state.
            state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, IndexError):
            return []
        return (
            [] if state in {b"Z", b"X"} else [os.fsdecode(part) for part in arguments.split(b"\0")]
        )
    listed = subprocess.run(  # noqa: S603 - a list, no shell
        ["/bin/ps", "-ww", "-p", str(pid), "-o", "stat=", "-o", "args="],
        capture_output=True,
        check=False,
    ).stdout
    state, _, arguments = listed.strip().partition(b" ")
    return [] if state.startswith(b"Z") else os.fsdecode(arguments.strip()).split(" ")


def is_server_of(pid: int, data: str) -> bool:
    """Tell whether a process is a PostgreSQL server on that cluster, not another with its old number."""
    arguments = command_line(pid)
    if not arguments or Path(arguments[0]).name not in {"postgres", "postmaster"}:
        return False
    if data in " ".join(arguments):
        return True
    with contextlib.suppress(OSError):
        return str(Path(f"/proc/{pid}/cwd").readlink()) == data
    return False


def remove_files(paths: list[str], directory: str) -> None:
    """Remove what an ephemeral server left, then its directory if nothing else is in it."""
    for path in paths:
        if Path(path).is_dir() and not Path(path).is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                Path(path).unlink()
    with contextlib.suppress(OSError):
        Path(directory).rmdir()


def _stop_leftover(options: SupervisorOptions, deadline: float) -> None:
    """Stop the orphan of a killed supervisor, and clear away what a dead server left.

    The number in `postmaster.pid` may belong to another program by now, and then PostgreSQL would refuse
    to start for ever. (Should the number be wrong and a server run all the same, PostgreSQL sees its
    shared memory in use and refuses.)
    """
    pid_file = Path(options.data, "postmaster.pid")
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int(pid_file.read_bytes().split()[0])
        insist_at = time.monotonic() + (deadline - time.monotonic()) / 2
        insisted = False
        if is_server_of(pid, options.data):
            os.kill(pid, signal.SIGINT)
        while is_server_of(pid, options.data):
            if time.monotonic() > deadline:
                raise _StartFailedError(
                    f"an earlier server, process {pid}, does not stop: end it, and start again"
                )
            if not insisted and time.monotonic() > insist_at:
                os.kill(pid, signal.SIGQUIT)
                insisted = True
            time.sleep(0.02)
    pid_file.unlink(missing_ok=True)
    for stale in Path(options.socket_directory).glob(".s.PGSQL.*"):
        stale.unlink(missing_ok=True)


def _dies_with_its_parent() -> Callable[[], None] | None:
    """Return what a child must do between fork and exec to be stopped when this process dies; None if it cannot."""
    parent = os.getpid()
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None

    def ask_the_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGINT), 0, 0, 0)
        if os.getppid() != parent:  # died before the kernel knew
            os._exit(1)

    return ask_the_kernel


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _open_log(path: str) -> int:
    with contextlib.suppress(OSError):
        if Path(path).stat().st_size > _LARGEST_LOG:
            Path(path).replace(f"{path}.1")
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _launch(options: SupervisorOptions, port: int, log: int) -> subprocess.Popen[bytes]:
    settings = options.settings | {
        "port": str(port),
        "listen_addresses": "127.0.0.1" if options.tcp else "",
        "unix_socket_directories": options.socket_directory,
        "unix_socket_permissions": "0700",
    }
    command = [options.postgres, "-D", options.data]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return subprocess.Popen(  # noqa: S603 - a list, no shell
        command,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,  # Ctrl-C at the terminal is its users' business
        user=options.uid,
        group=options.gid,
        extra_groups=None if options.uid is None else [],
        preexec_fn=_dies_with_its_parent(),  # noqa: PLW1509 - no other thread runs yet
    )


def _is_ready(process: subprocess.Popen[bytes], data: str) -> bool:
    with contextlib.suppress(OSError, IndexError, ValueError):
        lines = Path(data, "postmaster.pid").read_text(errors="replace").splitlines()
        return int(lines[0]) == process.pid and lines[7].strip() == "ready"
    return False


def _try_exclusive(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(
    options: SupervisorOptions, users: int, deadline: float
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server and wait until it accepts connections.

    Two failures go away by themselves and are tried again: backends of a killed server that still hold its
    shared memory, and a port that was taken between our look and the server's.
    """
    log = _open_log(options.log)
    try:
        while True:
            port = _free_port() if options.tcp else 5432
            said_before = os.fstat(log).st_size
            process = _launch(options, port, log)
            while process.poll() is None:
                if _is_ready(process, options.data):
                    return process, port
                abandoned = _try_exclusive(users)
                if abandoned or time.monotonic() > deadline:
                    process.send_signal(signal.SIGQUIT)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(10)
                    process.kill()
                    process.wait()
                    raise _StartFailedError(
                        "nobody waits for it any more" if abandoned else "it was not ready in time"
                    )
                time.sleep(0.005)
            tail = max(said_before, os.fstat(log).st_size - 4000)
            said = os.pread(log, 4000, tail).decode(errors="replace")
            passing = any(message in said for message in _PASSING_FAILURES)
            if not passing or time.monotonic() > deadline:
                raise _StartFailedError(f"status {process.returncode}:\n{said.strip()}")
            time.sleep(0.05)
    finally:
        os.close(log)


def _stop(process: subprocess.Popen[bytes], ended: threading.Event, *, at_once: bool) -> None:
    """Ask, wait, insist."""
    steps = [(signal.SIGQUIT, 10), (signal.SIGKILL, 10)]
    if not at_once:
        steps.insert(0, (signal.SIGINT, 30))
    for number, patience in steps:
        process.send_signal(number)
        if ended.wait(patience):
            return


def _clear_away(options: SupervisorOptions, *, files: bool) -> None:
    if options.remove_socket_directory:
        shutil.rmtree(options.socket_directory, ignore_errors=True)
    if options.ephemeral and files:
        remove_files(options.remove, options.directory)


def _supervise(options: SupervisorOptions) -> bool:
    """Hold the server until nobody uses it; tell whether that, and not the server's own end, was the end."""
    deadline = time.monotonic() + options.timeout
    users = os.open(Path(options.directory, "users.lock"), os.O_RDWR | os.O_CLOEXEC)
    try:
        _stop_leftover(options, deadline)
        process, port = _start(options, users, deadline)
    except _StartFailedError as error:
        _clear_away(options, files=_try_exclusive(users))
        _report(str(error))
        return False
    state = {
        "socket_directory": options.socket_directory,
        "port": port,
        "tcp": options.tcp,
        "data": options.data,
        "supervisor_pid": os.getpid(),
        "postgres_pid": process.pid,
    }
    os.pwrite(options.lock, json.dumps(state).encode(), 0)
    _report("ready")

    nobody_left, ended = threading.Event(), threading.Event()

    def stop_after_the_last_user() -> None:
        fcntl.flock(users, fcntl.LOCK_EX)
        nobody_left.set()
        _stop(process, ended, at_once=options.ephemeral)

    threading.Thread(target=stop_after_the_last_user, daemon=True).start()
    process.wait()
    # Before anybody else can take the state of a dead server for true.
    os.ftruncate(options.lock, 0)
    ended.set()
    nobody_uses_it = nobody_left.is_set() or _try_exclusive(users)
    _clear_away(options, files=nobody_uses_it)
    return nobody_uses_it  # if not, it died on its own: the next user to come starts it again


def _report(text: str) -> None:
    """Answer the user who waits at the other end of standard output, if there still is one."""
    with contextlib.suppress(OSError):
        os.write(1, text.encode(errors="replace"))
    with contextlib.suppress(OSError):
        # Not closed: descriptor 1 would be the next file opened.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing. Unlike SIG_IGN, a handler is not inherited by the server."""


def main(argument: str) -> NoReturn:
    """Become nobody's child, and supervise.

    Args:
        argument: `SupervisorOptions` as JSON.
    """
    if os.fork():
        os._exit(0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ignore)
    succeeded = False
    try:
        succeeded = _supervise(SupervisorOptions(**json.loads(argument)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the user who waits must hear it
        _report(f"the supervisor failed: {error!r}")
    # Not sys.exit: the thread may be in flock, and nothing is left to be flushed.
    os._exit(0 if succeeded else 1)


if __name__ == "__main__":
    main(sys.argv[1])
