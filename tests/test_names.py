from __future__ import annotations

import subprocess
import sys

import procrastinate
import pytest

import trio_queue


@pytest.mark.parametrize("name", trio_queue.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(trio_queue, name)


def test_the_names_of_procrastinate_are_there() -> None:
    assert set(procrastinate.__all__) <= set(trio_queue.__all__)


def test_other_names_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'AiopgConnector'"):
        _ = trio_queue.AiopgConnector


def test_psycopg_is_imported_by_those_who_use_it() -> None:
    code = "import sys, trio_queue, trio_queue.app; print('psycopg' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
