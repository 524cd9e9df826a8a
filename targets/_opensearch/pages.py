"""A search through all documents of an index, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from docdb_stream.retry import Backoff
from docdb_stream.targets._opensearch.client import OpenSearchClient, ResponseError

_SCROLL_KEPT = "5m"
"""How long OpenSearch keeps a scroll from one page to the next: more than deleting a page may take with its retries."""
_KEYS_ALONE = "&filter_path=_scroll_id,hits.hits._id,hits.hits._version,_shards.failed"
"""Not where contents are asked for: it would leave out what is empty of them, too."""

Hits = Sequence[Mapping[str, Any]]


def pages(
    client: OpenSearchClient, index: str, size: int, *, with_contents: bool = False
) -> Iterator[tuple[Hits, bool]]:
    """The ids and versions of all documents of an index that may not exist; and with each page, whether it is the
    next one, and whole: a request that was sent again, its answer lost, has skipped a page, and a shard that is away
    shows nothing.

    Args:
        client: To the domain.
        index: The index.
        size: Documents in a page.
        with_contents: Their contents, too.

    Raises:
        TargetError: The domain cannot be reached, or refuses.
    """
    wanted = "" if with_contents else _KEYS_ALONE
    query = orjson.dumps({"size": size, "sort": ["_doc"], "_source": with_contents, "version": True})
    path = f"/{quote(index, safe='')}"
    try:
        client.request("POST", f"{path}/_refresh")  # searches see only what was refreshed
        answer = client.request("POST", f"{path}/_search?scroll={_SCROLL_KEPT}{wanted}", query)
        is_next = not _failed(answer)
        while hits := answer.get("hits", {}).get("hits", ()):
            yield hits, is_next
            following = orjson.dumps({"scroll": _SCROLL_KEPT, "scroll_id": answer["_scroll_id"]})
            backoff = Backoff()
            answer = client.request("POST", f"/_search/scroll?{wanted.removeprefix('&')}", following, backoff)
            is_next = backoff.attempts == 0 and not _failed(answer)
        yield (), is_next
        client.request("DELETE", "/_search/scroll", orjson.dumps({"scroll_id": answer["_scroll_id"]}))
    except ResponseError as error:
        if error.type != "index_not_found_exception":
            raise client.refused(error.status, error.type, index) from error


def _failed(answer: Mapping[str, Any]) -> int:
    """How many shards did not answer."""
    return int(answer.get("_shards", {}).get("failed", 0))
