"""The tables: whether they are there and fit, and making them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from docdb_stream.errors import Caution, TargetError
from docdb_stream.targets._cassandra import cql
from docdb_stream.targets._cassandra.cluster import Cluster
from docdb_stream.targets._cassandra.declaration import STATE, TableRule
from docdb_stream.targets._cassandra.errors import NAME

_COLUMNS: Final = (
    "SELECT table_name, column_name, type, kind, position FROM system_schema.columns WHERE keyspace_name = ?"
)
_GRACE: Final = "SELECT table_name, gc_grace_seconds FROM system_schema.tables WHERE keyspace_name = ?"
_DAY_S: Final = 86_400


class Tables:
    """The declared tables, and the target's own.

    Args:
        cluster: Where they are; its owner closes it.
        rules: The declared ones.
        creates: Whether missing ones are made.
        tombstone_s: How long deleted documents are remembered.
    """

    def __init__(self, cluster: Cluster, rules: Iterable[TableRule], *, creates: bool, tombstone_s: int) -> None:
        self._cluster = cluster
        self._rules = [*rules]
        self._creates = creates
        self._tombstone_s = tombstone_s
        remembers = f"gc_grace_seconds = {tombstone_s}"
        self._options = cql.KEYSPACES_OPTIONS if cluster.is_keyspaces else remembers
        self._state_options = cql.KEYSPACES_OPTIONS if cluster.is_keyspaces else cql.STATE_OPTIONS
        self._ready = False

    def make_ready(self) -> None:
        """See, once, that they are there and fit; make those that are missing, if that is to be done.

        Raises:
            TargetError: One is missing, or is another.
        """
        if self._ready:
            return
        missing = self._missing()
        if missing and not self._creates:
            raise self._is_missing(missing)
        for statement in missing:
            self._cluster.change_schema(statement)
        if missing and self._missing():
            raise TargetError(NAME, f"{self._cluster.place}: tables were made and are not there", hint="run it again")
        self._ready = True

    def check(self) -> None:
        """As ``make_ready``, without making any.

        Raises:
            TargetError: One is missing and is not to be made, or is another.
            Caution: One forgets what was deleted sooner than it is told to.
        """
        missing = self._missing()
        if missing and not self._creates:
            raise self._is_missing(missing)
        if self._cluster.is_keyspaces:
            return
        [rows] = self._cluster.read([(_GRACE, (self._cluster.keyspace,))])
        graces = {str(table): int(grace_s) for table, grace_s in rows}
        for rule in self._rules:
            grace_s = graces.get(rule.table, self._tombstone_s)
            if grace_s < self._tombstone_s:
                raise Caution(
                    f"{rule.table} forgets after {grace_s / _DAY_S:.3g} days what was deleted, and a replay of what is "
                    f"older brings it back: ALTER TABLE {rule.table} WITH gc_grace_seconds = {self._tombstone_s}"
                )

    def _missing(self) -> Sequence[str]:
        """The statements that make what is not there.

        Raises:
            TargetError: What is there has another key, or lacks a column.
        """
        [rows] = self._cluster.read([(_COLUMNS, (self._cluster.keyspace,))])
        tables: dict[str, dict[str, str]] = {}
        keys: dict[str, dict[tuple[str, int], str]] = {}
        for table, column, kind_of_value, kind, position in rows:
            tables.setdefault(str(table), {})[str(column)] = str(kind_of_value)
            if kind in ("partition_key", "clustering"):
                keys.setdefault(str(table), {})["0" if kind == "partition_key" else "1", int(position)] = str(column)
        ordered = {table: [found[place] for place in sorted(found)] for table, found in keys.items()}
        missing = []
        if self._is_to_be_made(STATE, cql.STATE_COLUMNS, cql.STATE_KEY, tables, ordered):
            missing.append(cql.create_state(self._state_options))
        for rule in self._rules:
            columns = {column.name: column.type for column in rule.columns}
            if self._is_to_be_made(rule.table, columns, [each.name for each in rule.key], tables, ordered):
                missing.append(cql.create(rule, self._options))
        return missing

    def _is_to_be_made(
        self,
        table: str,
        columns: Mapping[str, str],
        key: Sequence[str],
        tables: Mapping[str, Mapping[str, str]],
        keys: Mapping[str, Sequence[str]],
    ) -> bool:
        there = tables.get(table)
        if there is None:
            return True
        if [*keys.get(table, ())] != [*key]:
            told = ", ".join(keys.get(table, ()))
            raise TargetError(
                NAME,
                f"table {table} has the key ({told}), not ({', '.join(key)})",
                hint="correct CASSANDRA_TABLES, or name another table there",
            )
        for name, kind in columns.items():
            if there.get(name) != kind:
                found = f"is of type {there[name]}" if name in there else "is missing"
                raise TargetError(
                    NAME,
                    f"column {name} of table {table} {found}, and is to be {kind}",
                    hint=f"ALTER TABLE {table} ADD {name} {kind}, or correct CASSANDRA_TABLES",
                )
        return False

    def _is_missing(self, statements: Sequence[str]) -> TargetError:
        return TargetError(
            NAME,
            f"{self._cluster.place}: {len(statements)} of the tables are missing",
            hint="make them, or set CASSANDRA_CREATE = true: " + "; ".join(statements),
        )
