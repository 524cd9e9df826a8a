"""docdb-stream: a resumable poller for MongoDB and Amazon DocumentDB change streams.

Start with ``Poller`` and ``Settings``; ``run_streams`` runs many. What a target has to do is in ``Target``, and what a
step has to do in ``Step``. What an operator asks of a stream (where it stands, whether it would work, to move or repeat
it) is in ``docdb_stream.admin``.

Importing the package loads next to nothing: the names come from ``exports`` when one of them is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from docdb_stream.exports import *  # noqa: F403
else:
    from importlib import import_module
    from importlib.util import find_spec

    def __getattr__(name: str) -> object:
        # The command has to answer Ctrl-C while all else is being loaded (see ``cli``), and this file comes first.
        if name == "__all__" or (name.isidentifier() and not name.startswith("_")):
            if find_spec(f"{__name__}.{name}"):
                return import_module(f"{__name__}.{name}")
            exports = import_module(f"{__name__}.exports")
            if hasattr(exports, name):
                return globals().setdefault(name, getattr(exports, name))  # for the next time, when nobody asks here
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *import_module(f"{__name__}.exports").__all__})
