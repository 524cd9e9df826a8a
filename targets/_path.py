"""Where a value is in a document: what the targets that take single values ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def value_at(value: Any, names: Sequence[str]) -> Any:
    """What is at a path of fields and array positions; None where nothing is."""
    for name in names:
        if isinstance(value, Mapping):
            value = value.get(name)
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return None
    return value
