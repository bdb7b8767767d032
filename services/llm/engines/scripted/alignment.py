"""How well words fit a phrase: the cheapest way to read one as the other. Pure.

A weighted edit distance between the words and the phrase's tree, which keeps the slot values that
it passes. With a budget of 0 only an exact reading is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from rapidfuzz.distance import Levenshtein

from services.common.phrases import Choice, Expression, Optional, Reference, Sequence, Word

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Slots: TypeAlias = tuple[tuple[str, str], ...]

_SKIPPED_SLOT_COST = 0.1  # a value where the phrase has none: still a value
_SIMILAR = 0.6  # below this, two words have nothing to do with each other


@dataclass(frozen=True, slots=True)
class Span:
    """Words from a place to `end` that are a value of a slot."""

    slot: str
    value: str
    end: int
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What it cost to come to a place; `missing` is the weight of the phrase's unsaid words."""

    cost: float = 0.0
    missing: float = 0.0
    slots: Slots = ()

    def plus(self, cost: float, missing: float = 0.0, slots: Slots = ()) -> Reading:
        return Reading(self.cost + cost, self.missing + missing, self.slots + slots)


Front: TypeAlias = dict[int, Reading]


class Aligner:
    """One utterance. `spans[i]` are the slot values that begin at word i."""

    def __init__(
        self,
        words: tuple[str, ...],
        spans: Mapping[int, tuple[Span, ...]],
        weight: Callable[[str], float],
        known: Callable[[str], bool],
        budget: float,
    ) -> None:
        self._words = words
        self._spans = spans
        self._weight = weight
        self._known = known
        self._budget = budget

    def align(self, phrase: Expression) -> Reading | None:
        """The cheapest reading of all words as this phrase; None when it exceeds the budget."""
        front = self._skip(self._advance(phrase, {0: Reading()}))
        return front.get(len(self._words))

    def _advance(self, phrase: Expression, front: Front) -> Front:
        if not front:
            return front
        match phrase:
            case Word(text):
                return self._word(text, front)
            case Reference(name):
                return self._reference(name.removeprefix("slot_"), front)
            case Optional(part):
                reached = dict(front)
                for at, reading in self._advance(part, front).items():
                    self._offer(reached, at, reading)
                return reached
            case Choice(options):
                reached = {}
                for option in options:
                    for at, reading in self._advance(option, front).items():
                        self._offer(reached, at, reading)
                return reached
            case Sequence(parts):
                for part in parts:
                    front = self._advance(part, front)
                return front

    def _word(self, text: str, front: Front) -> Front:
        reached: Front = {}
        weight = self._weight(text)
        for at, reading in self._skip(front).items():
            self._offer(reached, at, reading.plus(weight, weight))
            if at < len(self._words):
                cost = self._swap_cost(self._words[at], text, weight)
                self._offer(reached, at + 1, reading.plus(cost))
        return reached

    def _reference(self, slot: str, front: Front) -> Front:
        reached: Front = {}
        for at, reading in self._skip(front).items():
            for span in self._spans.get(at, ()):
                if span.slot == slot:
                    step = reading.plus(span.cost, slots=((slot, span.value),))
                    self._offer(reached, span.end, step)
        return reached

    def _skip(self, front: Front) -> Front:
        """The same places, and those behind words that the phrase does not hold."""
        if not self._budget:
            return front
        reached = dict(front)
        for at in range(min(reached, default=0), len(self._words)):
            reading = reached.get(at)
            if reading is None:
                continue
            self._offer(reached, at + 1, reading.plus(self._weight(self._words[at])))
            for span in self._spans.get(at, ()):
                cost = span.cost + _SKIPPED_SLOT_COST
                step = reading.plus(cost, slots=((span.slot, span.value),))
                self._offer(reached, span.end, step)
        return reached

    def _offer(self, reached: Front, at: int, reading: Reading) -> None:
        if reading.cost > self._budget:
            return
        known = reached.get(at)
        if known is None or (reading.cost, -len(reading.slots)) < (known.cost, -len(known.slots)):
            reached[at] = reading

    def _swap_cost(self, said: str, wanted: str, weight: float) -> float:
        if said == wanted:
            return 0.0
        full = max(weight, self._weight(said))
        # A word that the agent knows means itself, however alike another one sounds.
        if self._known(said):
            return full
        similarity = Levenshtein.normalized_similarity(said, wanted)
        return full if similarity < _SIMILAR else full * (1.0 - similarity)
