"""Where a stream goes on: at its checkpoint, or wherever the settings say for one that has none, or has lost its place.

Owns what a new position is, with the snapshot that may begin there. That it is saved, once the server has opened the
stream, is the run's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from bson import Timestamp

from docdb_stream.checkpoint import CheckpointStore, LedgerEntry
from docdb_stream.errors import HistoryLostError
from docdb_stream.events import Position
from docdb_stream.lease import LeaseKeeper
from docdb_stream.schemas import Schemas
from docdb_stream.settings import Settings
from docdb_stream.snapshot.beside import Snapshot
from docdb_stream.source import ChangeSource

logger = logging.getLogger(__name__)


class Beginning:
    """Where one run begins, and begins again after lost history.

    Args:
        settings: The stream.
        source: The cluster.
        store: Where checkpoints and the ledger are.
        snapshot: Beside the stream; it begins, or goes on, with the position.
        schemas: What is known of the stream's collections, and which of them have stopped.
        alert: Told of lost history that is passed over, as ON_HISTORY_LOST says.

    Attributes:
        began_at: See ``RunResult``.
        verified: See ``RunResult``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        source: ChangeSource,
        store: CheckpointStore,
        snapshot: Snapshot,
        schemas: Schemas,
        alert: Callable[[Exception], object],
    ) -> None:
        self.began_at = ""
        self.verified: dict[str, Timestamp] = {}
        self._settings = settings
        self._source = source
        self._store = store
        self._snapshot = snapshot
        self._schemas = schemas
        self._alert = alert
        self._lost: LedgerEntry | None = None

    def at_start(self, keeper: LeaseKeeper) -> Position:
        """The position to go on from; a new stream's is to be saved before anything is delivered."""
        name, start_at = self._settings.stream_name, self._settings.start_at
        checkpoint = keeper.load()
        known = checkpoint.verified if checkpoint is not None else {}
        self.verified = {target: found.through for target, found in known.items() if found.through is not None}
        if checkpoint is not None and checkpoint.position is not None:
            self._snapshot.go_on(checkpoint.position)
            self.began_at = "checkpoint"
            return self._snapshot.beside(checkpoint.position)
        position = self._store.inherited_position(self._settings.scope)
        if position is not None:
            self.began_at = "sample"
            logger.info("stream %s goes on where the AWS sample stopped, at %s", name, position.time)
            return position
        self.began_at = "start-at"
        position = self._source.start_position("now" if start_at == "snapshot" else start_at)
        logger.info("stream %s is new and starts at %s", name, position.time)
        if start_at == "snapshot":
            self._snapshot.begin()
        return self._snapshot.beside(position)

    def after_loss(self, error: HistoryLostError, saved: Position | None) -> Position:
        """After a lost position: into the ledger it goes, and on as ON_HISTORY_LOST says. The new one is to be saved
        once the server has opened the stream there.

        Args:
            error: How it is known.
            saved: The position that is lost, as it is saved.

        Raises:
            HistoryLostError: ON_HISTORY_LOST is fail; the checkpoint stays as it is. Not where the stream had gone
                back for a collection that had stopped: it goes on where it was.
        """
        if (found := self._schemas.lost(error)) is not None:
            position, entry = found
            self._store.record(entry)
            return position
        choice = self._settings.on_history_lost
        entry = LedgerEntry(self._settings.stream_name, "history-lost", saved, str(error))
        self._store.record(entry)
        if choice == "fail":
            raise error
        position = self._source.start_position("now" if choice == "snapshot" else choice)
        if choice == "snapshot":
            entry = self._snapshot.heal(entry)
        else:
            self._snapshot.goes_on_at(position)
        logger.error("%s; ON_HISTORY_LOST=%s: going on at %s", error, choice, position.time)
        error.position_time = saved.time if saved else None
        self._alert(error)
        self._lost = entry
        return self._snapshot.beside(position)

    def opened(self, position: Position) -> None:
        """The server has opened the stream there: the ledger says so, where history was lost."""
        if self._lost is not None:
            self._store.record(replace(self._lost, after=position))
            self._lost = None
