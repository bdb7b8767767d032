"""How words sound, in the ARPAbet of the CMU Pronouncing Dictionary.

In this order: the configured pronunciations, the dictionary of the recogniser's wheel, and a guess
by the rules of eSpeak NG, so that a surname in an agent file does not stop the start.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING

import structlog

from services.common.errors import ConfigError
from services.stt import letter_to_sound
from services.stt.engine import VocabularyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

PHONES = frozenset(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW"
    " V W Y Z ZH".split()
)
_VARIANT = re.compile(r"\(\d+\)$")
_log = structlog.get_logger()


class Pronunciations:
    """Ways to say each word. Shared by all calls; safe to use from several threads."""

    def __init__(self, dictionary: Path, configured: Mapping[str, str]) -> None:
        self._ways = _read(dictionary)
        for word, phones in configured.items():
            unknown = sorted(set(phones.split()) - PHONES)
            if unknown or not phones.split():
                raise ConfigError(
                    f"[stt.pronunciations] {word}: {phones!r} is not ARPAbet"
                    + (f" ({unknown[0]!r} is no phone)" if unknown else "")
                )
            self._ways[word.lower()] = (" ".join(phones.split()),)
        self._guessing = threading.Lock()

    def of(self, words: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Ways to say each of the words; VocabularyError names one that has none."""
        return {word: self._ways.get(word) or self._guess(word) for word in words}

    def _guess(self, word: str) -> tuple[str, ...]:
        with self._guessing:
            if word not in self._ways:
                phones = letter_to_sound.guess(word)
                if phones is None:
                    raise VocabularyError(
                        f"the recogniser does not know how {word!r} sounds; say it under "
                        f'[stt.pronunciations], for example "{word}" = "L AE N D L AY N"'
                    )
                _log.warning("pronunciation_guessed", word=word, phones=phones)
                self._ways[word] = (phones,)
            return self._ways[word]


def _read(dictionary: Path) -> dict[str, tuple[str, ...]]:
    ways: dict[str, tuple[str, ...]] = {}
    for line in dictionary.read_text(encoding="utf-8").splitlines():
        name, _, phones = line.partition(" ")
        word = _VARIANT.sub("", name)
        ways[word] = (*ways.get(word, ()), phones)
    return ways
