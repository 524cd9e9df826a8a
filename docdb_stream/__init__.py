"""docdb-stream: a resumable poller for MongoDB and Amazon DocumentDB change streams.

Start with ``Poller`` and ``Settings``. What a target has to do is in ``Target``.
"""

from docdb_stream.checkpoint import Checkpoint, CheckpointStore, Lease
from docdb_stream.errors import (
    CheckpointConflictError,
    ConfigError,
    DocdbStreamError,
    HistoryLostError,
    LeaseHeldError,
    SourceUnavailableError,
    StateStoreError,
    TargetError,
)
from docdb_stream.events import Batch, ChangeEvent, Namespace, Position, ResumeToken
from docdb_stream.poller import Poller
from docdb_stream.retry import Deadline
from docdb_stream.run import RunResult
from docdb_stream.settings import Settings
from docdb_stream.source import ChangeSource
from docdb_stream.target import Rejection, Target

__version__ = "0.1.0"

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
    "Poller",
    "Position",
    "Rejection",
    "ResumeToken",
    "RunResult",
    "Settings",
    "SourceUnavailableError",
    "StateStoreError",
    "Target",
    "TargetError",
]
