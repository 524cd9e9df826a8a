"""The workload: a shop that writes products, customers and orders at a steady pace.

Owns what is written. The same seed writes the same. Every document carries a ``version`` that grows with each change,
also over a delete and a later insert under the same ``_id``, so that order can be judged from the events alone.
"""

from __future__ import annotations

import datetime as dt
import random
import threading
import time
from typing import Any

from bson import Binary, Decimal128, Int64, ObjectId
from pymongo.client_session import ClientSession
from pymongo.database import Database

Document = dict[str, Any]

_OPENING = dt.datetime(2026, 1, 31, 8, 0, 0, 250_000)
_RECENT = 150  # documents that most changes go to: it is many changes of one document that put order to the test
_NAMES = ("Überwurf", "naïve Kanne", "茶碗", "Лампа", 'Desk 24"', "Café au lait 🥐", "back\\slash", "line\nbreak")
_CITIES = ("Zürich", "Kraków", "京都", "São Paulo", "Reykjavík")
_STATES = ("placed", "paid", "packed", "shipped", "returned")


class Collection:
    """One collection's documents as the workload knows them: which exist, and each one's version."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.existing: list[Any] = []
        self.gone: list[Any] = []
        self.versions: dict[Any, int] = {}

    def next_version(self, _id: Any) -> int:
        """The version that the next change of this document gives it."""
        self.versions[_id] = self.versions.get(_id, 0) + 1
        return self.versions[_id]

    def pick(self, chance: random.Random) -> Any:
        """One of the documents there are, most often a recent one."""
        return chance.choice(self.existing[-_RECENT:] if chance.random() < 0.8 else self.existing)


class Workload:
    """Writes ``operations`` changes in about ``duration_s`` seconds: each is exactly one change event.

    Args:
        database: Where to write; empty.
        operations: How many changes.
        duration_s: The pace, not a promise.
        seed: Equal seeds write the same documents in the same order.

    Attributes:
        done: Changes written so far; read it from any thread.
    """

    def __init__(self, database: Database[Document], operations: int, duration_s: float, seed: int) -> None:
        self._database = database
        self._operations = operations
        self._duration_s = duration_s
        self._chance = random.Random(seed)
        self._products = Collection("products")
        self._customers = Collection("customers")
        self._orders = Collection("orders")
        self.done = 0

    def run(self, stop: threading.Event) -> None:
        """Write until all is written, or ``stop`` is set."""
        started_s = time.monotonic()
        for collection in (self._products, self._customers, self._orders):
            self._insert(collection)
        while self.done < self._operations and not stop.is_set():
            self._one_step()
            due_s = started_s + self.done / self._operations * self._duration_s
            stop.wait(max(0.0, due_s - time.monotonic()))

    def _one_step(self) -> None:
        chance = self._chance
        if chance.random() < 0.04 and self._operations - self.done >= 3:
            self._buy()
            return
        steps = (self._insert, self._update, self._replace, self._delete)
        step = chance.choices(steps, (40, 38, 12, 10))[0]
        step(chance.choices((self._orders, self._products, self._customers), (60, 25, 15))[0])

    def _insert(self, collection: Collection, session: ClientSession | None = None) -> None:
        comes_back = bool(collection.gone) and self._chance.random() < 0.3
        _id = collection.gone.pop() if comes_back else self._new_id(collection)
        collection.existing.append(_id)
        self._database[collection.name].insert_one(self._document(collection, _id), session=session)
        self.done += 1

    def _update(self, collection: Collection, session: ClientSession | None = None) -> None:
        _id = collection.pick(self._chance)
        change = self._change(collection)
        change["$set"] = {**change.get("$set", {}), "version": collection.next_version(_id)}
        self._database[collection.name].update_one({"_id": _id}, change, session=session)
        self.done += 1

    def _replace(self, collection: Collection, session: ClientSession | None = None) -> None:
        _id = collection.pick(self._chance)
        self._database[collection.name].replace_one({"_id": _id}, self._document(collection, _id), session=session)
        self.done += 1

    def _delete(self, collection: Collection, session: ClientSession | None = None) -> None:
        if len(collection.existing) == 1:  # the shop never sells out, so there is always something to change
            return self._insert(collection, session)
        _id = collection.pick(self._chance)
        collection.existing.remove(_id)
        collection.gone.append(_id)
        self._database[collection.name].delete_one({"_id": _id}, session=session)
        self.done += 1
        return None

    def _buy(self) -> None:
        """An order, the stock and the customer change together: three events with one cluster time."""
        with self._database.client.start_session() as session, session.start_transaction():
            self._insert(self._orders, session)
            self._update(self._products, session)
            self._update(self._customers, session)

    # What the documents are like

    def _new_id(self, collection: Collection) -> Any:
        if collection is self._orders:
            return ObjectId(self._chance.randbytes(12))
        number = len(collection.versions) + 1
        return f"sku/{number:05}" if collection is self._products else number

    def _document(self, collection: Collection, _id: Any) -> Document:
        contents = {"products": self._product, "customers": self._customer, "orders": self._order}
        return {"_id": _id, "version": collection.next_version(_id), **contents[collection.name]()}

    def _product(self) -> Document:
        chance = self._chance
        return {
            "name": chance.choice(_NAMES),
            "price": self._money(),
            "stock": chance.randint(0, 500),
            "rating": chance.choice((0.5, 4.0, 1 / 3, 1e-7)),
            "barcode": Int64(2**53 + 1 + chance.getrandbits(60)),  # more than a double can tell apart
            "tags": chance.sample(("new", "sale", "größe L", "🎁"), chance.randint(0, 3)),
            "sizes_mm": [[chance.randint(1, 900) for _ in range(3)] for _ in range(2)],
            "thumbnail": Binary(chance.randbytes(chance.randint(0, 24))),
            "discontinued_at": chance.choice((None, self._date())),
        }

    def _customer(self) -> Document:
        chance = self._chance
        return {
            "name": chance.choice(_NAMES),
            "born": dt.datetime(1969, 12, 31) - dt.timedelta(days=chance.randint(0, 12_000)),
            "address": {"city": chance.choice(_CITIES), "lines": [f"{chance.randint(1, 99)} rue de l'Été", ""]},
            "points": Int64(chance.getrandbits(62)),
            "newsletter": chance.choice((True, False, None)),
        }

    def _order(self) -> Document:
        chance = self._chance
        return {
            "customer": chance.choice(self._customers.existing),
            "placed_at": self._date(),
            "status": "placed",
            "lines": [self._line() for _ in range(chance.randint(1, 4))],
            "total": self._money(),
            "history": [{"status": "placed", "at": self._date()}],
            "note": chance.choice((None, "", "Bitte klingeln … 2. Stock", "ring \u200b twice\t")),
        }

    def _line(self) -> Document:
        chance = self._chance
        return {
            "sku": chance.choice(self._products.existing),
            "quantity": chance.randint(1, 9),
            "price": self._money(),
            "engraving": [[chance.choice(_CITIES)], []],
        }

    def _change(self, collection: Collection) -> Document:
        chance = self._chance
        if collection is self._products:
            return chance.choice(
                (
                    {"$inc": {"stock": chance.randint(1, 20)}},
                    {"$set": {"price": self._money(), "sizes_mm.1.2": chance.randint(1, 900)}},
                    {"$unset": {"discontinued_at": ""}},
                )
            )
        if collection is self._customers:
            return {"$set": {"address.city": chance.choice(_CITIES), "points": Int64(chance.getrandbits(62))}}
        status = chance.choice(_STATES)
        return {
            "$set": {"status": status, "lines.0.quantity": chance.randint(1, 99)},
            "$push": {"history": {"status": status, "at": self._date()}},
        }

    def _money(self) -> Decimal128:
        return Decimal128(f"{self._chance.randint(0, 99_999)}.{self._chance.randint(0, 99):02}")

    def _date(self) -> dt.datetime:
        return _OPENING + dt.timedelta(milliseconds=self._chance.randint(0, 10**9))
