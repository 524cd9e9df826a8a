"""Documents to Apache Cassandra or Amazon Keyspaces: rows in declared tables, kept as the documents are.

Owns what each operation does. In ``_cassandra``, ``declaration`` says which documents make what, ``rows`` and
``values`` make it, ``cql`` has the statements, ``writer`` their order, ``documents`` what is known of each document,
``tables`` the tables, ``cluster`` the connection, ``held`` what is there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.plain import PLAIN
from docdb_stream.permissions import Permission
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import SecretReference
from docdb_stream.snapshot_event import snapshot_of
from docdb_stream.target import Rejection
from docdb_stream.targets._cassandra.cluster import KEYSPACES, Cluster
from docdb_stream.targets._cassandra.declaration import TableRule, tables_of
from docdb_stream.targets._cassandra.documents import DocumentName
from docdb_stream.targets._cassandra.errors import NAME
from docdb_stream.targets._cassandra.held import CassandraHoldings
from docdb_stream.targets._cassandra.rows import Row, keys_by_id, rows_of
from docdb_stream.targets._cassandra.tables import Tables
from docdb_stream.targets._cassandra.writer import Change, Writer
from docdb_stream.targets._mirror import LOCAL, WRITING, check_is_gone, check_whole, gone_by, write_in_order
from docdb_stream.targets._versioned import document_id, document_version

TOMBSTONE_DAYS: Final = 30
"""As the other targets that keep versions."""
_DAY_S: Final = 86_400


def _tables(text: str) -> str:
    if text:
        tables_of(text)
    return text


class CassandraSettings(TargetSettings):
    """What can be set about the target cassandra."""

    switch = "cassandra_hosts"

    cassandra_hosts: str | None = Field(
        default=None,
        min_length=1,
        description="Nodes of the Cassandra cluster, as host or host:port with commas, or an endpoint of Amazon "
        "Keyspaces with :9142: switches the target on. Absent: off.",
        examples=["cassandra-1.example, cassandra-2.example"],
    )
    cassandra_secret: SecretReference = Field(
        default=None,
        description="User name and password for it, by reference as documentdb_secret. Absent: none; at Keyspaces the "
        "role's own credentials (SigV4).",
        examples=["cassandra/writer"],
    )
    cassandra_keyspace: str = Field(
        default="",
        max_length=48,
        pattern=r"^([a-z][a-z0-9_]*)?$",
        description="The keyspace of the tables; it has to be there.",
        examples=["live"],
    )
    cassandra_tables: Annotated[str, AfterValidator(_tables)] = Field(
        default="",
        description="The tables, as collection: table (column type = path, ..., PRIMARY KEY ((column), column DESC)) "
        "TTL 90d, with commas; a column without a path has its own name, and . is the whole document as JSON.",
        examples=["views: views_by_day (day text, id text = _id, page text, PRIMARY KEY ((day), id)) TTL 90d"],
    )
    cassandra_datacenter: str | None = Field(
        default=None,
        min_length=1,
        description="Whose nodes are asked. Absent: that of the nodes of cassandra_hosts.",
        examples=["eu-central"],
    )
    cassandra_tls: bool = Field(default=False, description="Whether connections use TLS; always at Keyspaces.")
    cassandra_tls_ca: str | None = Field(
        default=None,
        min_length=1,
        description="CA bundle of it, a path. Absent: the system's.",
        examples=["/opt/certs/ca.pem"],
    )
    cassandra_create: bool = Field(
        default=False, description="Whether missing tables are made; false: they are there (docs/targets.md)."
    )
    cassandra_on_drop: Literal["delete", "keep"] = Field(
        default="delete",
        description="When a collection is dropped or renamed: delete what its documents have made, or keep it.",
    )
    cassandra_tombstone_days: int = Field(
        default=TOMBSTONE_DAYS,
        ge=1,
        le=3650,
        description="How many days the version of a deleted document stays, so that no replay brings it back: more "
        "than the change log keeps.",
    )
    cassandra_concurrency: int = Field(
        default=64, ge=1, le=1000, description="Statements on their way at the same time, at most."
    )

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        if scope is None:
            yield "CASSANDRA_TABLES: several databases are watched: collections of one name share tables"
        hosts = (self.cassandra_hosts or "").split(",")
        host = hosts[0].strip().partition(":")[0]
        if not self.cassandra_tls and host not in LOCAL and not host.endswith(KEYSPACES):
            yield "CASSANDRA_TLS: the connection is without TLS"
        for rule in tables_of(self.cassandra_tables) if self.cassandra_tables else ():
            if not any(column.path == ("_id",) for column in rule.key):
                yield (
                    f"CASSANDRA_TABLES: no column of {rule.table}'s key is of _id: documents with the same key take "
                    "each other's row"
                )


class CassandraTarget:
    """Keeps the rows that documents make.

    - insert, update, replace: the document's row in each table is written as a whole; where it had another key, that
      row goes. An update whose document was gone when it was looked up does nothing: its delete follows.
    - delete: its rows go.
    - drop, rename: the rows of the collection's documents go, see ``on_drop``. Documents do not come with a rename: if
      the new name makes something, a snapshot of it has to follow.
    - dropDatabase: nothing, as a drop of every collection comes before it. invalidate and unknown ones: nothing.
    - collections without a declared table: nothing.

    A row's timestamp is the cluster time of the document's change: of two states the newer stays, whichever is written
    last. Where rows are is kept in the table ``docdb_stream_documents``, which is written after them. Everything is
    durable once ``write`` returns, at the consistency level LOCAL_QUORUM.

    Args:
        hosts: ``host`` or ``host:port``, with commas.
        keyspace: The keyspace.
        tables: Which documents make which rows, see ``tables_of``.
        secret: Where user name and password are (see ``read_credentials``).
        datacenter: Whose nodes are asked; None: that of the hosts.
        tls: Whether connections use TLS.
        tls_ca: Path of a CA bundle; None: the system's.
        create: Whether missing tables are made.
        on_drop: ``delete`` or ``keep`` the rows of a dropped or renamed collection's documents.
        tombstone_days: How long deleted documents are remembered.
        concurrency: Statements on their way at the same time.
        source: The stream; None: it has whole documents.

    Raises:
        ConfigError: The driver is not installed, the stream's updates bring no documents, or nothing is to be made.
    """

    name = NAME
    keyed = True
    settings_model = CassandraSettings
    formats = (PLAIN, FACTS)

    def __init__(
        self,
        hosts: str,
        keyspace: str,
        tables: str,
        *,
        secret: str | None = None,
        datacenter: str | None = None,
        tls: bool = False,
        tls_ca: str | None = None,
        create: bool = False,
        on_drop: Literal["delete", "keep"] = "delete",
        tombstone_days: int = TOMBSTONE_DAYS,
        concurrency: int = 64,
        source: Settings | None = None,
    ) -> None:
        check_whole(source)
        if not keyspace:
            raise ConfigError("CASSANDRA_KEYSPACE is missing", hint="set it to the keyspace of the tables")
        try:
            declared = tables_of(tables)
        except ValueError as error:
            raise ConfigError(str(error), hint="correct CASSANDRA_TABLES (docs/targets.md)") from None
        self._rules: dict[str, list[TableRule]] = defaultdict(list)
        for rule in declared:
            self._rules[rule.collection].append(rule)
        self._by_table = {rule.table: rule for rule in declared}
        self._cluster = Cluster(
            hosts, keyspace, secret=secret, datacenter=datacenter, tls=tls, ca=tls_ca, concurrency=concurrency
        )
        self._follows_drops = on_drop == "delete"
        self._source = source
        tombstone_s = tombstone_days * _DAY_S
        self._tables = Tables(self._cluster, declared, creates=create, tombstone_s=tombstone_s)
        self._writer = Writer(self._cluster, self._by_table, tombstone_s)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on. Raises ConfigError."""
        own = settings.of(CassandraSettings)
        return cls(
            own.where,
            own.cassandra_keyspace,
            own.cassandra_tables,
            secret=own.cassandra_secret,
            datacenter=own.cassandra_datacenter,
            tls=own.cassandra_tls,
            tls_ca=own.cassandra_tls_ca,
            create=own.cassandra_create,
            on_drop=own.cassandra_on_drop,
            tombstone_days=own.cassandra_tombstone_days,
            concurrency=own.cassandra_concurrency,
            source=settings,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing and ``check`` take at Amazon Keyspaces; none of AWS elsewhere."""
        own = settings.of(CassandraSettings)
        if KEYSPACES not in own.where or own.cassandra_secret is not None:
            return []
        actions = ["cassandra:Select", "cassandra:Modify"]
        if own.cassandra_create:
            actions.append("cassandra:Create")
        arn = "arn:${AWS::Partition}:cassandra:${AWS::Region}:${AWS::AccountId}:/keyspace"
        return [Permission(tuple(actions), (f"{arn}/{own.cassandra_keyspace}/*", f"{arn}/system*"), "")]

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Write what brings the tables to where they are after these events. It is durable on return.

        Raises:
            TargetError: The cluster cannot be reached, refuses the user, or lacks a table.
        """
        self._tables.make_ready()
        return write_in_order(events, self.name, self._change_of, self._writer.write, self._follow)

    def flush(self) -> Sequence[Rejection]:
        """Nothing is left to do."""
        return ()

    def close(self) -> None:
        """Close the connections."""
        self._cluster.close()

    def check(self) -> None:
        """Reach the cluster, and see that the tables are there and fit, unless this makes them. Writes nothing.

        Raises:
            TargetError: It would not work.
            Caution: A table forgets deletes too soon.
        """
        self._tables.check()

    def holdings(self) -> CassandraHoldings:
        """See ``Verifiable``. Rows are compared, of the tables without a TTL.

        Raises:
            ConfigError: All tables have one, or the target was made without a stream.
        """
        if self._source is None:
            raise ConfigError("the target was made without a stream, so there is nothing to compare")
        if all(rule.ttl_s is not None for rule in self._by_table.values()):
            raise ConfigError(
                "all tables have a TTL: rows go by themselves, and are not to equal the source",
                hint="name another target, or declare a table without one",
            )
        is_own = True if self._follows_drops else None
        return CassandraHoldings(self._source, self._cluster, self._by_table, change_of=self._change_of, is_own=is_own)

    def _change_of(self, event: ChangeEvent) -> Change | None:
        """What the event writes; None where it writes nothing.

        Raises:
            UnrenderableError: What it says cannot be told, or does not fit a table.
        """
        rules = self._rules.get(event.namespace.coll or "")
        if event.operation not in WRITING or not rules:
            return None
        if not event.has_document_key:
            raise UnrenderableError("documentKey: missing in the event")
        id_text = event.object_id or document_id(event.exact_id)
        rows: tuple[Row, ...] = ()
        if event.operation != "delete":
            plain = event.render(PLAIN)
            if plain == b"null":
                check_is_gone(event)
                return None
            rows = rows_of(rules, id_text, plain.decode(), event.full_document or {})
        return Change(
            event,
            DocumentName(str(event.namespace), id_text),
            document_version(event.cluster_time),
            rows,
            keys_by_id(rules, id_text, event.exact_id) if all(rule.is_keyed_by_id for rule in rules) else None,
            is_snapshot=snapshot_of(event.event_id) is not None,
        )

    def _follow(self, event: ChangeEvent) -> None:
        """Remove the rows of the documents of a dropped or renamed collection, also of one that was replaced by it.
        Raises TargetError."""
        if not self._follows_drops:
            return
        for place in gone_by(event):
            if place.coll in self._rules:
                self._writer.remove(str(place), event, document_version(event.cluster_time))
