"""Documents as a person reads them: a field a line, what fits on one line on one, nothing that acts on a terminal.

Owns the layout. What is shown was written by others, so every line goes through ``terminal.shown``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len, set_cell_size

from docdb_stream.cli.terminal import shown

INDENT = "  "


def document_lines(value: Any, width: int, indent: str = "") -> Iterator[str]:
    """The fields of a JSON object, or the elements of an array, that were made of Extended JSON.

    Args:
        value: It.
        width: Columns that a line should fit in. One that holds a single value may be longer: see ``cut``.
        indent: Before each line.
    """
    if not isinstance(value, dict | list) or not value:
        yield indent + shown(_json(value))
        return
    named = value.items() if isinstance(value, dict) else (("-", each) for each in value)
    for name, each in named:
        head = indent + ("- " if isinstance(value, list) else f"{_name(name)}: ")
        line = head + shown(_json(each))
        if isinstance(each, dict | list) and each and cell_len(line) > width and len(indent) < width // 2:
            yield head.rstrip()
            yield from document_lines(each, width, indent + INDENT)
        else:
            yield line


def cut(line: str, width: int) -> str:
    """The line, or as much of it as fits in so many columns, and an ellipsis."""
    return line if cell_len(line) <= width else set_cell_size(line, max(1, width - 1)) + "…"


def _name(name: str) -> str:
    return name if name.replace(".", "_").replace("-", "_").isidentifier() else shown(_json(name))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
