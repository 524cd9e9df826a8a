"""The stated range of PyMongo works at both ends: the newest is what every other test runs on, these are the others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

VERSIONS = {
    "4.9.2": "the oldest in pyproject.toml",
    "4.13.2": "the newest that speaks to DocumentDB 4.0: PyMongo 4.14 dropped that wire version",
}

CASES = [
    "tests/unit/test_source_classify.py",
    "tests/unit/test_formats_json.py::test_renders_every_type",
    "tests/unit/test_formats_json.py::test_keeps_what_pymongo_drops",
    "tests/contract/test_mongodb_store.py",
    "tests/integration/test_run.py::test_a_collection",
    "tests/integration/test_run.py::test_a_dropped_and_recreated_collection_goes_on_by_itself",
    "tests/integration/test_run.py::test_a_killed_run_loses_nothing_and_keeps_the_order",
]


@pytest.mark.integration
@pytest.mark.parametrize("version", VERSIONS)
def test_an_older_pymongo_works(version: str, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), f"pymongo=={version}"],
        check=True,
        timeout=120,
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", "import pymongo; print(pymongo.version)"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.strip() == version
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CASES],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
