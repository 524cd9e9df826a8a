"""What happens when a visitor leaves a cart behind: see config.ini."""

from __future__ import annotations

from collections.abc import Iterator

from docdb_stream import ChangeEvent, derived


def abandoned(event: ChangeEvent) -> Iterator[ChangeEvent]:
    """The event itself, for the stream and the webhook, and what it adds to the visitor's counts."""
    cart = event.full_document
    if cart is None:  # it is gone again: nobody is to be written to
        return
    yield event
    yield derived(
        event,
        "shop.visitors",
        key={"_id": cart["visitor"]},
        update={
            "$inc": {"abandoned": 1, "value": cart["total"]},
            "$addToSet": {"skus": cart["items"][0]["sku"]},
            "$max": {"last": event.cluster_time.as_datetime()},
        },
    )
