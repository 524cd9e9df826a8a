"""Stand-ins of DocumentDB, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from faults.standin import DocumentDB

from docdb_stream.local import ReplicaSet


@pytest.fixture
def documentdb(replica_set: ReplicaSet) -> Iterator[Callable[..., DocumentDB]]:
    """Makes stand-ins before the suite's replica set."""
    started: list[DocumentDB] = []

    def make(**options: Any) -> DocumentDB:
        started.append(DocumentDB(replica_set.members[0], **options).__enter__())
        return started[-1]

    yield make
    for each in started:
        each.__exit__()
