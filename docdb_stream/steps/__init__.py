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
    fields = (settings.fields_keep, settings.fields_drop, settings.fields_mask, settings.fields_hash)
    # Which events are delivered, and how they look, is known only where nothing follows that changes them.
    is_changed = bool(settings.transform) or any(fields)
    if settings.namespaces or settings.operations:
        from docdb_stream.steps.select import selections

        steps += selections(settings, () if settings.match or is_changed else announced(targets))
    if settings.match:
        from docdb_stream.steps.match import match_step

        steps.append(match_step(settings, targets, is_last=not is_changed))
    if any(fields):
        from docdb_stream.steps.fields import Fields

        steps.append(Fields.from_settings(settings))
    if settings.transform is not None:
        from docdb_stream.steps.function import function_step

        steps.append(function_step(settings))
    return tuple(steps)
