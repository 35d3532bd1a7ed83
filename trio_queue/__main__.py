"""`python -m trio_queue` is `trio-queue`."""

from __future__ import annotations

from trio_queue._cli import main

if __name__ == "__main__":
    main()
