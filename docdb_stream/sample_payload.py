"""The payload of the AWS change-stream sample, for consumers that know it."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from bson import json_util
from bson.binary import ALL_UUID_SUBTYPES, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef

from docdb_stream.encoding import EPOCH, UnrenderableError, non_finite_name


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
        payload = _document_payload(event)
        try:
            text = json_util.dumps(payload, json_options=json_util.LEGACY_JSON_OPTIONS, allow_nan=False)
        except ValueError:
            payload = _replace_leaves(payload, _without_non_finite)
            text = json_util.dumps(payload, json_options=json_util.LEGACY_JSON_OPTIONS)
    except KeyError as error:
        raise UnrenderableError(f"{error.args[0]}: missing in the event") from error
    except RecursionError:
        raise UnrenderableError("nested too deeply") from None
    return text.encode()


def _document_payload(event: Mapping[str, Any]) -> dict[str, Any]:
    operation, seconds = event["operationType"], event["clusterTime"].time
    metadata = {
        "operation": operation,
        "timestamp": str(seconds),
        "timestampReadable": (EPOCH + timedelta(seconds=seconds)).isoformat(),
    }
    if operation not in ("insert", "update", "replace", "delete"):
        namespace = event.get("ns", {})
        return metadata | {part: namespace[part] for part in ("db", "coll") if part in namespace}
    document = event.get("fullDocument")
    identified = _replace_leaves(event["documentKey"] if document is None else document, _as_pymongo_3)
    payload = {"_id": str(identified.pop("_id", None))}
    if document is not None:
        payload |= identified
    return payload | metadata


def _replace_leaves(value: Any, replace: Callable[[Any], Any]) -> Any:
    match value:
        case dict():
            return {key: _replace_leaves(inner, replace) for key, inner in value.items()}
        case list():
            return [_replace_leaves(inner, replace) for inner in value]
        case DBRef():
            return _replace_leaves(value.as_doc(), replace)
        case Code() if value.scope is not None:
            return Code(str(value), _replace_leaves(value.scope, replace))
    return replace(value)


def _as_pymongo_3(value: Any) -> Any:
    """UUIDs as PyMongo 3 decoded them: of both subtypes, in the byte order they have. Far dates as it wrote dates."""
    if type(value) is Binary and value.subtype in ALL_UUID_SUBTYPES and len(value) == 16:
        return uuid.UUID(bytes=value)
    # Which it could not decode; json_util before PyMongo 4.20 would write the milliseconds as text.
    return {"$date": int(value)} if isinstance(value, DatetimeMS) else value


def _without_non_finite(value: Any) -> Any:
    is_number = not isinstance(value, float) or math.isfinite(value)
    return value if is_number else {"$numberDouble": non_finite_name(value)}
