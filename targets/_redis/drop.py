"""What becomes of the documents of a collection that was dropped, or renamed: by their collection and versions."""

from __future__ import annotations

from docdb_stream.targets._redis.client import Client, Command, script
from docdb_stream.targets._redis.keys import SOURCES, Place, field_of, version_key
from docdb_stream.targets._redis.script import FLOOR, TAKE_AWAY, WRITE, Known, version_text


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
        moved = [(key, id) for key in keys if (id := place.id(key)) is not None]
        versions = client.do([("GET", version_key(key)) for key, _ in moved], writes=False)
        known = [
            (key, to.key(id))
            for (key, id), stored in zip(moved, versions, strict=True)
            if (found := Known.of(stored)) is not None and found.source == source and found.version < at
        ]
        kinds = client.do([("TYPE", key) for key, _ in known], writes=False)
        values = client.do([_read(key, kind) for (key, _), kind in zip(known, kinds, strict=True)], writes=False)
        ends = client.do([("PTTL", key) for key, _ in known], writes=False)
        client.do(
            [
                _moved(goal, renamed, at, kind, value)
                for (_, goal), kind, value in zip(known, kinds, values, strict=True)
                if value
            ]
        )
        ending = [(goal, left_ms) for (_, goal), left_ms in zip(known, ends, strict=True) if left_ms > 0]
        client.do([("PEXPIRE", goal, left_ms) for goal, left_ms in ending])
        client.do([("PEXPIRE", version_key(goal), left_ms + tombstone_ms) for goal, left_ms in ending])
        client.do([_take_away(key, source, at) for key, goal in known if key != goal])
    client.do([script(FLOOR, [SOURCES], field_of(place, source), version_text(at))])


def _take_away(key: str, source: str, before: int) -> Command:
    return script(TAKE_AWAY, [key, version_key(key)], version_text(before), source)


def _read(key: str, kind: object) -> Command:
    return ("HGETALL", key) if _is_hash(kind) else ("GET", key)


def _is_hash(kind: object) -> bool:
    return kind in (b"hash", "hash")


def _moved(key: str, source: str, at: int, kind: object, value: object) -> Command:
    parts = [part for pair in value.items() for part in pair] if isinstance(value, dict) else [value]
    form = "hash" if _is_hash(kind) else "json"
    return script(WRITE, [key, version_key(key)], version_text(at), source, form, "", "", *parts)
