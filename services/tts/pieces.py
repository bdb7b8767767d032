"""Plain text for the voice, and the pieces in which it is spoken."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_PICTOGRAPHS_FROM = "\u2000"
_MARKS = {"Cc", "Cf", "Cs", "Co", "Cn"}
_JOINERS = {"\ufe0e", "\ufe0f", "\u20e3"}
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*\s+|\n+")
_CLAUSE_END = re.compile(r"[,;:]\s+")
_SPACE = re.compile(r"\s+")


class Piece(NamedTuple):
    """A part of a text and where it begins, in characters."""

    offset: int
    text: str


def speakable(text: str) -> str:
    """The text with a space for each character that has no sound; positions stay the same.

    Pictographs go because engines would read their names aloud, control characters because some
    engines take them as commands.
    """
    return "".join(" " if _is_silent(character) else character for character in text)


def pieces(text: str, longest: int) -> Iterator[Piece]:
    """Cut at sentence ends where it must be cut, else at a comma, a space, or anywhere.

    Parts without a letter or digit are left out.
    """
    offset = 0
    while offset < len(text):
        end = _cut(text, offset, offset + longest)
        piece = text[offset:end]
        if any(character.isalnum() for character in piece):
            yield Piece(offset, piece)
        offset = end


def _cut(text: str, start: int, limit: int) -> int:
    if limit >= len(text):
        return len(text)
    for pattern in (_SENTENCE_END, _CLAUSE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(text, start, limit)]
        if ends:
            return ends[-1]
    return limit


def _is_silent(character: str) -> bool:
    category = unicodedata.category(character)
    if category in _MARKS or character in _JOINERS:
        return True
    return character >= _PICTOGRAPHS_FROM and category in ("So", "Sk")
