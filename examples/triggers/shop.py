"""The shop: visitors fill carts, and buy them, throw them away, or leave them behind."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pymongo.collection import Collection


@dataclass
class Shop:
    """Writes carts, and keeps its own books of what should come of them.

    Attributes:
        carts: The collection.
        chance: Where the visitors' whims come from.
        left: The carts that were left behind, as they were then, by their ids.
        abandoned: How many, by visitor.
        value: What was in them, by visitor.
    """

    carts: Collection[dict[str, Any]]
    chance: random.Random
    left: dict[int, dict[str, Any]] = field(default_factory=dict)
    abandoned: Counter[str] = field(default_factory=Counter)
    value: Counter[str] = field(default_factory=Counter)

    def visit(self, cart_id: int) -> None:
        """One visitor's cart, from the first click to the last."""
        items = [{"sku": f"sku-{self.chance.randrange(20)}", "price": self.chance.randrange(1, 90)} for _ in range(3)]
        cart = {"_id": cart_id, "visitor": f"v{self.chance.randrange(12)}", "items": items[:1], "status": "open"}
        self.carts.insert_one(cart)
        total = sum(item["price"] for item in items)
        self.carts.update_one({"_id": cart_id}, {"$set": {"items": items, "total": total}})
        end = self.chance.choice(["abandoned", "abandoned", "bought", "thrown away"])
        if end == "thrown away":
            self.carts.delete_one({"_id": cart_id})
            return
        self.carts.update_one({"_id": cart_id}, {"$set": {"status": end}})
        if end == "abandoned":
            self.left[cart_id] = {**cart, "items": items, "total": total, "status": end}
            self.abandoned[cart["visitor"]] += 1
            self.value[cart["visitor"]] += total
