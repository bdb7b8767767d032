"""What a caller's words mean to an agent: an intent, slot values, yes or no. Pure.

The same phrases that the recogniser listens for are matched here, exactly first; then tolerantly,
since words may be lost, added or misheard. Below the threshold nothing is understood.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from services.common import phrases
from services.common.agent_file import (
    CORRECTION,
    DIGITS,
    NO_PHRASES,
    YES_PHRASES,
    SlotKind,
)
from services.common.errors import ConfigError
from services.llm.engines.scripted.alignment import Aligner, Reading, Slots, Span
from services.llm.engines.scripted.words import normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from services.common.agent_file import AgentFile, Slot
    from services.common.phrases import Expression

THRESHOLD = 0.62
_MARGIN = 0.04  # the best intent must be this much better than the next
_BUDGET_PER_WEIGHT = (1.0 - THRESHOLD) / THRESHOLD
_MAX_WAYS = 20_000
_MISHEARD = 0.75  # how alike a word and a slot value must be
_CACHED = 4_096
# Words that carry no meaning of their own, and that recognisers lose and invent.
_FILLERS = frozenset("a an the please uh um er well so just then now okay hello hi thanks".split())
_FILLER_WEIGHT = 0.1
_SLOT_WORD_WEIGHT = 0.6
_UNKNOWN_WEIGHT = 0.8
_WEIGHT_BY_INTENTS = {1: 1.0, 2: 0.7, 3: 0.45}
_COMMON_WEIGHT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What was understood; with neither intent, slots nor polarity: nothing.

    `polarity` is True after a yes, False after a no, whatever came with it. `score` is 1.0 for an
    exact reading.
    """

    intent: str | None = None
    slots: Slots = ()
    polarity: bool | None = None
    score: float = 0.0

    @property
    def nothing(self) -> bool:
        return self.intent is None and not self.slots and self.polarity is None


NOTHING = Meaning()


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A phrase and the intent that it stands for; None: an answer."""

    intent: str | None
    phrase: Expression


class Understanding:
    """The phrases of one agent, ready to match. ConfigError when a slot has too many ways."""

    def __init__(self, agent: AgentFile) -> None:
        self._agent = agent
        self._commands = [
            _Candidate(name, phrases.parse(say))
            for name, intent in agent.intents.items()
            for say in intent.say
        ]
        self._answers = {
            name: _Candidate(None, phrases.parse(f"{CORRECTION} <{name}>")) for name in agent.slots
        }
        self._combined = [
            _Candidate(None, phrases.parse(f"{CORRECTION} {answer}")) for answer in agent.answers
        ]
        self._yes = {tuple(phrase.split()) for phrase in YES_PHRASES}
        self._no = {tuple(phrase.split()) for phrase in NO_PHRASES}
        self._values = _values(agent)
        self._longest = max(map(len, self._values), default=0)
        self._joined: dict[int, dict[str, tuple[str, ...]]] = {}
        for way in self._values:
            self._joined.setdefault(len(way), {})[" ".join(way)] = way
        self._weights = _weights(self._commands, self._values)
        self.understand = lru_cache(_CACHED)(self._understand)

    def _understand(self, text: str, expect: tuple[str, ...]) -> Meaning:
        """The meaning of `text` when the caller was asked for the slots in `expect`."""
        words = normalise(text)
        if not words:
            return NOTHING
        return (
            self._yes_or_no(words)
            or self._exact(words, expect)
            or self._after_yes_or_no(words, expect)
            or self._tolerant(words, expect)
            or NOTHING
        )

    def _yes_or_no(self, words: tuple[str, ...]) -> Meaning | None:
        if words in self._yes:
            return Meaning(polarity=True, score=1.0)
        if words in self._no:
            return Meaning(polarity=False, score=1.0)
        return None

    def _exact(self, words: tuple[str, ...], expect: tuple[str, ...]) -> Meaning | None:
        """The first phrase that reads exactly so: asked-for answers, then commands, then others."""
        spans = dict(self._exact_spans(words))
        aligner = Aligner(words, spans, self._weight, self._known, 0.0)
        asked = [self._answers[name] for name in expect if name in self._answers]
        others = [answer for name, answer in self._answers.items() if name not in expect]
        for candidate in itertools.chain(asked, self._combined, self._commands, others):
            reading = aligner.align(candidate.phrase)
            if reading is not None:
                return self._meaning(words, candidate, reading, 1.0)
        return None

    def _after_yes_or_no(self, words: tuple[str, ...], expect: tuple[str, ...]) -> Meaning | None:
        """ "No, cancel my appointment": the rest counts, and the yes or no is kept."""
        for length in range(min(3, len(words) - 1), 0, -1):
            head = words[:length]
            if head in self._yes or head in self._no:
                rest = self._understand(" ".join(words[length:]), expect)
                if rest.intent is None and not rest.slots:
                    return None
                return Meaning(
                    intent=rest.intent,
                    slots=rest.slots,
                    polarity=head in self._yes,
                    score=rest.score,
                )
        return None

    def _tolerant(self, words: tuple[str, ...], expect: tuple[str, ...]) -> Meaning | None:
        spans = self._spans(words)
        if (asked := self._asked_digits(spans, expect)) is not None:
            return asked
        total = sum(map(self._weight, words))
        budget = max(total * _BUDGET_PER_WEIGHT, 1e-9)
        aligner = Aligner(words, spans, self._weight, self._known, budget)
        best: dict[str | None, Meaning] = {}
        for candidate in itertools.chain(self._answers.values(), self._combined, self._commands):
            reading = aligner.align(candidate.phrase)
            if reading is None:
                continue
            score = 1.0 - reading.cost / (total + reading.missing)
            meaning = self._meaning(words, candidate, reading, score)
            known = best.get(candidate.intent)
            if known is None or _rank(meaning, expect) > _rank(known, expect):
                best[candidate.intent] = meaning
        return _clear_winner(sorted(best.values(), key=lambda meaning: -meaning.score))

    def _asked_digits(
        self, spans: Mapping[int, tuple[Span, ...]], expect: tuple[str, ...]
    ) -> Meaning | None:
        """A whole row of the digits asked for is the answer, whatever is said around it."""
        for span in itertools.chain.from_iterable(spans.values()):
            if span.slot in expect and self._agent.slots[span.slot].kind is SlotKind.DIGITS:
                return Meaning(slots=((span.slot, span.value),), score=THRESHOLD)
        return None

    def _meaning(
        self, words: tuple[str, ...], candidate: _Candidate, reading: Reading, score: float
    ) -> Meaning:
        polarity = False if candidate.intent is None and words[0] == "no" else None
        slots = tuple(dict(reading.slots).items())  # of two values, the one said last
        return Meaning(intent=candidate.intent, slots=slots, polarity=polarity, score=score)

    def _exact_spans(self, words: tuple[str, ...]) -> Iterator[tuple[int, tuple[Span, ...]]]:
        """Slot values in the words, by where they begin; the longest last."""
        for start in range(len(words)):
            found = [
                Span(slot, value, end)
                for end in range(start + 1, min(len(words), start + self._longest) + 1)
                for slot, value in self._values.get(words[start:end], ())
            ]
            found += self._digit_spans(words, start)
            if found:
                yield start, tuple(found)

    def _digit_spans(self, words: tuple[str, ...], start: int) -> Iterator[Span]:
        """Exactly as many digits as a slot has; not a part of a longer row."""
        if start > 0 and words[start - 1] in DIGITS:
            return
        row = tuple(itertools.takewhile(DIGITS.__contains__, words[start:]))
        for name, slot in self._agent.slots.items():
            if slot.kind is SlotKind.DIGITS and slot.length == len(row):
                yield Span(name, "".join(DIGITS[word] for word in row), start + len(row))

    def _spans(self, words: tuple[str, ...]) -> Mapping[int, tuple[Span, ...]]:
        """Exact values, and those with a misheard word that nothing else explains."""
        spans = dict(self._exact_spans(words))
        for start in range(len(words)):
            for end in range(start + 1, min(len(words), start + self._longest) + 1):
                part = words[start:end]
                if all(map(self._known, part)) or any(len(word) < 3 for word in part):
                    continue
                spans[start] = (*spans.get(start, ()), *self._misheard(part, end))
        return spans

    def _misheard(self, part: tuple[str, ...], end: int) -> Iterator[Span]:
        ways = self._joined.get(len(part), {})
        found = process.extractOne(
            " ".join(part),
            ways.keys(),
            scorer=Levenshtein.normalized_similarity,
            score_cutoff=_MISHEARD,
        )
        if found is None:
            return
        way, similarity, _ = found
        for slot, value in self._values[ways[way]]:
            yield Span(slot, value, end, len(part) * (1.0 - similarity))

    def _weight(self, word: str) -> float:
        return self._weights.get(word, _UNKNOWN_WEIGHT)

    def _known(self, word: str) -> bool:
        return word in self._weights


def _rank(meaning: Meaning, expect: tuple[str, ...]) -> tuple[float, int]:
    """Better readings first; of equal ones, that which answers what was asked."""
    return round(meaning.score, 6), sum(slot in expect for slot, _ in meaning.slots)


def _clear_winner(ranked: list[Meaning]) -> Meaning | None:
    if not ranked or ranked[0].score < THRESHOLD:
        return None
    if len(ranked) > 1 and ranked[0].score - ranked[1].score < _MARGIN:
        return None
    return ranked[0]


def _values(agent: AgentFile) -> dict[tuple[str, ...], list[tuple[str, str]]]:
    """Every way to say every choice, with what it means."""
    values: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for name, slot in agent.slots.items():
        for value, way in _ways(name, slot):
            meanings = values.setdefault(way, [])
            if way and (name, value) not in meanings:
                meanings.append((name, value))
    values.pop((), None)
    return values


def _ways(name: str, slot: Slot) -> Iterable[tuple[str, tuple[str, ...]]]:
    ways = [
        (value, way)
        for value, said in slot.values.items()
        for phrase in said
        for way in itertools.islice(phrases.expand(phrases.parse(phrase)), _MAX_WAYS)
    ]
    if len(ways) >= _MAX_WAYS:
        raise ConfigError(f"slots.{name}: more than {_MAX_WAYS} ways to say it; use fewer options")
    return ways


def _weights(
    commands: list[_Candidate], values: Mapping[tuple[str, ...], object]
) -> dict[str, float]:
    """How much each word says: one that stands in a single intent says most."""
    pairs = {(item.intent, word) for item in commands for word in phrases.words(item.phrase)}
    counts = Counter(word for _, word in pairs)
    weights = {word: _SLOT_WORD_WEIGHT for way in values for word in way}
    weights |= dict.fromkeys(DIGITS, _SLOT_WORD_WEIGHT)
    weights |= dict.fromkeys(phrases.words(phrases.parse(CORRECTION)), _COMMON_WEIGHT)
    for word, count in counts.items():
        weights[word] = _WEIGHT_BY_INTENTS.get(count, _COMMON_WEIGHT)
    return weights | dict.fromkeys(_FILLERS, _FILLER_WEIGHT)
