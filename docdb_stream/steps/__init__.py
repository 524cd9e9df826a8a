"""Steps, one file a kind; ``steps_for`` makes those that the settings ask for."""

from __future__ import annotations

from collections.abc import Sequence

from docdb_stream.settings import Settings
from docdb_stream.step import Step


def steps_for(settings: Settings) -> Sequence[Step]:
    """The steps that the settings ask for, in the order in which they are applied: none so far."""
    return ()
