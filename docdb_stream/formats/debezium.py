"""Debezium's envelope, as its MongoDB connector writes it without schemas: for consumers that were made for it.

What it is was read off a running connector: tests/unit/debezium holds its records of many changes, with which ours are
compared. Fields and types: https://debezium.io/documentation/reference/stable/connectors/mongodb.html
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.objectid import ObjectId
from bson.regex import Regex

from docdb_stream import __version__
from docdb_stream.errors import UnrenderableError
from docdb_stream.formats import extended, rawbson
from docdb_stream.formats._json import (
    EPOCH,
    MILLISECOND,
    JsonRenderer,
    base64_text,
    escaped,
    regex_options,
    text_at,
    utc,
)
from docdb_stream.formats.decoded import Decoded
from docdb_stream.formats.facts import FACTS, Facts
from docdb_stream.snapshot_event import PREFIX

if TYPE_CHECKING:
    from docdb_stream.event import ChangeEvent

Texts = Sequence[str | UnrenderableError | None]
"""Of each event one of its documents as JSON, None where it has none, or why it cannot be written."""

_OPERATIONS: Final = {"insert": "c", "update": "u", "replace": "u", "delete": "d"}


class Debezium:
    """The envelope, one object an event, and the key of its record.

    ``before`` and ``after`` are texts of JSON in MongoDB's older strict mode, ``updatedFields`` is one in relaxed
    Extended JSON v2: as the connector does by default (``json.serialization.mode``). Different from it are

    - ``source.name`` is the stream, ``source.version`` the version of docdb-stream;
    - ``source.sequence``, which the connector leaves null, is a JSON array with the event's id, by which a consumer
      tells an event that comes again;
    - ``ts_ms`` beside ``source`` is the server's clock at the change (``wallTime``; before MongoDB 6 the cluster time)
      and not the connector's, so that an event is the same whenever it is sent;
    - a snapshot's document has ``op`` ``r``, ``source.snapshot`` ``true`` and ``source.ord`` -1, as there; but the
      cluster time at which the snapshot began, not when it was read, and none is ``first`` or ``last``;
    - ``transaction`` is always null, as without ``provide.transaction.metadata``;
    - NaN and the infinities in documents are ``{"$numberDouble": "NaN"}``: the connector writes them bare, which no
      parser of JSON reads;
    - blanks and the notation of numbers within these texts. The key's text is the connector's to the byte, so that
      a document stays in its partition;
    - what is about no single document, which the connector leaves out, has MongoDB's operation in ``op``
      (``drop``, ``rename``, ``dropDatabase``, ``invalidate``) and neither ``before`` nor ``after``.

    Args:
        stream: The stream's name.
    """

    name = "debezium"
    has_tombstones = True

    def __init__(self, stream: str = "") -> None:
        self._source = {"version": __version__, "connector": "mongodb", "name": stream}

    def of_stream(self, stream: str) -> Debezium:
        """See ``OfStream``."""
        return Debezium(stream)

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """See ``Format``, and ``extended_json`` for what is refused."""
        columns = zip(
            FACTS.render(decoded),
            decoded.documents,
            _texts(_STRICT, decoded, "fullDocumentBeforeChange"),
            _texts(_STRICT, decoded, "fullDocument"),
            _texts(extended.RENDERER, decoded, "updateDescription", "updatedFields"),
            _texts(_STRICT, decoded, "lsid"),
            strict=True,
        )
        return [
            next((each for each in columns if isinstance(each, UnrenderableError)), None) or self._envelope(*columns)
            for columns in columns
        ]

    def event_id(self, payload: bytes) -> str | None:
        """See ``Identified``."""
        sequence = text_at(payload, "source", "sequence")
        return None if sequence is None else text_at(sequence.encode(), 0)

    def _envelope(
        self,
        facts: Facts,
        event: Mapping[str, Any],
        before: str | None,
        after: str | None,
        updated: str | None,
        lsid: str | None,
    ) -> bytes:
        seconds, increment = facts.cluster_time.time, facts.cluster_time.inc
        is_read = facts.operation == "insert" and facts.event_id.startswith(PREFIX)
        wall_ms = _milliseconds(event.get("wallTime"))
        envelope = {
            "before": before,
            "after": after,
            "updateDescription": _update_description(event.get("updateDescription"), updated),
            "source": {
                **self._source,
                "ts_ms": seconds * 1000,
                "snapshot": "true" if is_read else "false",
                "db": facts.namespace.db,
                "sequence": orjson.dumps([facts.event_id]).decode(),
                "ts_us": seconds * 1_000_000,
                "ts_ns": seconds * 1_000_000_000,
                "collection": facts.namespace.coll,
                "ord": -1 if is_read else increment,
                "lsid": lsid,
                "txnNumber": event.get("txnNumber"),
                "wallTime": wall_ms,
            },
            "op": "r" if is_read else _OPERATIONS.get(facts.operation, facts.operation),
            "ts_ms": seconds * 1000 if wall_ms is None else wall_ms,
            "transaction": None,
        }
        return orjson.dumps(envelope)

    def key(self, event: ChangeEvent) -> bytes | None:
        """See ``Keyed``. It is of the ``_id`` as the event has it: one that a replacement has turned from 1 into 1.0,
        which are the same to the server, gets another key, as it does with the connector."""
        if event.object_id:
            return b'{"id":"{\\"$oid\\": \\"%b\\"}"}' % event.object_id.encode()
        return orjson.dumps({"id": _as_java(event.exact_id)}) if event.has_document_key else None


DEBEZIUM: Final = Debezium()


def _texts(renderer: JsonRenderer, decoded: Decoded, *way: str) -> Texts:
    return [each.decode() if isinstance(each, bytes) else each for each in renderer.column(decoded, *way)]


def _update_description(found: Mapping[str, Any] | None, updated: str | None) -> dict[str, Any] | None:
    if found is None:
        return None
    truncated = found.get("truncatedArrays") or ()
    return {
        "removedFields": found.get("removedFields") or None,
        "updatedFields": updated,
        "truncatedArrays": [{"field": each["field"], "size": each["newSize"]} for each in truncated] or None,
    }


def _milliseconds(value: Any) -> int | None:
    if isinstance(value, DatetimeMS):
        return int(value)
    return (utc(value) - EPOCH) // MILLISECOND if isinstance(value, datetime) else None


# Strict mode of MongoDB Extended JSON v1: https://www.mongodb.com/docs/manual/reference/mongodb-extended-json-v1/
_RENDERERS: Final[dict[type, Callable[[Any], Any]]] = {
    DatetimeMS: lambda value: {"$date": int(value)},
    Binary: lambda value: {"$binary": base64_text(value), "$type": f"{value.subtype:02x}"},
    bytes: lambda value: {"$binary": base64_text(value), "$type": "00"},
    Regex: lambda value: {"$regex": value.pattern, "$options": regex_options(value)},
    rawbson.RegularExpression: lambda value: {"$regex": value.pattern, "$options": "".join(sorted(value.options))},
    rawbson.DBPointer: lambda value: {"$ref": value.namespace, "$id": value.id},
}


def _strict_value(value: Any) -> Any:
    kind = type(value)
    if kind is ObjectId:
        return {"$oid": str(value)}
    if kind is datetime:
        return {"$date": _milliseconds(value)}
    if kind is Int64:
        return {"$numberLong": str(int(value))}
    render = _RENDERERS.get(kind)
    return extended.json_value(value) if render is None else render(value)


_STRICT: Final = JsonRenderer(_strict_value, non_finite=lambda name: {"$numberDouble": name}, has_wrappers=True)


# A string and perhaps the colon after it, or a double.
_TOKEN: Final = re.compile(r'("(?:[^"\\]|\\.)*")(:?)|-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?')
_NOT_ASCII: Final = re.compile(r"[^\x20-\x7e]")
_ESCAPED_CATEGORIES: Final = frozenset({"Lm", "Mn", "Mc", "Me", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn"})


def _as_java(value: Any) -> str:
    """Relaxed Extended JSON as MongoDB's Java driver writes it, to the byte: a blank after each colon, what is no
    letter, number, sign or blank escaped, and doubles as Java has them."""
    text = extended.RENDERER.exactly({"": value}).decode()[len('{"":') : -1]
    return _TOKEN.sub(_token_as_java, text)


def _token_as_java(token: re.Match[str]) -> str:
    string, colon = token[1], token[2]
    if string is None:
        return _double_as_java(float(token[0])) if "." in token[0] or "e" in token[0] else token[0]
    return _NOT_ASCII.sub(_character_as_java, string) + (": " if colon else "")


def _character_as_java(found: re.Match[str]) -> str:
    character = found[0]
    if character <= "\uffff" and unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    return escaped(character)


def _double_as_java(value: float) -> str:
    """As ``Double.toString`` of Java 19: the fewest digits that tell the number. Older ones have more of a few."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    places = "".join(map(str, digits))
    return f"{'-' * sign}{places[0]}.{places[1:] or '0'}E{len(places) - 1 + int(exponent)}"
