"""A function for docdb-stream's TRANSFORM: shop_stream.rules:enrich."""

from __future__ import annotations

from collections.abc import Iterator

from docdb_stream import ChangeEvent

TAX_PERCENT = 19


def enrich(event: ChangeEvent) -> ChangeEvent | Iterator[ChangeEvent] | None:
    """Carts are nobody's business; orders get their total with tax; a shipment becomes an event for each parcel."""
    if event.namespace.coll == "carts":
        return None
    if event.namespace.coll == "shipments" and event.full_document:
        return parcels(event)
    if event.full_document and "total" in event.full_document:
        gross = event.full_document["total"] * (100 + TAX_PERCENT) // 100
        return event.replace(fullDocument={**event.full_document, "gross": gross})
    return event


def parcels(event: ChangeEvent) -> Iterator[ChangeEvent]:
    """One event a parcel. The first keeps the event's id, the others' ends in #1, #2, ..."""
    shipment = event.full_document or {}
    for parcel in shipment["parcels"]:  # a shipment without any raises here: it goes to the dead letters
        yield event.replace(fullDocument={"_id": shipment["_id"], "parcel": parcel})
