"""What a Lambda container keeps between invocations: settings, connections, targets, the logger.

Owns building them once per cold start, reusing them warm, and building them anew after a failure.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from docdb_stream.alerts import Alerts
from docdb_stream.context import Deadline, deadline
from docdb_stream.errors import ConfigError
from docdb_stream.metrics import NAMESPACE, Metric
from docdb_stream.poller import Poller
from docdb_stream.settings import Settings

logger = Logger(service="docdb_stream", level=os.environ.get("LOG_LEVEL", "INFO"), utc=True)
"""JSON log lines; the package's own loggers are below this one, so theirs are JSON as well."""

RESERVE_S = 1.0
"""Kept free at the end of an invocation, besides the margin that the run itself keeps: for giving up a server that does
not answer (about half of it), metrics and the answer."""

ALERT_RESERVE_S = 2.0
"""Kept free for an alert, where there is a topic for it; a tenth of the invocation at most."""


class Runtime:
    """The parts of one stream, kept warm."""

    def __init__(self) -> None:
        self._poller: Poller | None = None
        self._settings: Settings | None = None

    def poller(self, limit: Deadline) -> Poller:
        """The poller, built on first use and after ``discard``. Raises ConfigError."""
        if self._poller is None:
            settings = self.settings()
            with deadline(limit):
                self._poller = Poller.from_settings(settings)
        return self._poller

    def alert(self, error: Exception) -> None:
        """Tell people of a failure, if there are settings that say whom. Never raises."""
        if self._poller is not None:
            self._poller.alerts.send(error)
            return
        try:
            settings = self.settings()
        except ConfigError:
            return
        Alerts(settings).send(error)

    def settings(self) -> Settings:
        """The settings, read from the environment once. Raises ConfigError with every problem in its message."""
        if self._settings is None:
            try:
                self._settings = Settings.from_env()
            except ConfigError as error:
                # A Lambda shows the exception's message and nothing else.
                raise ConfigError("; ".join([str(error), *error.problems]), hint=error.hint) from None
        return self._settings

    def discard(self, end: Deadline) -> None:
        """Close and forget connections and targets, by ``end``: after a failure nothing of them is trusted."""
        poller, self._poller = self._poller, None
        if poller is not None:
            try:
                with deadline(end):
                    poller.close()
            except Exception as error:  # noqa: BLE001 - the failure that led here is the one to report
                logger.warning("closing after a failure: %s", type(error).__name__)


def end_of(context: Any) -> Deadline:
    """When all but the answer has to be done."""
    return Deadline.after(max(0.1, context.get_remaining_time_in_millis() / 1000 - RESERVE_S))


def run_deadline(end: Deadline, settings: Settings) -> Deadline:
    """When the run has to be over, so that an alert about it can be sent before the end."""
    alert_s = min(ALERT_RESERVE_S, end.remaining_s / 10) if settings.sns_topic_arn_alert else 0.0
    return Deadline(end.at_s - alert_s)


def emit(metrics: Sequence[Metric], stream: str) -> None:
    """Write metrics to standard output in CloudWatch's embedded metric format, one line per set of dimensions."""
    by_dimensions: dict[tuple[tuple[str, str], ...], list[Metric]] = {}
    for metric in metrics:
        by_dimensions.setdefault(tuple(sorted(metric.dimensions.items())), []).append(metric)
    for dimensions, group in by_dimensions.items():
        provider = AmazonCloudWatchEMFProvider(
            namespace=NAMESPACE,
            metric_set={},
            dimension_set={"stream": stream, **dict(dimensions)},
            metadata_set={},
            default_dimensions={},
        )
        for metric in group:
            provider.add_metric(metric.name, metric.unit, metric.value)
        provider.flush_metrics()


def log_failure(error: Exception) -> None:
    """One structured line about a failure: kind, message, hint, position."""
    logger.error(
        "run failed",
        extra={
            "kind": getattr(error, "kind", type(error).__name__),
            "error": str(error),
            "hint": getattr(error, "hint", ""),
            "position_time": str(getattr(error, "position_time", None)),
        },
    )


def now() -> dt.datetime:
    """The current time, aware."""
    return dt.datetime.now(dt.UTC)


def started_by(event: object) -> str:
    """Which service sent the invocation's event, as it names itself: empty for one without a name, ``unknown`` for
    records of nobody.

    Raises:
        ConfigError: The event is no JSON object at all.
    """
    if event is None:
        return ""
    if not isinstance(event, Mapping):
        raise ConfigError(
            f"the invocation's event is a {type(event).__name__}", hint="send a JSON object; an empty one will do"
        )
    if "Records" in event:
        records = event["Records"]
        if not (isinstance(records, list) and records and all(isinstance(each, Mapping) for each in records)):
            return "unknown"
        return str(records[0].get("EventSource") or records[0].get("eventSource") or "unknown")
    return str(event.get("eventSource") or event.get("source") or "")


logging.getLogger("botocore").setLevel(logging.WARNING)
logging.getLogger("pymongo").setLevel(logging.WARNING)
