"""What can be set about how a stream is read.

Owns names, types, defaults and meaning of these keys of a stream. ``stream`` puts them together.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from docdb_stream.settings.cluster import ClusterSettings
from docdb_stream.settings.model import Heading
from docdb_stream.settings.types import StartTime


class ReadingSettings(ClusterSettings):
    """And how it is read: where from, how much at a time, for how long."""

    start_at: Annotated[StartTime, Heading("Reading")] = Field(
        default="now",
        description="Where a stream without a checkpoint starts: snapshot (every document that there is, then every "
        "change), now, earliest (as far back as the change log reaches), or an ISO 8601 timestamp. One with a "
        "checkpoint goes on there: docdb-stream reset moves it, docdb-stream snapshot start delivers what there is.",
    )
    batch_size: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Events read and delivered in one loop, at most; 1 to 100000. Fewer where they are large: a batch "
        "has about 2 MiB.",
    )
    max_loop: int = Field(
        default=45,
        ge=0,
        validation_alias=AliasChoices("max_loop", "documents_per_run"),
        description="Loops of one run, at most; 0: as many as the deadline (--timeout, the Lambda's timeout) allows. "
        "Ignored with --follow. docdb-stream run takes 0 unless it is set. The AWS sample's later name "
        "documents_per_run is understood too.",
    )
    state_sync_count: int = Field(
        default=15,
        ge=1,
        validation_alias=AliasChoices("state_sync_count", "iterations_per_sync"),
        description="Loops from one checkpoint to the next. Fewer: less to deliver again after a crash. More: fewer "
        "writes to the cluster. The AWS sample's later name iterations_per_sync is understood too.",
    )
    read_ahead_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=1024 * 1024,
        description="BSON bytes read ahead of delivery and waiting in memory, at most, besides one reply of the server "
        "(about 2 MiB, 16 at most).",
    )
    lease_seconds: float = Field(
        default=60,
        gt=0,
        le=3600,
        description="Seconds after which the lease of a run that died is free again. When following, 10 at most; at "
        "once on the same machine (Linux), where the process is provably gone.",
    )
    change_log_retention_seconds: float = Field(
        default=3 * 60 * 60,
        gt=0,
        description="Seconds that the cluster keeps its change log: DocumentDB's change_stream_log_retention_duration "
        "(3 hours unless changed, 7 days at most), or MongoDB's oplog window. Only for the retention headroom metric.",
    )
    on_history_lost: Literal["fail", "now", "earliest", "snapshot"] = Field(
        default="fail",
        description="What to do when the position is no longer in the change log: fail (stop, exit code 5, an operator "
        "decides), now, earliest, or snapshot: go on now, and deliver every document that there is (what was "
        "deleted meanwhile stays where targets have it).",
    )
    snapshot_ranges: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="In how many ranges a snapshot takes each collection. They are read side by side; 1 to 1000.",
    )
    snapshot_shared: bool = Field(
        default=False,
        description="Whether the ranges of a snapshot are delivered by workers, as many as there are (docdb-stream "
        "snapshot work, in any number of processes); the stream's own run then delivers changes alone. Only into "
        "targets that keep documents by version, since the order in a log would be lost.",
    )
    full_document: Literal["update_lookup", "default", "when_available", "required"] = Field(
        default="update_lookup",
        description="The document of an update. update_lookup: as it is when the event is read. default: none, only "
        "what changed. when_available, required: as it was right after the change, by MongoDB's post-images (6.0 and "
        "later; changeStreamPreAndPostImages of the collection); required ends the run where there is none.",
    )
    full_document_before_change: Literal["off", "when_available", "required"] = Field(
        default="off",
        description="The document as it was before a change, by MongoDB's pre-images (6.0 and later): off, "
        "when_available, or required, which ends the run where there is none.",
    )
