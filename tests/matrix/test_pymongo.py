"""The stated range of PyMongo works: what else runs with this one is in ``__main__``."""

from __future__ import annotations

import os

import pymongo
import pytest


@pytest.mark.matrix
def test_it_is_the_one_that_was_asked_for() -> None:
    assert pymongo.version == os.environ["PYMONGO_ASKED_FOR"]
