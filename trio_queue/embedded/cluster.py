"""Make a database cluster. It appears complete under its name, or not at all."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trio_queue.embedded.account import run_program
from trio_queue.embedded.binaries import INSTALL_COMMAND, OLDEST_MAJOR_VERSION
from trio_queue.embedded.errors import EmbeddedServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_queue.embedded.account import Account
    from trio_queue.embedded.binaries import Binaries

# initdb puts the path of its programs between double quotes into a shell's command line.
_UNSAFE_IN_DOUBLE_QUOTES = re.compile(r'["$`\\!\n]')


def major_version(
    binaries: Binaries, account: Account, *, deadline: float, checkpoint: Callable[[], None]
) -> int:
    """Return the programs' major version, by running the server program as its account.

    Raises:
        OSError: The account cannot execute it.
        EmbeddedServerError: It does not run, or is too old.
    """
    text = run_program(
        [binaries.program("postgres"), "--version"],
        account,
        deadline=deadline,
        checkpoint=checkpoint,
    )
    found = re.search(r"\(PostgreSQL\) (\d+)", text)
    if found is None or int(found[1]) < OLDEST_MAJOR_VERSION:
        raise EmbeddedServerError(
            f"{binaries.program('postgres')} is {text.strip()!r}, and PostgreSQL {OLDEST_MAJOR_VERSION} or newer "
            f"is needed: run {INSTALL_COMMAND}"
        )
    return int(found[1])


def password_file(data: Path) -> Path:
    """Return the file that keeps the superuser's password for TCP connections, beside the cluster."""
    return data.with_name(f"{data.name}.password")


def make_cluster(
    binaries: Binaries,
    data: Path,
    account: Account,
    *,
    ephemeral: bool,
    lock: int,
    deadline: float,
    checkpoint: Callable[[], None],
) -> None:
    """Make a cluster with the superuser `postgres`, encoding UTF-8 and the C locale.

    Local connections are trusted (the socket stands in a private directory); TCP ones need the password.

    Args:
        binaries: The programs to make it with.
        data: Where it goes; must not exist yet.
        account: Whose it is.
        ephemeral: Leave writing to disk to the system.
        lock: The descriptor of the start lock: initdb goes on when its caller is killed, and nobody may clear its files
            away, or start, before it has ended.
        deadline: When to give up, on the clock of `time.monotonic`.
        checkpoint: Called often; what it raises leaves, with nothing left behind.

    Raises:
        EmbeddedServerError: initdb failed, with what it said.
    """
    with contextlib.ExitStack() as cleanup:
        workplace = Path(tempfile.mkdtemp(prefix="init-", dir=data.parent))
        cleanup.callback(shutil.rmtree, workplace, ignore_errors=True)
        if _UNSAFE_IN_DOUBLE_QUOTES.search(str(binaries.directory)):
            elsewhere = Path(tempfile.mkdtemp(prefix="trio-queue-"))
            cleanup.callback(shutil.rmtree, elsewhere, ignore_errors=True)
            elsewhere.chmod(0o755)
            binaries = binaries.copied_to(elsewhere / "binaries")
        password = secrets.token_hex(16)
        secret = workplace / "secret"
        secret.write_text(_scram_secret(password) + "\n")
        secret.chmod(0o600)
        for path in (workplace, secret):
            os.chown(path, account.uid, account.gid)
        unfinished = workplace / "cluster"
        command = [
            binaries.program("initdb"),
            f"--pgdata={unfinished}",
            "--username=postgres",
            "--encoding=UTF8",
            "--no-locale",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            f"--pwfile={secret}",
            "--no-instructions",
        ]
        if ephemeral:
            command.append("--no-sync")
        run_program(command, account, deadline=deadline, checkpoint=checkpoint, lock=lock)
        with (unfinished / "postgresql.conf").open("a") as settings:
            settings.write("\n# Alike on every machine.\ntimezone = 'UTC'\nlog_timezone = 'UTC'\n")
        kept = password_file(data)
        kept.touch(0o600)
        kept.write_text(password)
        unfinished.rename(data)


def _scram_secret(password: str) -> str:
    """Return the secret that the server keeps of a password.

    With one iteration: thousands protect a password that can be guessed, and this one has 128 random bits.
    The usual 4,096 would cost each connection some milliseconds on both sides.
    """
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256$1:{encoded[0]}${encoded[1]}:{encoded[2]}"
