"""What topics tell of events, for comparing: see ``recorded.Record``.

Every record has its event's id in a header, whatever its format. They are read with kafka-python, whichever client
writes, by no consumer group: nothing is committed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Final

from docdb_stream.errors import TargetError
from docdb_stream.events import ChangeEvent
from docdb_stream.format import Format
from docdb_stream.targets._kafka.python_client import answered
from docdb_stream.targets._payload import PlaceOf, places_of

_SKEW: Final = dt.timedelta(minutes=5)
"""By how much the clocks of the cluster and of whoever delivered may differ."""
_POLL_S: Final = 0.5
_SILENT_POLLS_MOST: Final = 60
"""So many polls without anything, before what is read to is reached: nobody is going to answer any more."""


_READING: Final = {
    "isolation_level": "read_committed",
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "allow_auto_create_topics": False,
}


class KafkaRecord:
    """See ``Record``.

    Args:
        target: The target's name, for errors.
        way: How a client gets to the brokers, as kafka-python wants it; called when it is needed.
        payload_format: The target's format.
        place_of: The topic of an event.
    """

    def __init__(
        self, target: str, way: Callable[[], dict[str, Any]], payload_format: Format, place_of: PlaceOf
    ) -> None:
        self._target = target
        self._way = way
        self._format = payload_format
        self._place_of = place_of

    def places(self, events: Sequence[ChangeEvent]) -> Sequence[str | None]:
        """See Record."""
        return places_of(events, self._format, self._place_of)

    def told(self, places: Collection[str], since: dt.datetime) -> Iterator[Sequence[str]]:
        """See Record. Of what was written within transactions, what is committed."""
        from kafka.errors import KafkaError

        opened: list[tuple[Any, dict[Any, int]]] = []
        try:
            # Brokers may accept a connection and say nothing.
            answered(lambda: opened.append(self._opened(places, since)))
            consumer, ends = opened[0]
            with contextlib.closing(consumer):
                yield from self._read(consumer, ends)
        except KafkaError as error:
            raise TargetError(
                self._target,
                f"its topics cannot be read: {type(error).__name__}",
                hint="allow this user to READ and DESCRIBE the topics; see that the brokers are up",
            ) from error

    def _opened(self, topics: Collection[str], since: dt.datetime) -> tuple[Any, dict[Any, int]]:
        """A consumer that stands at a time, and where the topics end now."""
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(**self._way(), **_READING)
        partitions = [
            TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic) or ()
        ]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        since_ms = int((since - _SKEW).timestamp() * 1000)
        for partition, found in consumer.offsets_for_times(dict.fromkeys(partitions, since_ms)).items():
            consumer.seek(partition, ends[partition] if found is None else found.offset)
        return consumer, ends

    def _read(self, consumer: Any, ends: dict[Any, int]) -> Iterator[Sequence[str]]:
        """All up to the ends, which do not come before every open transaction is over."""
        silent = 0
        left = {partition for partition, end in ends.items() if consumer.position(partition) < end}
        while left and silent < _SILENT_POLLS_MOST:
            records = consumer.poll(timeout_ms=int(_POLL_S * 1000))
            silent = 0 if records else silent + 1
            yield [
                value.decode(errors="replace")
                for some in records.values()
                for record in some
                if record.value is not None  # a tombstone is its delete's
                for name, value in record.headers
                if name == "event_id" and value is not None
            ]
            left = {partition for partition in left if consumer.position(partition) < ends[partition]}
        if left:
            topic = next(iter(left)).topic
            raise TargetError(
                self._target,
                f"topic {topic}: the brokers show nothing more before its end",
                hint="is a transaction open there that nobody ends? See the brokers, and compare again",
            )
