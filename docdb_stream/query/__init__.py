"""MongoDB's query language over a decoded document, judged as the server judges it, or not at all.

``parse`` reads a query and refuses what could be judged differently; ``Query`` judges documents. Owns no event and no
setting.
"""
