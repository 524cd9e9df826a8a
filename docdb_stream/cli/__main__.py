"""``python -m docdb_stream.cli``: the same as ``docdb-stream``."""

from docdb_stream.cli import main

if __name__ == "__main__":
    main()
