"""Fixtures are plugins, one concern a file."""

from __future__ import annotations

pytest_plugins = ["tests.fix_postgres", "tests.fix_proxy", "tests.fix_schemas"]
