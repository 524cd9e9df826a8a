"""The command line: what an operator types and sees, and the exit codes. Everything it does, the library does.

A file is a command. Beside them: ``commands`` puts them together, ``options`` is what they share, ``outcome``,
``table``, ``screen`` and ``connecting`` are how things are told, ``terminal`` is where all text leaves.

Nothing else is imported here: loading the rest takes most of a second, in which Ctrl-C may come.
"""

from __future__ import annotations

import contextlib
import os
import sys

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, as shells have it (128 + SIGINT)."""


def main() -> None:
    """Entry point of ``docdb-stream``."""
    _occupy_standard_streams()
    try:
        from docdb_stream.cli.commands import run_command

        run_command()
    except KeyboardInterrupt:  # before the command began
        with contextlib.suppress(OSError, ValueError):
            print("interrupted", file=sys.stderr)  # noqa: T201 - what prints is not there yet
        sys.exit(INTERRUPTED)
    finally:
        _flush_standard_streams()


def _occupy_standard_streams() -> None:
    """Where one was closed (``>&-``), the next file or socket would get its number, and what is written to it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _flush_standard_streams() -> None:
    """What cannot be written (``| head``, a full disk) was said already: the interpreter would complain once more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
