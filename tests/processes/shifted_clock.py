"""The command line with a wrong clock: `python -m tests.processes.shifted_clock SECONDS ...`.

Whatever asks this process for the time of day is told so many seconds more; time passes as ever.
"""

from __future__ import annotations

import sys
import time

import time_machine

from trio_queue._cli import main

if __name__ == "__main__":
    with time_machine.travel(time.time() + float(sys.argv.pop(1)), tick=True):
        main()
