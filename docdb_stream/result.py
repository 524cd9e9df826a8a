"""What a run did, as a whole and per target: the figures that it returns and shows while it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

from bson import Timestamp

from docdb_stream.events import Position
from docdb_stream.position import SnapshotProgress


@dataclass(slots=True)
class TargetFigures:
    """What one target did in a run.

    Attributes:
        events: Events it has made durable.
        rejections: Events among the delivered ones that it refused for good.
        writes: Batches written.
        write_s: Seconds spent writing.
        flush_s: Seconds spent flushing.
    """

    events: int = 0
    rejections: int = 0
    writes: int = 0
    write_s: float = 0.0
    flush_s: float = 0.0


@dataclass(slots=True)
class CollectionFigures:
    """What a run delivered of one collection.

    Attributes:
        documents: Its events that every target was given.
        bytes: Their size as BSON.
        failures: Events of it that a target or a step refused, and that are in the dead letters.
    """

    documents: int = 0
    bytes: int = 0
    failures: int = 0

    def plus(self, other: CollectionFigures) -> CollectionFigures:
        """The sum."""
        return CollectionFigures(
            self.documents + other.documents, self.bytes + other.bytes, self.failures + other.failures
        )


@dataclass(slots=True)
class RunResult:
    """What a run did.

    Attributes:
        stream: The stream's name.
        events: Events delivered to every target and covered by the last checkpoint.
        read: Events read, delivered or not.
        filtered: Events among those read of which a step left nothing, not even a rejection.
        filtered_by: The same by the step's name: namespaces, operations, match, or that of a function.
        filtered_on_server: The rules by which the server left events out, which were not read and not counted.
        unsaved: Events among those read that the last checkpoint does not cover: the next run reads them again.
        loops: Batches that held events, also where steps took all of them away.
        checkpoints: Checkpoints saved.
        caught_up: Everything that was committed when the run began has been delivered: proven, not assumed. Not while
            a snapshot is under way that is not paused.
        lag_s: Seconds of cluster time from the position to the operation time the run aimed at; 0 when caught up.
        rejections: Events that a target or a step refused, or that could not be read, and that are in the dead letters.
        retries: Attempts that were repeated because the cluster or a target was in trouble.
        stopped_by: Why the run ended: caught-up, max-loop, deadline, signal, or schema (see ``stopped``).
        duration_s: Seconds the run took.
        targets: Figures per target.
        position: Where the stream stands.
        began_at: What it went on from: ``checkpoint``, ``start-at`` (a new stream) or ``sample`` (a new stream too, but
            the AWS sample has left a position); empty when it did not come to that.
        snapshot: How far the snapshot beside the stream has come; None where none is under way.
        snapshot_documents: Documents of a snapshot among the events read.
        stopped: The collections that have stopped for their schema, with what was new in them.
        collections: Figures per collection, of what checkpoints cover; of a hundred, and ``other`` of the rest.
        verified: The cluster time up to which each target was proven equal when it was compared last, by its name.
    """

    stream: str
    events: int = 0
    read: int = 0
    filtered: int = 0
    filtered_by: dict[str, int] = field(default_factory=dict)
    filtered_on_server: list[str] = field(default_factory=list)
    unsaved: int = 0
    loops: int = 0
    checkpoints: int = 0
    caught_up: bool = False
    lag_s: float | None = None
    rejections: int = 0
    retries: int = 0
    stopped_by: str = ""
    duration_s: float = 0.0
    targets: dict[str, TargetFigures] = field(default_factory=dict)
    position: Position | None = None
    began_at: str = ""
    snapshot: SnapshotProgress | None = None
    snapshot_documents: int = 0
    stopped: dict[str, str] = field(default_factory=dict)
    collections: dict[str, CollectionFigures] = field(default_factory=dict)
    verified: dict[str, Timestamp] = field(default_factory=dict)

    def took(self, read: int, filtered: Mapping[str, int]) -> None:
        """So many events were read, of so many of which steps, by their names, left nothing."""
        self.read += read
        self.unsaved += read
        self.filtered_by = added(self.filtered_by, filtered)
        self.filtered = sum(self.filtered_by.values())

    def conclude(self, until: Timestamp, duration_s: float) -> None:
        """At the end of the run: whether it has caught up with the operation time ``until``, or by how much not."""
        reached = self.position.operation_time if self.position else None
        # At that very time there may be more: all events of a transaction have one cluster time.
        self.caught_up = self.stopped_by == "caught-up" or (reached is not None and reached > until)
        if self.caught_up:
            self.lag_s = 0.0
            self.caught_up = self.snapshot is None or self.snapshot.is_paused
        elif reached is not None:
            self.lag_s = float(max(0, until.time - reached.time))
        self.duration_s = round(duration_s, 3)

    def after(self, earlier: RunResult) -> RunResult:
        """What both runs did, of which this one came later."""
        counts = {name: getattr(earlier, name) + getattr(self, name) for name in _COUNTS}
        targets = {
            name: TargetFigures(
                *map(
                    sum,
                    zip(*(astuple(run.targets[name]) for run in (earlier, self) if name in run.targets), strict=True),
                )
            )
            for name in {**earlier.targets, **self.targets}
        }
        collections = dict(earlier.collections)
        for name, figures in self.collections.items():
            collections[name] = collections.get(name, CollectionFigures()).plus(figures)
        by = added(earlier.filtered_by, self.filtered_by)
        began_at = earlier.began_at or self.began_at
        rules = list(dict.fromkeys([*earlier.filtered_on_server, *self.filtered_on_server]))
        return replace(
            self,
            **counts,
            filtered_by=by,
            filtered_on_server=rules,
            targets=targets,
            began_at=began_at,
            collections=collections,
        )

    def as_dict(self) -> dict[str, Any]:
        """The result as plain values, ready for JSON."""
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["targets"] = {name: asdict(figures) for name, figures in self.targets.items()}
        values["collections"] = {name: asdict(figures) for name, figures in self.collections.items()}
        values["snapshot"] = None if self.snapshot is None else self.snapshot.as_dict()
        values["verified"] = {name: time.as_datetime().isoformat() for name, time in self.verified.items()}
        time_ = self.position.time if self.position else None
        values["position"] = {
            "token": None if not self.position or self.position.token is None else self.position.token.data,
            "time": None if time_ is None else time_.isoformat(),
        }
        return values


def added(*counts: Mapping[str, int]) -> dict[str, int]:
    """The sums, by name."""
    total = Counter[str]()
    for each in counts:
        total.update(each)
    return dict(total)


_COUNTS = ("events", "read", "filtered", "loops", "checkpoints", "rejections", "retries", "snapshot_documents")
