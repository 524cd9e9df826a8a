"""The poller: a stream with everything it needs, run once or again and again.

Owns how the parts are put together from settings. What happens in a run is ``run``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from docdb_stream.alerts import Alerts
from docdb_stream.beginning import Beginning
from docdb_stream.checkpoint import CheckpointStore
from docdb_stream.context import Deadline, RunContext, running
from docdb_stream.dead_letters import DeadLetters
from docdb_stream.delivery import Delivery
from docdb_stream.errors import CheckpointConflictError, LeaseHeldError
from docdb_stream.letters import dead_letters_for
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.documents import MongoDocuments
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.result import RunResult
from docdb_stream.run import Run
from docdb_stream.schemas import Schemas
from docdb_stream.settings import Settings
from docdb_stream.snapshot.beside import Snapshot
from docdb_stream.snapshot.shares import Shares, ShareStore
from docdb_stream.source import ChangeSource, DocumentSource
from docdb_stream.step import Step, told_apart
from docdb_stream.steps import steps_for
from docdb_stream.stores.mongodb import MongoCheckpointStore, share_store
from docdb_stream.target import Target, announced, distinct

if TYPE_CHECKING:
    from docdb_stream.schema.store import SchemaStore


class Poller:
    """Runs one stream. Keep it for several runs: connections and targets are reused; ``close()`` ends them.

    Args:
        settings: The stream.
        source: Where events come from; each run opens a stream of its own there, at the checkpoint.
        store: Where checkpoints are.
        targets: Where events go: at least one, each with a name of its own.
        dead_letters: Where rejections go.
        steps: What events go through on the way, in this order: see ``step.Step``.
        alerts: Who tells people of a failure. Default: one that asks no shared state whether it was told already.
        documents: Where a snapshot's documents come from; None: the stream can have none.
        schemas: Where schema ledgers are kept; None: none are.
        shares: Where workers keep how far they have come with a shared snapshot; None: there are none.
        connection: Closed with the poller.

    Raises:
        ConfigError: There is no target, or two have the same name, or a step has a target's.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: ChangeSource,
        store: CheckpointStore,
        targets: Sequence[Target],
        dead_letters: DeadLetters,
        steps: Sequence[Step] = (),
        alerts: Alerts | None = None,
        documents: DocumentSource | None = None,
        schemas: SchemaStore | None = None,
        shares: ShareStore | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.settings = settings
        self.alerts = alerts or Alerts(settings)
        self._source = source
        self._store = store
        self._steps = told_apart(steps, targets := distinct(targets))
        self._delivery = Delivery(targets, stream=settings.stream_name, write_letters=dead_letters.write)
        self._documents = documents
        self._schemas = schemas
        self._shares = None if shares is None else Shares(shares, settings.stream_name)
        self._targets = targets
        self._connection = connection

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        targets: Sequence[Target] | None = None,
        connection: Connection | None = None,
        steps: Sequence[Step] = (),
    ) -> Self:
        """A poller on the cluster of ``settings``.

        Args:
            settings: The stream.
            targets: Instead of those that the settings switch on.
            connection: To that cluster, shared with other pollers (``Connections``); its owner closes it. Default: one
                of its own.
            steps: After those that the settings ask for.

        Raises:
            ConfigError: The settings cannot be used or switch no target on, or the targets are none or share a name.
        """
        if targets is None:
            from docdb_stream.targets import build_targets

            targets = build_targets(settings)
        targets = distinct(targets)  # before a connection is made that nobody would close
        steps = told_apart([*steps_for(settings, targets), *steps], targets)
        own = Connection(settings) if connection is None else None
        connection = connection or own
        assert connection is not None
        store = MongoCheckpointStore(settings, connection)
        return cls(
            settings,
            source=MongoChangeSource(settings, connection),
            store=store,
            targets=targets,
            dead_letters=dead_letters_for(settings, connection),
            steps=steps,
            alerts=Alerts(settings, store.alert_is_due),
            documents=MongoDocuments(settings, connection, blocks=True),
            schemas=_schema_store(settings, connection),
            shares=share_store(settings, connection),
            connection=own,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def run(
        self,
        *,
        limit: Deadline | None = None,
        follow: bool = False,
        progress: Callable[[RunResult], None] | None = None,
        alert: bool = True,
    ) -> RunResult:
        """Read from the checkpoint on until caught up, MAX_LOOP loops are done, the deadline nears, or a stop is asked.

        A failure is also told to SNS_TOPIC_ARN_ALERT, if set; a lease that is held or lost is not a failure.

        Args:
            limit: The deadline, and the event by which to ask for a stop. Default: none.
            follow: Never end by being caught up or by MAX_LOOP.
            progress: Called after every loop and checkpoint with the result so far.
            alert: Whether a failure is told from here. False is for who has to do something else before: sending it can
                take seconds (``alerts.send``).

        Returns:
            What was done, after the final checkpoint.

        Raises:
            LeaseHeldError: Another run works on the stream. Nothing was done.
            SourceUnavailableError, StateStoreError, StepError, TargetError, HistoryLostError, CheckpointConflictError:
                The checkpoint stands where it was last saved; the next run delivers again what came after it.
        """
        # What several streams share is the moment and the stop; each notices the stop by itself.
        with running(RunContext(replace(limit or Deadline()))):
            try:
                return self._run(follow, progress or (lambda result: None))
            except (LeaseHeldError, CheckpointConflictError):
                raise
            except Exception as error:
                if alert:
                    self.alerts.send(error)
                raise

    def _run(self, follow: bool, progress: Callable[[RunResult], None]) -> RunResult:
        time = self._source.operation_time
        snapshot = Snapshot(self.settings, self._documents, self._targets, time, self._shares)
        schemas = Schemas(self.settings, self._schemas, announced(self._targets), self.alerts.send)
        beginning = Beginning(
            self.settings,
            source=self._source,
            store=self._store,
            snapshot=snapshot,
            schemas=schemas,
            alert=self.alerts.send,
        )
        run = Run(
            self.settings,
            source=self._source,
            store=self._store,
            steps=self._steps,
            delivery=self._delivery,
            snapshot=snapshot,
            schemas=schemas,
            beginning=beginning,
            progress=progress,
        )
        return run.run(follow)

    def close(self) -> None:
        """Close the targets and connections. Safe to call twice."""
        self._delivery.close()
        if self._connection is not None:
            self._connection.close()


def _schema_store(settings: Settings, connection: Connection) -> SchemaStore | None:
    """Where ledgers are kept, where there are any; its file is imported only then."""
    if not settings.keeps_schemas:
        return None
    from docdb_stream.stores.schemas import MongoSchemaStore

    return MongoSchemaStore(settings, connection)
