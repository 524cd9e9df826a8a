"""Which documents make which rows, as the setting says it.

Owns the notation, which is that of CREATE TABLE with a path for each column::

    views: views_by_session (session_id text = session, at timestamp, id text = _id, page text = page.url,
        PRIMARY KEY ((session_id), at DESC, id)) TTL 90d
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from docdb_stream.targets._cassandra.values import TYPES

STATE: Final = "docdb_stream_documents"
"""The table of the target's own, see ``documents``."""
LONGEST_TTL_S: Final = 630_720_000
"""Apache Cassandra's documentation, "Expiring data with TTL": 20 years."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")
"""What needs no quotes in CQL, and as long as a name of a table may be (SchemaConstants.NAME_LENGTH)."""
_HEAD: Final = re.compile(r"\s*([^\s(){}:,;=]+)\s*:\s*([^\s(){}:,;=]+)\s*\(")
_TAIL: Final = re.compile(r"\s*(?:TTL\s+([0-9]+)\s*([smhd]?)\s*)?[,;]?", re.IGNORECASE)
_COLUMN: Final = re.compile(r"(\S+)\s+(\S+?)\s*(?:=\s*(\S+))?")
_KEY: Final = re.compile(r"PRIMARY\s+KEY\s*\((.*)\)", re.IGNORECASE | re.DOTALL)
_ORDERED: Final = re.compile(r"(\S+)(?:\s+(ASC|DESC))?", re.IGNORECASE)
_UNIT_S: Final[Mapping[str, int]] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_EXAMPLE: Final = "views: views_by_day (day text, id text = _id, page text, PRIMARY KEY ((day), id)) TTL 90d"


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and where its value is in a document.

    Attributes:
        name: Its name.
        type: Its type in CQL, one of ``TYPES``.
        path: The fields from the document inwards; empty: the whole document.
    """

    name: str
    type: str
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TableRule:
    """A table, and which documents have a row there.

    Attributes:
        collection: Of these documents: its name, without that of its database.
        table: The table's name.
        partition: The columns of the partition key.
        clustering: The clustering columns.
        descending: Those of them that are ordered downwards.
        others: The columns that are not of the key.
        ttl_s: How long a row stays after its document's last change; None: for ever.
    """

    collection: str
    table: str
    partition: tuple[Column, ...]
    clustering: tuple[Column, ...]
    descending: frozenset[str]
    others: tuple[Column, ...]
    ttl_s: int | None

    @property
    def key(self) -> tuple[Column, ...]:
        """The columns that tell its rows apart."""
        return self.partition + self.clustering

    @property
    def columns(self) -> tuple[Column, ...]:
        """All of them, the key first."""
        return self.key + self.others

    @property
    def is_keyed_by_id(self) -> bool:
        """Whether a document's ``_id`` alone says where its row is, so that a delete says it, too."""
        return all(column.path == ("_id",) for column in self.key)


def tables_of(text: str) -> tuple[TableRule, ...]:
    """The tables that the setting says, rules being apart by commas, semicolons or lines.

    Raises:
        ValueError: One cannot be read; the message quotes it.
    """
    found: list[TableRule] = []
    at = 0
    while text[at:].strip():
        head = _HEAD.match(text, at)
        end = None if head is None else _closing(text, head.end())
        tail = None if end is None else _TAIL.match(text, end + 1)
        if head is None or end is None or tail is None:
            raise ValueError(f"{text[at:].strip()[:200]}: expected a rule such as {_EXAMPLE}")
        found.append(_rule(head[1], head[2], text[head.end() : end], _ttl_s(tail)))
        at = tail.end()
    if not found:
        raise ValueError(f"there is no table: say one, as in {_EXAMPLE}")
    _check_together(found)
    return tuple(found)


def _check_together(rules: Sequence[TableRule]) -> None:
    seen = [(each.collection, each.table) for each in rules]
    for collection, table in seen:
        if seen.count((collection, table)) > 1:
            raise ValueError(f"{table}: a document of {collection} has one row in a table; leave the second rule out")
    for each in rules:
        for other in rules:
            types = {column.name: column.type for column in other.columns}
            same = [column.name for column in other.key] == [column.name for column in each.key]
            if each.table == other.table and not (
                same and all(types.get(column.name, column.type) == column.type for column in each.columns)
            ):
                raise ValueError(f"{each.table}: it is said with two keys, or a column of it with two types")


def _closing(text: str, at: int) -> int | None:
    """Where the parenthesis closes that was opened before ``at``."""
    depth = 1
    for place in range(at, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if depth == 0:
            return place
    return None


def _parts(text: str) -> Iterator[str]:
    """What commas divide, but for those within parentheses."""
    depth, start = 0, 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    yield text[start:].strip()


def _ttl_s(tail: re.Match[str]) -> int | None:
    if tail[1] is None:
        return None
    found = int(tail[1]) * _UNIT_S[(tail[2] or "").lower()]
    if not 0 < found <= LONGEST_TTL_S:
        raise ValueError(f"TTL {tail[1]}{tail[2] or ''}: expected between a second and 20 years (7300d)")
    return found


def _rule(collection: str, table: str, inner: str, ttl_s: int | None) -> TableRule:
    columns: dict[str, Column] = {}
    key = None
    for part in _parts(inner):
        found = _KEY.fullmatch(part)
        if found is None:
            column = _column(table, part)
            if columns.setdefault(column.name, column) is not column:
                raise ValueError(f"{table}: column {column.name} is said twice")
        elif key is not None:
            raise ValueError(f"{table}: there are two PRIMARY KEYs")
        else:
            key = found[1]
    if key is None:
        raise ValueError(f"{table}: expected a PRIMARY KEY, as in {_EXAMPLE}")
    if not _NAME.fullmatch(table) or table == STATE:
        raise ValueError(
            f"{table}: expected a table's name of small letters, digits and _; {STATE} is the target's own"
        )
    partition, clustering, descending = _key(table, key)
    names = partition + clustering
    if len(set(names)) < len(names) or not set(names) <= columns.keys():
        raise ValueError(f"{table}: PRIMARY KEY ({key.strip()}): expected each column once, and those of the table")
    return TableRule(
        collection,
        table,
        tuple(columns[name] for name in partition),
        tuple(columns[name] for name in clustering),
        descending,
        tuple(column for name, column in columns.items() if name not in names),
        ttl_s,
    )


def _column(table: str, text: str) -> Column:
    found = _COLUMN.fullmatch(text)
    if found is None or not _NAME.fullmatch(found[1]):
        raise ValueError(f"{table}: {text}: expected a column such as page text = page.url")
    name, kind, path = found[1], found[2].lower(), found[3] or found[1]
    if kind not in TYPES:
        raise ValueError(f"{table}: {name}: the type {kind} is not known; expected one of {', '.join(TYPES)}")
    names = () if path == "." else tuple(path.split("."))
    if "" in names:
        raise ValueError(f"{table}: {name}: {path}: expected a path such as total or order.total, or . for all")
    if not names and kind != "text":
        raise ValueError(f"{table}: {name}: the whole document is text, not {kind}")
    return Column(name, kind, names)


def _key(table: str, text: str) -> tuple[list[str], list[str], frozenset[str]]:
    """The columns of ``(partition, ...), clustering [DESC], ...``, and which are ordered downwards."""
    first, *rest = _parts(text)
    partition = [*_parts(first[1:-1])] if first.startswith("(") and first.endswith(")") else [first]
    clustering: list[str] = []
    descending: set[str] = set()
    for part in rest:
        found = _ORDERED.fullmatch(part)
        if found is None:
            raise ValueError(f"{table}: PRIMARY KEY: {part}: expected a column, and perhaps DESC")
        clustering.append(found[1])
        if (found[2] or "").upper() == "DESC":
            descending.add(found[1])
    return partition, clustering, frozenset(descending)
