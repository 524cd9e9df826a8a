"""What becomes of the documents of a collection that was dropped, or renamed: by their collection and versions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from docdb_stream.targets._redis.client import Client, Command, script
from docdb_stream.targets._redis.keys import SOURCES, Place, field_of, version_key
from docdb_stream.targets._redis.script import FLOOR, TAKE_AWAY, WRITE, Known, version_text
from docdb_stream.targets._redis.values import READS, type_of

_PAGE_KEYS: Final = 100
"""Documents of so many keys are in memory at a time."""
_ENDED: Final = -2
"""Of PTTL: the key is not there any more (since its value was read)."""


def delete_older(client: Client, place: Place, source: str, before: int) -> None:
    """Delete a collection's documents that are older, and let no older one come from now on. Safe to repeat.

    Raises:
        TargetError: The server cannot be reached, or refuses the user.
    """
    client.do([script(FLOOR, [SOURCES], field_of(place, source), version_text(before))])
    for keys in client.scan(place.pattern):
        ours = [key for key in keys if place.id(key) is not None]
        client.do([_take_away(key, source, before) for key in ours])


def move_older(client: Client, old: tuple[Place, str], new: tuple[Place, str], at: int, tombstone_ms: int) -> None:
    """Move a collection's documents that are older to the keys of the collection that it was renamed to, in place of
    those that are there. Safe to repeat.

    Args:
        client: To the target.
        old: The keys, and the collection, ``db.coll``.
        new: The same after.
        at: When it was renamed.
        tombstone_ms: How long the version of a document that ends by itself stays after it.

    Raises:
        TargetError: As ``delete_older``.
    """
    (place, source), (to, renamed) = old, new
    delete_older(client, to, renamed, at)
    for keys in client.scan(place.pattern):
        moved = [(key, to.key(id)) for key in keys if (id := place.id(key)) is not None]
        for first in range(0, len(moved), _PAGE_KEYS):
            _move(client, moved[first : first + _PAGE_KEYS], source, renamed, at, tombstone_ms)
    client.do([script(FLOOR, [SOURCES], field_of(place, source), version_text(at))])


def _move(
    client: Client, keys: Sequence[tuple[str, str]], source: str, renamed: str, at: int, tombstone_ms: int
) -> None:
    versions = client.do([("GET", version_key(key)) for key, _ in keys], writes=False)
    older = [
        pair
        for pair, stored in zip(keys, versions, strict=True)
        if (known := Known.of(stored)) is not None and known.source == source and known.version < at
    ]
    types = map(type_of, client.do([("TYPE", key) for key, _ in older], writes=False))
    # Nothing is there of what is deleted; what is of another kind, somebody else has put there.
    there = [(key, goal, READS[type]) for (key, goal), type in zip(older, types, strict=True) if type in READS]
    values = client.do([(command, key) for key, _, command in there], writes=False)
    lefts_ms = client.do([("PTTL", key) for key, *_ in there], writes=False)
    client.do(
        [
            _moved(goal, renamed, at, value, left_ms, tombstone_ms)
            for (_, goal, _), value, left_ms in zip(there, values, lefts_ms, strict=True)
            if value and left_ms != _ENDED
        ]
    )
    client.do([_take_away(key, source, at) for key, goal in older if key != goal])


def _take_away(key: str, source: str, before: int) -> Command:
    return script(TAKE_AWAY, [key, version_key(key)], version_text(before), source)


def _moved(key: str, source: str, at: int, value: Any, left_ms: int, tombstone_ms: int) -> Command:
    is_hash = isinstance(value, dict)
    parts = [part for pair in value.items() for part in pair] if is_hash else [value]
    # Less than none: it does not end by itself. The end is in the same step: a run may die after any.
    end_ms = None if left_ms < 0 else int(time.time() * 1000) + left_ms
    ends = ("", "") if end_ms is None else (end_ms, end_ms + tombstone_ms)
    return script(
        WRITE, [key, version_key(key)], version_text(at), source, "hash" if is_hash else "json", *ends, *parts
    )
