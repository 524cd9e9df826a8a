"""The suite for targets that keep documents by their key: what is newer stays, whatever comes again, late, or twice.
Needs pytest.

Subclass ``VersionedContract`` in a test module beside the target's ``TargetContract``, and supply the same two hooks::

    class TestMyTargetsVersions(VersionedContract):
        def make_target(self):
            return MyTarget(self.table)

        def documents(self):
            return {row["_id"]: row["n"] for row in self.table.rows()}

Every document is ``{"_id": <a number>, "n": <a number>}``.
"""

# The tests are named by what they prove.
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import ClassVar

import pytest

from docdb_stream.context import RunContext, running
from docdb_stream.errors import CheckpointConflictError, TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.target import Rejection, Target
from docdb_stream.testing.events import ChangeLog


class VersionedContract:
    """Replay, reorder, delete and replay, zombie, equal versions.

    Attributes:
        refuses_zombies: Whether the target itself refuses a run that another has taken over from. False: what such a
            run writes is older than what is there, and changes nothing.
    """

    refuses_zombies: ClassVar[bool] = False

    # What a subclass supplies

    def make_target(self) -> Target:
        """A new target on the place of this test; called several times in a test to stand for a new process."""
        raise NotImplementedError

    def documents(self) -> Mapping[int, int]:
        """The ``n`` of every document that is there, by its ``_id``, read by an independent client."""
        raise NotImplementedError

    # The tests

    @pytest.fixture
    def log(self) -> ChangeLog:
        """The source of events."""
        return ChangeLog()

    def deliver(self, *events: ChangeEvent, epoch: int | None = None) -> Sequence[Rejection]:
        """Write the events in a process of its own, as a run whose lease has this epoch."""
        with running(RunContext(lease_epoch=lambda: epoch)), closing(self.make_target()) as target:
            return [*target.write(events), *target.flush()]

    @pytest.fixture
    def history(self, log: ChangeLog) -> list[ChangeEvent]:
        """Some changes of three documents, of which one is deleted, and one deleted and made again."""
        return [
            *(log.insert({"_id": number, "n": 0}) for number in range(3)),
            *(log.update({"_id": number, "n": 1}) for number in range(3)),
            log.delete(1),
            log.delete(2),
            log.insert({"_id": 2, "n": 2}),
            log.replace({"_id": 0, "n": 3}),
        ]

    _AFTER: ClassVar[Mapping[int, int]] = {0: 3, 2: 2}

    def test_changes_of_one_document_in_one_batch_leave_the_last(self, history: list[ChangeEvent]) -> None:
        assert self.deliver(*history) == []
        assert self.documents() == self._AFTER

    def test_one_by_one_they_leave_the_same(self, history: list[ChangeEvent]) -> None:
        with closing(self.make_target()) as target:
            for event in history:
                assert [*target.write([event]), *target.flush()] == []
        assert self.documents() == self._AFTER

    def test_a_replay_changes_nothing_at_any_moment(self, history: list[ChangeEvent]) -> None:
        self.deliver(*history)
        with closing(self.make_target()) as target:
            for event in history:
                target.write([event])
                target.flush()
                assert self.documents() == self._AFTER

    def test_what_comes_late_from_another_run_changes_nothing(self, history: list[ChangeEvent]) -> None:
        self.deliver(*history[5:])
        assert self.deliver(*history[:5]) == []
        assert self.documents() == self._AFTER

    def test_in_whatever_order_runs_come(self, history: list[ChangeEvent]) -> None:
        for event in reversed(history):
            assert self.deliver(event) == []
        assert self.documents() == self._AFTER

    def test_a_replayed_insert_brings_nothing_back_that_was_deleted(self, log: ChangeLog) -> None:
        insert, delete = log.insert({"_id": 1, "n": 1}), log.delete(1)
        self.deliver(insert, delete)
        assert self.deliver(insert) == []
        assert self.documents() == {}

    def test_a_delete_that_comes_first_stays_done(self, log: ChangeLog) -> None:
        insert, delete = log.insert({"_id": 1, "n": 1}), log.delete(1)
        self.deliver(delete)
        assert self.deliver(insert) == []
        assert self.documents() == {}

    def test_a_late_delete_does_not_take_what_was_made_again(self, log: ChangeLog) -> None:
        delete, insert = log.delete(1), log.insert({"_id": 1, "n": 2})
        self.deliver(insert)
        assert self.deliver(delete) == []
        assert self.documents() == {1: 2}

    @pytest.mark.parametrize("together", [True, False])
    def test_of_equal_versions_the_last_stays(self, log: ChangeLog, together: bool) -> None:
        with log.transaction():
            events = [log.insert({"_id": 1, "n": 1}), log.update({"_id": 1, "n": 2}), log.insert({"_id": 2, "n": 1})]
            events += [log.delete(2), log.insert({"_id": 3, "n": 1}), log.delete(3), log.insert({"_id": 3, "n": 2})]
        for _ in range(2):  # a replay, too
            if together:
                assert self.deliver(*events) == []
            else:
                assert [self.deliver(event) for event in events] == [[]] * len(events)
            assert self.documents() == {1: 2, 3: 2}

    def test_a_snapshot_is_written_where_nothing_newer_is(self, log: ChangeLog) -> None:
        """As after lost history: what the target has is of before."""
        self.deliver(log.insert({"_id": 1, "n": 1}))
        page = log.snapshot({"_id": 1, "n": 2}, {"_id": 2, "n": 2})
        for _ in range(2):
            assert self.deliver(*page) == []
            assert self.documents() == {1: 2, 2: 2}

    @pytest.mark.parametrize("together", [True, False])
    def test_a_snapshot_changes_nothing_that_is_newer(self, log: ChangeLog, together: bool) -> None:
        """Neither what was changed since it began, nor what was deleted."""
        [*page] = log.snapshot(*({"_id": number, "n": 0} for number in range(4)))
        changes = [log.update({"_id": 0, "n": 1}), log.delete(1), log.insert({"_id": 2, "n": 1}), log.delete(2)]
        for events in ([*changes, *page], page, [*page, *changes]):
            found = [self.deliver(*events)] if together else [self.deliver(event) for event in events]
            assert not any(found)
            assert self.documents() == {0: 1, 3: 0}

    @pytest.mark.parametrize("together", [True, False])
    def test_a_change_at_which_a_snapshot_began_is_in_it(self, log: ChangeLog, together: bool) -> None:
        change = log.insert({"_id": 1, "n": 1})
        [page] = log.snapshot({"_id": 1, "n": 2}, time=change.cluster_time)
        if not together:
            self.deliver(change)
        assert self.deliver(*([change, page] if together else [page])) == []
        assert self.documents() == {1: 2}

    def test_a_run_that_was_taken_over_from_changes_nothing(self, history: list[ChangeEvent]) -> None:
        self.deliver(*history[:4], epoch=1)
        self.deliver(*history, epoch=2)
        if self.refuses_zombies:
            with pytest.raises((TargetError, CheckpointConflictError)):
                self.deliver(*history[4:6], epoch=1)
        else:
            self.deliver(*history[4:6], epoch=1)
        assert self.documents() == self._AFTER
        assert self.deliver(*history, epoch=2) == []
        assert self.documents() == self._AFTER
