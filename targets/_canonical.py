"""The one form in which JSON documents are compared."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, Final

import orjson

_MAY_BE_WHOLE: Final = re.compile(rb"\.0(?![0-9])|[0-9]e[+-]?[0-9]")
"""In JSON that orjson wrote: a float without a fraction, or a text that looks like one."""
_INT64_LIMIT: Final = 1 << 63


def canonical_json(document: Any) -> bytes:
    """One text for all that are the same document to a target that stores JSON: whatever the order of keys, and whether
    a number without a fraction is written as 1, 1.0 or 1e0."""
    try:
        text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
        if _MAY_BE_WHOLE.search(text) is None:
            return text
        return orjson.dumps(_with_ints(document), option=orjson.OPT_SORT_KEYS)
    except TypeError:  # what no target of ours has written: half a surrogate pair, a number of more than 64 bits
        return json.dumps(_with_ints(document), sort_keys=True).encode()


def _with_ints(value: Any) -> Any:
    if type(value) is float and value.is_integer() and -_INT64_LIMIT < value < 2 * _INT64_LIMIT:
        return int(Decimal(repr(value)))  # what its text says, as jsonb has it: 7.11e17 is no power of two
    if type(value) is int and not -_INT64_LIMIT <= value < 2 * _INT64_LIMIT:
        return float(value) if abs(value) < 1 << 1023 else str(value)
    if isinstance(value, dict):
        return {key: _with_ints(inner) for key, inner in value.items()}
    return [_with_ints(inner) for inner in value] if isinstance(value, list) else value
