"""The errors an operator can meet, grouped by what there is to do about them.

Each carries a ``hint`` (what to do next) and the exit code of the command line. A message never contains credentials or
a document's content.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import ClassVar, TypeVar

T = TypeVar("T")


class DocdbStreamError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: What happened, in one line.
        hint: What the operator should do next, in one line.
        refused: Whether whom it was asked of answered, and refuses: credentials, privileges, change streams altogether.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str = "", refused: bool = False) -> None:
        super().__init__(message)
        self.hint = hint
        self.refused = refused
        self.position_time: dt.datetime | None = None
        """Where the stream stood; set by the run."""


class ConfigError(DocdbStreamError):
    """Settings are missing or wrong: correct them; nothing was read or written.

    ``problems`` holds one line per problem: all that were found, not the first.
    """

    exit_code = 2
    kind = "settings"

    def __init__(self, message: str, *, hint: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class SourceUnavailableError(DocdbStreamError):
    """The cluster cannot be reached, refuses the credentials, or has no change streams.

    The next run goes on from the checkpoint.
    """

    exit_code = 3
    kind = "source"


class TargetError(DocdbStreamError):
    """A target did not take events it should take; the checkpoint was not moved past them.

    The next run delivers them again.
    """

    exit_code = 4
    kind = "target"

    def __init__(self, target: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"target {target}: {message}", hint=hint)
        self.target = target


class TargetGoneError(TargetError):
    """What a target writes to will never take anything again, as when the program that reads standard output ended."""


class OutOfTimeError(TargetError):
    """A target works, but not fast enough for the run's deadline."""


class StepError(DocdbStreamError):
    """A step between reading and delivery failed as a whole; the checkpoint stays before what it was given.

    A hint is there in any case: correct the step.
    """

    kind = "step"

    def __init__(self, step: str, message: str) -> None:
        hint = "nothing is lost: correct the step, and the next run reads the same events again"
        super().__init__(f"step {step}: {message}", hint=hint)
        self.step = step


class StepOutOfTimeError(StepError):
    """A step was not done by the run's deadline, or soon after a stop."""


class HistoryLostError(DocdbStreamError):
    """The saved position is no longer in the change log: the operator decides where to start again.

    The checkpoint is left as it is; nothing restarts "from now" silently.
    """

    exit_code = 5
    kind = "history-lost"


class LeaseHeldError(DocdbStreamError):
    """Another run works on this stream; this one did nothing."""

    exit_code = 6
    kind = "lease-held"


class CheckpointConflictError(DocdbStreamError):
    """The run lost its lease, so it may save nothing any more; the new holder goes on from the checkpoint."""

    exit_code = 6
    kind = "lease-lost"


class StateStoreError(DocdbStreamError):
    """The state database refuses or cannot be reached: checkpoints can be neither read nor saved."""

    exit_code = 3
    kind = "state"


class UnequalError(DocdbStreamError):
    """What a target holds is not what it should hold, or could not be proven to be.

    Nothing was changed that is not said.
    """

    exit_code = 7
    kind = "unequal"


class SchemaStopError(DocdbStreamError):
    """Documents of a collection have something new, for which it has stopped (SCHEMA_POLICY = stop).

    Nothing is lost: its position is kept, and it goes on there once what is new is accepted.
    """

    exit_code = 8
    kind = "schema"


OUT_OF_TIME = (OutOfTimeError, StepOutOfTimeError)
"""What says that the deadline, or a stop, came first, and nothing about what was waited for."""


class Caution(DocdbStreamError):
    """What may be meant as it is, and may be a mistake."""

    exit_code = 0
    kind = "caution"


def install_hint(extra: str) -> str:
    """The command that installs an extra of this package, wherever the package came from."""
    return f"pip install 'docdb-stream[{extra}]'; in a clone: pip install '.[{extra}]'"


class UnrenderableError(ValueError):
    """An event that cannot be rendered without altering it; the message names the key's dotted path, never a value.

    It says something about one event, and never ends a run: whoever delivers the event makes a rejection of it.
    """


def surely(make: Callable[[], T]) -> T:
    """What ``make`` makes of an event. Whatever it raises, it would raise at every attempt: the event is rejected then,
    where any other error would have its stream end here for ever.

    Raises:
        UnrenderableError: In place of what ``make`` raises, which is named and not quoted.
        MemoryError: It says nothing of the event.
    """
    try:
        return make()
    except (UnrenderableError, MemoryError):
        raise
    except Exception as error:
        raise UnrenderableError(f"cannot be rendered: {type(error).__name__}") from error
