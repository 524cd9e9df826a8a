"""What an order means to others: see orders.ini."""

from __future__ import annotations

from typing import Any

from docdb_stream import ChangeEvent, derived

PREFIX = "ORDER#"
"""Other items of the table are none of ours."""


def order(event: ChangeEvent) -> ChangeEvent | None:
    """The order as fulfilment and the graph want it."""
    if (item := _order_in(event)) is None:
        return None
    told = {
        "orderId": item["SK"].removeprefix(PREFIX),
        "userId": item["userId"],
        "productId": item["productId"],
        "amount": item["amountCents"],
    }
    return event.replace(fullDocument={"_id": item["_id"], **told})


def history(event: ChangeEvent) -> ChangeEvent | None:
    """The order in its buyer's history: a set, so that it is there once, however often it is added."""
    if (item := _order_in(event)) is None:
        return None
    update = {"$addToSet": {"orderHistory": item["SK"].removeprefix(PREFIX)}}
    return derived(event, "shopstream.users", key={"_id": item["userId"]}, update=update)


def _order_in(event: ChangeEvent) -> dict[str, Any] | None:
    item = event.full_document
    return dict(item) if item is not None and item["SK"].startswith(PREFIX) else None
