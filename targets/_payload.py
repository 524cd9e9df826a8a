"""Events to bytes, for the targets that send an event as it is rendered."""

from __future__ import annotations

from collections.abc import Sequence

from docdb_stream.events import ChangeEvent, Events
from docdb_stream.format import Format
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
