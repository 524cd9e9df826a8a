"""Apache Iceberg: a change log of each collection as a table, each event in it exactly once.

A flush appends what came since the last checkpoint, one commit for each table. The commit says after which checkpoint
its events came, and how many they are, in the table's properties, so in the same transaction: a run that died between a
commit and its checkpoint is followed by one that begins at the same checkpoint, sees that, and leaves out the events
that are there, until it has met all of them.

A run that was taken over is refused: the commit says its epoch, too, and holds only if the table has not changed since
that was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Self

from pydantic import Field

from docdb_stream.context import NoAnswerError, answer_in_time, check_lease, current_run
from docdb_stream.errors import CheckpointConflictError, TargetError, UnrenderableError
from docdb_stream.events import ChangeEvent, Namespace
from docdb_stream.formats.arrow import WaitingRows
from docdb_stream.formats.facts import FACTS
from docdb_stream.formats.row import ROW
from docdb_stream.permissions import Permission, arn, to_write_objects
from docdb_stream.retry import Backoff
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.types import Address
from docdb_stream.target import Rejection
from docdb_stream.targets._client import import_client
from docdb_stream.targets._iceberg.catalog import Catalog
from docdb_stream.targets._iceberg.change_log import ChangeLogTable
from docdb_stream.targets._payload import render_all
from docdb_stream.targets._temporary import temporary_files

COMMIT_BYTES = 32 * 1024 * 1024
"""Of events held before a checkpoint is asked for: a commit needs several times as much memory. Each makes a data file,
and readers want large ones (Iceberg's documentation, ``write.target-file-size-bytes``: 512 MB), so compact them."""

_LATE = "the catalog or the storage had not answered by the run's deadline"


class IcebergSettings(TargetSettings):
    """What can be set about the target iceberg."""

    switch = "iceberg_catalog"

    iceberg_catalog: Annotated[str | None, Address()] = Field(
        default=None,
        description="Iceberg catalog: glue (AWS), https://HOST (REST), sqlite:////PATH or postgresql://HOST/DATABASE: "
        "switches the target on. A change-log table for each collection (docs/tables.md). Absent: off.",
        examples=["glue"],
    )
    iceberg_warehouse: str | None = Field(
        default=None,
        description="Where new tables are: s3://bucket/path, or a folder. Absent: as the catalog has it.",
        examples=["s3://shop-lake/iceberg"],
    )
    iceberg_namespace: str | None = Field(
        default=None,
        description="Namespace (in Glue: database) of the tables, which are then db_coll. Absent: the name of the "
        "collection's database, and the tables are called like their collections.",
        examples=["lake"],
    )
    iceberg_commit_bytes: int = Field(
        default=COMMIT_BYTES,
        ge=1024,
        description="Bytes of events held before a checkpoint is made early, so about the largest commit.",
    )

    @property
    def makes_tables(self) -> bool:
        """See ``TargetSettings``."""
        return True


class IcebergTarget:
    """Appends every event, of every operation, to the table of its collection at each flush.

    The columns are those of Parquet files (docs/tables.md), partitioned by the day of ``_cluster_time``. Tables are
    made, and given new columns as documents have more fields. An int widens to a long; every other change of a field's
    type goes to ``FIELD__string``, since Iceberg widens no more than that.

    Args:
        catalog: Where tables are found.
        warehouse: Where new ones are; None: as the catalog has it.
        namespace: Of the tables; None: a collection's database.
        commit_bytes: Bytes of events after which ``wants_flush`` asks for a flush.

    Raises:
        ConfigError: pyiceberg or pyarrow is not installed.
    """

    name = "iceberg"
    settings_model = IcebergSettings

    def __init__(
        self,
        catalog: str,
        *,
        warehouse: str | None = None,
        namespace: str | None = None,
        commit_bytes: int = COMMIT_BYTES,
    ) -> None:
        import_client("pyiceberg", "iceberg", "pyiceberg")
        self._catalog_name, self._warehouse, self._namespace = catalog, warehouse, namespace
        self._commit_bytes = commit_bytes
        self.formats = (ROW, FACTS)
        self._held: dict[Namespace, WaitingRows] = {}
        self._held_bytes = 0

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The target of a stream that has it switched on."""
        own = settings.of(IcebergSettings)
        return cls(
            own.where,
            warehouse=own.iceberg_warehouse,
            namespace=own.iceberg_namespace,
            commit_bytes=own.iceberg_commit_bytes,
        )

    @classmethod
    def permissions(cls, settings: Settings) -> list[Permission]:
        """What writing takes: of Glue, and of the bucket that the warehouse is in."""
        own = settings.of(IcebergSettings)
        found = []
        if own.where == "glue":
            actions = ("GetDatabase", "CreateDatabase", "GetTable", "CreateTable", "UpdateTable")
            resources = tuple(arn("glue", each) for each in ("catalog", "database/*", "table/*/*"))
            why = "Collections, and so databases and tables, are not known before."
            found.append(Permission(tuple(f"glue:{action}" for action in actions), resources, why))
        if own.iceberg_warehouse and own.iceberg_warehouse.startswith("s3://"):
            bucket, _, path = own.iceberg_warehouse.removeprefix("s3://").partition("/")
            writes = to_write_objects(bucket, path)
            found.append(Permission((*writes.actions, "s3:GetObject"), writes.resources, writes.why_pattern))
        return found

    def check(self) -> None:
        """See that the catalog answers. Whether tables can be made shows at the first event.

        Raises:
            TargetError: It does not, or refuses.
        """
        try:
            answer_in_time(self._catalog.ask)
        except NoAnswerError as error:
            raise TargetError(self.name, _LATE, hint="is ICEBERG_CATALOG reached from here?") from error
        except self._catalog.refusals as error:
            raise self._catalog.failure(self.name, error) from error

    @property
    def wants_flush(self) -> bool:
        """True when ``commit_bytes`` are held."""
        return self._held_bytes >= self._commit_bytes

    @temporary_files("iceberg")
    def write(self, events: Sequence[ChangeEvent]) -> Sequence[Rejection]:
        """Add the events to the commits to come. Nothing is committed before ``flush``."""
        rendered, rejections = render_all(events, ROW, self.name)
        groups: dict[Namespace, list[bytes]] = {}
        for event, payload in rendered:
            try:
                namespace = event.facts.namespace
            except UnrenderableError as error:
                rejections.append(Rejection(event, self.name, str(error)))
                continue
            groups.setdefault(namespace, []).append(payload)
        for namespace, payloads in groups.items():
            if namespace not in self._held:
                self._held[namespace] = WaitingRows()
            self._held[namespace].append(payloads)
            self._held_bytes += sum(map(len, payloads))
        return rejections

    @temporary_files("iceberg")
    def flush(self) -> Sequence[Rejection]:
        """Commit, table by table; returns when all is durable.

        Raises:
            TargetError: The catalog or the storage does not take it, or not in time.
            CheckpointConflictError: Another run has taken over.
        """
        for namespace in [*self._held]:
            self._commit(namespace, self._held[namespace])
        self._forget()
        return ()

    def close(self) -> None:
        """Let go of what was not flushed. Safe to call twice."""
        self._forget()

    @cached_property
    def _catalog(self) -> Catalog:
        return Catalog(self._catalog_name, self._warehouse, self._namespace)

    def _commit(self, namespace: Namespace, rows: WaitingRows) -> None:
        """Append what is not there yet. It is safe to do again, also where it is not known what became of it."""
        backoff = Backoff()
        while True:
            check_lease()
            try:
                answer_in_time(lambda: self._append(namespace, rows))
                return
            except NoAnswerError as error:
                raise TargetError(self.name, _LATE, hint="nothing is lost, the next run goes on") from error
            except self._catalog.refusals as error:
                if not backoff.wait():
                    raise self._catalog.failure(self.name, error) from error

    def _append(self, namespace: Namespace, rows: WaitingRows) -> None:
        run, epoch = current_run(), current_run().lease_epoch() or 0
        table = ChangeLogTable(self._catalog.table(namespace))
        if table.epoch > epoch > 0:
            raise CheckpointConflictError(
                f"the table of {namespace} was written by a later run of the stream",
                hint="nothing is lost: that run goes on from the checkpoint. Two streams cannot write to one table",
            )
        table.append(rows, run.checkpoint, epoch)

    def _forget(self) -> None:
        for rows in self._held.values():
            rows.close()
        self._held.clear()
        self._held_bytes = 0
