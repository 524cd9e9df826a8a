"""Documents to PostgreSQL: a table there holds what the collection holds, as jsonb or in columns.

Owns what each operation does. In ``_postgresql``, ``columns`` has values and their text, ``tables`` the tables,
``writer`` and ``pending`` the transactions, ``drop`` what a dropped collection leaves behind, ``held`` what is there,
``database`` the connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, Field

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.plain import PLAIN
from docdb_stream.permissions import Permission
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address, SecretReference, Words
from docdb_stream.target import Rejection
from docdb_stream.targets._mirror import LOCAL, OF_COLLECTIONS, WRITING, check_is_gone, check_whole, renamed_to
from docdb_stream.targets._names import shares_names
from docdb_stream.targets._postgresql.columns import columns_of, row_of, without_nul
from docdb_stream.targets._postgresql.database import Database
from docdb_stream.targets._postgresql.drop import delete_older, move_older
from docdb_stream.targets._postgresql.errors import NAME, RefusedError
from docdb_stream.targets._postgresql.held import PostgresHoldings
from docdb_stream.targets._postgresql.pending import Pending
from docdb_stream.targets._postgresql.server import check_server
from docdb_stream.targets._postgresql.tables import Tables, table_name
from docdb_stream.targets._postgresql.writer import Write, Writer
from docdb_stream.targets._versioned import document_id, document_version
from docdb_stream.template import Template

TOMBSTONE_DAYS = 30
"""As the target mongodb: it has to outlive every change log that could bring a document back. DocumentDB keeps seven
days at most, and an oplog of more than some days is rare."""


def _address(text: str) -> str:
    """What would be shown elsewhere: of an address only the user's part can be hidden."""
    if "password=" in text.lower():
        raise ValueError("give the password by postgres_secret, or as postgresql://user:password@host")
    return text


def _table(text: str) -> str:
    if not Template(text).is_of_namespace:
        raise ValueError("tables are named by {db} and {coll} alone: a delete says nothing else of its document")
    return text


def _columns(texts: tuple[str, ...]) -> tuple[str, ...]:
    columns_of(texts)
    return texts


class PostgresSettings(TargetSettings):
    """What can be set about the target postgresql."""

    switch = "postgres_uri"

    postgres_uri: Annotated[str | None, AfterValidator(_address), Address("postgres_secret")] = Field(
        default=None,
        description="Connection string of the PostgreSQL database (12 or later) that is written to: switches the "
        "target on. TLS is as sslmode in it says. Absent: off.",
        examples=["postgresql://mirror.example:5432/shop?sslmode=verify-full"],
    )
    postgres_secret: SecretReference = Field(
        default=None,
        description="User name and password for it, by reference as documentdb_secret.",
        examples=["postgres/writer"],
    )
    postgres_table: Annotated[str, AfterValidator(_table)] = Field(
        default="{db}_{coll}",
        description="The table of a collection, made of {db} and {coll}.",
        examples=["mirror_{coll}"],
    )
    postgres_schema: str = Field(
        default="public", min_length=1, max_length=63, description="The schema in which the tables are."
    )
    postgres_columns: Annotated[Words, AfterValidator(_columns)] = Field(
        default=(),
        description="The columns that are made from documents, as name=path type, with commas; the types are text, "
        "integer, bigint, numeric, double, boolean, timestamptz, uuid, bytea, jsonb. Absent: one column document, "
        "jsonb.",
        examples=["status=status text, total=order.total numeric"],
    )
    postgres_create: bool = Field(
        default=True, description="Whether missing tables are made; false: they are there (docs/targets.md)."
    )
    postgres_on_drop: Literal["delete", "keep"] = Field(
        default="delete",
        description="When a collection is dropped or renamed: delete its rows (or move them to the table of the new "
        "name, if that is watched), or keep them.",
    )
    postgres_tombstone_days: int = Field(
        default=TOMBSTONE_DAYS,
        ge=1,
        le=3650,
        description="How many days the row of a deleted document stays, without its document, so that no replay "
        "brings it back: more than the change log keeps.",
    )

    def cautions(self, scope: Namespace | None) -> Iterable[str]:
        """See ``TargetSettings``."""
        if shares_names(Template(self.postgres_table), scope):
            yield (
                "POSTGRES_TABLE: several collections share a table: documents with the same _id take each other's place"
            )
        address = urlsplit(self.postgres_uri or "")
        mode = parse_qs(address.query).get("sslmode", ["prefer"])[-1]
        if address.hostname not in LOCAL and mode not in ("require", "verify-ca", "verify-full"):
            yield f"POSTGRES_URI: with sslmode={mode} the connection may be without TLS; say sslmode=verify-full"


class PostgresTarget:
    """Keeps a table per collection equal to the collection.

    - insert, update, replace: the document's row is written as a whole. An update whose document was gone when it was
      looked up does nothing: its delete follows.
    - delete: the row stays as a tombstone, with ``_deleted_at`` and without the document. The view ``TABLE_current``
      leaves tombstones out.
    - drop, rename: the collection's rows are deleted, or moved to the table of its new name, where the stream watches
      that; or nothing, see ``on_drop``.
    - dropDatabase: nothing, as a drop of every collection comes before it. invalidate and unknown ones: nothing.

    Everything is committed once ``write`` returns. A row has its version, the cluster time: what comes again, or late,
    never replaces something newer. With each transaction goes the epoch of the run's lease: a run that another one has
    taken over from is refused.

    Args:
        uri: ``postgresql://host:5432/database``.
        secret: Where user name and password are (see ``read_credentials``).
        table: Template of a collection's table.
        schema: The schema of all tables.
        columns: What is made from documents, each as ``name=path type``; none: one column of the whole document.
        create: Whether missing tables are made.
        on_drop: ``delete`` or ``keep`` the rows of a dropped or renamed collection.
        tombstone_days: How long deleted documents are remembered.
        source: The stream; None: all that comes is watched.
        stream: The stream's name, where there is no ``source``.

    Raises:
        ConfigError: psycopg is not installed, or the stream's updates bring no documents.
        ValueError: A column cannot be read.
    """

    name = NAME
    keyed = True
    settings_model = PostgresSettings
    formats = (PLAIN, FACTS)

    def __init__(
        self,
        uri: str,
        *,
        secret: str | None = None,
        table: str = "{db}_{coll}",
        schema: str = "public",
        columns: Sequence[str] = (),
        create: bool = True,
        on_drop: Literal["delete", "keep"] = "delete",
        tombstone_days: int = TOMBSTONE_DAYS,
        source: Settings | None = None,
        stream: str = "",
    ) -> None:
        check_whole(source)
        self._template = Template(table)
        self._tables = Tables(schema, columns_of(columns), creates=create)
        self._database = Database(uri, secret, creates=create)
        self._source = source
        self._follows_drops = on_drop == "delete"
        self._writer = Writer(
            self._database, self._tables, stream or (source.stream_name if source else ""), tombstone_days
        )
        self._names: dict[Namespace, str] = {}

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on. Raises ConfigError."""
        own = settings.of(PostgresSettings)
        return cls(
            own.where,
            secret=own.postgres_secret,
            table=own.postgres_table,
            schema=own.postgres_schema,
            columns=own.postgres_columns,
            create=own.postgres_create,
            on_drop=own.postgres_on_drop,
            tombstone_days=own.postgres_tombstone_days,
            source=settings,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """None of AWS; secrets are seen to for all targets."""
        return []

    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Write what brings the tables to where they are after these events. It is committed on return.

        Raises:
            TargetError: The server cannot be reached, refuses the user, lacks a table, or a later run of the stream has
                written there.
        """
        pending = Pending(self._writer)
        rejections = []
        for event in events:
            try:
                if event.operation in OF_COLLECTIONS:
                    pending.settle()
                    self._follow(event)
                elif (write := self._write_of(event)) is not None:
                    pending.add(write)
            except (UnrenderableError, RefusedError) as error:
                rejections.append(Rejection(event, self.name, str(error)))
        pending.settle()
        return [*rejections, *pending.rejections]

    def flush(self) -> Sequence[Rejection]:
        """Nothing is left to do."""
        return ()

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def check(self) -> None:
        """Reach the server, and see that it is no standby and that tables can be made there, or are there.

        Raises:
            TargetError: It would not work.
        """
        check_server(self._database, self._tables)

    def holdings(self) -> PostgresHoldings:
        """See ``Verifiable``. Documents are compared as jsonb, or column by column.

        Raises:
            ConfigError: The target was made without a stream.
        """
        if self._source is None:
            raise ConfigError("the target was made without a stream, so there is nothing to compare")
        return PostgresHoldings(
            self._source,
            self._database,
            self._tables,
            write_of=self._write_of,
            table_of=self._table_of,
            is_own=True if self._follows_drops else None,
        )

    def _write_of(self, event: ChangeEvent) -> Write | None:
        """What the event writes; None where it writes nothing.

        Raises:
            UnrenderableError: What it says cannot be told, or does not fit.
        """
        if event.operation not in WRITING:
            return None
        row = row_of(event, self._tables.columns)
        if not event.has_document_key:
            raise UnrenderableError("documentKey: missing in the event")
        if event.operation == "delete":
            row = None
        elif row is None:
            check_is_gone(event)
            return None
        id_text = without_nul(event.object_id or document_id(event.exact_id), "_id")
        version = document_version(event.cluster_time)
        return Write(event, self._table_of(event.namespace), str(event.namespace), id_text, version, row)

    def _follow(self, event: ChangeEvent) -> None:
        """Do with the rows of a collection as was done with the collection. Raises as ``drop``."""
        if not self._follows_drops:
            return
        namespace, at = event.namespace, document_version(event.cluster_time)
        old = self._table_of(namespace), str(namespace)
        renamed = renamed_to(event, self._source)
        if renamed is None:
            delete_older(self._writer, *old, at)
        else:
            move_older(self._writer, old, (self._table_of(renamed), str(renamed)), at)

    def _table_of(self, namespace: Namespace) -> str:
        if namespace not in self._names:
            self._names[namespace] = table_name(self._template, namespace)
        return self._names[namespace]
