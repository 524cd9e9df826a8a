"""What is left of a collection that was dropped or renamed: the documents of its index, found and deleted.

Owns the search through an index, page by page, and when it has seen all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from docdb_stream.events import ChangeEvent
from docdb_stream.retry import Backoff
from docdb_stream.target import Rejection
from docdb_stream.targets._opensearch.bulk import BulkSender, operation_of
from docdb_stream.targets._opensearch.client import OpenSearchClient, ResponseError
from docdb_stream.targets._opensearch.names import document_version

_PAGE_SIZE = 1000
"""Documents deleted at a time after a drop; OpenSearch's limit is 10,000 (index.max_result_window)."""
_SCROLL_KEPT = "5m"
"""How long OpenSearch keeps a scroll from one page to the next: more than deleting a page may take with its retries."""


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
        for hits, is_next in _pages(client, index):
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


def _pages(client: OpenSearchClient, index: str) -> Iterator[tuple[Sequence[Mapping[str, Any]], bool]]:
    """The ids and versions of all documents of an index that may not exist; and with each page, whether it is the
    next one: a request that was sent again, its answer lost, has skipped a page."""
    wanted = "filter_path=_scroll_id,hits.hits._id,hits.hits._version"
    query = orjson.dumps({"size": _PAGE_SIZE, "sort": ["_doc"], "_source": False, "version": True})
    path = f"/{quote(index, safe='')}"
    try:
        client.request("POST", f"{path}/_refresh")  # searches see only what was refreshed
        answer = client.request("POST", f"{path}/_search?scroll={_SCROLL_KEPT}&{wanted}", query)
        is_next = True
        while hits := answer.get("hits", {}).get("hits", ()):
            yield hits, is_next
            scroll = orjson.dumps({"scroll": _SCROLL_KEPT, "scroll_id": answer["_scroll_id"]})
            backoff = Backoff()
            answer = client.request("POST", f"/_search/scroll?{wanted}", scroll, backoff)
            is_next = backoff.attempts == 0
        yield (), is_next
        client.request("DELETE", "/_search/scroll", orjson.dumps({"scroll_id": answer["_scroll_id"]}))
    except ResponseError as error:
        if error.type != "index_not_found_exception":
            raise client.refused(error.status, error.type, index) from error
