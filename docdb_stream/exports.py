"""What ``from docdb_stream import ...`` gives. It is imported once something of it is asked for."""

from docdb_stream.checkpoint import Checkpoint, CheckpointStore, Lease
from docdb_stream.context import Deadline
from docdb_stream.derived_update import derived
from docdb_stream.errors import (
    CheckpointConflictError,
    ConfigError,
    DocdbStreamError,
    HistoryLostError,
    LeaseHeldError,
    SourceUnavailableError,
    StateStoreError,
    StepError,
    TargetError,
)
from docdb_stream.events import Batch, ChangeEvent, Namespace, Position, ResumeToken
from docdb_stream.follower import Patience, Watcher
from docdb_stream.poller import Poller
from docdb_stream.result import RunResult
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.source import ChangeSource
from docdb_stream.step import Step
from docdb_stream.streams import Outcome, run_streams
from docdb_stream.target import Rejection, Target

__all__ = [
    "Batch",
    "ChangeEvent",
    "ChangeSource",
    "Checkpoint",
    "CheckpointConflictError",
    "CheckpointStore",
    "ConfigError",
    "Deadline",
    "DocdbStreamError",
    "HistoryLostError",
    "Lease",
    "LeaseHeldError",
    "Namespace",
    "Outcome",
    "Patience",
    "Poller",
    "Position",
    "Rejection",
    "ResumeToken",
    "RunResult",
    "Settings",
    "SourceUnavailableError",
    "StateStoreError",
    "Step",
    "StepError",
    "Target",
    "TargetError",
    "TargetSettings",
    "Watcher",
    "derived",
    "run_streams",
]
