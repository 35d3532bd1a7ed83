"""A process that uses an embedded server until its standard input ends. Run as a program by tests.

Argument: the keyword arguments of EmbeddedServer, as JSON. Writes one line of JSON: its state, or the error.
"""

from __future__ import annotations

import json
import sys

import attrs

from trio_queue.embedded import EmbeddedServer, EmbeddedServerError


def answer(facts: dict[str, object]) -> None:
    sys.stdout.write(f"{json.dumps(facts)}\n")
    sys.stdout.flush()


def main() -> None:
    try:
        with EmbeddedServer(**json.loads(sys.argv[1])) as server:
            answer({"conninfo": server.conninfo(), **attrs.asdict(server.state)})
            sys.stdin.read()
    except EmbeddedServerError as error:
        answer({"error": str(error)})
        sys.exit(1)


if __name__ == "__main__":
    main()
