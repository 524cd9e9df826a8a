"""CloudEvents: what any consumer has to know of an event, in the same place for events of every kind.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md, with its extensions for partitioning and sequence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import orjson

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats._json import escaped, text_at
from docdb_stream.formats.decoded import Decoded
from docdb_stream.formats.extended import EXTENDED
from docdb_stream.formats.facts import FACTS, Facts, key_of
from docdb_stream.position import Namespace
from docdb_stream.snapshot_event import snapshot_of

if TYPE_CHECKING:
    from docdb_stream.event import ChangeEvent

_DATA_TYPE: Final = "application/json"

# What the specification's type String does not have, and JSON, in which the keys are, can say otherwise.
_DISALLOWED: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef"
    + "".join(f"{chr(plane + 0xFFFE)}-{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000))
    + "]"
)


class _CloudEvents:
    """What both modes say of an event.

    - ``id``: the event's id, the same for every delivery; ``source``: ``/docdb-stream/`` and the stream's name;
      ``type``: ``io.docdb-stream.`` and the operation; ``time``: the cluster time, in whole seconds.
    - ``subject``: the document key as text; an event about no single document has none.
    - ``partitionkey``: the same, or the namespace: what has it in common stays in order.
    - ``sequence``: the cluster time as text that sorts in the order of changes. Changes of one transaction share it.
    - ``snapshot``: of a document that was read in a snapshot, the snapshot's id. It is an insert like any other, its
      ``time`` and ``sequence`` those at which the snapshot began.
    - ``data``: the whole change event, as the format ``extended`` has it.

    Args:
        stream: The stream's name.
    """

    def __init__(self, stream: str = "") -> None:
        self._source = "/docdb-stream/" + quote(stream, safe="")

    def _attributes(
        self, event_id: str, operation: str, namespace: Namespace, time: tuple[int, int], key: str | None
    ) -> dict[str, str]:
        subject = None if key is None else _allowed(key)
        seconds, increment = time
        attributes = {
            "specversion": "1.0",
            "id": _allowed(event_id),
            "source": self._source,
            "type": "io.docdb-stream." + _allowed(operation),
            "partitionkey": _allowed(str(namespace)) or "_" if subject is None else subject,
            "sequence": f"{seconds:010}{increment:010}",
        }
        if subject is not None:
            attributes["subject"] = subject
        if (snapshot := snapshot_of(event_id)) is not None:
            attributes["snapshot"] = _allowed(snapshot)
        if seconds:  # else the server has not told when
            attributes["time"] = _time(seconds)
        return attributes


class CloudEvents(_CloudEvents):
    """Structured mode: one JSON object an event, with its attributes and its data."""

    name = "cloudevents"
    content_type = "application/cloudevents+json"
    batch_content_type = "application/cloudevents-batch+json"

    def of_stream(self, stream: str) -> CloudEvents:
        """See ``OfStream``."""
        return CloudEvents(stream)

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """See ``Format``, and ``extended_json`` for what is refused."""
        columns = zip(
            EXTENDED.render(decoded), FACTS.render(decoded), decoded.documents, decoded.raws or (None,), strict=True
        )
        return [self._event(*column) for column in columns]

    def event_id(self, payload: bytes) -> str | None:
        """See ``Identified``."""
        return text_at(payload, "id")

    def _event(
        self,
        data: bytes | UnrenderableError,
        facts: Facts | UnrenderableError,
        event: Mapping[str, Any],
        raw: bytes | None,
    ) -> bytes | UnrenderableError:
        if isinstance(data, UnrenderableError):
            return data
        if isinstance(facts, UnrenderableError):
            return facts
        try:
            key = key_of(facts, event, raw)
        except UnrenderableError as error:
            return error
        time = facts.cluster_time.time, facts.cluster_time.inc
        attributes = self._attributes(facts.event_id, facts.operation, facts.namespace, time, key)
        attributes["datacontenttype"] = _DATA_TYPE
        return b'%b,"data":%b}' % (orjson.dumps(attributes)[:-1], data)


class BinaryCloudEvents(_CloudEvents):
    """Binary mode: the data alone is the payload; the attributes are headers, where a target has some."""

    name = "cloudevents_binary"
    content_type = _DATA_TYPE
    batch_content_type = None

    def of_stream(self, stream: str) -> BinaryCloudEvents:
        """See ``OfStream``."""
        return BinaryCloudEvents(stream)

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """See ``Format``, and ``extended_json`` for what is refused."""
        return EXTENDED.render(decoded)

    def attributes(self, event: ChangeEvent) -> Mapping[str, str]:
        """See ``WithAttributes``. That of the data's type is ``content_type``."""
        return self._attributes(event.event_id, event.operation, event.namespace, event.cluster_time_parts, event.key)


@lru_cache(256)
def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _allowed(text: str) -> str:
    if text.isascii() and text.isprintable():  # as nearly all are, in a tenth of the time
        return text
    return _DISALLOWED.sub(lambda found: escaped(found[0]), text)


CLOUDEVENTS: Final = CloudEvents()
BINARY_CLOUDEVENTS: Final = BinaryCloudEvents()
