"""Documents to OpenSearch (or Elasticsearch 7): an index holds what the collection holds.

Owns what each operation does. In ``_opensearch``, ``names`` has names, ids and versions, ``bulk`` the requests side by
side, ``drop`` what a dropped collection leaves behind, ``held`` what indexes hold, ``client`` the connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, model_validator

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.plain import PLAIN, plain_json
from docdb_stream.permissions import Permission, arn
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, SecretReference, TemplateText, Words
from docdb_stream.target import Rejection
from docdb_stream.targets._names import TargetName, require_allow_list, shares_names
from docdb_stream.targets._opensearch.bulk import BulkSender, Operation, operation_of
from docdb_stream.targets._opensearch.client import OpenSearchClient, ResponseError
from docdb_stream.targets._opensearch.drop import delete_older
from docdb_stream.targets._opensearch.held import OpenSearchHoldings, Outcome
from docdb_stream.targets._opensearch.names import index_name
from docdb_stream.targets._versioned import document_id, document_version
from docdb_stream.template import Template

_ANY_EVENT = ChangeEvent(document={})
"""For a template that asks nothing of its event."""
_WRITING = frozenset({"insert", "update", "replace", "delete"})
REQUEST_BYTES = 10 * 1024 * 1024
"""OpenSearch Service developer guide, "Quotas", "Maximum size of HTTP request payloads": 10 MiB for small instance
types, 100 MiB for others."""
_DOMAIN_HOST = re.compile(r"^(?:search|vpc)-(.+)-[a-z0-9]{26}\.")
"""The endpoint that OpenSearch Service gives a domain: ``search-NAME-26 characters.region.es.amazonaws.com``."""


class OpenSearchSettings(TargetSettings):
    """What can be set about the target opensearch."""

    switch = "elasticsearch_uri"

    elasticsearch_uri: Annotated[str | None, Address("opensearch_secret")] = Field(
        default=None,
        validation_alias=AliasChoices("elasticsearch_uri", "opensearch_uri"),
        description="URI of the OpenSearch or Elasticsearch domain: switches the target on; opensearch_uri is the "
        "same. One index per collection: db-coll. Absent: off.",
        examples=["https://search-shop.eu-central-1.es.amazonaws.com"],
    )
    opensearch_auth: Literal["none", "basic", "sigv4"] | None = Field(
        default=None,
        description="How to sign in: none, basic or sigv4. Absent: basic with opensearch_secret, sigv4 for "
        "*.amazonaws.com, else none.",
        examples=["sigv4"],
    )
    opensearch_secret: SecretReference = Field(
        default=None,
        description="User name and password for basic, by reference as documentdb_secret.",
        examples=["opensearch/writer"],
    )
    opensearch_service: Literal["es", "aoss"] = Field(
        default="es", description="sigv4: es for a domain, aoss for OpenSearch Serverless."
    )
    opensearch_index_prefix: str = Field(
        default="", description="Put before the index's name, which is db-coll.", examples=["shop-"]
    )
    opensearch_index: TemplateText | None = Field(
        default=None,
        description="The index's name after the prefix, as a template: {db} {coll} {operation} {key} {document.PATH} "
        "(docs/targets.md). Absent: db-coll.",
        examples=["{coll}"],
    )
    opensearch_index_allow: Words = Field(
        default=(),
        description="The indexes that opensearch_index may make of data, without the prefix, with commas; * stands for "
        "any text. An event for another one goes to the dead letters. Needed where {key} or {document.PATH} stands in "
        "opensearch_index.",
        examples=["orders-eu, orders-us"],
    )
    opensearch_request_bytes: int = Field(
        default=REQUEST_BYTES,
        ge=1024,
        description="Largest bulk request in bytes: 10 MiB for small instance types, 100 MiB for others.",
    )
    opensearch_lanes: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Bulk requests side by side, at most; the changes of a document keep their order. 1: one after the "
        "other.",
    )
    opensearch_on_drop: Literal["delete", "keep"] = Field(
        default="delete",
        description="When a collection is dropped or renamed: delete its documents from the index, or keep them.",
    )
    opensearch_tls_ca: str | None = Field(
        default=None,
        description="CA bundle of the domain: a path. Absent: the system's CAs.",
        examples=["/etc/ssl/opensearch.pem"],
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        require_allow_list("opensearch_index", self.opensearch_index, self.opensearch_index_allow)
        if self.opensearch_index is None or self.opensearch_on_drop == "keep":
            return self
        fields = Template(self.opensearch_index).fields
        if not fields <= {"db", "coll"}:
            raise ValueError(
                "the documents of a dropped collection are in no index that opensearch_index could name then: set "
                "opensearch_on_drop = keep, or make the index of {db} and {coll} alone"
            )
        return self

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        if self.opensearch_index is None:
            return
        template = Template(self.opensearch_index)
        for field in template.changing:
            yield (
                f"OPENSEARCH_INDEX: when {{{field}}} differs between two changes of one document, what the first has "
                "written stays in its index; and a delete finds its document's index only where it says the value "
                "(FULL_DOCUMENT_BEFORE_CHANGE)"
            )
        if shares_names(template, scope):
            yield (
                "OPENSEARCH_INDEX: several collections share an index: documents with the same _id take each other's "
                "place, and a dropped collection takes the others' documents along unless OPENSEARCH_ON_DROP is keep"
            )


class OpenSearchTarget:
    """Keeps one index per collection equal to the collection.

    - insert, update, replace: the document is indexed as plain JSON (see ``formats.plain``) without its ``_id``,
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

    A document is durable once its bulk request returned (translog fsync for each request, index.translog.durability),
    and GET by id reads it at once; searches see it after the index's next refresh (a second, by default). Requests go
    side by side, those of one document in order (see ``BulkSender``).

    Args:
        uri: ``https://host``, ``http://127.0.0.1:9200``, or a host name, which means https.
        auth: ``none``, ``basic`` or ``sigv4``. None: basic with a secret, sigv4 for ``*.amazonaws.com``, else none.
        secret: Where username and password for basic are (see ``read_credentials``).
        service: ``es`` or ``aoss``, for sigv4. aoss, OpenSearch Serverless, has never been tried: it needs external
            versions there and, unless ``on_drop`` is ``keep``, the scroll API.
        index_prefix: Put before each index's name.
        index: The template of the index's name; None: ``db-coll``.
        index_allow: The indexes that may be made of data; see ``AllowList``.
        request_bytes: Largest bulk request.
        lanes: Bulk requests side by side, at most.
        on_drop: ``delete`` or ``keep`` the documents of a dropped or renamed collection.
        null_is_gone: Whether an update without its document is one whose document was deleted since; else it is
            rejected.
        tls_ca: Path of the CA bundle; the system's by default.

    Raises:
        ConfigError: opensearch-py is not installed, or the arguments make no sense.
    """

    name = "opensearch"
    keyed = True
    settings_model = OpenSearchSettings
    formats = (PLAIN, FACTS)

    def __init__(
        self,
        uri: str,
        *,
        auth: Literal["none", "basic", "sigv4"] | None = None,
        secret: str | None = None,
        service: Literal["es", "aoss"] = "es",
        index_prefix: str = "",
        index: str | None = None,
        index_allow: Sequence[str] = (),
        request_bytes: int = REQUEST_BYTES,
        lanes: int = 4,
        on_drop: Literal["delete", "keep"] = "delete",
        null_is_gone: bool = True,
        tls_ca: str | None = None,
    ) -> None:
        self._client = OpenSearchClient(
            self.name, uri, auth=auth, secret=secret, service=service, tls_ca=tls_ca, connections=lanes
        )
        self._index_prefix = index_prefix
        self._allowed = index_allow
        self._names = None if index is None else TargetName(index, "OPENSEARCH_INDEX_ALLOW", index_allow)
        self._request_bytes = request_bytes
        self._lanes = lanes
        self._sender: BulkSender | None = None
        self._deletes_on_drop = on_drop == "delete"
        self._null_is_gone = null_is_gone
        self._indexes: dict[Namespace, str] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on.

        Raises:
            ConfigError: No update would bring its document.
        """
        own = settings.of(OpenSearchSettings)
        takes_updates = not settings.operations or "update" in settings.operations
        if settings.full_document == "default" and takes_updates and settings.transform is None:
            raise ConfigError(
                "OpenSearch takes whole documents, and with FULL_DOCUMENT = default no update brings one",
                hint="set FULL_DOCUMENT = update_lookup, or leave update out of OPERATIONS",
            )
        return cls(
            own.where,
            auth=own.opensearch_auth,
            secret=own.opensearch_secret,
            service=own.opensearch_service,
            index_prefix=own.opensearch_index_prefix,
            index=own.opensearch_index,
            index_allow=own.opensearch_index_allow,
            request_bytes=own.opensearch_request_bytes,
            lanes=own.opensearch_lanes,
            on_drop=own.opensearch_on_drop,
            null_is_gone=settings.full_document == "update_lookup",
            tls_ca=own.opensearch_tls_ca,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What signed requests take; nothing where they are not signed. A domain's name that its address does not tell
        is the deployment's setting ``opensearch_domain``."""
        own = settings.of(OpenSearchSettings)
        host = urlsplit(own.where).hostname or ""
        signed = own.opensearch_auth == "sigv4" or (
            own.opensearch_auth is None and not own.opensearch_secret and host.endswith(".amazonaws.com")
        )
        if not signed:
            return []
        if own.opensearch_service == "aoss":
            return [Permission(("aoss:APIAccessAll",), (arn("aoss", f"collection/{host.partition('.')[0]}"),))]
        told = _DOMAIN_HOST.match(host)
        domain = arn("es", f"domain/{told[1] if told else '${opensearch_domain}'}")
        why = "Each collection has an index, made when first needed."
        found = [Permission(("es:ESHttpPost",), (f"{domain}/*",), why)]
        if own.opensearch_on_drop == "delete":  # closes the scroll by which a dropped collection's documents are found
            found.append(Permission(("es:ESHttpDelete",), (f"{domain}/_search/scroll",)))
        return found

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Send what brings the indexes to where they are after these events; durable after ``flush``.

        A drop or rename waits for all that was before it, and is done on return.

        Raises:
            TargetError: The domain cannot be reached, refuses the credentials, or takes nothing for too long.
        """
        if self._sender is None:
            self._sender = BulkSender(self._client, self.name, self._lanes, self._request_bytes)
        sender = self._sender
        rejections: list[Rejection] = []
        operations: list[Operation] = []
        for event in events:
            try:
                if event.operation in ("drop", "rename"):
                    if self._deletes_on_drop:
                        rejections += sender.send(operations)
                        operations = []
                        rejections += sender.settle()
                        rejections += self._delete_all(event, sender)
                    continue
                operation = self._operation(event)
            except UnrenderableError as error:
                rejections.append(Rejection(event, self.name, str(error)))
            else:
                if operation is not None:
                    operations.append(operation)
        return rejections + sender.send(operations)

    def flush(self) -> Sequence[Rejection]:
        """Return when everything written is durable or rejected. Raises as ``write`` does."""
        return () if self._sender is None else self._sender.settle()

    def close(self) -> None:
        """End the requests and close the connections."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.close()
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

    def holdings(self) -> OpenSearchHoldings:
        """See ``Verifiable``. Documents are compared as JSON: their ``_source`` and what would be sent."""
        names, prefix = self._names, self._index_prefix
        is_of_namespace = names is None or names.is_of_namespace
        return OpenSearchHoldings(
            self._client,
            outcome_of=self._outcome,
            index_of=(lambda namespace: self._index(_ANY_EVENT, namespace)) if is_of_namespace else lambda _: None,
            others=() if is_of_namespace else [index_name(prefix, name) for name in self._allowed if "*" not in name],
            is_own=True if self._deletes_on_drop and (names is None or names.tells_namespaces) else None,
        )

    def _operation(self, event: ChangeEvent) -> Operation | None:
        """The operation for an event. Raises as ``_outcome``."""
        found = self._outcome(event)
        return (
            None if found is None else operation_of(event, *found[:2], document_version(event.cluster_time), found[2])
        )

    def _outcome(self, event: ChangeEvent) -> Outcome | None:
        """What becomes of an event's document; None for any other event, and where the document was gone.

        Raises:
            UnrenderableError: What the event says of the document cannot be told.
        """
        operation = event.operation
        if operation not in _WRITING:
            return None
        # Also of a delete: a key that was decoded with loss can be that of another document.
        source = _source(event)
        if not event.has_document_key:
            raise UnrenderableError("documentKey: missing in the event")
        if operation == "delete":
            source = None
        elif source is None:
            if operation == "update" and self._null_is_gone:
                return None
            raise UnrenderableError("fullDocument: missing in the event, so that the index keeps what it had")
        id_text = event.object_id or document_id(event.exact_id)
        return self._index(event, event.namespace), id_text, source

    def _index(self, event: ChangeEvent, namespace: Namespace) -> str:
        index = self._indexes.get(namespace)
        if index is None:
            name = namespace if self._names is None else self._names.of(event, namespace)
            index = index_name(self._index_prefix, name)
            if self._names is None or self._names.is_of_namespace:
                self._indexes[namespace] = index
        return index

    def _delete_all(self, event: ChangeEvent, sender: BulkSender) -> list[Rejection]:
        """Delete what the collection held when it was dropped or renamed, by the versions of its documents.

        Not by ``_delete_by_query``: that one does not compare versions, and leaves each document one version above its
        own, which would make a replay of the collection's events conflict and lose documents.

        Returns:
            The event itself, once, where a document could not be deleted.
        """
        rejections: list[Rejection] = []
        for namespace in (event.namespace, _renamed_to(event)):
            if namespace is None:
                continue
            try:
                index = self._index(event, namespace)
            except UnrenderableError:
                continue  # nothing was written there, as its documents' events have no index either
            rejections += delete_older(event, index, self._client, sender)
        return rejections[:1]


def _source(event: ChangeEvent) -> bytes | None:
    """The full document without ``_id``, which OpenSearch refuses as a field; None where there is no full document."""
    plain = event.render(PLAIN)
    if plain == b"null":
        return None
    # Servers store _id first, so it can be cut off without parsing the rest.
    head = _id_head(event)
    after = len(head)
    if plain.startswith(head) and plain[after : after + 1] in b",}":
        return b"{" + plain[after:].removeprefix(b",")
    full = event.full_document or {}
    return plain_json({key: value for key, value in full.items() if key != "_id"})


def _id_head(event: ChangeEvent) -> bytes:
    """How a document begins whose ``_id`` comes first."""
    if event.object_id:
        return b'{"_id":"%b"' % event.object_id.encode()
    return plain_json({"_id": event.exact_id}).removesuffix(b"}")


def _renamed_to(event: ChangeEvent) -> Namespace | None:
    to = event.document.get("to")
    return Namespace(to["db"], to["coll"]) if to else None
