"""Events to bytes, for the targets that send an event as it is rendered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.format import Format, Identified
from docdb_stream.target import Rejection


def payloads(
    events: Sequence[ChangeEvent], payload_format: Format, target_name: str
) -> tuple[list[bytes], list[Rejection]]:
    """The bytes of the events, in order; one that the format cannot say without altering it is rejected."""
    together = events if isinstance(events, Events) else Events(events)
    results = together.render(payload_format)
    found = [result for result in results if type(result) is bytes]
    if len(found) == len(results):
        return found, []
    refused = [(event, result) for event, result in zip(together, results, strict=True) if type(result) is not bytes]
    return found, [Rejection(event, target_name, str(error)) for event, error in refused]


def render_all(
    events: Sequence[ChangeEvent], payload_format: Format, target_name: str
) -> tuple[list[tuple[ChangeEvent, bytes]], list[Rejection]]:
    """Each event with its bytes, and the rejections, as ``payloads`` has them."""
    found, rejections = payloads(events, payload_format, target_name)
    refused = {rejection.event for rejection in rejections}
    rendered = [event for event in events if event not in refused] if refused else events
    return list(zip(rendered, found, strict=True)), rejections


PlaceOf = Callable[[ChangeEvent, bytes], str | None]
"""Where a target tells an event, given its bytes; None where it rejects it. May raise UnrenderableError, which says so,
too."""


def places_of(events: Sequence[ChangeEvent], payload_format: Format, place_of: PlaceOf) -> Sequence[str | None]:
    """Where a target tells each of these events: see ``recorded.Record``."""
    found: dict[ChangeEvent, str | None] = dict.fromkeys(events)
    for event, payload in render_all(events, payload_format, "")[0]:
        with contextlib.suppress(UnrenderableError):
            found[event] = place_of(event, payload)
    return [found[event] for event in events]


def identified(payload_format: Format, target_name: str) -> Identified:
    """The format, if its bytes say which event they are of.

    Raises:
        ConfigError: They do not.
    """
    if not isinstance(payload_format, Identified):
        raise ConfigError(
            f"{target_name} does not say which events it holds: the format {payload_format.name} has no event id",
            hint="the formats extended, debezium and cloudevents have one; Kafka has it in a header",
        )
    return payload_format
