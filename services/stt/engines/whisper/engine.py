"""The engine: all calls of the process share its model and its batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.common.errors import ConfigError
from services.stt.engine import DEFAULT_SLOT, EngineError, Slot, Vocabulary, VocabularyError
from services.stt.engines.whisper.batcher import Batcher
from services.stt.engines.whisper.choice import ClosedSet, closed_set
from services.stt.engines.whisper.decoding import DETECT
from services.stt.engines.whisper.devices import Placed, place, trial_request
from services.stt.engines.whisper.scheduler import Kind, Schedule
from services.stt.engines.whisper.utterance import Manner, WhisperUtterance
from services.stt.engines.whisper.voice import silero
from services.stt.grammar import Grammar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.common.clock import Clock
    from services.stt.engines.whisper.config import WhisperConfig
    from services.stt.engines.whisper.voice import VoiceDetector

_CHECK_WITHIN_MS = 5_000.0
_CHECK_STREAM = "check"
_AUTO = "auto"
_MAX_HINT_PHRASES = 24
_MAX_VOCABULARIES = 64


class WhisperEngine:
    """services.stt.engine.Engine. `placed` and `detectors` are what tests put in its place."""

    def __init__(
        self,
        config: WhisperConfig,
        clock: Clock,
        placed: Placed,
        detectors: Callable[[], VoiceDetector],
    ) -> None:
        self._config = config
        self._placed = placed
        self._detectors = detectors
        self._recognisers: dict[Vocabulary, WhisperRecogniser] = {}
        schedule = Schedule(
            max_batch=config.max_batch,
            max_partials=placed.max_partials,
            window_ms=config.batch_window_ms,
            partial_age_ms=config.partial_age_ms,
            riders=placed.riders,
        )
        self.batcher = Batcher(placed.decoders, schedule, clock, load_limit=config.load_limit)

    @classmethod
    def load(cls, config: WhisperConfig, folder: Path, clock: Clock) -> WhisperEngine:
        """From a model folder; ConfigError when something is missing or cannot be loaded."""
        placed = place(folder, config, clock)
        tokens = placed.decoders[0].tokens
        for language in config.languages:
            if tokens.multilingual and tokens.language_token(language) is None:
                raise ConfigError(f"[stt.whisper] languages: the model does not know {language!r}")
        return cls(config, clock, placed, silero())

    def prepare(self, vocabulary: Vocabulary) -> WhisperRecogniser:
        found = self._recognisers.get(vocabulary)
        if found is None:
            found = WhisperRecogniser(self, vocabulary)
            if len(self._recognisers) >= _MAX_VOCABULARIES:
                self._recognisers.clear()
            self._recognisers[vocabulary] = found
        return found

    def threads(self, streams: int) -> int | None:
        """Each call may wait for one batch while another of its utterances is being heard."""
        return 2 * streams

    def refusal(self, streams: int) -> str:
        return self.batcher.refusal(streams)

    def check(self) -> None:
        request = trial_request(self._placed.decoders[0])
        ticket = self.batcher.submit(request, Kind.FINAL, _CHECK_STREAM, _CHECK_WITHIN_MS)
        if ticket.wait(_CHECK_WITHIN_MS / 1000) is None:
            self.batcher.cancel(ticket)
            raise EngineError(f"nothing was decoded within {_CHECK_WITHIN_MS:.0f} ms")

    def close(self) -> None:
        self.batcher.close()

    def language(self, wanted: str) -> str:
        """A BCP 47 tag as Whisper's code, DETECT for "auto"; VocabularyError if unknown."""
        tokens = self._placed.decoders[0].tokens
        code = wanted.partition("-")[0].lower()
        if code in ("", _AUTO):
            only = self._config.languages
            return only[0] if len(only) == 1 else DETECT
        if not tokens.multilingual and code != "en":
            raise VocabularyError(f"this model hears English only, not {wanted!r}")
        if tokens.multilingual and tokens.language_token(code) is None:
            raise VocabularyError(f"this model does not know the language {wanted!r}")
        if self._config.languages and code not in self._config.languages:
            raise VocabularyError(
                f"the language {wanted!r} is not among [stt.whisper] languages "
                f"({', '.join(self._config.languages)})"
            )
        return code

    def begin(self, manner: Manner) -> WhisperUtterance:
        """A new utterance."""
        decoder = self._placed.decoders[0]
        return WhisperUtterance(
            self.batcher, decoder.tokens, decoder.mels, self._detectors(), self._config, manner
        )


class WhisperRecogniser:
    """services.stt.engine.Recogniser: phrase sets are hints, and closed sets where asked for."""

    def __init__(self, engine: WhisperEngine, vocabulary: Vocabulary) -> None:
        self._engine = engine
        self._vocabulary = vocabulary
        self._language = engine.language(vocabulary.language)
        # Whisper hears anything: without phrase sets there is nothing to be checked or hinted at.
        self._grammar = Grammar(vocabulary.phrase_sets) if vocabulary.phrase_sets else None
        self._sets = {item.name: item for item in vocabulary.phrase_sets}
        self._closed: dict[tuple[str, ...], ClosedSet] = {}

    def begin(self, expect: tuple[str, ...], slot: Slot = DEFAULT_SLOT) -> WhisperUtterance:
        closed = self._closed_set(expect)
        hints = [*slot.hotwords, *self._vocabulary.hotwords]
        if expect:
            hints += closed.phrases[:_MAX_HINT_PHRASES]
        manner = Manner(
            language=self._engine.language(slot.language) if slot.language else self._language,
            hotwords=tuple(dict.fromkeys(hints)),
            slot=slot,
            closed_set=closed,
        )
        return self._engine.begin(manner)

    def _closed_set(self, expect: tuple[str, ...]) -> ClosedSet:
        if self._grammar is None:
            if expect:
                raise VocabularyError(f"there is no phrase set {expect[0]!r} to expect")
            return ClosedSet(())
        roots = self._grammar.roots(expect)
        if roots not in self._closed:
            self._closed[roots] = closed_set(self._sets, roots)
        return self._closed[roots]
