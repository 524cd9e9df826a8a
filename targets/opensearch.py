"""Documents to OpenSearch (or Elasticsearch 7): an index holds what the collection holds.

Owns what each operation does, and what becomes of each item of a bulk request. Names, ids and versions are
``_opensearch_names``', the connection is ``_opensearch_client``'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import quote

import orjson

from docdb_stream import encoding
from docdb_stream.encoding import UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.retry import Backoff
from docdb_stream.settings import Settings
from docdb_stream.target import Rejection
from docdb_stream.targets._opensearch_client import OpenSearchClient, ResponseError
from docdb_stream.targets._opensearch_names import document_id, document_version, index_name

_INDEXING = frozenset({"insert", "update", "replace"})
_PAGE_SIZE = 1000
"""Documents deleted at a time after a drop; OpenSearch's limit is 10,000 (index.max_result_window)."""
_SCROLL_KEPT = "5m"
"""How long OpenSearch keeps a scroll from one page to the next: more than deleting a page may take with its retries."""

_INDEX_PROBLEMS = frozenset(
    {"cluster_block_exception", "index_closed_exception", "invalid_index_name_exception", "validation_exception"}
)
"""Errors with status 400 that say nothing about the document; validation_exception: no more shards may be opened."""


@dataclass(slots=True)
class _Item:
    """One operation of a bulk request."""

    event: ChangeEvent
    index: str
    document_id: str
    body: bytes


class OpenSearchTarget:
    """Keeps one index per collection equal to the collection.

    - insert, update, replace: the document is indexed as plain JSON (see ``encoding.plain_json``) without its ``_id``,
      which is the document's id (see ``document_id``). An update whose document was gone when it was looked up does
      nothing: its delete follows.
    - delete: the document is deleted; that it is not there is fine.
    - drop, rename: the documents are deleted and the index stays, with its mapping; or nothing, see ``on_drop``. A
      renamed collection's documents are not indexed under its new name; what was there is deleted, too, since renaming
      replaces it.
    - dropDatabase: nothing, as a drop of every collection comes before it. invalidate and unknown ones: nothing.

    Every write has an external version, the cluster time: what comes again, or late, never replaces something newer
    (409, version conflict). OpenSearch forgets the versions of deleted documents after a minute (index.gc_deletes): a
    replay can then bring one back, until the replay comes to its delete.

    A document is durable once the bulk request returns (translog fsync for each request, index.translog.durability),
    and GET by id reads it at once; searches see it after the index's next refresh (a second, by default).

    Args:
        uri: ``https://host``, ``http://127.0.0.1:9200``, or a host name, which means https.
        auth: ``none``, ``basic`` or ``sigv4``. None: basic with a secret, sigv4 for ``*.amazonaws.com``, else none.
        secret: Where username and password for basic are (see ``read_credentials``).
        service: ``es`` or ``aoss``, for sigv4. aoss, OpenSearch Serverless, has never been tried: it needs external
            versions there and, unless ``on_drop`` is ``keep``, the scroll API.
        index_prefix: Put before each index's name.
        request_bytes: Largest bulk request.
        on_drop: ``delete`` or ``keep`` the documents of a dropped or renamed collection.
        tls_ca: Path of the CA bundle; the system's by default.

    Raises:
        ConfigError: opensearch-py is not installed, or the arguments make no sense.
    """

    name = "opensearch"

    def __init__(
        self,
        uri: str,
        *,
        auth: Literal["none", "basic", "sigv4"] | None = None,
        secret: str | None = None,
        service: Literal["es", "aoss"] = "es",
        index_prefix: str = "",
        request_bytes: int = 10 * 1024 * 1024,
        on_drop: Literal["delete", "keep"] = "delete",
        tls_ca: str | None = None,
    ) -> None:
        self._client = OpenSearchClient(self.name, uri, auth=auth, secret=secret, service=service, tls_ca=tls_ca)
        self._index_prefix = index_prefix
        self._request_bytes = request_bytes
        self._deletes_on_drop = on_drop == "delete"
        self._indexes: dict[Namespace, str] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Self | None:
        """The target, or None when ``elasticsearch_uri`` is not set."""
        if settings.elasticsearch_uri is None:
            return None
        return cls(
            settings.elasticsearch_uri,
            auth=settings.opensearch_auth,
            secret=settings.opensearch_secret,
            service=settings.opensearch_service,
            index_prefix=settings.opensearch_index_prefix,
            request_bytes=settings.opensearch_request_bytes,
            on_drop=settings.opensearch_on_drop,
            tls_ca=settings.opensearch_tls_ca,
        )

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Bring the indexes to where they are after these events; everything is durable on return.

        Raises:
            TargetError: The domain cannot be reached, refuses the credentials, or takes nothing for too long.
        """
        rejections: list[Rejection] = []
        items: list[_Item] = []
        for event in events:
            if event.operation in ("drop", "rename"):
                if self._deletes_on_drop:
                    rejections += self._send(items)
                    items = []
                    rejections += self._delete_all(event)
                continue
            try:
                items += self._items(event)
            except UnrenderableError as error:
                rejections.append(Rejection(event, self.name, str(error)))
        return rejections + self._send(items)

    def flush(self) -> Sequence[Rejection]:
        """Nothing: what ``write`` returned from is durable."""
        return ()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def check(self) -> None:
        """Reach the domain and sign in. Whether an index may be written to shows at its first document.

        Raises:
            TargetError: The domain cannot be reached, or refuses the credentials.
        """
        try:
            self._client.request("POST", "/_bulk", b"")
        except ResponseError as error:
            if error.status != 400:  # 400: "request body is required", so this user may send bulk requests
                raise self._client.refused(error.status, error.type) from error

    def _items(self, event: ChangeEvent) -> Iterator[_Item]:
        """The operation for an event about a document; nothing for any other."""
        key = event.document_key
        if key is None:
            return
        source = _source(event) if event.operation in _INDEXING else None
        if source is None and event.operation != "delete":
            return
        index = self._index(event.namespace)
        yield _item(event, index, document_id(event.exact_id), document_version(event.cluster_time), source)

    def _index(self, namespace: Namespace) -> str:
        name = self._indexes.get(namespace)
        if name is None:
            name = self._indexes[namespace] = index_name(self._index_prefix, namespace)
        return name

    def _send(self, items: Sequence[_Item]) -> list[Rejection]:
        """Send items in requests of at most ``request_bytes``, in order."""
        rejections: list[Rejection] = []
        request: list[_Item] = []
        size = 0
        for item in items:
            if len(item.body) > self._request_bytes:
                rejections.append(self._too_large(item))
                continue
            if size + len(item.body) > self._request_bytes:
                rejections += self._bulk(request)
                request, size = [], 0
            request.append(item)
            size += len(item.body)
        return rejections + self._bulk(request)

    def _bulk(self, items: Sequence[_Item]) -> list[Rejection]:
        """Send one request, and again what OpenSearch is too busy for, until every item has its verdict."""
        rejections: list[Rejection] = []
        backoff = Backoff()
        while items:
            try:
                answer = self._client.request(
                    "POST",
                    "/_bulk?filter_path=errors,items.*.status,items.*.error",
                    b"".join(item.body for item in items),
                    backoff,
                )
            except ResponseError as error:
                if error.status != 413:
                    raise self._client.refused(error.status, error.type) from error
                if len(items) == 1:
                    return [*rejections, self._too_large(items[0])]
                half = len(items) // 2
                return [*rejections, *self._bulk(items[:half]), *self._bulk(items[half:])]
            if not answer["errors"]:
                break
            rejected, again = self._judge(items, answer["items"])
            rejections += rejected
            if len(again) < len(items):
                backoff.progress()
            if again and not backoff.wait():
                raise self._client.too_busy()
            items = again
        return rejections

    def _judge(
        self, items: Sequence[_Item], results: Sequence[Mapping[str, Any]]
    ) -> tuple[list[Rejection], list[_Item]]:
        """What is rejected, and what is to be sent again: all that OpenSearch was too busy for, and what follows it."""
        rejections: list[Rejection] = []
        again: list[_Item] = []
        waiting: set[tuple[str, str]] = set()
        for item, result in zip(items, results, strict=True):
            [(operation, verdict)] = result.items()
            status, error = verdict["status"], verdict.get("error")
            document = (item.index, item.document_id)
            if document in waiting or status == 429 or status >= 500:
                waiting.add(document)
                again.append(item)
            elif error is None or status == 409 or (status == 404 and operation == "delete"):
                continue
            elif status == 400 and error.get("type") not in _INDEX_PROBLEMS:
                rejections.append(Rejection(item.event, self.name, _reason(error)))
            else:
                raise self._client.refused(status, str(error.get("type")), item.index)
        return rejections, again

    def _delete_all(self, event: ChangeEvent) -> list[Rejection]:
        """Delete what the collection held when it was dropped or renamed, by the versions of its documents.

        Not by ``_delete_by_query``: that one does not compare versions, and leaves each document one version above its
        own, which would make a replay of the collection's events conflict and lose documents.

        Returns:
            The event itself, once, where a document could not be deleted.
        """
        names = (event.namespace, _renamed_to(event))
        rejections = [self._delete_older(event, self._index(name)) for name in names if name is not None]
        return [rejection for some in rejections for rejection in some][:1]

    def _delete_older(self, event: ChangeEvent, index: str) -> list[Rejection]:
        """Delete the documents that are not newer than the event; returns the event for each that is refused."""
        version = document_version(event.cluster_time)
        rejections: list[Rejection] = []
        passes = Backoff()
        while True:
            is_whole = True
            for hits, is_next in self._pages(index):
                is_whole = is_whole and is_next
                items = [_item(event, index, hit["_id"], version) for hit in hits if hit["_version"] <= version]
                if items:
                    rejections += self._bulk(items)
                    passes.progress()
            if is_whole or rejections:
                return rejections
            if not passes.wait():
                raise self._client.too_busy()

    def _pages(self, index: str) -> Iterator[tuple[Sequence[Mapping[str, Any]], bool]]:
        """The ids and versions of all documents of an index that may not exist; and with each page, whether it is the
        next one: a request that was sent again, its answer lost, has skipped a page."""
        wanted = "filter_path=_scroll_id,hits.hits._id,hits.hits._version"
        query = orjson.dumps({"size": _PAGE_SIZE, "sort": ["_doc"], "_source": False, "version": True})
        path = f"/{quote(index, safe='')}"
        try:
            self._client.request("POST", f"{path}/_refresh")  # searches see only what was refreshed
            answer = self._client.request("POST", f"{path}/_search?scroll={_SCROLL_KEPT}&{wanted}", query)
            is_next = True
            while hits := answer.get("hits", {}).get("hits", ()):
                yield hits, is_next
                scroll = orjson.dumps({"scroll": _SCROLL_KEPT, "scroll_id": answer["_scroll_id"]})
                backoff = Backoff()
                answer = self._client.request("POST", f"/_search/scroll?{wanted}", scroll, backoff)
                is_next = backoff.attempts == 0
            yield (), is_next
            self._client.request("DELETE", "/_search/scroll", orjson.dumps({"scroll_id": answer["_scroll_id"]}))
        except ResponseError as error:
            if error.type != "index_not_found_exception":
                raise self._client.refused(error.status, error.type, index) from error

    def _too_large(self, item: _Item) -> Rejection:
        reason = f"{len(item.body)} bytes, a request takes less; OPENSEARCH_REQUEST_BYTES is {self._request_bytes}"
        return Rejection(item.event, self.name, reason)


def _item(event: ChangeEvent, index: str, id_text: str, version: int, source: bytes | None = None) -> _Item:
    """Index ``source``, or delete the document without one."""
    operation = "delete" if source is None else "index"
    # external_gte, not external: the events of one transaction have one cluster time.
    action = {"_index": index, "_id": id_text, "version": version, "version_type": "external_gte"}
    line = orjson.dumps({operation: action}) + b"\n"
    return _Item(event, index, id_text, line if source is None else line + source + b"\n")


def _source(event: ChangeEvent) -> bytes | None:
    """The full document without ``_id``, which OpenSearch refuses as a field; None where there is no full document."""
    plain, key = event.full_document_json(), event.document_key
    if plain is None or key is None:
        return plain
    # Servers store _id first, so it can be cut off without parsing the rest.
    head = encoding.plain_json({"_id": key["_id"]}).removesuffix(b"}")
    if plain.startswith((head + b",", head + b"}")):
        return b"{" + plain.removeprefix(head).removeprefix(b",")
    full = event.full_document or {}
    return encoding.plain_json({key: value for key, value in full.items() if key != "_id"})


def _renamed_to(event: ChangeEvent) -> Namespace | None:
    to = event.document.get("to")
    return Namespace(to["db"], to["coll"]) if to else None


def _reason(error: Mapping[str, Any]) -> str:
    """OpenSearch's verdict on a document, without the values of the document that it quotes."""
    text = str(error.get("reason", "")).partition(" Preview of field's value")[0]
    # To the last quote, not to the next: a quoted value can have quotes of its own.
    text = re.sub(r"""(['"]).*\1""", "'...'", text, flags=re.DOTALL)
    causes = []
    cause = error.get("caused_by")
    while cause:
        causes.append(str(cause.get("type")))
        cause = cause.get("caused_by")
    return " ".join(f"{error.get('type')}: {text} {'; '.join(causes)}".split())
