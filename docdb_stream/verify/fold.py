"""Many documents as few figures: of both sides, equal where the documents are."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable
from hashlib import blake2b
from typing import Final

from docdb_stream.held import Held

BITS_LEAST, BITS_MOST = 10, 20
"""Buckets, as a power of two: 16 KiB to 16 MiB of figures for each side."""
BUCKET_DOCUMENTS: Final = 64
"""Documents in a bucket, about: one that differs has so many looked at one by one."""
_64_BITS: Final = (1 << 64) - 1


def bits_for(documents: int) -> int:
    """How many buckets, as a power of two, for about so many documents."""
    return min(BITS_MOST, max(BITS_LEAST, (documents // BUCKET_DOCUMENTS).bit_length()))


class Fold:
    """Documents of one side, in buckets by their keys: of each how many there are, and the sum of their hashes.

    A sum, and no exclusive or: a document that is there twice does not cancel itself. Two buckets with different
    documents look equal once in 2^64 times, and the salt keeps anybody from making such documents.

    Args:
        bits: Buckets, as a power of two.
        salt: The same for both sides, another one each time; up to 64 bytes.

    Attributes:
        documents: How many there are, by place.
    """

    def __init__(self, bits: int, salt: bytes) -> None:
        self.documents = Counter[str]()
        self._mask = (1 << bits) - 1
        self._salt = salt
        self._counts = array("q", bytes(8 << bits))
        self._sums = array("Q", bytes(8 << bits))

    def add(self, documents: Iterable[Held]) -> None:
        """Take documents that are there."""
        counts, sums, mask, number_of = self._counts, self._sums, self._mask, int.from_bytes
        for held in documents:
            key = self._hash(held)
            bucket = number_of(key, "little") & mask
            # The key is salted already, so nobody knows what is hashed here.
            weight = blake2b(key + (held.digest or b""), digest_size=8).digest()
            counts[bucket] += 1
            sums[bucket] = (sums[bucket] + number_of(weight, "little")) & _64_BITS
            self.documents[held.place] += 1

    def name(self, held: Held) -> int:
        """A number of 64 bits for the document, whatever is in it; its last bits are its bucket's."""
        return int.from_bytes(self._hash(held), "little")

    def differing(self, other: Fold) -> Collection[int]:
        """The buckets in which the two sides differ."""
        return {
            bucket
            for bucket in range(self._mask + 1)
            if self._sums[bucket] != other._sums[bucket] or self._counts[bucket] != other._counts[bucket]
        }

    def bucket(self, held: Held) -> int:
        """The document's bucket."""
        return self.name(held) & self._mask

    def _hash(self, held: Held) -> bytes:
        return blake2b(held.place.encode() + b"\0" + held.key, digest_size=8, key=self._salt).digest()
