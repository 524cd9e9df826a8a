"""What appending to a file takes: one writer at a time, all that is written, and a file that outlives a crash."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


def lock(descriptor: int) -> None:
    """Lock an open file until it is closed, against every other descriptor that is locked so, in any process.

    Where the system or the file system has no locks, the file stays unlocked.

    Raises:
        BlockingIOError: Another one has it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:  # some network file systems have none
        logger.warning("the file is not locked: %s", os.strerror(error.errno or 0))


def write_all(descriptor: int, text: bytes) -> None:
    """Write all of it: the system may take a part at a time."""
    rest = memoryview(text)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def make_entry_durable(path: Path) -> None:
    """Put a new file's entry in its folder on the disk, which fsync of the file does not cover (fsync(2))."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
