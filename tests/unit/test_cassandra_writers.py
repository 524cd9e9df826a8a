"""What several runs leave behind that write the same documents at the same time, whichever way they take turns."""

from __future__ import annotations

import contextlib
import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.targets._cassandra.declaration import STATE, tables_of
from docdb_stream.targets._cassandra.documents import DocumentName
from docdb_stream.targets._cassandra.rows import rows_of
from docdb_stream.targets._cassandra.writer import Change, Writer
from docdb_stream.targets._versioned import document_version
from docdb_stream.testing.events import ChangeLog

RULES = {rule.table: rule for rule in tables_of("orders: by_n (n int, id text = _id, PRIMARY KEY ((n), id))")}
KEY_COLUMNS = {STATE: 4, **{name: len(rule.key) for name, rule in RULES.items()}}


class KilledError(Exception):
    """What ends a run in its midst."""


class Rows:
    """What Cassandra keeps: of each row what was written with the latest timestamp, of equal ones the deletion.

    Attributes:
        turn: Called before each statement.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[str, tuple[Any, ...]], tuple[int, bool, tuple[Any, ...]]] = {}
        self.turn: Callable[[], None] = lambda: None

    def write(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> Mapping[int, Any]:
        for text, bound in random.sample(statements, len(statements)):
            self.turn()
            if found := re.match(r"INSERT INTO (\w+) .* USING TIMESTAMP \? AND TTL \?", text):
                *values, at_us, _ = bound
                key = tuple(values[: KEY_COLUMNS[found[1]]])
                new = (at_us, False, tuple(values))
            else:
                found = re.match(r"DELETE FROM (\w+) USING TIMESTAMP \? WHERE", text)
                assert found
                key = tuple(bound[1:])
                new = (bound[0], True, ())
            old = self._cells.get((found[1], key), (0, False, ()))
            self._cells[found[1], key] = max(old, new, key=lambda cell: cell[:2])
        return {}

    def read(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[list[tuple[Any, ...]]]:
        found = []
        for text, bound in statements:
            self.turn()
            assert re.match(rf"SELECT id, keys, version, sequence FROM {STATE} WHERE source = \? AND bucket = \?", text)
            found.append([values[2:] for values in self.of(STATE) if values[: len(bound)] == tuple(bound)])
        return found

    def of(self, table: str) -> list[tuple[Any, ...]]:
        return [values for (name, _), (_, gone, values) in self._cells.items() if name == table and not gone]


def change_of(event: ChangeEvent) -> Change:
    id = str(event.document["documentKey"]["_id"])
    rows = rows_of([*RULES.values()], id, "", event.full_document) if event.full_document else ()
    name = DocumentName("shop.orders", id)
    is_snapshot = ":" in event.event_id
    return Change(event, name, document_version(event.cluster_time), rows, None, is_snapshot)


def deliver(rows: Rows, events: Sequence[ChangeEvent], *, together: bool = True) -> None:
    """Write them in a process of its own."""
    writer = Writer(rows, RULES, 86_400)  # type: ignore[arg-type]
    for batch in [events] if together else [[event] for event in events]:
        assert writer.write([change_of(event) for event in batch]) == []


class Turns:
    """Lets threads take turns, one statement at a time, as chance will have it; a killed one ends at some statement."""

    def __init__(self, chance: random.Random, killed_at: Mapping[int, int]) -> None:
        self._chance, self._killed_at = chance, killed_at
        self._gates: dict[int, threading.Semaphore] = {}
        self._arrived = threading.Semaphore(0)
        self._waiting: set[int] = set()
        self._who = threading.local()

    def __call__(self) -> None:
        self._who.statements += 1
        self._wait()
        if self._who.statements == self._killed_at.get(self._who.number):
            raise KilledError

    def _wait(self) -> None:
        number = self._who.number
        self._waiting.add(number)
        self._arrived.release()
        self._gates[number].acquire()

    def run(self, works: Sequence[Callable[[], None]]) -> list[BaseException]:
        """Do all of them; returns what has gone wrong, but for kills."""
        errors: list[BaseException] = []

        def work(number: int) -> None:
            self._who.number, self._who.statements = number, 0
            self._wait()
            try:
                works[number]()
            except KilledError:
                pass
            except BaseException as error:
                errors.append(error)
            finally:
                self._arrived.release()

        self._gates = {number: threading.Semaphore(0) for number in range(len(works))}
        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(works))]
        for thread in threads:
            thread.start()
        for _ in threads:
            self._arrived.acquire()
        while self._waiting:
            number = self._chance.choice(sorted(self._waiting))
            self._waiting.remove(number)
            self._gates[number].release()
            self._arrived.acquire()
        for thread in threads:
            thread.join()
        return errors


def story() -> tuple[list[ChangeEvent], ChangeEvent]:
    """Changes of one document, of which every one moves its row, and a page of a snapshot amid them."""
    log = ChangeLog()
    events = [log.insert({"_id": 1, "n": 1}), log.update({"_id": 1, "n": 2}), log.update({"_id": 1, "n": 1})]
    [page] = log.snapshot({"_id": 1, "n": 1})
    events += [log.update({"_id": 1, "n": 3}), log.delete(1), log.insert({"_id": 1, "n": 4}), log.update({"_id": 1})]
    return [*events, log.update({"_id": 1, "n": 2})], page


@pytest.mark.parametrize("seed", range(400))
def test_of_runs_at_once_only_the_newest_state_stays(seed: int) -> None:
    chance = random.Random(seed)
    random.seed(seed)
    events, page = story()
    last = chance.randrange(3, len(events) + 1)
    rows = Rows()
    deliver(rows, events[: chance.randrange(3)])
    parts = [events[chance.randrange(last) : last] or events[last - 1 : last]]  # the run that holds the lease
    for _ in range(chance.randrange(1, 3)):  # those that were taken over from, and dead letters sent again
        begin = chance.randrange(last)
        parts.append(events[begin : chance.randrange(begin, last) + 1])
    if chance.random() < 0.7:  # one that shares a snapshot
        parts.append([page])
    together = [chance.random() < 0.5 for _ in parts]
    works = [
        (lambda part=part, whole=whole: deliver(rows, part, together=whole))
        for part, whole in zip(parts, together, strict=True)
    ]
    killed_at = {number: chance.randrange(1, 9) for number in range(len(parts)) if chance.random() < 0.3}
    turns = Turns(chance, killed_at)
    rows.turn = turns
    assert turns.run(works) == []
    rows.turn = lambda: None
    for number in killed_at:  # what was not acknowledged comes again
        deliver(rows, parts[number], together=chance.random() < 0.5)
    newest = events[last - 1].full_document
    expected = [(newest["n"], "1")] if newest and "n" in newest else []
    assert rows.of("by_n") == expected
    states = rows.of(STATE)
    assert len({note for *_, note, _, _ in states}) == len(states)


def test_a_batch_that_ends_amid_a_transaction_and_is_read_anew() -> None:
    log, rows = ChangeLog(), Rows()
    first = log.insert({"_id": 9, "n": 9})
    with log.transaction():
        events = [first, log.insert({"_id": 1, "n": 5}), log.update({"_id": 1, "n": 2})]
    deliver(rows, events[:2])  # and no checkpoint
    deliver(rows, events)
    assert sorted(rows.of("by_n")) == [(2, "1"), (9, "9")]
    deliver(rows, events[:2])
    deliver(rows, events[1:])
    assert sorted(rows.of("by_n")) == [(2, "1"), (9, "9")]


@pytest.mark.parametrize("times", [1, 2, 5])
def test_rows_that_could_not_be_written_though_they_were_noted_are_written_by_the_next(times: int) -> None:
    """As where the partitions of notes have their replicas, and others have not."""
    log, rows = ChangeLog(), Rows()
    events = [log.insert({"_id": number, "n": number}) for number in range(4)]
    write = rows.write

    def without_rows(statements: Sequence[tuple[str, Sequence[Any]]]) -> Mapping[int, Any]:
        if any(f"INTO {STATE} " not in text for text, _ in statements):
            raise TargetError("cassandra", "not enough replicas")
        return write(statements)

    rows.write = without_rows  # type: ignore[method-assign]
    for _ in range(times):
        with pytest.raises(TargetError):
            deliver(rows, events[1:])  # looked up: it begins with it
    rows.write = write  # type: ignore[method-assign]
    deliver(rows, events)
    assert sorted(rows.of("by_n")) == [(number, str(number)) for number in range(4)]


@pytest.mark.parametrize("statement", range(1, 40))
def test_a_drop_that_is_stopped_anywhere_is_done_by_the_next(statement: int) -> None:
    random.seed(statement)
    log, rows = ChangeLog(), Rows()
    events = [log.insert({"_id": number, "n": number}) for number in range(8)]
    drop, after = log.drop(), log.insert({"_id": 3, "n": 33})
    deliver(rows, events)
    left = statement

    def turn() -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KilledError

    version = document_version(drop.cluster_time)
    rows.turn = turn
    with contextlib.suppress(KilledError):
        Writer(rows, RULES, 86_400).remove("shop.orders", drop, version)  # type: ignore[arg-type]
    rows.turn = lambda: None
    Writer(rows, RULES, 86_400).remove("shop.orders", drop, version)  # type: ignore[arg-type]
    assert rows.of("by_n") == []
    deliver(rows, [after])
    assert rows.of("by_n") == [(33, "3")]
