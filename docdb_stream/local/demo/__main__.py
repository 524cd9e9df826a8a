"""``python -m docdb_stream.local.demo``: the same as ``docdb-stream demo``."""

import sys

from docdb_stream.cli.commands import app

if __name__ == "__main__":
    app(["demo", *sys.argv[1:]], prog_name="docdb-stream")
