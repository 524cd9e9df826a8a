"""What is done at the server in one step: compare the version, then change document and version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DIGITS: Final = 19
"""Of the largest version, 2^63 - 1. Versions are compared as texts of this length: a number in Lua 5.1 is a double, and
keeps 53 bits."""

WRITE: Final = """
local known = redis.call('GET', KEYS[2])
if known and string.sub(known, 1, 19) > ARGV[1] then return 0 end
if ARGV[3] == 'gone' then redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])
if ARGV[5] ~= '' then redis.call('PEXPIREAT', KEYS[2], ARGV[5]) end
if ARGV[3] == 'gone' then return 1 end
redis.call('DEL', KEYS[1])
if ARGV[3] == 'json' then
  redis.call('SET', KEYS[1], ARGV[6])
elseif ARGV[3] == 'hash' then
  for first = 6, #ARGV, 1000 do
    redis.call('HSET', KEYS[1], unpack(ARGV, first, math.min(first + 999, #ARGV)))
  end
end
if ARGV[4] ~= '' then redis.call('PEXPIREAT', KEYS[1], ARGV[4]) end
return 1
"""
"""KEYS: of the document, of its version. ARGV: version, collection, ``json``, ``hash`` or ``gone``, when the document
ends and when its version does (milliseconds since 1970, or nothing), then the text, or names and values of fields.

A server that is full refuses a script whose first change takes room, and none after that: so the version comes first,
but where the document goes. A thousand of the fields at a time: Lua's stack has room for 8,000 (luaconf.h,
LUAI_MAXCSTACK). Returns whether it wrote."""

TAKE_AWAY: Final = """
local known = redis.call('GET', KEYS[2])
if not known or string.sub(known, 1, 19) >= ARGV[1] or string.sub(known, 21) ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""
"""KEYS: as above. ARGV: a version, a collection. Takes the document away, and its version, if it is older and that
collection's."""

FLOOR: Final = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if not known or known < ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return 1
"""
"""KEYS: the hash of collections. ARGV: a collection, the version below which nothing of it is taken any more."""

SCRIPTS: Final = (WRITE, TAKE_AWAY, FLOOR)


def version_text(version: int) -> str:
    """A version as it is stored: texts are in the order of versions."""
    return f"{version:0{DIGITS}}"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a document beside it.

    Attributes:
        version: Its version.
        source: The collection, ``db.coll``.
    """

    version: int
    source: str

    @classmethod
    def of(cls, stored: bytes | None) -> Known | None:
        """What is stored under a version's key; None where there is nothing, or nothing of ours."""
        head, _, source = (stored or b"").partition(b" ")
        if len(head) != DIGITS or not head.isdigit():
            return None
        return cls(int(head), source.decode(errors="replace"))
