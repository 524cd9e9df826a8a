"""The form in which JSON documents are compared: what jsonb makes of a number is what we make of it."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from docdb_stream.targets._canonical import canonical_json


@given(
    st.floats(allow_nan=False, allow_infinity=False)
    .map(lambda value: float(round(value)))
    .filter(lambda v: abs(v) < 1e18)
)
def test_a_whole_double_is_what_its_text_says(value: float) -> None:
    """PostgreSQL keeps the digits that were written: Python reads them as an int."""
    stored = int(Decimal(repr(value)))
    assert canonical_json({"n": value}) == canonical_json({"n": stored})


@pytest.mark.parametrize("value", [711420418910714752.0, 1.7642934671234568e18, 2.0**63, 2.0**64 - 4096, -(2.0**62)])
def test_large_ones(value: float) -> None:
    text = json.dumps({"n": int(Decimal(repr(value)))})  # what jsonb gives back of its shortest text
    assert canonical_json({"n": value}) == canonical_json(json.loads(text))
