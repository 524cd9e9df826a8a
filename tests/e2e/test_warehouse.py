"""The example of a warehouse: every value of every table is the collection's, though extracts and loads are killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "warehouse" / "run.py"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rounds", "3", "--changes", "60"),
        pytest.param(("--rounds", "9", "--changes", "400", "--seed", "2"), marks=pytest.mark.long),
    ],
)
def test_tables_equal_collections(arguments: tuple[str, ...]) -> None:
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments], env=inherited, capture_output=True, text=True, timeout=390
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    assert "orders: rows in PostgreSQL, value by value" in done.stdout
