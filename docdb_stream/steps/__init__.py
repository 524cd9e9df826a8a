"""Steps, one file a kind; ``steps_for`` makes those that the settings ask for."""

from __future__ import annotations

from collections.abc import Sequence

from docdb_stream.settings import Settings
from docdb_stream.step import Step
from docdb_stream.target import Target, announced


def steps_for(settings: Settings, targets: Sequence[Target]) -> Sequence[Step]:
    """The steps that the settings ask for, in the order in which they are applied: namespaces, operations, match (and
    filter exit), fields, function. A step that is not asked for is not imported.

    Args:
        settings: The stream.
        targets: Where its events go; whether some are keyed decides what becomes of a document that leaves a filter.

    Raises:
        ConfigError: One cannot be made of them.
    """
    steps: list[Step] = []
    if settings.namespaces or settings.operations:
        from docdb_stream.steps.select import selections

        # Where other steps follow, which events are delivered, and how they look, is not known yet.
        fields = (settings.fields_keep, settings.fields_drop, settings.fields_mask, settings.fields_hash)
        is_changed = bool(settings.match or settings.transform) or any(fields)
        steps += selections(settings, () if is_changed else announced(targets))
    return steps
