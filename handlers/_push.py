"""Delivers what another has read and pushes, as a Lambda trigger does: steps, targets, dead letters, then the answer.

Owns the parts that a container keeps warm for it, and what failed first. What a payload looks like, and what the answer
has to be, is for its handler to know. Who pushes keeps the position, so there is no checkpoint of ours.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from docdb_stream import step
from docdb_stream.alerts import Alerts
from docdb_stream.context import Deadline, RunContext, deadline, running
from docdb_stream.delivery import Delivery
from docdb_stream.derived_update import derived_in, in_any_order, is_derived
from docdb_stream.errors import CheckpointConflictError, ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Events, Rejection
from docdb_stream.handlers._runtime import emit, end_of, log_failure, logger, now, run_deadline
from docdb_stream.letters import dead_letters_for
from docdb_stream.metrics import Metric
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.state import StateEvents
from docdb_stream.result import added
from docdb_stream.settings import Settings
from docdb_stream.settings.cluster import NO_CLUSTER
from docdb_stream.steps import steps_for
from docdb_stream.targets import build_targets


@dataclass(slots=True)
class Pushed:
    """What became of the events of one invocation. All counts are of what is durable.

    Attributes:
        stream: The stream's name.
        settled: How many of the events pushed, from the first on, are done with: in every target or in the dead
            letters, left out, or filtered. The one after them failed first, and may be in some targets.
        events: Events among these that every target was given.
        filtered: Events among these of which a step left nothing.
        filtered_by: The same by the step's name.
        rejections: Events that a target or a step refused, and that are in the dead letters.
        retries: Attempts that were repeated because a target was in trouble.
        lag_s: Seconds from the last settled event's cluster time to when it was settled; None without one.
        error: Why not all is settled; None where it is.
    """

    stream: str
    settled: int = 0
    events: int = 0
    filtered: int = 0
    filtered_by: dict[str, int] = field(default_factory=dict)
    rejections: int = 0
    retries: int = 0
    lag_s: float | None = None
    error: Exception | None = None

    def as_dict(self) -> dict[str, Any]:
        """Stream, events, rejections, and what was filtered where something was: the answer, ready for JSON."""
        found = {"stream": self.stream, "events": self.events, "rejections": self.rejections}
        return {**found, "filtered": self.filtered, "filtered_by": self.filtered_by} if self.filtered else found


def push(
    read: Callable[[], Sequence[ChangeEvent | Rejection]],
    context: Any,
    *,
    in_parts: bool = False,
    ordered: bool = True,
    watched_db_name: str | None = None,
) -> Pushed:
    """Deliver what ``read`` finds in the payload, within the invocation's time, and tell of it: log, metrics, alert.

    Args:
        read: Returns the events, in order, and a rejection in the place of each that cannot be read. Called before
            anything is built, so that a payload which cannot be read reaches no target.
        context: Lambda's.
        in_parts: Settle after every BATCH_SIZE events, for a trigger that can be told what failed first and then sends
            only the rest again. Otherwise once, at the end: either everything is settled, or nothing counts as such.
        ordered: Whether what is pushed has one order, in which collections can be dropped. Of several shards of a
            table, each with times of its own, derived updates cannot be told apart by their times: those that come to
            the same in any order are applied each time, and all others end the invocation.
        watched_db_name: The database of all that is pushed, where that is not for the settings to say.

    Returns:
        What is durable, and the error if that is not everything. A handler that cannot name a part in its answer raises
        that error, and gets all events again.

    Raises:
        ConfigError: The settings cannot be used, or ``read`` raised it. Nothing was delivered.
    """
    end = end_of(context)
    try:
        events = read()
        kept = _kept_parts(watched_db_name)
    except Exception as error:
        log_failure(error)
        _discard(end)
        raise
    pushed = kept.deliver(events, run_deadline(end, kept.settings), in_parts, ordered)
    if pushed.error is not None:
        log_failure(pushed.error)  # before anything that could take the time which is left
        with deadline(end):
            kept.alerts.send(pushed.error)
        _discard(end)
    if pushed.error is None or pushed.settled:
        _tell(pushed)
    return pushed


def _discard(end: Deadline) -> None:
    """Close and forget everything, by ``end``: after a failure nothing of it is trusted."""
    global _kept
    kept, _kept = _kept, None
    if kept is not None:
        with deadline(end):
            kept.close()


def _tell(pushed: Pushed) -> None:
    counts = {"Events": pushed.events, "Rejections": pushed.rejections, "Retries": pushed.retries}
    if pushed.filtered:
        counts["Filtered"] = pushed.filtered
    metrics = [Metric(name, "Count", count) for name, count in counts.items()]
    metrics += [Metric("Filtered", "Count", count, {"rule": name}) for name, count in pushed.filtered_by.items()]
    if pushed.lag_s is not None:
        metrics.append(Metric("Lag", "Seconds", pushed.lag_s))
    emit(metrics, pushed.stream)
    logger.info("batch", extra={"result": pushed.as_dict()})


class _Parts:
    """What the container keeps warm."""

    def __init__(self, watched_db_name: str | None) -> None:
        self.settings = _settings(watched_db_name)
        self.alerts = Alerts(self.settings)
        targets = build_targets(self.settings)
        self._steps = step.told_apart(steps_for(self.settings, targets), targets)
        self._delivery = Delivery(targets, stream=self.settings.stream_name, write_letters=self._write_letters)
        self._state_events = StateEvents(self.settings)
        self._connection: Connection | None = None

    def deliver(
        self, events: Sequence[ChangeEvent | Rejection], limit: Deadline, in_parts: bool, ordered: bool
    ) -> Pushed:
        """Deliver the events by ``limit``; see ``push``."""
        pushed = Pushed(self.settings.stream_name)
        size = self.settings.batch_size
        with running(RunContext(limit, is_sharded=not ordered)) as run:
            try:
                with self._delivery as delivery:
                    unsettled = _Unsettled()
                    for start in range(0, len(events), size):
                        self._write(events[start : start + size], delivery, unsettled, ordered)
                        if in_parts:
                            _settle(delivery, unsettled, pushed)
                            unsettled = _Unsettled()
                    _settle(delivery, unsettled, pushed)
            except Exception as error:  # noqa: BLE001 - the handler's, who may have to answer rather than to raise
                pushed.error = error
            finally:
                run.lease_check = _refuse
        pushed.retries = run.retries
        return pushed

    def _write(
        self, pushed: Sequence[ChangeEvent | Rejection], delivery: Delivery, unsettled: _Unsettled, ordered: bool
    ) -> None:
        """Send events through the steps to the targets, and add them up."""
        events = [event for event in pushed if isinstance(event, ChangeEvent)]
        wanted = [event for event in events if not self._state_events.has(event)]
        delivery.reject(step.redacted(self._steps, [each for each in pushed if isinstance(each, Rejection)]))
        made = step.apply(self._steps, wanted)
        if made.events:
            delivery.write(made.events if ordered else _in_any_order(made.events), made.size_bytes)
        delivery.reject(made.rejected)
        unsettled.pushed += len(pushed)
        unsettled.events += len(made.events)
        unsettled.filtered = added(unsettled.filtered, made.filtered)
        if wanted:
            unsettled.last = wanted[-1]

    def close(self) -> None:
        """Close the targets, and the connection if there is one. Never raises."""
        for each in (self._delivery, self._connection):
            try:
                if each is not None:
                    each.close()
            except Exception as error:  # noqa: BLE001 - the failure that led here is the one to report
                logger.warning("closing after a failure: %s", type(error).__name__)

    def _write_letters(self, stream: str, rejections: Sequence[Rejection]) -> None:
        """See DeadLetters. The cluster is reached for only when there are any, and only where they go there."""
        if self.settings.dead_letters is None and self._connection is None:
            if self.settings.documentdb_uri == NO_CLUSTER:
                raise ConfigError(
                    "an event was rejected, and there is no place for dead letters",
                    hint="set DEAD_LETTERS to s3://bucket/prefix or an SQS queue URL (or DOCUMENTDB_URI, to keep them "
                    "in the state database); Lambda sends the batch again",
                )
            self._connection = Connection(self.settings)
        dead_letters_for(self.settings, self._connection).write(stream, rejections)


def _in_any_order(events: Sequence[ChangeEvent]) -> Sequence[ChangeEvent]:
    """The same events, their derived updates for any order. Raises ConfigError: one could come to something else."""
    if not derived_in(events):
        return events
    try:
        return Events(in_any_order(event) if is_derived(event) else event for event in events)
    except UnrenderableError as error:
        raise ConfigError(
            f"{error}, which alone are for what several shards push side by side: it comes again, and in any order",
            hint="have the function of TRANSFORM make other updates; or mirror the table, and derive of the mirror",
        ) from error


@dataclass(slots=True)
class _Unsettled:
    """Events on their way: what ``Pushed`` counts of them once they are settled.

    Attributes:
        pushed: How many of those pushed are among them.
        events: How many of them every target was given.
        filtered: Of how many a step left nothing, by its name.
        last: The last that is the stream's.
    """

    pushed: int = 0
    events: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    last: ChangeEvent | None = None


def _settle(delivery: Delivery, unsettled: _Unsettled, pushed: Pushed) -> None:
    pushed.rejections += len(delivery.settle())
    pushed.settled += unsettled.pushed
    pushed.events += unsettled.events
    pushed.filtered_by = added(pushed.filtered_by, unsettled.filtered)
    pushed.filtered = sum(pushed.filtered_by.values())
    if unsettled.last is not None:
        pushed.lag_s = max(0.0, (now() - unsettled.last.cluster_time.as_datetime()).total_seconds())


_kept: _Parts | None = None


def _kept_parts(watched_db_name: str | None) -> _Parts:
    global _kept
    if _kept is None:
        _kept = _Parts(watched_db_name)
    return _kept


def _settings(watched_db_name: str | None) -> Settings:
    """As for the poller, but without the cluster."""
    absent = {"DOCUMENTDB_URI": NO_CLUSTER, "WATCHED_DB_NAME": watched_db_name or ""}
    known = {name: os.environ.get(name) or value for name, value in absent.items()}
    try:
        found = Settings.from_env({**os.environ, **known})
    except ConfigError as error:
        raise ConfigError("; ".join([str(error), *error.problems]), hint=error.hint) from None
    if found.schema_policy is not None:
        raise ConfigError(
            "SCHEMA_POLICY: of what is pushed no schema ledger is kept, as there is no checkpoint to keep it beside",
            hint="leave SCHEMA_POLICY out, or start a function that polls by a schedule",
        )
    return found


def _refuse() -> None:
    """What a target that still works for an invocation which is over hears before it sends: Lambda has sent the batch
    to the next one, and what it sends late could overtake that."""
    raise CheckpointConflictError("the invocation is over")
