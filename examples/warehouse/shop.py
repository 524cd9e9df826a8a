"""A shop at work: customers, orders and invoices, written, changed and deleted."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

from bson import Decimal128, ObjectId

COLLECTIONS = ("customers", "orders", "invoices")


class Shop:
    """Writes to the three collections.

    Attributes:
        has_coupons: Whether orders have a field that they had not before.

    Args:
        db: The database.
        chance: What happens.
    """

    def __init__(self, db: Any, chance: random.Random) -> None:
        self.db = db
        self.has_coupons = False
        self._chance = chance

    def open(self) -> None:
        """One document of each kind, so that what each has is known."""
        for _ in range(3):
            self._customer(), self._order(), self._invoice()

    def work(self, times: int) -> None:
        """So many changes."""
        for _ in range(times):
            self._chance.choice((self._customer, self._order, self._invoice, self._change, self._delete))()

    def _customer(self) -> None:
        number = self._chance.randrange(500)
        self.db.customers.replace_one(
            {"_id": f"c{number}"},
            {
                "name": f"Customer {number}",
                "since": dt.datetime(1960 + number % 60, 1, 2),
                "tags": ["a", "b"][: number % 3],
            },
            upsert=True,
        )

    def _order(self) -> None:
        order: dict[str, Any] = {
            "customer": f"c{self._chance.randrange(500)}",
            "items": [{"sku": f"s{self._chance.randrange(50)}", "count": self._chance.randrange(1, 4)}],
            "total": float(self._chance.randrange(1, 10_000)) / 4,
            "paid": False,
        }
        self.db.orders.insert_one(order | ({"coupon": "SPRING"} if self.has_coupons else {}))

    def _invoice(self) -> None:
        self.db.invoices.insert_one(
            {
                "_id": ObjectId(),
                "amount": Decimal128(f"{self._chance.randrange(10**6)}.25"),
                "number": self._chance.randrange(10**6),
            }
        )

    def _change(self) -> None:
        self.db.orders.find_one_and_update({"paid": False}, {"$set": {"paid": True}})

    def _delete(self) -> None:
        self.db[self._chance.choice(COLLECTIONS)].find_one_and_delete({})
