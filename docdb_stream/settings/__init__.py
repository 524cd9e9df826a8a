"""The settings of a stream and its targets: what they are, how text becomes them, and how they are explained.

Where the text comes from, config.ini and the environment, is ``docdb_stream.config``'s.
"""

from docdb_stream.settings.stream import Settings as Settings
from docdb_stream.settings.target import TargetSettings as TargetSettings
from docdb_stream.settings.types import StartAt as StartAt
from docdb_stream.settings.types import parse_start_at as parse_start_at
