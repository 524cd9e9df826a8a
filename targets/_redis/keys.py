"""Keys in Redis: of documents, and of what is known of them beside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import unquote

import orjson

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.event import ChangeEvent
from docdb_stream.position import Namespace
from docdb_stream.template import Template

ID: Final = "{id}"
PREFIX: Final = "docdb-stream:"
"""Of all keys that are not the documents' own."""
SOURCES: Final = f"{PREFIX}sources"
"""A hash: each collection that was ever written, with its place -> the version up to which it was dropped, or
nothing."""
_TAG: Final = re.compile(r"[^{]*\{([^}]+)\}", re.DOTALL)
"""The part of a key that says its slot (Redis Cluster specification, "Hash tags"): the first braces, unless empty."""
_ODD: Final = "%{}"
_ANY_EVENT: Final = ChangeEvent(document={})
_GLOB: Final = re.compile(r"([*?\[\]^\\-])")
"""Characters that mean something in patterns of SCAN, or might (Redis, "KEYS")."""


def quoted(text: str, odd: str = _ODD) -> str:
    """The text without braces, which would say another slot, and other odd characters; no two texts become one."""
    return "".join(f"%{ord(each):02X}" if each in odd else each for each in text)


def version_key(key: str) -> str:
    """The key of the version of the document with this key; both are in one slot, whatever the key is."""
    tag = _TAG.match(key)
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
        """The key of a document. Raises UnrenderableError where its id makes a key that is kept for something else, or
        whose version could not be kept in its slot."""
        key = f"{self.before}{quoted(id)}{self.after}"
        if not key or key.startswith(PREFIX) or ("}" in key and _TAG.match(key) is None):
            raise UnrenderableError("_id: REDIS_KEY makes no key of it that could be used")
        return key

    def id(self, key: str) -> str | None:
        """The id in a key; None where the key is none of these."""
        is_like_it = key.startswith(self.before) and key.endswith(self.after) and not key.startswith(PREFIX)
        end = len(key) - len(self.after)
        return unquote(key[len(self.before) : end]) if is_like_it and end >= len(self.before) else None

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
        # A name that holds what parts the fields could otherwise make the key of another collection's document.
        self._odd = _ODD + "".join({each for each in text if each.isascii() and not each.isalnum()} - set(_ODD))
        try:
            self.of(Namespace("db", "coll")).key("id")
        except UnrenderableError:
            raise ValueError(
                "braces of a key's own, {{ and }}, have to be around something: they say its slot"
            ) from None

    def of(self, namespace: Namespace) -> Place:
        """The keys of a collection's documents. Raises ConfigError where they are kept for something else."""
        before, after = (self._text(part, namespace) for part in self._parts)
        if before.startswith(PREFIX):
            raise ConfigError(
                f"REDIS_KEY: the keys of {namespace} begin with {PREFIX}, and those are for what is known of documents",
                hint="begin REDIS_KEY with something else",
            )
        return Place(before, after)

    def _text(self, part: Template | None, namespace: Namespace) -> str:
        return "" if part is None else part.render(_ANY_EVENT, namespace, partial(quoted, odd=self._odd))
