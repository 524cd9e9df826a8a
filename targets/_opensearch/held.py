"""What indexes hold of a stream, for comparing: see ``held.Holdings``.

Owns the form in which contents are compared, and how they are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import quote

import orjson

from docdb_stream.errors import TargetError
from docdb_stream.event import ChangeEvent
from docdb_stream.held import Held, IncompleteError
from docdb_stream.position import Namespace
from docdb_stream.retry import Backoff
from docdb_stream.targets._canonical import canonical_json
from docdb_stream.targets._opensearch.client import OpenSearchClient, ResponseError
from docdb_stream.targets._opensearch.pages import pages
from docdb_stream.targets._versioned import document_key, version_time

_DIGEST_BYTES: Final = 16
_PAGE_BYTES: Final = 8 * 1024 * 1024
"""What a page is to be about, by what the index takes on disk for a document and how well that is compressed."""
_COMPRESSION: Final = 4
_PAGE_MOST, _PAGE_LEAST, _PAGE_USUAL = 1000, 10, 100
_SAMPLE_MOST: Final = 10_000
"""OpenSearch's limit for a search (index.max_result_window)."""

_NO_INDEX: Final = "index_not_found_exception"


Outcome = tuple[str, str, bytes | None]
"""The index, the document's id there, and its content; None where it is deleted."""


class OpenSearchHoldings:
    """See ``Holdings``.

    Args:
        client: To the domain.
        outcome_of: What becomes of an event's document in the target.
        index_of: The index of a collection's documents; None where each document says that.
        others: Indexes that may hold documents besides.
        is_own: Whether all that is in those indexes is the stream's; None where that cannot be told.
    """

    def __init__(
        self,
        client: OpenSearchClient,
        *,
        outcome_of: Callable[[ChangeEvent], Outcome | None],
        index_of: Callable[[Namespace], str | None],
        others: Sequence[str],
        is_own: bool | None,
    ) -> None:
        self.place_of = index_of
        self._client = client
        self._outcome_of = outcome_of
        self._is_own = is_own
        self._places = dict.fromkeys(others)
        self._page_sizes: dict[str, int] = {}

    def expected(self, event: ChangeEvent) -> Held | None:
        """See Holdings."""
        outcome = self._outcome_of(event)
        if outcome is None:
            return None
        index, id_text, source = outcome
        if self.place_of(event.namespace) is None:
            self._places[index] = None
        digest = None if source is None else _digest(orjson.loads(source))
        return Held(index, id_text.encode(), digest, event.cluster_time, self._is_own)

    def places(self) -> Mapping[str, Sequence[Namespace]]:
        """See Holdings: indexes that were named, and those of documents that were expected so far."""
        return dict.fromkeys(self._places, ())

    def held(self, place: str) -> Iterator[Held]:
        """See Holdings."""
        for hits, is_next in pages(self._client, place, self._page_size(place), with_contents=True):
            if not is_next:
                raise IncompleteError
            for hit in hits:
                yield self._found(place, hit)

    def sample(self, place: str, count: int) -> Sequence[Held]:
        """See Holdings."""
        by_chance: dict[str, Any] = {"function_score": {"query": {"match_all": {}}, "random_score": {}}}
        query = {"size": min(count, _SAMPLE_MOST), "_source": False, "version": True, "query": by_chance}
        path = f"/{quote(place, safe='')}/_search"
        answer = self._asked(place, "POST", path, orjson.dumps(query))
        hits = (answer or {}).get("hits", {}).get("hits", ())
        return [Held(place, hit["_id"].encode(), b"", None, self._is_own) for hit in hits]

    def look(self, wanted: Sequence[Held]) -> Sequence[Held]:
        """See Holdings: by GET, which sees what no search does yet."""
        found: list[Held] = []
        at_once = min((self._page_size(place) for place in {each.place for each in wanted}), default=1)
        for first in range(0, len(wanted), at_once):
            part = wanted[first : first + at_once]
            found += [self._looked_at(*each) for each in zip(part, self._got(part), strict=True)]
        return found

    def id_of(self, held: Held) -> bytes | None:
        """See Holdings."""
        return document_key(held.key.decode())

    def _got(self, wanted: Sequence[Held]) -> Sequence[Mapping[str, Any]]:
        """What OpenSearch says of each; a shard that is just starting, or moving, is asked again."""
        body = orjson.dumps({"docs": [{"_index": each.place, "_id": each.key.decode()} for each in wanted]})
        backoff = Backoff()
        while True:
            answers: Sequence[Mapping[str, Any]] = self._asked("", "POST", "/_mget", body)["docs"]
            errors = [(each["_index"], each["error"].get("type")) for each in answers if "error" in each]
            failed = [(index, type) for index, type in errors if type != _NO_INDEX]
            if not failed:
                return answers
            if not backoff.wait():
                index, type = failed[0]
                raise self._client.refused(500, str(type), index)

    def _looked_at(self, wanted: Held, answer: Mapping[str, Any]) -> Held:
        if not answer.get("found"):
            return Held(wanted.place, wanted.key, None, None, self._is_own)
        return self._found(wanted.place, answer)

    def _found(self, place: str, document: Mapping[str, Any]) -> Held:
        if "_source" not in document:
            raise TargetError(
                "opensearch",
                f"index {place} keeps no _source, so nothing can be said of what it holds",
                hint="verify needs _source.enabled in the index's mapping",
            )
        version = version_time(document["_version"])
        return Held(place, document["_id"].encode(), _digest(document["_source"]), version, self._is_own)

    def _page_size(self, place: str) -> int:
        """How many documents to ask for at once: their sizes are told by what they take on disk."""
        found = self._page_sizes.get(place)
        if found is None:
            found = _PAGE_USUAL
            try:
                stats = self._client.request("GET", f"/{quote(place, safe='')}/_stats/docs,store")["_all"]["primaries"]
                document_bytes = _COMPRESSION * stats["store"]["size_in_bytes"] / max(1, stats["docs"]["count"])
                found = int(min(_PAGE_MOST, max(_PAGE_LEAST, _PAGE_BYTES / max(1, document_bytes))))
            except (ResponseError, LookupError, TypeError):  # it may not be asked for
                pass
            self._page_sizes[place] = found
        return found

    def _asked(self, place: str, method: str, path: str, body: bytes) -> Any:
        try:
            return self._client.request(method, path, body)
        except ResponseError as error:
            if error.type == _NO_INDEX:
                return None
            raise self._client.refused(error.status, error.type, place) from error


def _digest(document: Any) -> bytes:
    return blake2b(canonical_json(document), digest_size=_DIGEST_BYTES).digest()
