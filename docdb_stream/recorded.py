"""The contract between verifying and a target that keeps events: where it tells which, and which it has.

Owns the protocols. Who compares is ``verify``; how events are found in a log is known beside the target.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol, runtime_checkable

from docdb_stream.event import ChangeEvent


class Record(Protocol):
    """What a target tells of a stream's events. Every method that asks the service raises TargetError where that does
    not work now."""

    def places(self, events: Sequence[ChangeEvent]) -> Sequence[str | None]:
        """Where the target tells each of these events: a topic, a stream, a folder; None where it rejects the event."""
        ...

    def told(self, places: Collection[str], since: dt.datetime) -> Iterator[Sequence[str]]:
        """Ids of the events that are told in these places, each as often as it is; of those that were delivered since
        a time at least, others may be among them. In parts, as the service answers, also where a part holds none."""
        ...


@runtime_checkable
class Recorded(Protocol):
    """A target of which can be said whether it has the events of the source."""

    def record(self) -> Record:
        """What it tells. No network traffic; the target's owner closes it.

        Raises:
            ConfigError: With these settings nothing there says which event it is.
        """
        ...
