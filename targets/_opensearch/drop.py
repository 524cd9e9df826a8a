"""What is left of a collection that was dropped or renamed: the documents of its index, found and deleted.

Owns when all of them were seen. The search through an index is ``pages``'.
"""

from __future__ import annotations

from docdb_stream.events import ChangeEvent
from docdb_stream.retry import Backoff
from docdb_stream.target import Rejection
from docdb_stream.targets._opensearch.bulk import BulkSender, operation_of
from docdb_stream.targets._opensearch.client import OpenSearchClient
from docdb_stream.targets._opensearch.pages import pages
from docdb_stream.targets._versioned import document_version

_PAGE_SIZE = 1000
"""Documents deleted at a time after a drop; OpenSearch's limit is 10,000 (index.max_result_window)."""


def delete_older(event: ChangeEvent, index: str, client: OpenSearchClient, sender: BulkSender) -> list[Rejection]:
    """Delete the documents that are not newer than the event; returns the event for each that is refused.

    Raises:
        TargetError: The domain cannot be reached, or others were searching for so long that no pass saw every page.
    """
    version = document_version(event.cluster_time)
    rejections: list[Rejection] = []
    passes = Backoff()
    while True:
        is_whole = True
        for hits, is_next in pages(client, index, _PAGE_SIZE):
            is_whole = is_whole and is_next
            deletes = [operation_of(event, index, hit["_id"], version) for hit in hits if hit["_version"] <= version]
            if deletes:
                rejections += sender.send(deletes)
                passes.progress()
        rejections += sender.settle()
        if is_whole or rejections:
            return rejections
        if not passes.wait():
            raise client.too_busy()
