"""A server whose queue lives on a disk of some megabytes, which can be filled: run as root.

`unshare --mount python -m tests.processes.small_disk DIRECTORY`: the disk is a tmpfs that only this
process and its children see. Reads orders: `fill`, `free`; answers each with a line.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psycopg

from tests.fix_postgres import SETTINGS, apply_schema
from trio_queue.embedded import EmbeddedServer
from trio_queue.embedded.account import server_account
from trio_queue.embedded.binaries import find_binaries

SIZE = "16m"


def fill(path: Path) -> None:
    """Leave no byte on the disk."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass


def main(directory: Path) -> None:
    """Serve until stdin ends."""
    disk = directory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
    account = server_account()
    space = disk / "space"
    space.mkdir()
    os.chown(space, account.uid, account.gid)
    server = EmbeddedServer(
        directory / "server",
        ephemeral=True,
        settings=SETTINGS,
        binaries=find_binaries(system=False),
    )
    with server:
        with psycopg.connect(server.conninfo(), autocommit=True) as admin:
            admin.execute(f"CREATE TABLESPACE small LOCATION '{space}'".encode())
            admin.execute(b"CREATE DATABASE queue TEMPLATE template0 TABLESPACE small")
        conninfo = server.conninfo("queue")
        apply_schema(conninfo)
        sys.stdout.write(f"{conninfo}\n")
        sys.stdout.flush()
        for order in sys.stdin:
            if order.strip() == "fill":
                fill(disk / "filler")
            else:
                (disk / "filler").unlink()
            sys.stdout.write("done\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
