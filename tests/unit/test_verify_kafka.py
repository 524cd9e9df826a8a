"""Reading event ids from a topic that others write to as well, without a broker."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from docdb_stream.formats.extended import EXTENDED
from docdb_stream.targets._kafka.record import KafkaRecord
from docdb_stream.targets.kafka import KafkaTarget

KafkaTarget("127.0.0.1:1")  # imports kafka as users do, without its deprecation warnings

Headers = Sequence[tuple[str, bytes | None]]


class Consumer:
    """A topic of one partition, read at once."""

    records: Sequence[Any] = ()

    def __init__(self, **_: Any) -> None:
        self._at = 0
        self._partition: Any = None

    def partitions_for_topic(self, _: str) -> set[int]:
        return {0}

    def assign(self, partitions: Sequence[Any]) -> None:
        [self._partition] = partitions

    def end_offsets(self, partitions: Sequence[Any]) -> dict[Any, int]:
        return dict.fromkeys(partitions, len(self.records))

    def offsets_for_times(self, times: dict[Any, int]) -> dict[Any, Any]:
        return dict.fromkeys(times, SimpleNamespace(offset=0))

    def seek(self, _: Any, offset: int) -> None:
        self._at = offset

    def position(self, _: Any) -> int:
        return self._at

    def poll(self, **_: Any) -> dict[Any, Sequence[Any]]:
        found, self._at = self.records[self._at :], len(self.records)
        return {self._partition: found}

    def close(self) -> None: ...


def told(monkeypatch: pytest.MonkeyPatch, *records: tuple[bytes | None, Headers]) -> list[str]:
    made = [SimpleNamespace(value=value, headers=headers) for value, headers in records]
    monkeypatch.setattr(Consumer, "records", made)
    monkeypatch.setattr("kafka.KafkaConsumer", Consumer)
    record = KafkaRecord("kafka", dict, EXTENDED, lambda *_: "t")
    return [each for part in record.told(["t"], dt.datetime.now(dt.UTC)) for each in part]


def test_a_header_without_a_value_is_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka's headers may be null; one of another producer must not end the comparison."""
    assert told(monkeypatch, (b"x", [("event_id", None)]), (b"{}", [("event_id", b"8264")])) == ["8264"]


def test_a_tombstone_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, (b"{}", [("event_id", b"1")]), (None, [("event_id", b"1")])) == ["1"]


def test_records_of_others_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, (b"x", []), (b"x", [("other", b"1")])) == []
