"""What ends a command that would go on: signals ask it to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def stop_on_signals(stop: threading.Event) -> None:
    """The first SIGINT or SIGTERM asks for a clean end; a second one ends at once, and the checkpoint stays behind.

    SIGHUP asks for it too, however often: the kernel and the shell each send one when a terminal closes. Where it is
    ignored, as under nohup, it stays so.
    """
    asking = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        if number in asking:
            for each in asking:
                signal.signal(each, signal.SIG_DFL)

    for each in asking:
        signal.signal(each, ask)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        signal.signal(hangup, ask)
