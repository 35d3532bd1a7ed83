"""A script whose child gets SIGTERM in the moment of the fork: tells how the child ended.

And which signals are blocked in the parent afterwards.
"""

from __future__ import annotations

import logging
import os
import signal
import sys


def main() -> None:
    """Fork once, while signals are heard."""
    # Hooks run in the order in which they were registered: this one before the worker's.
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
    from trio_queue._worker.shutdown import Shutdown
    from trio_queue._worker.signals import heard_signals

    with heard_signals(Shutdown(), logging.getLogger()):
        pid = os.fork()
        if not pid:
            os._exit(3)
        _, status = os.waitpid(pid, 0)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    sys.stdout.write(f"{os.waitstatus_to_exitcode(status)} {sorted(blocked)}\n")


if __name__ == "__main__":
    main()
