"""What a document is in Redis: a text of JSON, or a hash with a field for each of its own."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, Literal

import orjson

Form = Literal["json", "hash"]
_DIGEST_BYTES: Final = 16
READS: Final = {"hash": "HGETALL", "string": "GET"}
"""By the type of a key, the command that asks for its value; documents are of no other type."""


def type_of(answer: Any) -> str:
    """What a server says to TYPE; ``none`` where nothing is there."""
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def value_of(form: Form, payload: bytes) -> list[bytes]:
    """What a document's plain JSON is stored as: the text itself; or names and values of its fields, in their order,
    each text as it is and all else as JSON. Of two fields with one name the last."""
    if form == "json":
        return [payload]
    fields: list[bytes] = []
    for name, value in orjson.loads(payload).items():
        fields += [name.encode(), value.encode() if isinstance(value, str) else orjson.dumps(value)]
    return fields


def digest_of(form: Form, value: Sequence[bytes]) -> bytes:
    """Of what is stored, equal where it is equal; names and values of a hash come in any order."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    parts = value if form == "json" else [part for pair in sorted(_pairs(value)) for part in pair]
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()


def _pairs(value: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    return [*zip(value[::2], value[1::2], strict=True)]
