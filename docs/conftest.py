"""What the documentation's examples run on: the same fixtures as the tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

pytest_plugins = ["tests.fix_postgres"]
