"""A derived update: what an event means for a document of another collection, as an event of its own.

Owns how one is made and what it may hold. Who applies it, exactly once, is the target's that takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import bson

from docdb_stream.errors import UnrenderableError, surely
from docdb_stream.event import ChangeEvent
from docdb_stream.events import Events
from docdb_stream.formats.decoded import DECODE_OPTIONS
from docdb_stream.namespaces import INTERNAL_DATABASES, can_name_a_database
from docdb_stream.position import Namespace

DERIVED: Final = "derived.update"
"""The operation of a derived update. MongoDB's own are words without a dot."""

OPERATORS: Final = (
    "$set",
    "$setOnInsert",
    "$unset",
    "$inc",
    "$mul",
    "$min",
    "$max",
    "$addToSet",
    "$push",
    "$pull",
)
"""The update operators that can be used: those whose outcome the update and the document alone decide."""

SET_OPERATORS: Final = ("$addToSet", "$min", "$max")
"""Those of OPERATORS that come to the same in whatever order, and however often, they are applied: as long as all that
is done with a field is done by the same one."""

_DERIVED_BYTES: Final = b"\x02operationType\0" + (len(DERIVED) + 1).to_bytes(4, "little") + DERIVED.encode() + b"\0"


def derived(event: ChangeEvent, namespace: str, *, key: Mapping[str, Any], update: Mapping[str, Any]) -> ChangeEvent:
    """What an event means for a document of another collection: an update of it, to be returned by a TRANSFORM
    function, beside the event or in its place.

    The target mongodb applies it (see MONGODB_TARGET_URI), makes the document if there is none, and does so exactly
    once, however often the event comes; no other target sees it. It must be the same each time it is made of an event.
    One made of a snapshot's document (``event.snapshot_id``) is rejected: the target knows what it has applied by the
    stream's order, in which a snapshot has no place.

    Args:
        event: The event of which it is made.
        namespace: The collection, as ``db.coll``.
        key: Which document: its ``_id`` and, in a sharded collection, the shard key.
        update: Update operators, of OPERATORS.

    Returns:
        An event with the cluster time of ``event``, the operation DERIVED and a field ``update``. It has the id of
        ``event`` until ``step.each`` tells apart what was made of one.

    Raises:
        UnrenderableError: The namespace, the key or the update cannot be used. In a TRANSFORM function that makes a
            rejection of the event, with this reason.
    """
    db, _, coll = namespace.partition(".")
    document = {
        "_id": dict(event.document["_id"]),
        "operationType": DERIVED,
        "clusterTime": event.cluster_time,
        "ns": {"db": db, "coll": coll},
        "documentKey": dict(key),
        "update": dict(update),
    }
    made = ChangeEvent(surely(lambda: bson.encode(document, codec_options=DECODE_OPTIONS)))
    check(made)
    return made


def is_derived(event: ChangeEvent) -> bool:
    """Whether an event is a derived update."""
    if event.raw is not None and _DERIVED_BYTES not in event.raw:
        return False
    try:
        return event.operation == DERIVED
    except UnrenderableError:
        return False


def derived_in(events: Sequence[ChangeEvent]) -> list[ChangeEvent]:
    """The derived updates among events. There are none among those that are as they were read, which costs nothing."""
    is_sure = isinstance(events, Events) and events.are_as_read
    return [] if is_sure else [event for event in events if is_derived(event)]


def in_any_order(event: ChangeEvent) -> ChangeEvent:
    """A derived update that is applied whenever it comes, and again each time: of an event that has no place in an
    order, by which it would be known that it was applied before.

    Raises:
        UnrenderableError: It has other operators than SET_OPERATORS, and could come to something else.
    """
    others = [operator for operator in event.document["update"] if operator not in SET_OPERATORS]
    if others:
        raise UnrenderableError(f"derived update: {_shown(others[0])} is none of {', '.join(SET_OPERATORS)}")
    return event.replace(inAnyOrder=True)


def is_in_any_order(event: ChangeEvent) -> bool:
    """Whether a derived update was made by ``in_any_order``."""
    return event.document.get("inAnyOrder") is True


def check(event: ChangeEvent) -> None:
    """See that a derived update can be applied, as far as that shows without the document.

    Raises:
        UnrenderableError: It cannot; the text names paths and operators, never a value.
    """
    document = event.document
    checked_namespace(str(event.namespace))
    key, update = document.get("documentKey"), document.get("update")
    if not isinstance(key, Mapping) or "_id" not in key:
        raise UnrenderableError("derived update: its key needs an _id")
    if any(name.startswith("$") for name in key):
        raise UnrenderableError("derived update: its key is values, not operators")
    if isinstance(key["_id"], list):
        raise UnrenderableError("derived update: an _id cannot be an array")
    if not isinstance(update, Mapping) or not update:
        raise UnrenderableError("derived update: it is empty; give it operators such as $inc or $set")
    for operator, fields in update.items():
        if operator not in OPERATORS:
            raise UnrenderableError(f"derived update: {_shown(operator)} is none of {', '.join(OPERATORS)}")
        if not isinstance(fields, Mapping) or not fields:
            raise UnrenderableError(f"derived update: {operator} needs fields")
        for path in fields:
            _check_path(operator, path)


_NAMESPACE_BYTES: Final = 255
"""MongoDB limits, "Namespace Length"."""


def checked_namespace(text: str) -> Namespace:
    """The collection that ``db.coll`` names, if it can be written to.

    Raises:
        UnrenderableError: There can be no such collection, or it is the server's own.
    """
    db, _, coll = text.partition(".")
    if not db or not coll:
        raise UnrenderableError(f"{_shown(text)}: expected a collection as db.coll")
    is_too_long = len(text.encode()) > _NAMESPACE_BYTES
    if is_too_long or not can_name_a_database(db) or "$" in coll or "\0" in coll:
        raise UnrenderableError(f"{_shown(text)}: no collection can have this name")
    if db in INTERNAL_DATABASES or coll.startswith("system."):
        raise UnrenderableError(f"{_shown(text)} is the server's own")
    return Namespace(db, coll)


def _check_path(operator: str, path: str) -> None:
    parts = path.split(".")
    if parts[0] == "_id":
        raise UnrenderableError(f"derived update: {operator} of _id, which a document keeps")
    if not all(parts) or any(part.startswith("$") for part in parts):
        raise UnrenderableError(f"derived update: {operator} of {_shown(path)}, which is no path of a field")


def _shown(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "..."
