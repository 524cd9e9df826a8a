"""What the tables hold of a stream, for comparing: see ``held.Holdings``."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from docdb_stream.event import ChangeEvent
from docdb_stream.held import Held
from docdb_stream.position import Namespace
from docdb_stream.settings import Settings
from docdb_stream.targets._cassandra import cql
from docdb_stream.targets._cassandra.cluster import Cluster
from docdb_stream.targets._cassandra.declaration import TableRule
from docdb_stream.targets._cassandra.documents import BUCKETS, DocumentName, Documents, State
from docdb_stream.targets._cassandra.writer import Change
from docdb_stream.targets._versioned import document_key, version_time

_TOGETHER: Final = 1_000
"""Documents whose rows are read at a time: so many are held in memory."""


class CassandraHoldings:
    """See ``Holdings``. The rows are read that the target knows of, each by its key; those in tables with a TTL are not
    compared, as they go by themselves.

    Args:
        settings: The stream.
        cluster: Where the tables are.
        rules: The declared tables, by their names.
        change_of: What an event makes.
        is_own: What is said of what the stream has written; None where it may be there on purpose, after a drop.
    """

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        rules: Mapping[str, TableRule],
        *,
        change_of: Callable[[ChangeEvent], Change | None],
        is_own: bool | None,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._rules = {name: rule for name, rule in rules.items() if rule.ttl_s is None}
        self._selects = {name: cql.select(rule) for name, rule in self._rules.items()}
        self._documents = Documents(cluster, rules)
        self._change_of = change_of
        self._is_own = is_own

    def expected(self, event: ChangeEvent) -> Held | None:
        """See Holdings."""
        change = self._change_of(event)
        if change is None:
            return None
        rows = {row.rule.table: row.values for row in change.rows}
        return Held(change.name.source, change.name.id.encode(), self._digest(rows), event.cluster_time)

    def place_of(self, namespace: Namespace) -> str | None:
        """See Holdings: the collection itself, whatever tables its documents have rows in."""
        return str(namespace)

    def places(self) -> Mapping[str, Sequence[Namespace]]:
        """See Holdings."""
        named = ((source, Namespace(*source.split(".", 1))) for source in self._documents.sources())
        return {source: [namespace] for source, namespace in named if self._settings.watches(namespace)}

    def held(self, place: str) -> Iterator[Held]:
        """See Holdings."""
        for page in self._documents.all_of(place):
            there = [states[0] for states in page.values() if self._is_compared(states[0])]
            for first in range(0, len(there), _TOGETHER):
                yield from self._with_rows(there[first : first + _TOGETHER])

    def sample(self, place: str, count: int) -> Sequence[Held]:
        """See Holdings. Of some buckets, by chance, all."""
        found: list[State] = []
        pages = self._documents.all_of(place, random.sample(range(BUCKETS), BUCKETS))
        for page in pages:
            found += [states[0] for states in page.values() if self._is_compared(states[0])]
            if len(found) >= count:
                break
        return self._with_rows(random.sample(found, min(count, len(found))))

    def look(self, wanted: Sequence[Held]) -> Sequence[Held]:
        """See Holdings."""
        names = [DocumentName(each.place, each.key.decode()) for each in wanted]
        noted = self._documents.states([*dict.fromkeys(names)])
        there = [states[0] for states in noted.values()]
        found = dict(zip([each.name for each in there], self._with_rows(there), strict=True))
        return [found.get(name) or Held(name.source, name.id.encode(), None, None, is_own=False) for name in names]

    def id_of(self, held: Held) -> bytes | None:
        """See Holdings."""
        return document_key(held.key.decode())

    def _with_rows(self, states: Sequence[State]) -> list[Held]:
        asked = [(each, key) for each in states for key in each.keys if key.table in self._rules]
        rows = self._cluster.read([(self._selects[key.table], key.values) for _, key in asked])
        found: dict[DocumentName, dict[str, tuple[Any, ...]]] = {}
        for (each, key), of_key in zip(asked, rows, strict=True):
            if of_key:
                found.setdefault(each.name, {})[key.table] = of_key[0]
        return [
            Held(
                each.name.source,
                each.name.id.encode(),
                self._digest(found.get(each.name, {}), is_there=self._is_compared(each)),
                version_time(each.version),
                self._is_own if self._is_compared(each) else False,
            )
            for each in states
        ]

    def _is_compared(self, state: State) -> bool:
        return any(key.table in self._rules for key in state.keys)

    def _digest(self, rows: Mapping[str, tuple[Any, ...]], *, is_there: bool = False) -> bytes | None:
        """Of the rows of a document: of each table's, the values. None where it has none, and is to have none."""
        compared = sorted((name, values) for name, values in rows.items() if name in self._rules)
        return hashlib.sha256(repr(compared).encode()).digest() if compared or is_there else None
