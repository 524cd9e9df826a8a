"""What a change stream asks the server for: which images of documents, and which events.

Owns how settings become options and a ``$match``. That a server can do it, and what becomes of one that cannot, is
``source``'s and ``change_stream``'s. See docs/adr/0010.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from bson.raw_bson import RawBSONDocument
from bson.regex import Regex

from docdb_stream.formats.reader import to_bson
from docdb_stream.mongodb.state import state_of
from docdb_stream.namespaces import NamespacePattern, expression
from docdb_stream.position import Position
from docdb_stream.settings import Settings

Condition = Mapping[str, Any]

_AS_OPTION: Final = {"update_lookup": "updateLookup", "when_available": "whenAvailable", "required": "required"}
_BEFORE_CHANGES_OF: Final = frozenset({"update", "replace", "delete"})


def images(settings: Settings) -> dict[str, str]:
    """Which documents the events are to have besides what the log holds, as options of ``$changeStream``: none that no
    event would show, because OPERATIONS leaves it out. What is not wanted is left out, which every server takes."""
    wanted = frozenset(settings.operations)
    found = {}
    if settings.full_document != "default" and (not wanted or "update" in wanted):
        found["fullDocument"] = _AS_OPTION[settings.full_document]
    if settings.full_document_before_change != "off" and (not wanted or wanted & _BEFORE_CHANGES_OF):
        found["fullDocumentBeforeChange"] = _AS_OPTION[settings.full_document_before_change]
    return found


def kept_images(settings: Settings) -> list[str]:
    """Those that the server has to have kept itself, as pre- or post-images: MongoDB 6.0 or later."""
    return [name for name, how in images(settings).items() if how != _AS_OPTION["update_lookup"]]


@dataclass(frozen=True)
class ServerFilter:
    """The events that the server leaves out.

    It may let pass what the steps leave out afterwards, and never leaves out what they would let pass. An
    ``invalidate`` passes in any case: a stream must see its end.

    Attributes:
        conditions: By the rule's name: of these, an event has to meet one. All rules hold.
    """

    conditions: Mapping[str, Sequence[Condition]]

    @property
    def rules(self) -> tuple[str, ...]:
        """The settings' rules among them, by the names under which the steps count."""
        return tuple(name for name in self.conditions if name != _STATE)

    def without(self, *names: str) -> ServerFilter:
        """The filter without these rules."""
        return ServerFilter({name: each for name, each in self.conditions.items() if name not in names})

    def stages(self, position: Position) -> list[Condition]:
        """The pipeline's stages after ``$changeStream``, for a stream that is opened at this position.

        The events of the position's own time pass. A server looks for the event whose token it resumes after, and says
        that the token is lost (code 280) where its filter leaves that event out: one that came before the filter was
        changed, or that another member of a transaction was.
        """
        if not self.conditions:
            return []
        own = [{"clusterTime": position.operation_time}] if position.operation_time else []
        return [{"$match": {"$and": [{"$or": [*own, *each]} for each in self.conditions.values()]}}]


_STATE: Final = "state"


def server_filter(settings: Settings) -> ServerFilter:
    """What the settings have the server leave out, if it can be left to it."""
    conditions: dict[str, Sequence[Condition]] = {}
    if settings.namespaces and settings.filter_at != "client":
        conditions["namespaces"] = [*_of_namespaces(settings.namespaces)]
    if settings.operations and settings.filter_at == "server":
        conditions["operations"] = [{"operationType": {"$in": [*settings.operations, "invalidate"]}}]
    if settings.match and settings.filter_at == "server":
        conditions["match"] = _of_match(settings)
    if "required" in images(settings).values() and (settings.scope is None or settings.scope.coll is None):
        # Nobody keeps images of the state, so the stream would end at its own first checkpoint.
        own = sorted(str(namespace.coll) for namespace in state_of(settings))
        conditions[_STATE] = [{"ns.db": {"$ne": settings.state_db}}, {"ns.coll": {"$nin": own}}]
    return ServerFilter(conditions)


def _of_namespaces(texts: Iterable[str]) -> Iterable[Condition]:
    """Operations that have no collection, or two, pass by their names: ``$exists`` would take MongoDB 6.0 twice as long
    as all the rest, and the steps look again."""
    patterns = sorted((NamespacePattern.of(text) for text in texts), key=lambda pattern: (pattern.db, pattern.coll))
    for db, together in groupby(patterns, lambda pattern: pattern.db):
        colls = [_value(pattern.coll) for pattern in together]
        yield {"ns.db": _value(db), "ns.coll": {"$in": colls}}
    yield {"operationType": {"$in": ["invalidate", "dropDatabase", "rename"]}}


def _value(pattern: str) -> str | Regex[str]:
    return Regex(f"^{expression(pattern)}$", "s") if "*" in pattern else pattern


def _of_match(settings: Settings) -> list[Condition]:
    """Of the events that show a document. With ON_EXIT=delete a change after which it matches no more becomes a delete,
    which is the step's to make; only an insert is nothing then. ``delete`` may be what ON_EXIT comes to unless it says
    otherwise."""
    judged = ["insert", "update", "replace"] if settings.on_exit == "ignore" else ["insert"]
    return [
        {"operationType": {"$nin": judged}},
        {"fullDocument": {"$not": {"$type": "object"}}},
        RawBSONDocument(to_bson(json.loads(settings.match or "{}"))),
    ]
