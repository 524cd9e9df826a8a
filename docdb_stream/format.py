"""The contracts of what becomes of events: a format makes bytes of one event, a file format a file of many.

Owns the protocols. Which formats there are, and how they are found by name, is ``formats``'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from docdb_stream.errors import UnrenderableError
from docdb_stream.formats.decoded import Decoded


@runtime_checkable
class Format(Protocol):
    """How an event is written for a target. Without state: several threads may use it at once. Hashable, as objects are
    unless they say otherwise: what was rendered is kept under it."""

    @property
    def name(self) -> str:
        """What the settings call it; unique among formats."""
        ...

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        """Render change events that came together: up to 64 of them, or one.

        Args:
            decoded: The events; only such as could be decoded faithfully. What is exact is either proven for all of
                them (``decoded.is_whole``), or has to be read from the bytes (``formats.rawbson``). They are others'
                too: nothing of them may be changed or kept.

        Returns:
            For each event its bytes without a final newline, or, where the format cannot say it without altering it,
            the error that names what. The event is rejected then, by every target that asks for this format.

        An exception is taken to be about one event: all are rendered again one by one, and the one it comes from is
        rejected. So is a wrong number of results.
        """
        ...


class FileWriter(Protocol):
    """A file in the making."""

    def append(self, payloads: Sequence[bytes]) -> None:
        """Add events, as their format has rendered them."""
        ...

    def finish(self) -> None:
        """Write what ends a file; nothing is appended afterwards."""
        ...


@runtime_checkable
class FileFormat(Protocol):
    """How many events become one file. Without state."""

    @property
    def name(self) -> str:
        """What the settings call it; unique among file formats."""
        ...

    @property
    def suffix(self) -> str:
        """How the names of such files end, with the dot."""
        ...

    def writer(self, write: Callable[[bytes], object]) -> FileWriter:
        """A new file. ``write`` takes its bytes, one piece after the other; what it raises goes to who appends."""
        ...
