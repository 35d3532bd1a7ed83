"""Programs of ours in the place of PostgreSQL's: shell scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: What `postgres --version` says.
VERSION = "echo 'postgres (PostgreSQL) 18.1'"


def make_programs(directory: Path, initdb: str, postgres: str = VERSION) -> Path:
    """Write an `initdb` and a `postgres` with the given bodies. Returns where they are."""
    programs = directory / "fake" / "bin"
    programs.mkdir(parents=True)
    for name, body in (("initdb", initdb), ("postgres", postgres)):
        script = programs / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
    return programs
