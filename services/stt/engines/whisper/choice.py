"""The best of several guesses, given what may be said now.

Where a slot takes only certain phrases (names, IDs, yes and no), each guess votes for the phrases
that it resembles, with the weight of its probability. A phrase that resembles well enough is what
was said; else the first guess stands, or is rejected where nothing else may be said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rapidfuzz import fuzz, process

from services.common import phrases
from services.stt.engines.whisper.guards import normalised
from services.stt.engines.whisper.numbers import to_spoken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from services.common.phrases import PhraseSet

_MAX_PHRASES = 20_000
_RESEMBLES = 0.84
_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Guess:
    """One hypothesis with the mean log-probability of its tokens."""

    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class Chosen:
    """A phrase that may be said, how much it resembles, and its share of the votes: 0 to 1."""

    phrase: str
    resemblance: float
    share: float


class ClosedSet:
    """All that may be said now. `complete` is False where it was too much to list."""

    def __init__(self, listed: Sequence[str], *, complete: bool = True) -> None:
        self.phrases = tuple(listed)
        self.complete = complete
        self._letters = [_letters(phrase) for phrase in self.phrases]

    def choose(self, guesses: Sequence[Guess]) -> Chosen | None:
        """The phrase that the guesses mean; None when none resembles one well enough."""
        best = max((guess.log_probability for guess in guesses), default=0.0)
        votes: dict[str, float] = {}
        resemblances: dict[str, float] = {}
        for guess in guesses:
            weight = math.exp(guess.log_probability - best)
            for phrase, score in self._resembling(guess.text):
                # A near miss counts for much less than the very words.
                votes[phrase] = votes.get(phrase, 0.0) + weight * score**8
                resemblances[phrase] = max(resemblances.get(phrase, 0.0), score)
        if not votes:
            return None
        chosen = max(votes, key=lambda phrase: (votes[phrase], phrase))
        return Chosen(chosen, resemblances[chosen], votes[chosen] / sum(votes.values()))

    def _resembling(self, text: str) -> list[tuple[str, float]]:
        heard = _letters(text)
        if not heard:
            return []
        found = process.extract(
            heard,
            self._letters,
            scorer=fuzz.ratio,
            limit=_CANDIDATES,
            score_cutoff=100 * _RESEMBLES,
        )
        return [(self.phrases[index], score / 100) for _, score, index in found]


def closed_set(phrase_sets: Mapping[str, PhraseSet], roots: Sequence[str]) -> ClosedSet:
    """Everything that the sets `roots` allow to be said. The sets must be well formed (Grammar)."""
    listed: dict[str, None] = {}
    for name in roots:
        for words in _repeated(phrase_sets, name):
            if len(listed) >= _MAX_PHRASES:
                return ClosedSet(list(listed), complete=False)
            listed[" ".join(words)] = None
    return ClosedSet(list(listed))


def _repeated(sets: Mapping[str, PhraseSet], name: str) -> Iterator[tuple[str, ...]]:
    least = sets[name].min_repeats or 1
    most = sets[name].max_repeats or least
    for times in range(least, most + 1):
        yield from _times(sets, name, times)


def _times(sets: Mapping[str, PhraseSet], name: str, times: int) -> Iterator[tuple[str, ...]]:
    if times == 0:
        yield ()
        return
    for phrase in sets[name].phrases:
        for words in phrases.expand(phrases.parse(phrase)):
            for first in _resolved(sets, words):
                for rest in _times(sets, name, times - 1):
                    yield (*first, *rest)


def _resolved(sets: Mapping[str, PhraseSet], words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The words with every <name> in them replaced by what it stands for, lazily."""
    at = next((index for index, word in enumerate(words) if word.startswith("<")), None)
    if at is None:
        yield words
        return
    for middle in _repeated(sets, words[at][1:-1]):
        for rest in _resolved(sets, words[at + 1 :]):
            yield (*words[:at], *middle, *rest)


def _letters(text: str) -> str:
    """What is compared: letters only, so that it does not matter how words are divided."""
    return normalised(to_spoken(text)).replace(" ", "")
