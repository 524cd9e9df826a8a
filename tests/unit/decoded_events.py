"""Change events as they are once decoded."""

from __future__ import annotations

from typing import Any

from bson.objectid import ObjectId
from bson.timestamp import Timestamp

OID = ObjectId("65a1f0c2d4e5f60718293a4b")


def event(operation: str = "insert", **fields: Any) -> dict[str, Any]:
    return {
        "_id": {"_data": "0165a1f0c2000000010100000001000000a1"},
        "operationType": operation,
        "clusterTime": Timestamp(1700000000, 3),
        "ns": {"db": "shop", "coll": "orders"},
        "documentKey": {"_id": OID},
        **fields,
    }
