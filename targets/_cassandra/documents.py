"""What the target knows of each document: where its rows are, or may be, and of which version. It keeps that in a table
of its own.

A delete says nothing but an ``_id``, and the key of a row may be made of anything: whoever changes or deletes a
document has to know where it was. Two runs may write the same document at the same time, one of them an older state of
it. So a state is noted here before its rows are written, each with the places of its rows, beside those of other
states; and whoever has noted one looks at all of them before he writes rows. Of two, one at least sees the other's: the
newer removes the places of the older, or the older writes nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from docdb_stream.targets._cassandra import cql
from docdb_stream.targets._cassandra.cluster import Cluster, Statement
from docdb_stream.targets._cassandra.declaration import TableRule
from docdb_stream.targets._cassandra.rows import RowKey, check_key, keys_from_json, keys_json
from docdb_stream.targets._versioned import version_time

BUCKETS: Final = 64
"""Partitions of a collection: of one of 10,000,000 documents, each holds some 150,000 short rows, within the 100 MB
that Cassandra's documentation ("Data modeling") gives a partition."""


class DocumentName(NamedTuple):
    """Which document.

    Attributes:
        source: Its collection, as ``db.coll``.
        id: Its ``_id`` as text, see ``document_id``.
    """

    source: str
    id: str

    @property
    def bucket(self) -> int:
        """The partition that it is in."""
        return zlib.crc32(self.id.encode()) % BUCKETS


@dataclass(frozen=True, slots=True)
class State:
    """A state of a document, whose rows are there, or were to be.

    Attributes:
        name: Which document.
        version: When it changed, see ``document_version``.
        sequence: Which of the states of that version it is.
        keys: Where its rows are; none of a document that is gone.
        note: The same as text, by which it is told apart from other states.
    """

    name: DocumentName
    version: int
    sequence: int
    keys: tuple[RowKey, ...]
    note: str

    def is_newer_than(self, other: State) -> bool:
        """Whether it has followed the other one."""
        return (self.version, self.sequence) > (other.version, other.sequence)

    @property
    def timestamp_us(self) -> int:
        """That of its rows."""
        return cql.timestamp_us(version_time(self.version), self.sequence)


class Documents:
    """The table.

    Args:
        cluster: Where it is; its owner closes it.
        rules: The declared tables, by their names.
    """

    def __init__(self, cluster: Cluster, rules: Mapping[str, TableRule]) -> None:
        self._cluster = cluster
        self._rules = rules

    def state(self, name: DocumentName, version: int, sequence: int, keys: Sequence[RowKey]) -> State:
        """A state with rows at these keys. Raises UnrenderableError where they are too long to be noted."""
        note = keys_json(keys, self._rules)
        check_key("the keys of its rows", note)
        return State(name, version, sequence, tuple(keys), note)

    def states(self, names: Sequence[DocumentName]) -> Mapping[DocumentName, Sequence[State]]:
        """The states of these that are noted, as far as any are, the newest one first. Raises TargetError."""
        asked: list[Statement] = [(cql.READ_STATE_OF, (name.source, name.bucket, name.id)) for name in names]
        found = (self._read(name.source, rows) for name, rows in zip(names, self._cluster.read(asked), strict=True))
        return {name: states for each in found for name, states in each.items()}

    def all_of(
        self, source: str, buckets: Sequence[int] = range(BUCKETS)
    ) -> Iterator[Mapping[DocumentName, Sequence[State]]]:
        """The states of all documents of a collection, a bucket at a time. Raises TargetError."""
        for bucket in buckets:
            [rows] = self._cluster.read([(cql.READ_STATE, (source, bucket))])
            yield self._read(source, rows)

    def sources(self) -> Sequence[str]:
        """The collections of which anything is noted. Raises TargetError."""
        [rows] = self._cluster.read([(cql.READ_SOURCES, ())])
        return [*dict.fromkeys(str(row[0]) for row in rows)]

    def noted(self, state: State, ttl_s: int) -> Statement:
        """What notes a state; 0 seconds are for ever."""
        values = (*self._key(state), state.version, state.sequence)
        return cql.WRITE_STATE, (*values, state.timestamp_us, ttl_s)

    def forgotten(self, state: State, by: State) -> Statement:
        """What forgets one that a newer one has followed."""
        return cql.DELETE_STATE, (by.timestamp_us, *self._key(state))

    def _key(self, state: State) -> tuple[str, int, str, str]:
        name = state.name
        return name.source, name.bucket, name.id, state.note

    def _read(self, source: str, rows: Sequence[tuple[Any, ...]]) -> dict[DocumentName, list[State]]:
        found: dict[DocumentName, list[State]] = {}
        for id_text, note, version, sequence in rows:
            if version is None or sequence is None:  # it is nothing that this wrote
                continue
            name = DocumentName(source, id_text)
            state = State(name, version, sequence, keys_from_json(note, self._rules), note)
            found.setdefault(name, []).append(state)
        for states in found.values():
            states.sort(key=lambda each: (each.version, each.sequence), reverse=True)
        return found
