"""Records what Debezium makes of many changes, and the change events of the same: tests/unit/debezium.

``PYTHONPATH=tests python -m matrix.debezium_records``, with the extra ``matrix``, takes a minute. The files then differ
from the last ones in tokens, times and sessions.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from bson import BSON, Code, DBRef, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.binary import Binary
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from matrix.servers.debezium import Captured, Debezium
from pymongo.database import Database

from docdb_stream.local import ReplicaSet
from docdb_stream.local.process import wait_until

FOLDER = Path(__file__).parents[1] / "unit" / "debezium"
PROPERTIES = {
    "topic.prefix": "shop-orders",
    "database.include.list": "shop",
    "capture.mode": "change_streams_update_full_with_pre_image",
}
"""Everything else is as it comes: json.serialization.mode, tombstones.on.delete, ..."""
OID = ObjectId("65f0c0ffee65f0c0ffee65f0")
NUMBERS = (1.5, 2.0, 1e21, 1e-7, 1 / 3, -0.0, 1.7976931348623157e308, 1234567.0, 12345678.0, 0.001, 0.0001)
EVERYTHING: dict[str, Any] = {
    **{f"double {number!r}": number for number in (*NUMBERS, float("nan"), float("inf"), float("-inf"))},
    "text": 'Grüße "quoted" \\ / \b\f\n\r\t \x01 \x7f \x85 \u2028 \U0001f600 <>&\' e\u0301 \u02b0 \ufeff',
    "empty": "",
    "document": {"a": {"b": {}}, "c": []},
    "array": [1, "two", [3, {"four": None}], []],
    **{f"binary {subtype}": Binary(bytes(range(16)), subtype) for subtype in (0, 2, 3, 4, 5, 128)},
    "oid": OID,
    "yes": True,
    "no": False,
    "none": None,
    "date": datetime(2024, 3, 1, 12, 30, 15, 123000),
    "midnight": datetime(2024, 3, 1),
    "before the epoch": datetime(1969, 12, 31, 23, 59, 59, 999000),
    **{f"date {ms}": DatetimeMS(ms) for ms in (253402300800000, 2**62, -(2**62))},
    "regex": Regex('^a/b"c', "imsx"),
    "plain regex": Regex("x", ""),
    "code": Code("f()"),
    "scoped": Code("f(x)", {"x": 1, "y": {"z": OID, "l": Int64(5)}}),
    **{f"int {number}": number for number in (42, -(2**31))},
    **{f"long {number}": Int64(number) for number in (7, 2**62, -(2**63))},
    **{f"decimal {text}": Decimal128(text) for text in ("12345.6789", "1E+30", "NaN", "-Infinity", "-0.00")},
    **{f"timestamp {seconds}": Timestamp(seconds, 2**32 - 1) for seconds in (5, 2**32 - 1)},
    "min": MinKey(),
    "max": MaxKey(),
    "ref": DBRef("people", OID),
    "ref with db": DBRef("people", 5, "shop"),
    "a.b": 1,
    "$dollar": 2,
    'key "with" quotes': 3,
    "ключ": 4,
}
IDS: tuple[Any, ...] = (
    *(OID, 1, Int64(5), Int64(2**60), 3.5, 4.0, 1e21, 1e-7, -1.25e-9, float("nan"), Decimal128("7.50"), True, None, {}),
    *("text", 'say "ü"\n\\', "e\u0301 \u02b0 \u20ac \xab \x7f \U0001f600", MinKey(), Code("x"), DBRef("a", 1)),
    *(Binary(bytes(range(16)), 4), b"\x01\x02", datetime(2024, 1, 2, 3, 4, 5, 678000), datetime(1960, 1, 1)),
    *(Timestamp(5, 6), {"a": 1, "b": {"c": [1, 2.0, {"x: y": "z: "}]}}),
)

Change = Callable[[], object]


def _deprecated() -> RawBSONDocument:
    """A document with an undefined value, a symbol and a DBPointer, which PyMongo itself does not write."""
    text = (4).to_bytes(4, "little") + b"sym\0"
    elements = b"\x06undefined\0" + b"\x0esymbol\0" + text + b"\x0cpointer\0" + text + OID.binary
    whole = BSON.encode({"_id": "deprecated"})[4:-1] + elements + b"\0"
    return RawBSONDocument((len(whole) + 4).to_bytes(4, "little") + whole)


def changes(db: Database[dict[str, Any]]) -> Iterator[tuple[str, Change]]:
    """Give each change and what it is called."""
    orders, pre = db["orders"], db["with_before_images"]
    first = {"_id": OID, "total": 12.5, "items": [{"sku": "a", "n": 1}], "at": datetime(2024, 3, 1, 12, 0, 0, 5000)}
    some = {"total": 13, "items.0.n": Int64(2), "new": {"a": Decimal128("1.0")}}
    yield "insert", lambda: orders.insert_one(first)
    yield "update", lambda: orders.update_one({"_id": OID}, {"$set": some, "$unset": {"at": ""}})
    yield "a longer array", lambda: orders.update_one({"_id": OID}, [{"$set": {"items": [*range(20)]}}])
    yield "an array cut", lambda: orders.update_one({"_id": OID}, [{"$set": {"items": {"$slice": ["$items", 18]}}}])
    yield "replace", lambda: orders.replace_one({"_id": OID}, {"only": "this"})
    yield "delete", lambda: orders.delete_one({"_id": OID})
    yield "every type", lambda: orders.insert_one({"_id": "every", **EVERYTHING})
    yield "every type, updated", lambda: orders.update_one({"_id": "every"}, [{"$set": {"again": "$$ROOT"}}])
    yield "fields removed", lambda: orders.update_one({"_id": "every"}, {"$unset": {"again": "", "empty": ""}})
    yield "deprecated types", lambda: db.command({"insert": "orders", "documents": [_deprecated()]})
    yield "an empty document", lambda: orders.insert_one({"_id": "empty"})
    yield "empty values", lambda: orders.update_one({"_id": "empty"}, {"$set": {"d": {}, "a": []}})
    for id_ in IDS:
        yield f"insert of {id_!r}", lambda id_=id_: orders.insert_one({"_id": id_})
        yield f"delete of {id_!r}", lambda id_=id_: orders.delete_one({"_id": id_})
    yield "insert, before images", lambda: pre.insert_one({"_id": 1, "a": 1, "b": [1, 2, 3]})
    yield "update, before images", lambda: pre.update_one({"_id": 1}, {"$set": {"a": 2}})
    yield "replace, before images", lambda: pre.replace_one({"_id": 1}, {"c": Int64(3)})
    yield "delete, before images", lambda: pre.delete_one({"_id": 1})
    yield "a transaction", lambda: _transaction(db)
    yield "an odd collection", lambda: db["o.d-d ñ"].insert_one({"_id": 1})


def _transaction(db: Database[dict[str, Any]]) -> None:
    with db.client.start_session() as session, session.start_transaction():
        db["orders"].insert_one({"_id": "t"}, session=session)
        db["with_before_images"].insert_one({"_id": "t", "a": 1}, session=session)
        db["orders"].update_one({"_id": "t"}, {"$set": {"b": 1}}, session=session)
        db["with_before_images"].delete_one({"_id": "t"}, session=session)


def main() -> None:
    """Make the changes one by one, so that each finds the document that it has left."""
    with ReplicaSet() as cluster, cluster.client() as client:
        db = client["shop"]
        db.create_collection("with_before_images", changeStreamPreAndPostImages={"enabled": True})
        db["orders"].insert_many([{"_id": "there before", "n": Int64(1)}, {"_id": 2, "n": 2.0}])
        with Debezium(cluster.uri, PROPERTIES) as debezium:
            wait_until(lambda: len(debezium.records()) == 2, "the snapshot", timeout_s=60)
            _write("snapshot", [{"key": one.key, "value": one.value} for one in debezium.records()])
            _write("changes", list(_recorded(client.get_database("shop"), debezium)))


def _recorded(db: Database[dict[str, Any]], debezium: Debezium) -> Iterator[dict[str, Any]]:
    raw = db.client.codec_options.with_options(document_class=RawBSONDocument)
    options: dict[str, Any] = {"full_document": "updateLookup", "full_document_before_change": "whenAvailable"}
    with db.client.get_database("shop", raw).watch(**options, max_await_time_ms=100) as stream:
        for what, change in changes(db):
            done = len(debezium.records())
            change()
            count = 4 if what == "a transaction" else 1
            events = [stream.next() for _ in range(count)]
            deletes = sum(event["operationType"] == "delete" for event in events)

            def arrived(until: int = done + count + deletes) -> list[Captured] | None:
                found = debezium.records()
                return found if len(found) >= until else None

            records = iter(wait_until(arrived, f"Debezium has {what}", timeout_s=30)[done:])
            for event in events:
                record = next(records)
                line = {"what": what, "event": base64.b64encode(event.raw).decode(), **record._asdict()}
                if event["operationType"] == "delete":
                    tombstone = next(records)
                    assert tombstone == (record.topic, record.key, "null")
                    line["tombstone"] = True
                yield line


def _write(name: str, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (FOLDER / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
