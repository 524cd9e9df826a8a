"""The regular expressions of MongoDB (PCRE) that mean the same to Python, rewritten so that they do.

What is not known here to mean the same is refused: https://www.pcre.org/original/doc/html/pcrepattern.html against
https://docs.python.org/3/library/re.html. So is what can take exponential time on a hostile text: no server limits it
here.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from typing import Final, NoReturn

from docdb_stream.errors import UnrenderableError

PATTERN_CHARACTERS: Final = 32_764
"""MongoDB limits, "$regex": pattern length."""
REPEATS: Final = 1_000
"""The largest number in ``{n,m}``: beyond what a filter needs, and below what PCRE and Python take."""
STEPS: Final = 100_000_000
"""That the searches in one document may take at worst: a few seconds, in which nothing else of the process runs."""
SHORTEST_TEXT: Final = 200
"""Characters; a pattern that takes more than STEPS for as much is refused."""
LONGEST_TEXT: Final = 16 * 1024 * 1024
"""Characters; no document holds more (MongoDB limits, "BSON Document Size")."""

Search = Callable[[str], object]
"""Gives something true where the text matches. Raises UnrenderableError for texts that take too long."""

_left = threading.local()


def new_document() -> None:
    """Said by this thread before it searches in another document: STEPS are for each."""
    _left.steps = STEPS


def compiled(pattern: str, options: str) -> Search:
    """The search for a pattern with MongoDB's options.

    Raises:
        ValueError: The pattern is wrong, or Python would read it differently; says what.
    """
    if len(pattern) > PATTERN_CHARACTERS or "\0" in pattern:
        raise ValueError(f"a regular expression has at most {PATTERN_CHARACTERS} characters, and no NUL")
    if leading := re.match(r"\(\?([a-z]+)\)", pattern):
        pattern, options = pattern[leading.end() :], options + leading[1]
    if unknown := set(options) - set("ims"):
        raise ValueError(f"the regular expression's option {min(unknown)} is not supported; i, m and s are")
    rewritten = _Rewritten(pattern, set(options))
    try:
        search = re.compile(rewritten.text, re.ASCII).search
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the regular expression is wrong: {error}") from None
    return _bounded(search, rewritten.steps)


def _bounded(search: Search, steps: Callable[[int], float]) -> Search:
    if steps(LONGEST_TEXT) <= STEPS:
        return search
    if steps(SHORTEST_TEXT) > STEPS:
        raise ValueError(
            f"the regular expression can take too long for a text of {SHORTEST_TEXT} characters already; begin it with "
            "^, or repeat less in it"
        )

    def bounded(text: str) -> object:
        _left.steps = getattr(_left, "steps", STEPS) - steps(len(text))
        if _left.steps < 0:
            raise UnrenderableError(
                f"MATCH does not search {len(text)} characters for its regular expression: it can take too long"
            )
        return search(text)

    return bounded


_SAME_CLASSES: Final = frozenset("dDwWsS")
_CHARACTERS: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "e": "\x1b", "a": "\a"}
_ASSERTIONS: Final = {"b": r"\b", "B": r"(?!\b)", "A": r"\A", "z": r"\Z", "Z": r"(?=\n?\Z)"}
"""PCRE's assertions as Python says them: its ``\\Z`` is PCRE's ``\\z``, and its ``\\B`` misses the empty text up to
3.13."""
_ALSO: Final = {"k": "\u212a", "s": "\u017f"}
"""The characters beyond ASCII that PCRE takes for an ASCII letter where case does not count: Kelvin, long s."""
_QUANTIFIER: Final = re.compile(r"[*+?]|\{(\d+)(,(\d*))?\}", re.ASCII)


class _Rewritten:
    """A pattern for Python, piece by piece.

    Attributes:
        text: The pattern, for ``re.ASCII``.
    """

    def __init__(self, pattern: str, options: set[str]) -> None:
        self._pattern = pattern
        self._at = 0
        self._options = options
        self._endless = 0
        self._branches = 1
        self._has_alternatives = False
        self.text = self._alternatives(inside=False)

    def steps(self, characters: int) -> float:
        """What the search takes at worst for a text of so many: a place is tried for each begin, unless there is only
        one, and for the end of each repetition, for each way through what is optional or alternative."""
        is_anchored = not self._has_alternatives and self.text.startswith(r"\A")
        places = self._endless + (not is_anchored)
        pieces = 1 + len(self.text) / 100
        return min(float(characters) ** places / math.factorial(places), 1e18) * self._branches * pieces

    def _alternatives(self, *, inside: bool) -> str:
        """Up to the end, or to the parenthesis that closes a group."""
        parts: list[str] = []
        while self._at < len(self._pattern):
            if self._pattern[self._at] == ")":
                break
            parts.append(self._repeated())
        if inside != (self._at < len(self._pattern)):
            self._refuse("a ( without its )" if inside else "a ) without its (")
        self._branches *= 1 + parts.count("|")
        return "".join(parts)

    def _repeated(self) -> str:
        """A piece and how often it may come."""
        start = self._at
        piece, may_repeat, is_simple = self._piece()
        quantifier = _QUANTIFIER.match(self._pattern, self._at)
        if not quantifier:
            return piece
        if not may_repeat:
            self._refuse(f"{quantifier[0]} after what cannot be repeated")
        self._at = quantifier.end()
        text = quantifier[0]
        if quantifier[1] and max(map(int, filter(None, (quantifier[1], quantifier[3])))) > REPEATS:
            self._refuse(f"{text}, which is beyond {REPEATS}")
        is_endless = text in ("*", "+") or text.endswith(",}")
        is_many = is_endless or (quantifier[1] is not None and text not in ("{0}", "{1}", "{0,1}"))
        if is_many and not is_simple:
            self._refuse(
                f"{self._pattern[start : self._at]!r}: repeating what repeats or has alternatives can take for ever"
            )
        self._endless += is_endless
        if not is_endless:
            self._branches *= max(2 - (text[-1] == "}"), int(quantifier[3] or quantifier[1] or 1))
        if self._take("?"):
            text += "?"
        elif self._at < len(self._pattern) and self._pattern[self._at] == "+":
            self._refuse("a possessive quantifier")
        if _QUANTIFIER.match(self._pattern, self._at):
            self._refuse("a quantifier after a quantifier")
        return piece + text

    def _piece(self) -> tuple[str, bool, bool]:
        """One piece, whether it may be repeated at all, and whether that takes no more than the text has characters."""
        character = self._pattern[self._at]
        if character == "(":
            return self._group()
        if _QUANTIFIER.match(self._pattern, self._at):
            self._refuse(f"{character} with nothing before it")
        self._at += 1
        if character == "[":
            return self._class(), True, True
        if character == "\\":
            return self._escaped()
        if character == ".":
            return (r"[\s\S]" if "s" in self._options else "."), True, True
        if character == "|":
            self._has_alternatives = True
            return "|", False, True
        if character == "^":
            return (r"(?:\A|(?<=\n)(?!\Z))" if "m" in self._options else r"\A"), False, True
        if character == "$":
            return (r"(?=\n|\Z)" if "m" in self._options else r"(?=\n?\Z)"), False, True
        return self._literal(character), True, True

    def _group(self) -> tuple[str, bool, bool]:
        start = self._at
        self._at += 1
        opening = "("
        if self._take("?"):
            kind = self._pattern[self._at : self._at + 1]
            if kind not in (":", "=", "!"):
                self._refuse(f"(?{kind}")
            self._at += 1
            opening = f"(?{kind}"
        elif self._pattern[self._at : self._at + 1] == "*":
            self._refuse("(*")
        text = self._alternatives(inside=True)
        self._at += 1
        inner = self._pattern[start + len(opening) : self._at - 1]
        # Escaped ones count as well: what is refused by mistake can be written without the group.
        is_simple = not any(character in inner for character in "|*+?{")
        return f"{opening}{text})", opening in ("(", "(?:"), is_simple

    def _escaped(self) -> tuple[str, bool, bool]:
        name = self._pattern[self._at : self._at + 1]
        if name in _ASSERTIONS and name:
            self._at += 1
            return _ASSERTIONS[name], False, True
        if name in _SAME_CLASSES and name:
            self._at += 1
            return f"\\{name}", True, True
        return self._literal(self._escaped_character()), True, True

    def _escaped_character(self) -> str:
        """The character that an escape stands for."""
        name = self._pattern[self._at : self._at + 1]
        self._at += 1
        if name in _CHARACTERS:
            return _CHARACTERS[name]
        if name == "x" and (digits := re.compile("[0-9A-Fa-f]{2}").match(self._pattern, self._at)):
            self._at = digits.end()
            return chr(int(digits[0], 16))
        if not name or (name.isalnum() and name.isascii()) or not name.isascii():
            self._refuse(f"\\{name}")
        return name

    def _literal(self, character: str) -> str:
        if "i" not in self._options:
            return re.escape(character)
        found = self._in_any_case(character)
        return re.escape(character) if found == character else f"[{found}]"

    def _in_any_case(self, character: str) -> str:
        if not character.isascii():
            self._refuse(f"{character}, beyond ASCII, with the option i")
        if not character.isalpha():
            return character
        return character.lower() + character.upper() + _ALSO.get(character.lower(), "")

    def _class(self) -> str:
        r"""What stands in brackets: single characters, ranges, and \d, \w, \s."""
        parts = ["[^" if self._take("^") else "["]
        is_first = True
        while is_first or not self._take("]"):
            if self._at >= len(self._pattern):
                self._refuse("a [ without its ]")
            is_first = False
            low = self._member()
            if len(low) > 1:
                parts.append(low)
                if self._pattern[self._at : self._at + 1] == "-" and self._pattern[self._at + 1 : self._at + 2] != "]":
                    self._refuse(f"a range from {low}")
                continue
            high = low
            if self._pattern[self._at : self._at + 1] == "-" and self._pattern[self._at + 1 : self._at + 2] not in (
                "]",
                "",
            ):
                self._at += 1
                high = self._member()
                if len(high) > 1 or high < low:
                    self._refuse(f"the range {low}-{high}")
            parts.append(self._range(low, high))
        return "".join([*parts, "]"])

    def _member(self) -> str:
        r"""A character, or \d and its like."""
        character = self._pattern[self._at]
        self._at += 1
        if character == "[" and self._pattern[self._at : self._at + 1] in (":", ".", "="):
            self._refuse(f"[{self._pattern[self._at]}")
        if character != "\\":
            return character
        name = self._pattern[self._at : self._at + 1]
        if name in _SAME_CLASSES and name:
            self._at += 1
            return f"\\{name}"
        if name == "b":
            self._at += 1
            return "\b"
        return self._escaped_character()

    def _range(self, low: str, high: str) -> str:
        own = _in_class(low) if low == high else f"{_in_class(low)}-{_in_class(high)}"
        if "i" not in self._options:
            return own
        if not high.isascii():
            self._refuse(f"{high}, beyond ASCII, with the option i")
        inside = "".join(map(chr, range(ord(low), ord(high) + 1)))
        return own + "".join(self._in_any_case(each) for each in inside if each.isalpha())

    def _take(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"the regular expression has {what}, at character {self._at}, which docdb-stream does not judge as the "
            "server does"
        )


def _in_class(character: str) -> str:
    return character if character.isalnum() else f"\\x{ord(character):02x}" if character.isascii() else character
