"""What documents and their versions are called where a target keeps documents by a text and a number."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

from bson import ObjectId, Timestamp
from bson.errors import BSONError

from docdb_stream.formats import rawbson
from docdb_stream.formats._json import non_finite_name
from docdb_stream.formats.key import canonical_id, key_json
from docdb_stream.formats.reader import to_bson

_ID_BYTES = 512  # OpenSearch, IndexRequest.validate: "id is too long, must be no longer than 512 bytes"

# Texts that ids of other types have (see document_id), or that a target does not take: the empty one.
_AMBIGUOUS = re.compile(
    r"""|["{\[].*|sha256:.*|[0-9a-f]{24}|-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?|-?Infinity|NaN|true|false|null""",
    re.DOTALL,
)


_OBJECT_ID = re.compile(r"[0-9a-f]{24}")


def document_id(value: Any) -> str:
    """The text of a document's ``_id``: one text for what MongoDB takes for one id (see ``canonical_id``), and
    different ones for different ids, whatever their types.

    - ObjectId: its 24 hexadecimal digits.
    - Text: itself, unless it could be taken for an id of another type (it looks like a number, 24 hexadecimal digits,
      ``true``, or starts as JSON does); then quoted as JSON.
    - Numbers: their value, the same for ``1``, ``1.0`` and ``Decimal128("1.00")``.
    - Anything else: relaxed Extended JSON.
    - Longer than 512 bytes, which OpenSearch's ids have at most: ``sha256:`` and the hexadecimal SHA-256 of all that.

    Args:
        value: The ``_id``, as ``ChangeEvent.exact_id`` has it.

    Raises:
        UnrenderableError: Extended JSON cannot say it without altering it.
    """
    text = _text(value)
    encoded = text.encode()
    return text if len(encoded) <= _ID_BYTES else "sha256:" + hashlib.sha256(encoded).hexdigest()


def document_version(time: Timestamp) -> int:
    """The version of a document that changed at this cluster time: later changes have higher ones.

    Seconds above 31 bits of increment: seconds are 32 bits wide, so it fits the signed 64 bits that OpenSearch and
    PostgreSQL have until the seconds themselves run out, in 2106. Only increments of 2^31 and more, in one second,
    would not be told apart.
    """
    return time.time << 31 | min(time.inc, 2**31 - 1)


def version_time(version: int) -> Timestamp:
    """The cluster time of a version; of one that another client made, some time."""
    return Timestamp(version >> 31 & 0xFFFFFFFF, version & (2**31 - 1))


def document_key(text: str) -> bytes | None:
    """The element ``_id``, in BSON, of the documents that have this id: what ``document_id`` made it of.

    None where it is a digest, or none that ``document_id`` makes.
    """
    if text.startswith("sha256:"):
        return None
    value: Any = text
    try:
        if _OBJECT_ID.fullmatch(text):
            value = {"$oid": text}
        elif _AMBIGUOUS.fullmatch(text):
            value = json.loads(text)
        element = rawbson.first(to_bson({"_id": value}))
        is_made = document_id(dict(rawbson.read(rawbson.joined([element])))["_id"]) == text
    except (ValueError, TypeError, ArithmeticError, BSONError, RecursionError):
        return None
    return element if is_made else None


def _text(value: Any) -> str:
    if isinstance(value, ObjectId):
        return str(value)
    value = canonical_id(value)
    if type(value) is str:  # not Code, which is a kind of str
        return json.dumps(value, ensure_ascii=False) if _AMBIGUOUS.fullmatch(value) else value
    if type(value) is int:
        return str(value)
    if type(value) is float:
        return repr(value) if math.isfinite(value) else non_finite_name(value)
    return key_json(value).removeprefix('{"_id":').removesuffix("}")
