"""Keys in Redis: of documents, and of what is known of them beside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import orjson

from docdb_stream.event import ChangeEvent
from docdb_stream.position import Namespace
from docdb_stream.template import Template

ID: Final = "{id}"
PREFIX: Final = "docdb-stream:"
"""Of all keys that are not the documents' own."""
SOURCES: Final = f"{PREFIX}sources"
"""A hash: each collection that was ever written, with its place -> the version up to which it was dropped, or
nothing."""
_TAG: Final = re.compile(r"\{([^}]+)\}")
"""The part of a key that says its slot (Redis Cluster specification, "Hash tags"): the first braces, unless empty."""
_ODD: Final = re.compile(r"[%{}]")
_ANY_EVENT: Final = ChangeEvent(document={})
_GLOB: Final = re.compile(r"([*?\[\]^\\-])")
"""Characters that mean something in patterns of SCAN, or might (Redis, "KEYS")."""


def quoted(text: str) -> str:
    """The text without braces, which would say another slot; no two texts become one."""
    return _ODD.sub(lambda found: f"%{ord(found[0]):02X}", text)


def version_key(key: str) -> str:
    """The key of the version of the document with this key; both are in one slot, whatever the key is."""
    tag = _TAG.search(key)
    return f"{PREFIX}v:{{{key}}}" if tag is None else f"{PREFIX}v:{{{tag[1]}}}:{key}"


def field_of(place: Place, source: str) -> bytes:
    """The field of a collection, ``db.coll``, in the hash of them."""
    return orjson.dumps([source, place.name])


def source_of(field: bytes) -> Namespace:
    """The collection of a field."""
    return Namespace(*orjson.loads(field)[0].split(".", 1))


@dataclass(frozen=True, slots=True)
class Place:
    """The keys of one collection's documents: what comes before the id, and after."""

    before: str
    after: str

    def key(self, id: str) -> str:
        """The key of a document."""
        return f"{self.before}{quoted(id)}{self.after}"

    def id(self, key: str) -> str | None:
        """The id in a key; None where the key is none of these."""
        if not (key.startswith(self.before) and key.endswith(self.after)) or key.startswith(PREFIX):
            return None
        inner = key[len(self.before) : len(key) - len(self.after)]
        return unquote(inner) if inner else None

    @property
    def pattern(self) -> str:
        """The pattern of SCAN that finds them, and perhaps others."""
        before, after = (_GLOB.sub(r"\\\1", part) for part in (self.before, self.after))
        return f"{before}*{after}"

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.before}*{self.after}"


class Keys:
    """Makes places.

    Args:
        text: The template: ``{id}`` once, ``{db}`` and ``{coll}`` as one likes.

    Raises:
        ValueError: It is something else.
    """

    def __init__(self, text: str) -> None:
        parts = text.split(ID)
        if len(parts) != 2:
            raise ValueError("expected {id} once, besides {db} and {coll}, such as {db}:{coll}:{id}")
        self._parts = [Template(part) if part else None for part in parts]
        self.fields = frozenset[str]().union(*(part.fields for part in self._parts if part is not None))
        if not self.fields <= {"db", "coll"}:
            raise ValueError("keys are made of {db}, {coll} and {id} alone: a delete says nothing else of its document")
        if text.startswith(PREFIX):
            raise ValueError(f"keys that begin with {PREFIX} are for what is known of documents")

    def of(self, namespace: Namespace) -> Place:
        """The keys of a collection's documents."""
        before, after = (self._text(part, namespace) for part in self._parts)
        return Place(before, after)

    @staticmethod
    def _text(part: Template | None, namespace: Namespace) -> str:
        return "" if part is None else part.render(_ANY_EVENT, namespace, quoted)
