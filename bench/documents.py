"""Sample documents: orders of a shop, with the types that orders have and text that does not repeat itself."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import bson
from bson import ObjectId

Document = dict[str, Any]
Maker = Callable[[int], Document]
"""Makes the document of a number, always the same for the same number but for its ``_id``, which the driver adds."""

_VARIETY = 500
"""Different documents of a size; what is inserted differs from one to the next in its number besides."""
_MONDAY = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
_SYLLABLES = tuple(
    "ka lo mi ren ta vel so dur qui pa nes tor il ba zen fo har lum ce wy ost ga dri mon".split(" ")  # noqa: SIM905
)


def order(number: int) -> Document:
    """An order whose insert is a change event of about 600 bytes."""
    return {**_orders()[number % _VARIETY], "number": number}


def order_16_kb(number: int) -> Document:
    """An order with a hundred lines, about 16 KB."""
    return {**_large_orders()[number % _VARIETY], "number": number}


def order_16_mb(number: int) -> Document:
    """An order of 15.9 MB, near the 16 MiB that the server takes."""
    large = _large_orders()
    return {**order(number), "parts": [large[(number + part) % _VARIETY] for part in range(_parts_of_16_mb())]}


def _text(chance: random.Random, words: int) -> str:
    return " ".join("".join(chance.choices(_SYLLABLES, k=chance.randint(1, 3))) for _ in range(words))


def _order(chance: random.Random) -> Document:
    return {
        "customer": ObjectId(chance.randbytes(12)),
        "placed": _MONDAY + dt.timedelta(milliseconds=chance.randrange(10**10)),
        "status": chance.choice(["new", "paid", "packed", "sent"]),
        "total": round(chance.uniform(1, 900), 2),
        "quantity": chance.randrange(1, 20),
        "express": chance.random() < 0.2,
        "address": {"street": f"{_text(chance, 2)} {chance.randrange(1, 200)}", "city": _text(chance, 1)},
        "note": _text(chance, 9),
        "tags": [_text(chance, 1) for _ in range(3)],
    }


def _line(chance: random.Random) -> Document:
    return {
        "sku": chance.randbytes(6).hex(),
        "name": _text(chance, 3),
        "description": _text(chance, 9),
        "price": round(chance.uniform(1, 200), 2),
        "quantity": chance.randrange(1, 9),
    }


@cache
def _orders() -> list[Document]:
    chance = random.Random(600)
    return [_order(chance) for _ in range(_VARIETY)]


@cache
def _large_orders() -> list[Document]:
    chance = random.Random(16)
    return [{**_order(chance), "lines": [_line(chance) for _ in range(100)]} for _ in range(_VARIETY)]


@cache
def _parts_of_16_mb() -> int:
    mean_bytes = sum(len(bson.encode(large)) for large in _large_orders()) / _VARIETY
    return int(15_900_000 / (mean_bytes + 5))  # each with its type and its number in the array


def made(maker: Maker, count: int) -> Iterator[Document]:
    """``count`` documents."""
    return map(maker, range(count))
