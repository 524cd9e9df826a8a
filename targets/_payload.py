"""Events to bytes, for the targets that send an event as it is rendered."""

from __future__ import annotations

from collections.abc import Iterable

from docdb_stream.encoding import UnrenderableError
from docdb_stream.events import ChangeEvent, PayloadFormat
from docdb_stream.target import Rejection


def render_all(
    events: Iterable[ChangeEvent], payload_format: PayloadFormat, target_name: str
) -> tuple[list[tuple[ChangeEvent, bytes]], list[Rejection]]:
    """Each event with its bytes, in order; an event that the format cannot say without altering it is rejected."""
    rendered: list[tuple[ChangeEvent, bytes]] = []
    rejections: list[Rejection] = []
    for event in events:
        try:
            rendered.append((event, event.render(payload_format)))
        except UnrenderableError as error:
            rejections.append(Rejection(event, target_name, str(error)))
    return rendered, rejections
