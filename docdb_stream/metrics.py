"""The figures an operator watches, computed from a run's result.

Owns names, units and arithmetic. Where they are sent is the handler's.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from docdb_stream.result import RunResult
from docdb_stream.settings import Settings

NAMESPACE = "docdb-stream"
"""CloudWatch namespace of every metric; the dimension is ``stream``."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Attributes:
        name: As CloudWatch shows it.
        unit: A unit of CloudWatch's MetricDatum.
        value: The figure.
        dimensions: Besides ``stream``.
    """

    name: str
    unit: str
    value: float
    dimensions: dict[str, str] = field(default_factory=dict)


def run_metrics(result: RunResult, settings: Settings, now: dt.datetime) -> list[Metric]:
    """The metrics of a run.

    CheckpointAge is the age of the position, by the cluster's clock. RetentionHeadroom is what is left, in percent of
    the change log's retention, before the position leaves the log; at 0 the next run finds its history lost.
    Documents, Bytes and Failures are by collection, of what was delivered of each.
    SchemaStops is how many collections have stopped for their schema, while any has. VerifiedAge
    is how long ago a target was last proven equal to the source (``docdb-stream verify``).
    """
    metrics = [
        Metric("Events", "Count", result.events),
        Metric("Loops", "Count", result.loops),
        Metric("Checkpoints", "Count", result.checkpoints),
        Metric("Rejections", "Count", result.rejections),
        Metric("Retries", "Count", result.retries),
        Metric("CaughtUp", "None", 1.0 if result.caught_up else 0.0),
    ]
    if result.filtered:
        metrics.append(Metric("Filtered", "Count", result.filtered))
        metrics += [Metric("Filtered", "Count", count, {"rule": name}) for name, count in result.filtered_by.items()]
    if result.stopped:
        metrics.append(Metric("SchemaStops", "Count", len(result.stopped)))
    if result.snapshot_documents:
        metrics.append(Metric("SnapshotDocuments", "Count", result.snapshot_documents))
    if result.snapshot is not None and result.snapshot.share is not None:
        metrics.append(Metric("SnapshotProgress", "Percent", 100.0 * result.snapshot.share))
    if result.lag_s is not None:
        metrics.append(Metric("Lag", "Seconds", result.lag_s))
    position_time = result.position.time if result.position else None
    if position_time is not None:
        age_s = max(0.0, (now - position_time).total_seconds())
        left_s = max(0.0, settings.change_log_retention_seconds - age_s)
        metrics += [
            Metric("CheckpointAge", "Seconds", age_s),
            Metric("RetentionHeadroomSeconds", "Seconds", left_s),
            Metric("RetentionHeadroom", "Percent", 100.0 * left_s / settings.change_log_retention_seconds),
        ]
    for name, of_collection in result.collections.items():
        own = {"collection": name}
        metrics += [
            Metric("Documents", "Count", of_collection.documents, own),
            Metric("Bytes", "Bytes", of_collection.bytes, own),
            Metric("Failures", "Count", of_collection.failures, own),
        ]
    for name, through in result.verified.items():
        age_s = max(0.0, (now - through.as_datetime()).total_seconds())
        metrics.append(Metric("VerifiedAge", "Seconds", age_s, {"target": name}))
    for name, figures in result.targets.items():
        if figures.writes:
            latency_ms = 1000.0 * (figures.write_s + figures.flush_s) / figures.writes
            metrics.append(Metric("TargetLatency", "Milliseconds", latency_ms, {"target": name}))
    return metrics
