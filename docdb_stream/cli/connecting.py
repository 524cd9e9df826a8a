"""Says which cluster a command waits for, to a person who would wonder."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from docdb_stream.cli.terminal import is_terminal, say
from docdb_stream.mongodb.cluster import Cluster
from docdb_stream.mongodb.diagnosis import seeds
from docdb_stream.settings import Settings

SILENCE_S = 1.0
"""A cluster that is there answers before; one that is not is looked for as long as ten times that."""


@contextmanager
def connecting(*streams: Settings) -> Iterator[Callable[[], None]]:
    """Around what connects: on a terminal, standard error says whom to once that takes long. What it gives is to be
    called as soon as there is something to see."""

    def tell() -> None:
        hosts = dict.fromkeys(host for settings in streams for host in seeds(Cluster.of(settings).connection_string))
        say(f"connecting to {', '.join(hosts)} ...")

    timer = threading.Timer(SILENCE_S, tell)
    timer.daemon = True
    if streams and is_terminal(sys.stderr):
        timer.start()
    try:
        yield timer.cancel
    finally:
        timer.cancel()
