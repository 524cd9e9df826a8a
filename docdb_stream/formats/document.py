"""The payload of the AWS change-stream sample, for consumers that know it."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from bson import ObjectId, json_util
from bson.binary import ALL_UUID_SUBTYPES, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats._json import EPOCH, MILLISECOND, non_finite_name
from docdb_stream.formats.decoded import Decoded

_WITH_DOCUMENT: Final = frozenset({"insert", "update", "replace"})


class SampleJson:
    """The payload as the AWS sample made it, byte for byte: see `document_json`."""

    name = "document"

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """See ``Format``."""
        return [
            (None if _may_hold_code(raw, event) else _quickly(event)) or _surely(event)
            for raw, event in zip(decoded.raws or (b"",), decoded.documents, strict=True)
        ]


def _may_hold_code(raw: bytes, event: Mapping[str, Any]) -> bool:
    """Whether there may be code in the event: to Python's JSON encoder it is text like any other."""
    return (not raw or any(each in raw for each in _CODE)) and _holds_code(event)


def _holds_code(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return any(map(_holds_code, value.values()))
    if kind is list:
        return any(map(_holds_code, value))
    return kind is Code or kind is DBRef  # which may hold some


_CODE: Final = (b"\x0d", b"\x0f")
"""The types of code without and with scope (https://bsonspec.org/spec.html): bytes that other values have too."""


def _quickly(event: Mapping[str, Any]) -> bytes | None:
    """The payload of an event that has its document and nothing unusual in it; None of any other."""
    try:
        operation, document, seconds = event["operationType"], event["fullDocument"], event["clusterTime"].time
        if operation not in _WITH_DOCUMENT or document is None:
            return None
        return _ENCODER.encode(_payload(document, operation, seconds, whole=True)).encode()
    except (KeyError, AttributeError, ValueError, RecursionError):
        return None


def _surely(event: Mapping[str, Any]) -> bytes | UnrenderableError:
    try:
        return document_json(event)
    except UnrenderableError as error:
        return error


def document_json(event: Mapping[str, Any]) -> bytes:
    """Render a decoded change event as the AWS change-stream sample did, byte for byte (it ran on PyMongo 3.10.1).

    - insert, update, replace: `_id` as text, the document, then `operation`, `timestamp` (seconds, as text) and
      `timestampReadable` (ISO 8601 in UTC without a zone); these overwrite fields of their names in place.
    - delete, and an update whose document was gone when it was looked up: the same without the document.
    - any other operation, which the sample never sent: the same without `_id`, with `db` and `coll` if it has them.

    Values are in PyMongo's legacy Extended JSON: `{"$date": milliseconds}`, `{"$binary": base64, "$type": hex}`,
    `{"$uuid": hex}`, `{"$regex": ..., "$options": ...}`. The one exception are NaN and the infinities: the sample wrote
    them bare, which is not JSON, so they are `{"$numberDouble": "NaN"}` here.

    Raises:
        UnrenderableError: the event lacks a field that the payload is made of, or is nested too deeply.
    """
    try:
        operation, seconds = event["operationType"], event["clusterTime"].time
        if operation not in _WITH_DOCUMENT and operation != "delete":
            namespace = event.get("ns", {})
            about = {part: namespace[part] for part in ("db", "coll") if part in namespace}
            return _exact_text({**_metadata(operation, seconds), **about}).encode()
        document = event.get("fullDocument")
        identified = event["documentKey"] if document is None else document
        return _exact_text(_payload(identified, operation, seconds, whole=document is not None)).encode()
    except KeyError as error:
        raise UnrenderableError(f"{error.args[0]}: missing in the event") from error
    except AttributeError:
        raise UnrenderableError("clusterTime or fullDocument: not what a change event has there") from None
    except RecursionError:
        raise UnrenderableError("nested too deeply") from None


def _payload(identified: Mapping[str, Any], operation: str, seconds: int, *, whole: bool) -> dict[str, Any]:
    """What an event about a document is written from: its ``_id``, the document if it is whole, what happened."""
    identifier = identified.get("_id")
    if type(identifier) is not ObjectId:
        identifier = _replace_leaves(identifier, _as_pymongo_3)
    payload = {"_id": str(identifier)}
    if whole:
        payload |= identified
        payload["_id"] = str(identifier)
    return payload | _metadata(operation, seconds)


def _metadata(operation: str, seconds: int) -> dict[str, str]:
    readable = (EPOCH + timedelta(seconds=seconds)).isoformat()
    return {"operation": operation, "timestamp": str(seconds), "timestampReadable": readable}


def _exact_text(payload: Mapping[str, Any]) -> str:
    return _ENCODER.encode(_replace_leaves(payload, _without_non_finite))


@dataclass(slots=True)
class _Program:
    """Code in place of bson's own, which is text to Python's JSON encoder."""

    text: str
    scope: Mapping[str, Any] | None


def _legacy(value: Any) -> Any:
    """What a value that JSON has not is written as, in PyMongo's legacy Extended JSON."""
    kind = type(value)
    if kind is ObjectId:
        return {"$oid": str(value)}
    if kind is datetime:
        return {"$date": (value - EPOCH) // MILLISECOND}
    if kind is DBRef:
        return value.as_doc()
    if kind is _Program:
        return {"$code": value.text} | ({} if value.scope is None else {"$scope": value.scope})
    as_then = _as_pymongo_3(value)
    return as_then if type(as_then) is dict else json_util.default(as_then, json_util.LEGACY_JSON_OPTIONS)


_ENCODER: Final = json.JSONEncoder(allow_nan=False, check_circular=False, default=_legacy)


def _replace_leaves(value: Any, replace: Callable[[Any], Any]) -> Any:
    match value:
        case dict():
            return {key: _replace_leaves(inner, replace) for key, inner in value.items()}
        case list():
            return [_replace_leaves(inner, replace) for inner in value]
        case DBRef():
            return _replace_leaves(value.as_doc(), replace)
        case Code():
            return _replace_leaves(_Program(str(value), value.scope), replace)
        case _Program():
            return replace(_Program(value.text, value.scope and _replace_leaves(value.scope, replace)))
    return replace(value)


def _as_pymongo_3(value: Any) -> Any:
    """UUIDs as PyMongo 3 decoded them: of both subtypes, in the byte order they have. Far dates as it wrote dates."""
    if type(value) is _Program:
        return Code(value.text, value.scope)
    if type(value) is Binary and value.subtype in ALL_UUID_SUBTYPES and len(value) == 16:
        return uuid.UUID(bytes=value)
    # Which it could not decode; json_util before PyMongo 4.20 would write the milliseconds as text.
    return {"$date": int(value)} if isinstance(value, DatetimeMS) else value


def _without_non_finite(value: Any) -> Any:
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else {"$numberDouble": non_finite_name(value)}


DOCUMENT: Final = SampleJson()
