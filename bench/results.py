"""The last figures of each benchmark with the machine they belong to, in results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.figure import Figure

PATH = Path(__file__).parent / "results.json"


def entry(machine: Mapping[str, Any], figures: Sequence[Figure]) -> dict[str, Any]:
    """One benchmark's figures as plain values."""
    return {"machine": machine, "figures": [_rounded(asdict(figure)) for figure in figures]}


def keep(entries: Mapping[str, Any]) -> None:
    """Replace the figures of these benchmarks."""
    PATH.write_text(json.dumps({**load(), **entries}, indent=2, ensure_ascii=False) + "\n")


def load() -> dict[str, Any]:
    """What is kept: a benchmark's name -> its ``entry``."""
    return json.loads(PATH.read_text()) if PATH.exists() else {}


def figures_of(kept: Mapping[str, Any]) -> list[Figure]:
    """The figures of an entry."""
    return [Figure(**values) for values in kept["figures"]]


def _rounded(value: Any) -> Any:
    """Without the digits that say nothing, and without fields that hold nothing."""
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items() if inner not in ("", None, {})}
    if isinstance(value, (list, tuple)):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
