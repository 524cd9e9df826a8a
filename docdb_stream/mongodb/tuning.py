"""Tunes the Python process while streams are read: how soon threads take turns, how often garbage is looked for.

Both settings are the process's own, so they are put back once nothing is read any more. They change no behaviour, only
where time goes.
"""

from __future__ import annotations

import gc
import sys
import threading
from typing import NamedTuple

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter's lock while another one waits for it; Python's default is 5 ms. Taking in
one reply needs the lock several times, and until it is in, the server does nothing (bench/NOTES.md)."""
GARBAGE_THRESHOLD = 20_000
"""New objects after which Python looks for cycles among them; its default is 700, less than one batch makes, and each
time it finds none: events and records are freed as soon as nobody refers to them (bench/NOTES.md)."""


class _Usual(NamedTuple):
    """How the process was set when nothing was read."""

    switch_interval_s: float
    garbage: tuple[int, int, int]


_lock = threading.Lock()
_readers = 0
_usual = _Usual(0.005, (700, 10, 10))


def reader_began() -> None:
    """One more stream is read in this process. Call from any thread, and ``reader_ended`` once for each call."""
    _count(+1)


def reader_ended() -> None:
    """One stream less is read; after the last, the process is set as it was before the first."""
    _count(-1)


def _count(change: int) -> None:
    global _readers, _usual
    with _lock:
        if _readers == 0:
            _usual = _Usual(sys.getswitchinterval(), gc.get_threshold())
        _readers += change
        # Several streams keep each other's servers busy; shorter turns would only cost them CPU.
        interval_s = min(_usual.switch_interval_s, SWITCH_INTERVAL_S) if _readers == 1 else _usual.switch_interval_s
        sys.setswitchinterval(interval_s)
        first, *others = _usual.garbage
        # 0: whoever switched it off wants it off.
        gc.set_threshold(max(first, GARBAGE_THRESHOLD) if _readers and first else first, *others)
