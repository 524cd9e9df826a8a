"""What the tests of docdb-stream's own parts, and those of others, are made of.

``events`` makes change events, ``contract`` holds the suite that every target must pass (and alone needs pytest).
Importing this package imports neither.
"""
