"""Writes what changes make: first what is known of the documents, then their rows.

Owns the order of these, by which a run that is killed at any moment, or comes late, leaves nothing that the next one
does not find; see ``documents``.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bson import Timestamp

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection
from docdb_stream.targets._cassandra import cql
from docdb_stream.targets._cassandra.cluster import Cluster, Statement
from docdb_stream.targets._cassandra.declaration import TableRule
from docdb_stream.targets._cassandra.documents import DocumentName, Documents, State
from docdb_stream.targets._cassandra.errors import NAME
from docdb_stream.targets._cassandra.rows import Row, RowKey

logger = logging.getLogger(__name__)

FOR_EVER: Final = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What an event makes of a document.

    Attributes:
        event: The event.
        name: The document.
        version: When it changed, see ``document_version``.
        rows: What it has since; none where it is gone.
        places: Where its rows are if its ``_id`` alone says that; None: where they are has to be looked up.
        is_snapshot: Whether it was read by a snapshot.
    """

    event: ChangeEvent
    name: DocumentName
    version: int
    rows: tuple[Row, ...]
    places: tuple[RowKey, ...] | None
    is_snapshot: bool


@dataclass(frozen=True, slots=True)
class _Work:
    """What is written for a change: the state, and the rows, each with the seconds that it lives."""

    change: Change
    state: State
    rows: Sequence[tuple[Row, int]]


class Writer:
    """Writes to a keyspace.

    Args:
        cluster: Where; its owner closes it.
        rules: The declared tables, by their names.
        tombstone_s: How long deleted documents are remembered.
    """

    def __init__(self, cluster: Cluster, rules: Mapping[str, TableRule], tombstone_s: int) -> None:
        self._cluster = cluster
        self._rules = rules
        self._tombstone_s = tombstone_s
        self._documents = Documents(cluster, rules)
        self._sql = {name: (cql.insert(rule), cql.delete(rule)) for name, rule in rules.items()}
        self._last: Timestamp | None = None

    def write(self, changes: Sequence[Change]) -> Sequence[Rejection]:
        """Bring the tables to where they are after these changes; durable on return, but for those refused.

        Raises:
            TargetError: It cannot be done, or not in time.
            CheckpointConflictError: The run has lost its lease.
        """
        if not changes:
            return []
        latest = _latest(changes)
        shared = self._shared_times(changes)
        counts = Counter((each.name, each.version) for each in changes)
        repeated = {key for key, count in counts.items() if count > 1}  # a batch may have ended between them before
        before = self._documents.states(
            [
                each.name
                for each in latest
                if each.is_snapshot or each.event.cluster_time in shared or (each.name, each.version) in repeated
            ]
        )
        rejections: list[Rejection] = []
        work: list[_Work] = []
        for change in latest:
            newest = next(iter(before.get(change.name, ())), None)
            if newest is None or newest.version <= change.version:
                try:
                    work.append(self._work_of(change, newest))
                except UnrenderableError as error:
                    rejections.append(Rejection(change.event, NAME, str(error)))
        return [*rejections, *self._write(work)]

    def remove(self, source: str, event: ChangeEvent, version: int) -> None:
        """Remove the rows of a collection's documents of before a version. Raises as ``write`` does."""
        for page in self._documents.all_of(source):
            older = [
                (self._documents.state(name, version, 0, ()), state)
                for name, states in page.items()
                if states[0].version <= version  # of this version: a drop that was stopped after it was noted
                for state in states
                if state.keys and state.version < version
            ]
            self._cluster.write([self._documents.noted(state, self._tombstone_s) for state, _ in older])
            self._clear(older)

    def _shared_times(self, changes: Sequence[Change]) -> Collection[Timestamp | None]:
        """The cluster times at which documents of these may have been written before: that at which the batch before
        ended, as it may have been within a transaction, and that of the first event, as what was read before may have
        been another batch, or another run's."""
        times = [each.event.cluster_time for each in changes if not each.is_snapshot]
        shared = {self._last, *times[:1]}
        self._last = times[-1] if times else self._last
        return shared

    def _work_of(self, change: Change, newest: State | None) -> _Work:
        now_s = int(time.time())
        lives = ((row, _left_s(row.rule, change.event, now_s)) for row in change.rows)
        rows = [(row, left_s) for row, left_s in lives if left_s >= 0]
        sequence = _sequence_after(newest, change)
        state = self._documents.state(change.name, change.version, sequence, [row.key for row, _ in rows])
        return _Work(change, state, rows)

    def _write(self, work: Sequence[_Work]) -> Sequence[Rejection]:
        notes = [self._documents.noted(each.state, self._life_s(each)) for each in work]
        refused = {**self._cluster.write(notes)}
        noted = self._documents.states([each.change.name for each in work if each.change.places is None])
        statements: list[Statement] = []
        owners: list[int] = []
        outdated: list[tuple[State, State]] = []
        again: list[_Work] = []
        for at, each in enumerate(work):
            states = self._states_of(each, noted)
            newest = states[0] if states[0].is_newer_than(each.state) else each.state
            if at not in refused and _may_be_the_same(newest, each.state):
                again.append(self._work_of(each.change, newest))
                continue
            outdated += [(newest, state) for state in states if state.note != newest.note]
            if newest is each.state and at not in refused:
                statements += self._rows(each)
                owners += [at] * len(each.rows)
        refused |= {owners[at]: error for at, error in self._cluster.write(statements).items()}
        self._clear(outdated)
        rejections = [Rejection(work[at].change.event, NAME, str(error)) for at, error in sorted(refused.items())]
        return [*rejections, *self._write(again)] if again else rejections

    def _states_of(self, work: _Work, noted: Mapping[DocumentName, Sequence[State]]) -> Sequence[State]:
        """The states of a document, the newest first, as they were noted when this one was."""
        change = work.change
        if change.places is None:
            return noted.get(change.name) or [work.state]
        return [work.state, self._documents.state(change.name, 0, 0, change.places)]

    def _rows(self, work: _Work) -> Iterator[Statement]:
        at_us = work.state.timestamp_us
        for row, left_s in work.rows:
            yield self._sql[row.rule.table][0], (*row.values, at_us, left_s)

    def _clear(self, outdated: Sequence[tuple[State, State]]) -> None:
        """Delete the rows of states that newer ones have followed, then forget the states."""
        self._cluster.write(
            [
                (self._sql[key.table][1], (newer.timestamp_us, *key.values))
                for newer, state in outdated
                for key in state.keys
                if key not in newer.keys
            ]
        )
        self._cluster.write([self._documents.forgotten(state, newer) for newer, state in outdated])

    def _life_s(self, work: _Work) -> int:
        """How long a state has to be known: as long as its rows may be there, or, without any, as a tombstone."""
        lives_s = [left_s for _, left_s in work.rows]
        return FOR_EVER if FOR_EVER in lives_s else max(lives_s, default=self._tombstone_s)


def _latest(changes: Iterable[Change]) -> Sequence[Change]:
    """Of each document the last change."""
    latest: dict[DocumentName, Change] = {}
    for each in changes:
        before = latest.get(each.name)
        if before is None or before.version <= each.version:
            latest[each.name] = each
    return [*latest.values()]


def _may_be_the_same(newest: State, state: State) -> bool:
    """Whether a state that is noted later may be this one, noted by a run that then could not write its rows. Another
    of the same transaction comes again after this one, as whoever delivers this one goes on to the end."""
    return newest.is_newer_than(state) and newest.version == state.version and newest.sequence < cql.LAST_SEQUENCE


def _sequence_after(newest: State | None, change: Change) -> int:
    if newest is None or newest.version != change.version:
        return 0
    if newest.sequence == cql.LAST_SEQUENCE:
        logger.warning(
            "%s: a document was written so often at one cluster time that states are not told apart: it may "
            "keep an earlier one of a transaction; docdb-stream verify finds that",
            change.name.source,
        )
    return min(newest.sequence + 1, cql.LAST_SEQUENCE)


def _left_s(rule: TableRule, event: ChangeEvent, now_s: int) -> int:
    """How long a row has to live yet, so that no replay makes it live longer; -1: it is over, and 0: it is for ever."""
    if rule.ttl_s is None:
        return FOR_EVER
    left_s = rule.ttl_s - max(0, now_s - event.cluster_time.time)
    return left_s if left_s > 0 else -1
