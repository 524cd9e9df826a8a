"""The suite itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_each_module_has_a_name_of_its_own() -> None:
    """Its folders are no packages: of two modules with one name, pytest imports only the first that it comes to, and
    whether both are in one process is up to what is run and how it is distributed."""
    names = Counter(file.name for file in TESTS.rglob("*.py") if file.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_conftest_is_imported_by_its_name() -> None:
    """There are several, and the first that is loaded has it."""
    assert [str(file) for file in TESTS.rglob("*.py") if "\nfrom conftest import" in file.read_text()] == []
