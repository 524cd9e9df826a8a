"""Temporary files: what waits to be sent, and is too large for memory."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from docdb_stream.errors import TargetError


@contextmanager
def temporary_files(target: str) -> Iterator[None]:
    """Say what to do where there is no room for them; also around a whole function, as ``@temporary_files("s3")``.

    Raises:
        TargetError: The disk, or the share of it that this user may fill, is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TargetError(
            target,
            f"no room for temporary files in {tempfile.gettempdir()}",
            hint="nothing is lost, the next one goes on: make room there, or name a larger folder in TMPDIR",
        ) from error
