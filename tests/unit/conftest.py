from __future__ import annotations

from types import SimpleNamespace

import pytest
from clocks import Clock
from scripted import World

from docdb_stream import context
from docdb_stream.context import Deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of every run in this test."""
    clock = Clock()
    monkeypatch.setattr(context, "time", SimpleNamespace(sleep=clock.sleep, monotonic=clock))
    monkeypatch.setattr(Deadline, "pause", lambda self, delay_s: clock.sleep(delay_s))
    return clock


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def five(world: World) -> World:
    """A stream with a checkpoint, five events after it."""
    world.start_at()
    world.happen(5)
    return world
