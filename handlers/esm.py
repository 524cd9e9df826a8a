"""The Lambda behind a DocumentDB event source mapping: Lambda reads the change stream, this delivers.

Set ``docdb_stream.handlers.esm.handler`` as the function's handler and the targets as its environment. Lambda keeps the
position, so there is no checkpoint of ours; everything else, targets, payloads, dead letters, is as with the poller.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from bson.errors import BSONError

from docdb_stream.alerts import Alerts
from docdb_stream.dead_letters import DeadLetters
from docdb_stream.delivery import Delivery
from docdb_stream.errors import CheckpointConflictError, ConfigError
from docdb_stream.events import ChangeEvent
from docdb_stream.handlers._canonical import to_bson
from docdb_stream.handlers._runtime import emit, end_of, log_failure, logger, now, run_deadline
from docdb_stream.letters import dead_letters_for
from docdb_stream.metrics import Metric
from docdb_stream.mongodb.connection import Connection
from docdb_stream.mongodb.state import StateEvents
from docdb_stream.retry import Deadline, deadline
from docdb_stream.settings import Settings
from docdb_stream.targets import build_targets


def handler(event: object, context: Any) -> dict[str, Any]:
    """Deliver one batch of 1 to 10,000 events to every target.

    Returns:
        ``stream``, ``events`` and ``rejections``, once everything is durable.

    Raises:
        DocdbStreamError: Something is not durable. Lambda sends the whole batch again.
    """
    parts: _Parts | None = None
    end = end_of(context)
    try:
        events = _events(event)
        parts = _parts()
        return _deliver(parts, [each for each in events if not parts.state_events.has(each)], end)
    except Exception as error:
        log_failure(error)
        if parts is not None:
            with deadline(end):
                parts.alerts.send(error)
        with deadline(end):
            _discard()
        raise


class _Parts:
    """What the container keeps warm."""

    def __init__(self) -> None:
        self.settings = _settings()
        self.alerts = Alerts(self.settings)
        self.delivery = Delivery(build_targets(self.settings))
        self.state_events = StateEvents(self.settings)
        self._connection: Connection | None = None

    def dead_letters(self) -> DeadLetters:
        """Where rejections go; reached for only when there are any."""
        if self.settings.dead_letters is not None:
            return dead_letters_for(self.settings, None)
        if self.settings.documentdb_uri == _NO_CLUSTER:
            raise ConfigError(
                "an event was rejected, and there is no place for dead letters",
                hint="set DEAD_LETTERS to s3://bucket/prefix or an SQS queue URL (or DOCUMENTDB_URI, to keep them in "
                "the state database); Lambda sends the batch again",
            )
        self._connection = self._connection or Connection(self.settings)
        return dead_letters_for(self.settings, self._connection)

    def close(self) -> None:
        for each in (self.delivery, self._connection):
            try:
                if each is not None:
                    each.close()
            except Exception as error:  # noqa: BLE001 - the failure that led here is the one to report
                logger.warning("closing after a failure: %s", type(error).__name__)


_NO_CLUSTER = "read-by-lambda"
"""Stands for the cluster, which need not be named: Lambda reads it."""

_kept: _Parts | None = None


def _parts() -> _Parts:
    global _kept
    if _kept is None:
        _kept = _Parts()
    return _kept


def _discard() -> None:
    global _kept
    kept, _kept = _kept, None
    if kept is not None:
        kept.close()


def _settings() -> Settings:
    """As for the poller, but without the cluster."""
    try:
        return Settings.from_env({**os.environ, "DOCUMENTDB_URI": os.environ.get("DOCUMENTDB_URI") or _NO_CLUSTER})
    except ConfigError as error:
        raise ConfigError("; ".join([str(error), *error.problems]), hint=error.hint) from None


def _events(event: object) -> list[ChangeEvent]:
    """The change events of the payload, as if the server had sent them to us.

    Raises:
        ConfigError: The payload is another one's.
    """
    if not isinstance(event, Mapping) or event.get("eventSource") != "aws:docdb":
        source = event.get("eventSource", "nobody known") if isinstance(event, Mapping) else type(event).__name__
        raise ConfigError(
            f"this function delivers what a DocumentDB event source mapping sends, and was started by {source}",
            hint="for a schedule set the handler docdb_stream.handlers.poller.handler",
        )
    try:
        return [_event(each["event"]) for each in event["events"]]
    except (KeyError, TypeError, ValueError, ArithmeticError, BSONError) as error:
        raise ConfigError(
            f"the event source mapping's payload cannot be read: {type(error).__name__}",
            hint='expected {"events": [{"event": {change event as Extended JSON}}]}',
        ) from error


def _event(value: Mapping[str, Any]) -> ChangeEvent:
    if not isinstance(value["_id"], Mapping) or not isinstance(value["operationType"], str):
        raise ValueError("no change event")
    return ChangeEvent(to_bson(value))


def _deliver(parts: _Parts, events: list[ChangeEvent], end: Deadline) -> dict[str, Any]:
    settings = parts.settings
    limit = run_deadline(end, settings)
    try:
        with deadline(limit), parts.delivery as delivery:
            for start in range(0, len(events), settings.batch_size):
                delivery.write(events[start : start + settings.batch_size])
            rejections = delivery.flush()
            if rejections:
                parts.dead_letters().write(settings.stream_name, rejections)
    finally:
        limit.guard = _refuse
    metrics = [
        Metric("Events", "Count", len(events)),
        Metric("Rejections", "Count", len(rejections)),
        Metric("Retries", "Count", limit.retries),
    ]
    if events:
        lag_s = (now() - events[-1].cluster_time.as_datetime()).total_seconds()
        metrics.append(Metric("Lag", "Seconds", max(0.0, lag_s)))
    emit(metrics, settings.stream_name)
    result = {"stream": settings.stream_name, "events": len(events), "rejections": len(rejections)}
    logger.info("batch", extra={"result": result})
    return result


def _refuse() -> None:
    """What a target that still works for an invocation which is over hears before it sends: Lambda has sent the batch
    to the next one, and what it sends late could overtake that."""
    raise CheckpointConflictError("the invocation is over")
