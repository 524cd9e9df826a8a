"""What every target asks of an event: its id, its operation, its namespace, its time and its key."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Final, NamedTuple

from bson import Code, DBRef, ObjectId, Timestamp
from bson.errors import BSONError

from docdb_stream.errors import UnrenderableError, surely
from docdb_stream.formats import rawbson
from docdb_stream.formats.decoded import Decoded, field_of, is_whole
from docdb_stream.formats.key import key_json, object_id_key
from docdb_stream.position import Namespace, ResumeToken


class Facts(NamedTuple):
    """What every target asks of an event; see ``ChangeEvent``.

    Attributes:
        event_id: The token's ``_data``.
        operation: The ``operationType``.
        namespace: The ``ns``.
        cluster_time: The ``clusterTime``, or the token's.
        has_key: Whether there is a document key: whether the event is about a single document.
        object_id: The key's ``_id`` in hexadecimal, where it is an ObjectId; else empty.
        id: The key's ``_id`` where it is another single value; else UNKNOWN.
        key: The key's text, where it is no ObjectId's; None where it takes a closer look at the event.
    """

    event_id: str
    operation: str
    namespace: Namespace
    cluster_time: Timestamp
    has_key: bool
    object_id: str
    id: Any
    key: str | None


UNKNOWN: Final = object()
"""Of an ``_id``: it holds other values, or is an ObjectId."""


class FactsOfEvents:
    """Finds them as a format renders: for many events at a time, and also for those that no format can render."""

    name = "facts"
    finds = Facts

    def render(self, decoded: Decoded) -> Sequence[Facts | UnrenderableError]:
        """The facts of each event, or the error that says why it is no change event."""
        return _usual(decoded.documents) or [*map(_facts, decoded.documents, decoded.raws or repeat(None))]


FACTS: Final = FactsOfEvents()
"""To be announced among a target's formats (see ``Rendering``), where it asks events for more than their bytes."""


def _usual(events: Sequence[Mapping[str, Any]]) -> list[Facts | UnrenderableError] | None:
    """The facts of events about documents whose ``_id`` is an ObjectId, column by column; None if one is another."""
    try:
        event_ids = [event["_id"]["_data"] for event in events]
        operations = [event["operationType"] for event in events]
        times = [event["clusterTime"] for event in events]
        ids = [event["documentKey"]["_id"] for event in events]
        if [{*map(type, column)} for column in (event_ids, operations, times, ids)] != _USUAL_TYPES:
            return None
        namespaces = [_namespace(ns["db"], ns["coll"]) for ns in [event["ns"] for event in events]]
    except (KeyError, TypeError):
        return None
    rest = repeat(True), map(str, ids), repeat(UNKNOWN), repeat(None)
    return [*map(_new_facts, zip(event_ids, operations, namespaces, times, *rest, strict=False))]


_USUAL_TYPES: Final = [{str}, {str}, {Timestamp}, {ObjectId}]


def _facts(event: Mapping[str, Any], raw: bytes | None) -> Facts | UnrenderableError:
    fields: Iterator[Any] = map(event.get, _FIELDS)
    token, operation, ns, time, document_key = fields
    try:
        event_id = token.get("_data")
        if type(event_id) is not str:
            event_id = ResumeToken(token).data
        if type(time) is not Timestamp:
            time = ResumeToken(token).cluster_time or Timestamp(0, 0)
        namespace = _namespace_of(ns) if ns else _NOWHERE
    except (AttributeError, TypeError):
        return UnrenderableError("_id or ns: not what a change event has there")
    if operation is None:
        return UnrenderableError("operationType: missing in the event")
    found_id = document_key.get("_id", UNKNOWN) if type(document_key) is dict else UNKNOWN
    if type(found_id) is ObjectId:
        return _new_facts((event_id, str(operation), namespace, time, True, str(found_id), UNKNOWN, None))
    key = None
    if found_id is not UNKNOWN:
        with contextlib.suppress(UnrenderableError):  # raised again by a closer look
            key = surely(lambda: key_json(exact_id(document_key, raw)))
    if isinstance(found_id, dict | list | DBRef | Code):
        found_id = UNKNOWN
    return Facts(event_id, str(operation), namespace, time, document_key is not None, "", found_id, key)


_FIELDS: Final = ("_id", "operationType", "ns", "clusterTime", "documentKey")

_new_facts: Final[Callable[[tuple[Any, ...]], Facts]] = partial(tuple.__new__, Facts)
"""Facts of a tuple, without the function that a named tuple's own constructor is."""


def key_of(facts: Facts, event: Mapping[str, Any], raw: bytes | None) -> str | None:
    """See ``ChangeEvent.key``, which is this for an event's facts, its document and its BSON."""
    if facts.object_id:
        return object_id_key(facts.object_id)
    if facts.key is None and facts.has_key:
        return surely(lambda: key_json(exact_id(event["documentKey"], raw)))
    return facts.key


def exact_id(document_key: Mapping[str, Any] | None, raw: bytes | None) -> Any:
    """The ``_id`` of an event's document key with all that decoding may have lost, given the event's BSON.

    Raises:
        UnrenderableError: There is none, or it is not valid BSON.
    """
    if document_key is None:
        return None
    if not isinstance(document_key, Mapping) or "_id" not in document_key:
        raise UnrenderableError("documentKey: not what a change event has there")
    raw_key = _raw_key(raw) if isinstance(document_key["_id"], dict | DBRef | Code) else None
    if raw_key is None or is_whole(document_key, raw_key):
        return document_key["_id"]
    return dict(rawbson.read(raw_key))["_id"]


def _raw_key(raw: bytes | None) -> bytes | None:
    try:
        return None if raw is None else field_of(raw, "documentKey")
    except BSONError:
        raise UnrenderableError("documentKey: not valid BSON") from None


_NOWHERE: Final = Namespace("")


def _namespace_of(ns: Mapping[str, Any]) -> Namespace:
    try:
        return _namespace(ns.get("db", ""), ns.get("coll"))
    except TypeError:  # no text, in damaged bytes
        return Namespace(str(ns.get("db")), str(ns.get("coll")))


@lru_cache(1024)
def _namespace(db: str, coll: str | None) -> Namespace:
    return Namespace(db, coll)
