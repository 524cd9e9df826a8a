"""What the documents say about tests and settings is so."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from docdb_stream.config import settings_from_env

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
_TEST = re.compile(r"tests/[\w/]+\.py(?:::\w+)+")
_FILE = re.compile(r"`(tests/[\w/]+\.py)`")
# Where a class of tests has inherited what it does not define itself.
_SUITES = ("docdb_stream/testing/contract.py", "docdb_stream/testing/store_contract.py")


@cache
def names(path: str) -> frozenset[str]:
    """The functions, classes and methods of a file: ``name`` and ``Class::name``."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return frozenset(found)


def exists(reference: str) -> bool:
    path, _, name = reference.partition("::")
    if not (ROOT / path).is_file():
        return False
    if name in names(path):
        return True
    class_name, _, method = name.partition("::")
    inherited = {each.rpartition("::")[2] for suite in (path, *_SUITES) for each in names(suite) if "::" in each}
    return class_name in names(path) and method in inherited


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [reference for reference in _TEST.findall(text) if not exists(reference)] == []
    assert [path for path in _FILE.findall(text) if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("tests/unit/test_docs.py::test_the_look_up_sees_what_is_there_and_what_is_not", True),
        ("tests/unit/test_docs.py::test_that_does_not_exist", False),
        ("tests/unit/test_nowhere.py::test_a", False),
        ("tests/contract/test_sqs.py::TestFifoQueue::test_12_close_twice_is_safe", True),
        ("tests/contract/test_sqs.py::TestFifoQueue::test_99", False),
    ],
)
def test_the_look_up_sees_what_is_there_and_what_is_not(reference: str, expected: bool) -> None:
    assert exists(reference) is expected


def test_each_of_the_twenty_failings_has_a_test() -> None:
    text = (ROOT / "docs" / "the-twenty-failings.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 21))
    assert [row for row in rows if not _TEST.search(row.split("|")[4])] == []


def test_the_environment_of_the_migration_guide_is_understood() -> None:
    text = (ROOT / "docs" / "migrate-from-the-aws-sample.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    environment = dict(line.partition(" #")[0].strip().split("=", 1) for line in block.splitlines() if "=" in line)
    settings = settings_from_env(environment)
    assert (settings.stream_name, settings.payload_format) == ("media.music", "document")
    assert (settings.state_db, settings.state_collection) == ("statedb", "statecol")
    assert (settings.max_loop, settings.state_sync_count) == (60, 15)
    unknown = {name for name in environment if name.lower() not in type(settings).model_fields}
    assert unknown == set(), "an unknown variable is ignored, so the guide must not name one"
