"""A record of a DynamoDB stream as a change event.

Owns how items become documents: types, keys, and what tells of the change. See docs/dynamodb-streams.md.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any, Final

import bson
from bson import Binary, Decimal128, Int64, Timestamp

from docdb_stream.settings.cluster import TABLES_DATABASE

OPERATIONS: Final = {"INSERT": "insert", "MODIFY": "update", "REMOVE": "delete"}
_TTL_PRINCIPAL: Final = "dynamodb.amazonaws.com"
"""Who deletes items whose time has come (DynamoDB developer guide, "DynamoDB Streams and Time to Live")."""
_TABLE: Final = re.compile(r":table/([^/]+)")
_EXACT: Final = Context(prec=34, traps=[Inexact, InvalidOperation])
"""Digits of a Decimal128; DynamoDB's numbers have up to 38."""
_INT32, _INT64 = 1 << 31, 1 << 63
_KEYS_CHARACTERS: Final = 32 * 1024
"""More than keys can have (developer guide, "Constraints": 2,048 and 1,024 bytes)."""
_MANTISSA_BITS: Final = 23
"""An increment has 31 bits in versions (``targets._versioned``); eight of them are for the length."""


def change_event(record: Mapping[str, Any]) -> bytes:
    """The BSON of the change event of a record, as Lambda hands it over: the same each time it comes.

    Raises:
        KeyError, TypeError, ValueError, ArithmeticError, BSONError: It is none, or BSON cannot hold it.
    """
    change, operation = record["dynamodb"], OPERATIONS[record["eventName"]]
    keys = dict(sorted(_item(change["Keys"]).items()))  # as an _id, a document is another in another order
    if not keys:
        raise ValueError("no key")
    id = next(iter(keys.values())) if len(keys) == 1 else keys
    new, old = _image(change.get("NewImage"), keys, id), _image(change.get("OldImage"), keys, id)
    told: dict[str, Any] = {"sequenceNumber": str(change["SequenceNumber"])}
    if (record.get("userIdentity") or {}).get("principalId") == _TTL_PRINCIPAL:
        told["ttl"] = True
    document: dict[str, Any] = {
        "_id": {"_data": str(record["eventID"])},
        "operationType": operation,
        "clusterTime": time_of(record),
        "ns": {"db": TABLES_DATABASE, "coll": table_of(record)},
        "documentKey": {"_id": id},
    }
    if operation != "delete" and new is not None:
        document["fullDocument"] = new
    if old is not None:
        document["fullDocumentBeforeChange"] = old
    if operation == "update" and new is not None and old is not None:
        document["updateDescription"] = _difference(old, new)
    return bson.encode({**document, "dynamodb": told})


def time_of(record: Mapping[str, Any]) -> Timestamp:
    """When it was written, by which keyed targets tell what is newer: the second that DynamoDB says, and within one an
    image of the sequence number, which grows with each change of an item. It grows with it, or stays: then what comes
    later is taken for newer."""
    seconds = int(float(record["dynamodb"]["ApproximateCreationDateTime"]))
    return Timestamp(seconds, _increment(int(record["dynamodb"]["SequenceNumber"])))


def _increment(sequence: int) -> int:
    """Its length in bits, then those after the first: 31 bits for up to 255, which is more than 40 digits have."""
    length = sequence.bit_length()
    if not 0 < length < 256 or sequence < 0:
        raise ValueError("no sequence number")
    after = sequence - (1 << length - 1)
    return length << _MANTISSA_BITS | (after << _MANTISSA_BITS >> length - 1)


def table_of(record: Mapping[str, Any]) -> str:
    """The table's name. Raises ValueError where the ARN of the stream has none."""
    found = _TABLE.search(str(record["eventSourceARN"]))
    if found is None:
        raise ValueError("no table in eventSourceARN")
    return found[1]


def _image(image: Mapping[str, Any] | None, keys: Mapping[str, Any], id: Any) -> dict[str, Any] | None:
    """An item as a document: its key as ``_id`` before its attributes."""
    if image is None:
        return None
    item = _item(image)
    own = item.pop("_id", None)
    if own is not None and not (len(keys) == 1 and "_id" in keys):
        name = "__id"
        while name in item:
            name = f"_{name}"
        item[name] = own
    return {"_id": id, **item}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    changed = {name: value for name, value in new.items() if name not in old or not _is_same(old[name], value)}
    return {"updatedFields": changed, "removedFields": [name for name in old if name not in new]}


def _is_same(one: Any, other: Any) -> bool:
    return bool(bson.encode({"v": one}) == bson.encode({"v": other}))


def _item(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Names, and the values of sets, in an order of their own: DynamoDB promises none, and what comes again has to be
    the same."""
    return {str(name): _value(attributes[name]) for name in sorted(attributes)}


def _value(attribute: Mapping[str, Any]) -> Any:
    [(kind, value)] = attribute.items()
    match kind:
        case "S":
            return str(value)
        case "N":
            return _number(str(value))
        case "B":
            return _binary(value)
        case "BOOL":
            return bool(value)
        case "NULL":
            return None
        case "M":
            return _item(value)
        case "L":
            return [_value(each) for each in value]
        case "SS":
            return sorted(map(str, value))
        case "NS":
            return [_number(each) for each in sorted(map(str, value), key=Decimal)]
        case "BS":
            return sorted(map(_binary, value))
    raise ValueError(f"there is no type {kind:.20}")


def _binary(value: str | bytes) -> Binary:
    return Binary(value if isinstance(value, bytes) else base64.b64decode(value, validate=True), 0)


def _number(text: str) -> Any:
    """A whole number as the smaller of the two types it fits in, any other as Decimal128; with more than 34 digits, for
    which BSON has no number, its text."""
    number = Decimal(text)
    if not number.is_finite():
        raise ValueError("no number")
    if number.adjusted() < 19 and number == number.to_integral_value():
        whole = int(number)
        if -_INT32 <= whole < _INT32:
            return whole
        if -_INT64 <= whole < _INT64:
            return Int64(whole)
    try:
        return Decimal128(_EXACT.create_decimal(number))  # zeros at the end are no digits that count
    except (Inexact, InvalidOperation):
        return text


def sequence_of(record: Mapping[str, Any]) -> str | None:
    """By which Lambda is told where to go on, digit by digit; None where the record has none."""
    change = record.get("dynamodb")
    number = change.get("SequenceNumber") if isinstance(change, Mapping) else None
    return number if isinstance(number, str) and number.isascii() and number.isdigit() else None


def parts_known(record: Mapping[str, Any]) -> dict[str, Any]:
    """What can be said of a record that cannot be read, for the dead letters: which item it is of, but nothing of what
    that holds, as no rule about fields could be applied to it."""
    found = _TABLE.search(_printable(record.get("eventSourceARN", "")))
    return {
        "_id": {"_data": _printable(record.get("eventID", ""))},
        "operationType": "unreadable",
        "clusterTime": Timestamp(0, 1),
        "ns": {"db": TABLES_DATABASE, "coll": found[1] if found else ""},
        "dynamodb": {"sequenceNumber": str(sequence_of(record)), "eventName": _printable(record.get("eventName", ""))},
        "keys": _keys_as_text(record),
    }


def _keys_as_text(record: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(record["dynamodb"]["Keys"], default=str)  # escapes all that BSON cannot hold
    except (KeyError, RecursionError, TypeError, ValueError):
        return ""
    return text[:_KEYS_CHARACTERS]


def _printable(value: object) -> str:
    """Text of it that BSON can hold."""
    return str(value).replace("\0", "").encode("utf-8", "replace").decode()[:1024]


def all_are_records(records: Sequence[Any]) -> bool:
    """Whether these are what a DynamoDB stream's mapping sends."""
    return all(isinstance(each, Mapping) and each.get("eventSource") == "aws:dynamodb" for each in records)
