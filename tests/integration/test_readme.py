"""The example that a reader sees first runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from docdb_stream.local import ReplicaSet

README = Path(__file__).resolve().parents[2] / "README.md"

URI = re.compile(r"mongodb(?:\+srv)?://[^\s\"'`)]+")


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_readme_has_an_example() -> None:
    blocks = python_blocks()
    assert blocks, "README.md has no ```python block"
    assert URI.search(blocks[0]), "the first example names no connection string, so it cannot be run on a test server"
    for number, block in enumerate(blocks):
        compile(block, f"README.md, python block {number}", "exec")


@pytest.mark.integration
def test_the_first_example_runs(replica_set: ReplicaSet, mongo: MongoClient[dict[str, Any]], tmp_path: Path) -> None:
    assert python_blocks(), "README.md has no ```python block"
    code = URI.sub(replica_set.uri, python_blocks()[0])
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert mongo["docdb_stream"].checkpoints.count_documents({"position": {"$exists": True}}) >= 1
