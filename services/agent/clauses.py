"""Cuts text that is still being written into clauses that can be spoken already."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_SENTENCE_END = re.compile(r"[.!?…]+[\"')\]]*\s")
_CLAUSE_END = re.compile(r"[,;:]\s")
_ABBREVIATIONS = frozenset("dr. mr. mrs. ms. st. no. vs. e.g. i.e. approx. dept. a.m. p.m.".split())
_MIN_CLAUSE_CHARACTERS = 40


class ClauseCutter:
    """Feed text as it comes; take whole sentences, and long clauses before their sentence ends."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, text: str) -> list[str]:
        """Clauses that `text` has completed."""
        self._text += text
        clauses = []
        while (end := self._next_end()) is not None:
            clauses.append(self._text[:end].strip())
            self._text = self._text[end:]
        return [clause for clause in clauses if clause]

    def flush(self) -> list[str]:
        """What is left when the text is over."""
        rest, self._text = self._text.strip(), ""
        return [rest] if rest else []

    def _next_end(self) -> int | None:
        ends = [*self._sentence_ends(), *self._clause_ends()]
        return min(ends, default=None)

    def _sentence_ends(self) -> Iterator[int]:
        for match in _SENTENCE_END.finditer(self._text):
            last_word = self._text[: match.end()].split()[-1].lower()
            if last_word not in _ABBREVIATIONS:
                yield match.end()

    def _clause_ends(self) -> Iterator[int]:
        for match in _CLAUSE_END.finditer(self._text):
            if match.start() >= _MIN_CLAUSE_CHARACTERS:
                yield match.end()
