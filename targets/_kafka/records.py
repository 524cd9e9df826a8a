"""What an event becomes in Kafka: the topic, key, headers and value of its record, and a tombstone after a delete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docdb_stream.errors import ConfigError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.format import Described, Format, Keyed, Tombstoned, WithAttributes, WithSchema
from docdb_stream.targets._kafka.producer import Record
from docdb_stream.targets._names import TargetName, distinct_name, key_of
from docdb_stream.template import Template

if TYPE_CHECKING:
    from docdb_stream.targets._kafka.registry import SchemaRegistry

# The broker's rule for topics, org.apache.kafka.common.internals.Topic: these characters, at most 249 of them.
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9._-]")
_TOPIC_BYTES = 249

_HEADERS = ("event_id", "operation", "cluster_time", "namespace")
"""What every record has; a tombstone no others."""


def topic_name(prefix: str, name: Namespace | str) -> str:
    """The topic of a namespace: ``prefix`` and ``db-coll``, or ``db`` for events about a whole database; or that for
    the name that a template made.

    Characters that Kafka does not allow become ``_``; a name changed so, or cut to 249 characters, gets a hash at its
    end (see ``distinct_name``).
    """
    original = prefix + (name if isinstance(name, str) else name.label)
    accepted = _FORBIDDEN.sub("_", original)
    return distinct_name(original, "_" if accepted in ("", ".", "..") else accepted, _TOPIC_BYTES)


def transactional_id(prefix: str, stream: str) -> str:
    """Names whoever delivers a stream to the topics with this prefix; made of the characters of topics."""
    original = f"docdb-stream-{prefix}{stream}"
    return distinct_name(original, _FORBIDDEN.sub("_", original), _TOPIC_BYTES)


class Records:
    """Makes records, in the format of a target.

    Args:
        payload_format: The format.
        registry: Where its schema is, if it has one.
        topic_prefix: Put before each topic's name.
        topic: What makes the topic's name; None: ``db-coll``.
        key: What makes the record's key; None: the format, or else the document key.
        tombstones: Whether a tombstone follows a delete; None: as the format has it.
        scope: What the stream watches, for events that have no namespace.

    Raises:
        ConfigError: The format has a schema, and there is no registry.
    """

    def __init__(
        self,
        payload_format: Format,
        registry: SchemaRegistry | None,
        *,
        topic_prefix: str,
        topic: TargetName | None,
        key: Template | None,
        tombstones: bool | None,
        scope: Namespace,
    ) -> None:
        has_tombstones = isinstance(payload_format, Tombstoned) and payload_format.has_tombstones
        self._tombstones = has_tombstones if tombstones is None else tombstones
        self._content_type = payload_format.content_type.encode() if isinstance(payload_format, Described) else None
        self._keyed = payload_format if isinstance(payload_format, Keyed) else None
        self._attributed = payload_format if isinstance(payload_format, WithAttributes) else None
        self._framed = payload_format if isinstance(payload_format, WithSchema) else None
        if self._framed is not None and registry is None:
            raise ConfigError("a format with a schema needs a schema registry", hint="set KAFKA_SCHEMA_REGISTRY")
        self._registry = registry
        self._topic_prefix = topic_prefix
        self._names = topic
        self._key = key
        self._scope = scope
        self._topics: dict[Namespace, tuple[str, bytes]] = {}  # namespace -> topic, and what the header says

    def of(self, event: ChangeEvent, payload: bytes) -> list[Record]:
        """The record of an event, and perhaps its tombstone.

        Raises:
            UnrenderableError: There is no topic or key for it.
            TargetError: The schema registry does not tell.
        """
        record = self.unframed(event, payload)
        if self._framed is not None and self._registry is not None:
            record = record._replace(value=self._registry.frame(record.topic, self._framed) + payload)
        if self._tombstones and event.operation == "delete" and event.has_document_key:
            return [record, record._replace(value=None, headers={name: record.headers[name] for name in _HEADERS})]
        return [record]

    def unframed(self, event: ChangeEvent, payload: bytes) -> Record:
        """The record as it is before the schema registry has a say in it. Raises UnrenderableError as ``of``."""
        namespace = event.namespace
        topic, path = self._topics.get(namespace) or self._topic(event)
        key = self._key_of(event)
        headers = {  # of bytes alone, so that the garbage collector has nothing to look into
            "event_id": event.event_id.encode(),
            "operation": event.operation.encode(),
            "cluster_time": b"%d.%d" % event.cluster_time_parts,
            "namespace": path,
        }
        if self._content_type is not None:
            headers["content-type"] = self._content_type
        if self._attributed is not None:
            for name, text in self._attributed.attributes(event).items():
                headers["ce_" + name] = text.encode()
        return Record(event, topic, path if key is None else key, payload, headers)

    def _key_of(self, event: ChangeEvent) -> bytes | None:
        key = None if self._key is None else key_of(event, self._key, None)
        if key is None and self._keyed is not None:
            return self._keyed.key(event)
        key = key or event.key
        return None if key is None else key.encode()

    def _topic(self, event: ChangeEvent) -> tuple[str, bytes]:
        known = event.namespace if event.namespace.db else self._scope
        name = known if self._names is None else self._names.of(event, known)
        topic = topic_name(self._topic_prefix, name), str(known).encode()
        if self._names is None or self._names.is_of_namespace:
            self._topics[event.namespace] = topic
        return topic
