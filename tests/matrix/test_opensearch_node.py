"""What only OpenSearch itself does: limits of its own, versions that it remembers, what it kept through a crash."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract.test_opensearch import Domain, deliver
from matrix.servers.opensearch import OpenSearch

from docdb_stream.testing.events import ChangeLog

pytestmark = [pytest.mark.integration, pytest.mark.matrix]

CONTENT_BYTES = 1_000_000


@pytest.fixture(scope="module")
def small_node() -> Iterator[OpenSearch]:
    """A node that takes small requests, refuses those that would fill its small memory, and refreshes seldom."""
    settings = {
        "http.max_content_length": f"{CONTENT_BYTES}b",
        "indexing_pressure.memory.limit": "600kb",
    }
    with OpenSearch(settings) as started:
        yield started


@pytest.fixture
def log() -> ChangeLog:
    return ChangeLog()


def test_requests_beyond_the_limits_of_the_node_are_halved_until_they_fit(
    small_node: OpenSearch, log: ChangeLog
) -> None:
    """It answers 413 to what is too long, and 429 to what its memory has no room for."""
    domain = Domain(small_node)
    events = log.inserts(100, size_bytes=30_000)
    large = log.insert({"_id": "large", "text": "x" * (CONTENT_BYTES + 1)})
    target = domain.target()
    [rejection] = deliver(target, [*events[:50], large, *events[50:]])
    target.close()
    assert rejection.event is large
    assert len(domain.documents()) == 100


def test_a_deleted_document_is_not_brought_back_by_an_older_event_after_a_crash(log: ChangeLog) -> None:
    with OpenSearch() as node:
        domain = Domain(node)
        target = domain.target()
        old = [log.insert({"_id": number, "version": 1}) for number in range(3)]
        new = [log.update({"_id": 0, "version": 2}), log.delete(1)]
        assert deliver(target, [*old, *new]) == []
        node.kill()
        node.restart()
        assert deliver(target, old) == [], "a replay"
        target.close()
        found = {document["_id"]: document["_source"]["version"] for document in domain.documents()}
        assert found == {"0": 2, "2": 1}
