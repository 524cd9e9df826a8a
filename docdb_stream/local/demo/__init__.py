"""The demo: a shop is written to while docdb-stream streams it to five services, dies once, and loses nothing.

``docdb-stream demo`` or ``python -m docdb_stream.local.demo``. Real servers, the real command line, and a check that
knows nothing of docdb-stream's own code: see ``verify``.
"""
