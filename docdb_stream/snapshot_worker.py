"""Works on a snapshot that several processes share: takes a range that nobody has, delivers it, and takes the next.

Owns how the parts are put together from settings, and which range is next. How one is delivered is
``snapshot.held_range``'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from docdb_stream.alerts import Alerts
from docdb_stream.checkpoint import CheckpointStore
from docdb_stream.context import Deadline, RunContext, current_run, running
from docdb_stream.dead_letters import DeadLetters
from docdb_stream.delivery import Delivery
from docdb_stream.errors import CheckpointConflictError, ConfigError, LeaseHeldError
from docdb_stream.lease import held_lease
from docdb_stream.letters import dead_letters_for
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.documents import MongoDocuments
from docdb_stream.mongodb.source import MongoChangeSource
from docdb_stream.owner import owner_name
from docdb_stream.pace import Pace
from docdb_stream.position import SnapshotProgress
from docdb_stream.settings import Settings
from docdb_stream.snapshot.held_range import HeldRange
from docdb_stream.snapshot.shares import Shares, ShareStore
from docdb_stream.source import ChangeSource, LookupSource
from docdb_stream.step import Step, told_apart
from docdb_stream.steps import steps_for
from docdb_stream.stores.mongodb import MongoCheckpointStore, share_store
from docdb_stream.target import Target, distinct, is_keyed

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class WorkResult:
    """What one worker did.

    Attributes:
        stream: The stream's name.
        snapshot: The snapshot's id; empty where none is shared now.
        documents: Documents that it delivered and saved.
        ranges: Ranges that it brought to their end.
        rejections: Events that a target or a step refused, and that are in the dead letters.
        left: Ranges that are not done yet, whoever works on them.
        stopped_by: ``done``: there is nothing left to take; ``deadline``, or ``signal``.
    """

    stream: str
    snapshot: str = ""
    documents: int = 0
    ranges: int = 0
    rejections: int = 0
    left: int = 0
    stopped_by: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class SnapshotWorker:
    """Works on the shared snapshots of one stream, beside its runs and other workers. Used by one thread; ``close()``
    ends it.

    Args:
        settings: The stream.
        changes: Tells the cluster's time.
        documents: Where documents are read from.
        store: Where the stream's checkpoint is.
        shares: Where the ranges' are.
        targets: The stream's.
        dead_letters: Where rejections go.
        steps: The stream's.
        alerts: Who tells people of a failure.
        connection: Closed with the worker.

    Raises:
        ConfigError: There is no target, or two have the same name.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        changes: ChangeSource,
        documents: LookupSource,
        store: CheckpointStore,
        shares: ShareStore,
        targets: Sequence[Target],
        dead_letters: DeadLetters,
        steps: Sequence[Step] = (),
        alerts: Alerts | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.settings = settings
        self.alerts = alerts or Alerts(settings)
        self._changes = changes
        self._documents = documents
        self._store = store
        self._shares = Shares(shares, settings.stream_name)
        self._targets = distinct(targets)
        self._steps = told_apart(steps, self._targets)
        self._delivery = Delivery(self._targets, stream=settings.stream_name, write_letters=dead_letters.write)
        self._connection = connection

    @classmethod
    def from_settings(
        cls, settings: Settings, targets: Sequence[Target] | None = None, steps: Sequence[Step] = ()
    ) -> Self:
        """A worker on the cluster of ``settings``.

        Args:
            settings: The stream.
            targets: Instead of those that the settings switch on; they have to be the stream's all the same.
            steps: After those that the settings ask for.

        Raises:
            ConfigError: The settings cannot be used, or the stream's snapshots are not shared.
        """
        if not settings.snapshot_shared:
            raise ConfigError(
                f"the snapshots of stream {settings.stream_name} are its run's own",
                hint="set SNAPSHOT_SHARED = true for its run and its workers",
            )
        if targets is None:
            from docdb_stream.targets import build_targets

            targets = build_targets(settings)
        connection = Connection(settings)
        store = MongoCheckpointStore(settings, connection)
        return cls(
            settings,
            changes=MongoChangeSource(settings, connection),
            documents=MongoDocuments(settings, connection),
            store=store,
            shares=share_store(settings, connection),
            targets=targets,
            dead_letters=dead_letters_for(settings, connection),
            steps=[*steps_for(settings, targets), *steps],
            alerts=Alerts(settings, store.alert_is_due),
            connection=connection,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def run(
        self,
        *,
        limit: Deadline | None = None,
        progress: Callable[[WorkResult], object] = lambda _: None,
        alert: bool = True,
    ) -> WorkResult:
        """Deliver ranges until there is none that nobody has, the deadline nears, or a stop is asked.

        A range that was given up, by a crash or by an error, is taken again where its checkpoint stands: once its lease
        has run out, or given back at once.

        Args:
            limit: The deadline, and the event by which to ask for a stop. Default: none.
            progress: Called after every page with the result so far.
            alert: Whether a failure is told from here.

        Raises:
            ConfigError: The snapshot is for a target without versions.
            SourceUnavailableError, StateStoreError, StepError, TargetError: What is saved stands.
        """
        with running(RunContext(replace(limit or Deadline()))):
            try:
                return self._run(progress)
            except Exception as error:
                if alert:
                    self.alerts.send(error)
                raise

    def look(self) -> WorkResult:
        """How much there is to do; does nothing. Raises as ``run``."""
        snapshot = self._shared()
        left = 0 if snapshot is None else sum(not each.done for each in self._shares.ranges(snapshot))
        return WorkResult(self.settings.stream_name, snapshot.id if snapshot else "", left=left)

    def close(self) -> None:
        """Close the targets and connections. Safe to call twice."""
        self._delivery.close()
        if self._connection is not None:
            self._connection.close()

    def _run(self, progress: Callable[[WorkResult], object]) -> WorkResult:
        result = WorkResult(self.settings.stream_name)
        limit = current_run().deadline
        pace = Pace(limit)
        snapshot = self._shared()
        passed: set[int] = set()

        def saved(documents: int, rejections: int, done: bool) -> None:
            result.documents += documents
            result.rejections += rejections
            result.ranges += done
            progress(result)

        while snapshot is not None and not limit.stopping and not pace.is_over:
            result.snapshot = snapshot.id
            index = self._next(snapshot, passed)
            if index is None:
                break
            passed.add(index)
            try:
                with held_lease(
                    self._shares.store,
                    self._shares.name(snapshot, index),
                    None,
                    owner_name(),
                    self.settings.lease_seconds,
                ) as keeper:
                    current_run().lease_check = keeper.check
                    with self._delivery as delivery:
                        held = HeldRange(
                            self.settings,
                            snapshot,
                            index,
                            keeper=keeper,
                            documents=self._documents,
                            shares=self._shares,
                            steps=self._steps,
                            delivery=delivery,
                            pace=pace,
                            shared=self._shared,
                            now=self._changes.operation_time,
                            saved=saved,
                        )
                        held.deliver()
            except LeaseHeldError:
                pass  # another worker has just taken it
            except CheckpointConflictError as error:
                logger.info("range %d of snapshot %s is another's, or over: %s", index, snapshot.id, error)
            snapshot = self._shared()
        result.left = self.look().left
        result.stopped_by = "signal" if limit.stopping else "deadline" if pace.is_over else "done"
        return result

    def _shared(self) -> SnapshotProgress | None:
        """The snapshot of the stream that there is to work on now.

        Raises:
            ConfigError: It is for targets without versions.
        """
        checkpoint = self._store.load(self.settings.stream_name)
        found = None if checkpoint is None or checkpoint.position is None else checkpoint.position.snapshot
        if found is None or not found.is_shared or found.is_paused:
            return None
        chosen = [target for target in self._targets if not found.targets or target.name in found.targets]
        if not chosen or not all(map(is_keyed, chosen)):
            raise ConfigError(
                f"the snapshot {found.id} is for targets that this worker has not got, or that keep no versions",
                hint="give the worker the stream's own settings",
            )
        return found

    def _next(self, snapshot: SnapshotProgress, passed: set[int]) -> int | None:
        """The place of the next range to try; None where there is none. Those that nobody has begun come first, so that
        workers do not meet."""
        known = self._shares.known(snapshot)
        ranges = self._shares.ranges(snapshot)
        places = [place for place, each in enumerate(ranges) if not each.done and place not in passed]
        return min(
            places,
            key=lambda place: (place in known and known[place].owner is not None, place in known, place),
            default=None,
        )
