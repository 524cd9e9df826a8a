"""The snapshot beside the stream of one run: begun, gone on with, paused and ended, as settings and operators say.

Owns what the run needs to know of it, and nothing of when a position is saved: that is the run's.
"""

from __future__ import annotations

import datetime as dt
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Self

from bson import Timestamp

from docdb_stream.checkpoint import LedgerEntry, SnapshotRequest
from docdb_stream.errors import ConfigError
from docdb_stream.events import Batch, ChangeEvent, Position
from docdb_stream.namespaces import NamespacePattern
from docdb_stream.position import Namespace, SnapshotProgress, SnapshotRange
from docdb_stream.settings import Settings
from docdb_stream.snapshot.pages import LAG_SHARE, Delivered, Pages, is_past
from docdb_stream.snapshot.reader import SnapshotReader
from docdb_stream.snapshot.shares import Shares
from docdb_stream.source import DocumentSource
from docdb_stream.step import origin_of
from docdb_stream.target import Target, is_keyed

logger = logging.getLogger(__name__)

_LOOKS = 10
"""How often it is looked for a moment without a drop or a rename, at most."""

READERS_MOST = 16
"""Ranges that are read side by side at most: more of them do not make one interpreter deliver faster."""


class Snapshot:
    """The snapshot of one run's stream, if there is one. Used as a context manager while the stream is read.

    Args:
        settings: The stream.
        source: Where documents are read from; None: there can be no snapshot.
        targets: The stream's.
        operation_time: The cluster's.
        shares: Where workers keep how far they have come with the ranges of a shared one.

    Attributes:
        progress: How far it has come; None where none is under way.
        done_at: When it was seen that workers have done all of a shared one; None: they have not.
        answered: The requests that are done and not taken away yet, by their ids.
    """

    def __init__(
        self,
        settings: Settings,
        source: DocumentSource | None,
        targets: Sequence[Target],
        operation_time: Callable[[], Timestamp],
        shares: Shares | None = None,
    ) -> None:
        self.progress: SnapshotProgress | None = None
        self.answered: list[str] = []
        self._settings = settings
        self._source = source
        self._targets = {target.name: is_keyed(target) for target in targets}
        self._shares = shares
        self._ended_shared = False
        self.done_at: Timestamp | None = None
        self._operation_time = operation_time
        self._pages: Pages | None = None
        self._reader: SnapshotReader | None = None
        self._wake: Callable[[], object] | None = None
        self._open = ExitStack()

    # What there is to do

    @property
    def is_active(self) -> bool:
        """Whether one is under way that this run can read, and is not paused."""
        found = self.progress
        return found is not None and not (found.is_paused or found.is_shared) and self._source is not None

    def go_on(self, position: Position) -> None:
        """Go on with what a checkpoint says.

        Raises:
            ConfigError: It is for targets that the stream has not got.
        """
        progress = position.snapshot
        if progress is not None and progress.time is None:  # version 2 of the checkpoint had no place for it
            progress = replace(progress, time=position.operation_time)
        self._replace(progress)

    def heal(self, entry: LedgerEntry) -> LedgerEntry:
        """Begin one that makes up for lost history; the ledger's entry then says so. Raises as ``begin``."""
        return replace(entry, reason=entry.reason + _healing(self.begin().id))

    def begin(self, request: SnapshotRequest | None = None) -> SnapshotProgress:
        """Begin one beside the stream: of what the request says, by default of all that the stream watches. One under
        way ends.

        Raises:
            ConfigError: The stream can have none, or it is for targets that the stream has not got.
            SourceUnavailableError: As ``DocumentSource``.
        """
        if self._source is None:
            raise ConfigError("this stream's source cannot read documents, so it can have no snapshot")
        if self._settings.no_snapshot:
            raise ConfigError(self._settings.no_snapshot)
        asked = request or SnapshotRequest(uuid.uuid4().hex[:12], "start")
        if self._settings.snapshot_shared:
            self._check_shared(asked)
        patterns = [*map(NamespacePattern.of, asked.namespaces)]
        found, time = self._collections_at_a_time(self._source)
        collections = [each for each in found if not patterns or any(pattern.matches(each) for pattern in patterns)]
        counts = [self._source.estimate(each) for each in collections]
        ranges = [range_ for each in collections for range_ in self._ranges(self._source, each, found[each])]
        progress = SnapshotProgress(
            asked.id,
            tuple(ranges),
            time=time,
            match=asked.match,
            targets=asked.targets,
            began_at=dt.datetime.now(dt.UTC),
            estimate=None if None in counts else sum(filter(None, counts)),
            is_shared=self._settings.snapshot_shared,
        )
        logger.info(
            "stream %s: snapshot %s of %d collections begins, about %s documents",
            self._settings.stream_name,
            progress.id,
            len(collections),
            "unknown" if progress.estimate is None else f"{progress.estimate:,}",
        )
        self._replace(progress)
        return progress

    def goes_on_at(self, position: Position) -> None:
        """The stream goes on elsewhere, after changes were lost: what is delivered from now on is newer than all that
        was before."""
        if self.progress is not None:
            self._replace(replace(self.progress, time=self._time_of(position)))

    def answer(self, requests: Sequence[SnapshotRequest]) -> None:
        """Do what operators ask for; a request that was done already changes nothing.

        Args:
            requests: In their order.

        Raises:
            As ``begin``.
        """
        requests = [each for each in requests if each.id not in self.answered]
        cancels = [index for index, request in enumerate(requests) if request.action == "cancel"]
        for request in requests[cancels[-1] if cancels else 0 :]:  # what is cancelled need not be begun
            if request.action == "start":
                if self.progress is None or self.progress.id != request.id:
                    self.begin(request)
            elif self.progress is None:
                logger.warning("stream %s: there is no snapshot to %s", self._settings.stream_name, request.action)
            elif request.action == "cancel":
                logger.warning("stream %s: snapshot %s is cancelled", self._settings.stream_name, self.progress.id)
                self._replace(None)
            else:
                self._replace(replace(self.progress, is_paused=request.action == "pause"))
        self.answered += [each.id for each in requests]
        self._look()

    def ended(self, position: Position, *, is_drained: bool) -> SnapshotProgress | None:
        """The snapshot, once all of it is delivered; there is none any more then. Of what workers say is done, the
        stream may still have something to tell: that a collection had another name when they looked for it.

        Args:
            position: Where the stream stands.
            is_drained: See ``due``.
        """
        if self.progress is None or not self.progress.is_done:
            return None
        if self.progress.is_shared and (
            self.done_at is None or not is_past(position, self.done_at, is_drained=is_drained)
        ):
            return None
        done = self.progress
        self._replace(None)
        return done

    def saved(self) -> None:
        """What it has come to is saved. Raises StateStoreError."""
        self.answered.clear()
        if self._ended_shared and self._shares is not None:
            self._shares.forget(self.progress)
            self._ended_shared = False

    def beside(self, position: Position) -> Position:
        """The position in the change log, and how far the snapshot has come."""
        return replace(position, snapshot=self.progress)

    # Beside the stream

    def reading(self, wake: Callable[[], object]) -> Self:
        """The context within which pages are read, where there is something to read.

        Args:
            wake: Called from a thread when a page has come.
        """
        self._wake = wake
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._wake = None
        self._replace(self.progress)

    def saw(self, batch: Batch, made: Sequence[ChangeEvent]) -> None:
        """Know that a batch is handed over, and what the steps have left of it. See ``Pages.saw``."""
        if self._pages is not None:
            passed = None if made is batch.events else {*map(origin_of, made)}
            self._pages.saw(batch.events, batch.position, passed, read_at=batch.read_at)
            self._know()

    def due(self, position: Position, *, is_drained: bool) -> Delivered | None:
        """The next page that may be handed over now, see ``Pages.due``; reading begins with the first call.

        Raises:
            SourceUnavailableError: Reading one has failed.
        """
        if not self.is_active or self._wake is None or self._pages is None or self._pages.progress.is_done:
            return None
        if self._reader is None:
            self._pages.saw((), position, read_at=self._operation_time())  # as an earlier run may have seen it
            self._reader = self._open.enter_context(self._readers(self._pages, self._wake))
        self._reader.more()
        page = self._pages.due(position, is_drained=is_drained)
        if page is not None:
            self._know()
            self._reader.more()
        return page

    def _look(self) -> None:
        """See how far workers have come. Raises StateStoreError."""
        if self.progress is not None and self.progress.is_shared and self._shares is not None:
            assert self._pages is not None
            self._pages.advance(self._shares.ranges(self.progress))
            self._know()
            if not self.progress.is_done:
                self.done_at = None
            elif self.done_at is None:
                self.done_at = self._operation_time()

    def _check_shared(self, asked: SnapshotRequest) -> None:
        """Raises ConfigError where workers cannot deliver what is asked for."""
        logs = [name for name, keyed in self._targets.items() if not keyed and name in (asked.targets or self._targets)]
        if logs:
            raise ConfigError(
                f"snapshot_shared: {', '.join(logs)} keeps no versions, and the order of what several processes "
                "deliver would be lost there",
                hint=f"docdb-stream snapshot start '{self._settings.stream_name}' --targets names those that do; or "
                "set SNAPSHOT_SHARED = false",
            )

    def _collections_at_a_time(self, source: DocumentSource) -> tuple[Mapping[Namespace, bytes | None], Timestamp]:
        """The collections that there are, what each is known by, and a cluster time at which they had their names.

        The stream can be hours behind: what it still tells of collections up to then, the names know already.
        """
        found = self._collections(source)
        for _ in range(_LOOKS):
            time = self._operation_time()
            again = self._collections(source)
            if found.items() <= again.items():
                break
            found = again
        return found, time

    def _collections(self, source: DocumentSource) -> Mapping[Namespace, bytes | None]:
        if not self._settings.snapshot_shared:
            return dict.fromkeys(source.collections())
        known = {each: source.identity(each) for each in source.collections()}
        return {each: identity for each, identity in known.items() if identity is not None}

    def _ranges(self, source: DocumentSource, namespace: Namespace, identity: bytes | None) -> Iterator[SnapshotRange]:
        for each in source.ranges(namespace, self._settings.snapshot_ranges):
            yield each if identity is None else replace(each, identity=identity, first=each.after)

    def _time_of(self, position: Position) -> Timestamp:
        return position.operation_time or self._operation_time()

    def _know(self) -> None:
        assert self._pages is not None
        self.progress = self._pages.progress

    def _replace(self, progress: SnapshotProgress | None) -> None:
        """Go on with another one, or in another way: what was read so far is of no use.

        Raises:
            ConfigError: It is for targets that the stream has not got.
        """
        self._open.close()
        self._reader = None
        if progress is not None and progress.targets and not {*progress.targets} & self._targets.keys():
            raise ConfigError(
                f"the snapshot {progress.id} is for {', '.join(progress.targets)}, and stream "
                f"{self._settings.stream_name} has {', '.join(self._targets)}",
                hint=f"switch that target on again, or docdb-stream snapshot cancel '{self._settings.stream_name}'",
            )
        before, self.progress = self.progress, progress
        self._ended_shared |= before is not None and before.is_shared and (progress is None or progress.id != before.id)
        # Also where nothing is read of it now: a collection that is renamed meanwhile has to be found again.
        self._pages = None if progress is None else self._pages_of(progress)

    def _pages_of(self, progress: SnapshotProgress) -> Pages:
        settings = self._settings
        return Pages(
            progress,
            settings.watches,
            page_documents=settings.batch_size,
            max_bytes=settings.read_ahead_bytes,
            max_lag_s=LAG_SHARE * settings.change_log_retention_seconds,
        )

    def _readers(self, pages: Pages, wake: Callable[[], object]) -> SnapshotReader:
        assert self._source is not None
        progress = pages.progress
        left = sum(not each.done for each in progress.ranges)
        # One more than ranges: while one makes events of a page, the server is asked for the next.
        threads = 1 + min(READERS_MOST, self._settings.snapshot_ranges, left)
        return SnapshotReader(self._source, pages, match=progress.match, threads=threads, came=wake)


def told_of(done: SnapshotProgress, ledger: Sequence[LedgerEntry], stream: str, at: Position) -> list[LedgerEntry]:
    """What the ledger is told of a snapshot that is delivered, and of the lost history that it was to make up for.

    Args:
        done: The snapshot.
        ledger: The stream's, so far.
        stream: The stream's name.
        at: Where it stands.
    """
    how = f"snapshot {done.id} of {done.documents:,} documents is delivered"
    told = f"{how}; what was deleted meanwhile is in no snapshot"
    healed = [each for each in ledger if each.kind == "history-lost" and each.reason.endswith(_healing(done.id))]
    return [
        LedgerEntry(stream, "snapshot", Position(operation_time=done.time), how, at),
        *(replace(each, reason=f"{each.reason}; {told}") for each in healed),
    ]


def _healing(snapshot: str) -> str:
    return f"; snapshot {snapshot} delivers what there is"
