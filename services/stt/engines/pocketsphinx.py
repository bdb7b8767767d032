"""Recognition by grammar with PocketSphinx: hears what may be said, and refuses the rest.

Two searches hear the same audio: the grammar, and a loop of free phones that fits any speech. How
much worse the grammar fits, per frame, and how much of the speech it had to take for silence, are
the margin by which a result is trusted or rejected. Confidence says how likely it is that a phrase
of the grammar was said at all; it cannot tell two phrases that sound alike.
Strings of digits are weak with this model: let callers use the keys.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from services.common.audio import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from services.stt.engine import (
    DEFAULT_SLOT,
    HeardWord,
    Recognition,
    Slot,
    Vocabulary,
    VocabularyError,
)
from services.stt.engines.sphinx_library import FRAME_MS, Decoder, library, model_folder
from services.stt.grammar import Grammar
from services.stt.pronunciation import Pronunciations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from services.stt.engines.sphinx_library import Segment

# The model needs the mean spectrum of line and speaker before it can decode. Telephone levels vary
# too much for a fixed one, so it is measured on the first part of each utterance. A second, which
# holds some silence from before the speech, does as well as the whole; 0.6 s does far worse.
_MEANS_BYTES = SAMPLE_RATE_HZ * BYTES_PER_SAMPLE
_CONFIDENCE_SLOPE = 0.45
# Margin for speech that was wholly taken for silence; shorter stretches are the soft ends of words.
# Found on human prompts and synthetic callers: at the same loss of right results, about half as
# much of what is in no grammar is accepted as without it.
_UNHEARD_MARGIN = 20.0
_UNHEARD_FRAMES = 16
_MAX_VOCABULARIES = 16
_MAX_IDLE_DECODERS = 4
_MAX_GRAMMARS = 32
_PHONE_LOOP = "phones"
_CHECKED_PCM = bytes(SAMPLE_RATE_HZ * BYTES_PER_SAMPLE // 4)


class PocketSphinxEngine:
    """Shared by all calls; keeps the compiled vocabularies that were used last."""

    def __init__(self, *, rejection_margin: float, pronunciations: Mapping[str, str]) -> None:
        library()
        self._margin = rejection_margin
        self._pronunciations = Pronunciations(model_folder() / "cmudict-en-us.dict", pronunciations)
        self._phone_loops = _PhoneLoops()
        self._recognisers: OrderedDict[Vocabulary, GrammarRecogniser] = OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, vocabulary: Vocabulary) -> GrammarRecogniser:
        if vocabulary.language.partition("-")[0].lower() not in ("", "en"):
            raise VocabularyError(
                f"the PocketSphinx engine hears English only, not {vocabulary.language!r}"
            )
        with self._lock:
            found = self._recognisers.get(vocabulary)
            if found is None:
                found = self._recognisers[vocabulary] = self._compile(vocabulary)
            self._recognisers.move_to_end(vocabulary)
            if len(self._recognisers) > _MAX_VOCABULARIES:
                self._recognisers.popitem(last=False)
            return found

    def threads(self, streams: int) -> int | None:
        return None

    def refusal(self, streams: int) -> str:
        return ""

    def check(self) -> None:
        decoder = self._phone_loops.take()
        means = self._phone_loops.means(_CHECKED_PCM)
        decoder.start(_PHONE_LOOP, means)
        decoder.process(_CHECKED_PCM)
        decoder.end()
        self._phone_loops.take_back(decoder)

    def close(self) -> None:
        """Nothing runs between calls."""

    def _compile(self, vocabulary: Vocabulary) -> GrammarRecogniser:
        grammar = Grammar(vocabulary.phrase_sets)
        ways = self._pronunciations.of(grammar.words)
        return GrammarRecogniser(grammar, ways, self._phone_loops, self._margin)


class GrammarRecogniser:
    """One vocabulary, and the idle decoders that know it."""

    def __init__(
        self,
        grammar: Grammar,
        ways: Mapping[str, tuple[str, ...]],
        phone_loops: _PhoneLoops,
        margin: float,
    ) -> None:
        self._grammar = grammar
        self._ways = ways
        self._phone_loops = phone_loops
        self._margin = margin
        self._idle = [self._new_decoder()]

    def begin(self, expect: tuple[str, ...], slot: Slot = DEFAULT_SLOT) -> GrammarUtterance:
        roots = self._grammar.roots(expect)
        try:
            decoder = self._idle.pop()
        except IndexError:
            decoder = self._new_decoder()
        name = decoder.listen_for(roots, self._grammar)
        return GrammarUtterance(self, decoder, name, self._phone_loops, self._margin)

    def take_back(self, decoder: _GrammarDecoder) -> None:
        """A decoder whose utterance is over."""
        if len(self._idle) < _MAX_IDLE_DECODERS:
            self._idle.append(decoder)

    def _new_decoder(self) -> _GrammarDecoder:
        decoder = _GrammarDecoder()
        for word, ways in self._ways.items():
            for number, phones in enumerate(ways, 1):
                decoder.add_word(word if number == 1 else f"{word}({number})", phones)
        return decoder


class _GrammarDecoder(Decoder):
    """A decoder with the grammars that it has compiled, the last used at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._names: OrderedDict[tuple[str, ...], str] = OrderedDict()
        self._compiled = 0

    def listen_for(self, roots: tuple[str, ...], grammar: Grammar) -> str:
        """The name of the grammar for these sets, compiled at its first use."""
        if roots not in self._names:
            self._compiled += 1
            name = f"grammar{self._compiled}"
            self.add_grammar(name, grammar.jsgf(roots))
            self._names[roots] = name
        self._names.move_to_end(roots)
        if len(self._names) > _MAX_GRAMMARS:
            self.remove(self._names.popitem(last=False)[1])
        return self._names[roots]


class _PhoneLoops:
    """Idle decoders of free phones, the same for every vocabulary, and those that only measure."""

    def __init__(self) -> None:
        self._idle: list[Decoder] = []
        self._measuring: list[Decoder] = []

    def take(self) -> Decoder:
        return _pop(self._idle)

    def take_back(self, decoder: Decoder) -> None:
        if len(self._idle) < _MAX_IDLE_DECODERS:
            self._idle.append(decoder)

    def means(self, pcm: bytes) -> bytes:
        """The cepstral means of this audio and of nothing heard before."""
        decoder = _pop(self._measuring)
        found = decoder.means(_PHONE_LOOP, pcm)
        if len(self._measuring) < _MAX_IDLE_DECODERS:
            self._measuring.append(decoder)
        return found


def _pop(idle: list[Decoder]) -> Decoder:
    try:
        return idle.pop()
    except IndexError:
        decoder = Decoder()
        decoder.add_phone_loop(_PHONE_LOOP)
        return decoder


class GrammarUtterance:
    """One utterance under two searches (services.stt.engine.Utterance)."""

    def __init__(
        self,
        owner: GrammarRecogniser,
        decoder: _GrammarDecoder,
        grammar_name: str,
        phone_loops: _PhoneLoops,
        margin: float,
    ) -> None:
        self._owner = owner
        self._decoder = decoder
        self._grammar_name = grammar_name
        self._phone_loops = phone_loops
        self._phones = phone_loops.take()
        self._margin = margin
        self._held = bytearray()
        self._started = False
        self._ended = False
        self._closed = False

    def accept(self, pcm: bytes) -> None:
        if self._started:
            self._process(pcm)
            return
        self._held += pcm
        if len(self._held) >= _MEANS_BYTES:
            self._start()

    def partial(self) -> str:
        best = self._decoder.best() if self._started else None
        return best[0] if best else ""

    def finish(self) -> Recognition:
        if not self._started and not self._held:
            return Recognition(reason="no audio")
        if not self._started:
            self._start()
        self._end()
        return self._judge()

    def hurry(self) -> None:
        """Nothing here takes longer than the piece in hand."""

    def abandon(self) -> None:
        """The same."""

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._started and not self._ended:
            self._end()
        self._owner.take_back(self._decoder)
        self._phone_loops.take_back(self._phones)

    def _start(self) -> None:
        held = bytes(self._held)
        self._held.clear()
        means = self._phone_loops.means(held)
        self._decoder.start(self._grammar_name, means)
        self._phones.start(_PHONE_LOOP, means)
        self._started = True
        self._process(held)

    def _process(self, pcm: bytes) -> None:
        self._decoder.process(pcm)
        self._phones.process(pcm)

    def _end(self) -> None:
        self._ended = True
        self._decoder.end()
        self._phones.end()

    def _judge(self) -> Recognition:
        best, free = self._decoder.best(), self._phones.best()
        if free is None or not any(map(_is_phone, self._phones.segments())):
            return Recognition(reason="no speech")
        if best is None or not best[0]:
            return Recognition(rejected=True, reason="no phrase fits what was said")
        text, score = best
        margin = (free[1] - score) / max(self._decoder.frames(), 1)
        margin += _UNHEARD_MARGIN * self._unheard_share()
        confidence = 1.0 / (1.0 + math.exp(_CONFIDENCE_SLOPE * (margin - self._margin)))
        if margin > self._margin:
            return Recognition(
                confidence=confidence,
                rejected=True,
                rejected_text=text,
                reason=f"fits no phrase well (margin {margin:.1f}, at most {self._margin:.1f})",
            )
        return Recognition(text=text, confidence=confidence, words=self._words(confidence))

    def _unheard_share(self) -> float:
        """How much of the speech, by the phone loop, lies where the grammar heard none."""
        speech = _frames(filter(_is_phone, self._phones.segments()))
        words = _frames(filter(_is_word, self._decoder.segments()))
        unheard = sum(run for run in _runs(speech - words) if run >= _UNHEARD_FRAMES)
        return unheard / len(speech) if speech else 0.0

    def _words(self, confidence: float) -> tuple[HeardWord, ...]:
        return tuple(
            HeardWord(
                text=segment.word.partition("(")[0],
                start_ms=segment.first_frame * FRAME_MS,
                end_ms=(segment.last_frame + 1) * FRAME_MS,
                confidence=confidence,
            )
            for segment in self._decoder.segments()
            if _is_word(segment)
        )


def _frames(segments: Iterable[Segment]) -> set[int]:
    return {
        frame
        for segment in segments
        for frame in range(segment.first_frame, segment.last_frame + 1)
    }


def _runs(frames: set[int]) -> Iterator[int]:
    """Lengths of the stretches of frames without a gap."""
    for first in frames:
        if first - 1 not in frames:
            yield next(length for length in itertools.count(1) if first + length not in frames)


def _is_word(segment: Segment) -> bool:
    """Fillers are written <sil>, [NOISE], ++NOISE++ or (NULL)."""
    return segment.word[:1] not in ("<", "[", "+", "(", "")


def _is_phone(segment: Segment) -> bool:
    return segment.word != "SIL" and not segment.word.startswith("+")
