"""Keeps other writers off a file."""

from __future__ import annotations

import logging
import os

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
