"""One utterance: heard piece by piece, guessed at while it lasts, decoded for good at its end.

Only what lies around the voice is decoded. Partials look at the last few words and at what is new:
what two of them have agreed on, but for its last words, is settled and left out of the next one.
When the speaker pauses, the final pass begins at once; if nothing is said after that, its result is
the answer, and is there when the turn is over.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.common.audio import samples_to_ms
from services.common.metrics import Counter
from services.stt.engine import Alternative, HeardWord, Numbers, Recognition
from services.stt.engines.whisper import guards, numbers
from services.stt.engines.whisper.agreement import Agreement
from services.stt.engines.whisper.choice import Guess
from services.stt.engines.whisper.config import MAX_WINDOW_S
from services.stt.engines.whisper.decoding import Request
from services.stt.engines.whisper.guards import Evidence, Guard
from services.stt.engines.whisper.mel import FRAME_MS, FRAMES_PER_S, MelStream
from services.stt.engines.whisper.scheduler import Kind
from services.stt.engines.whisper.tokens import Prompt
from services.stt.engines.whisper.voice import VoiceTrack

if TYPE_CHECKING:
    from services.stt.engine import Slot
    from services.stt.engines.whisper.batcher import Batcher, Ticket
    from services.stt.engines.whisper.choice import ClosedSet
    from services.stt.engines.whisper.config import WhisperConfig
    from services.stt.engines.whisper.decoding import Decoded
    from services.stt.engines.whisper.tokens import WhisperTokens
    from services.stt.engines.whisper.voice import VoiceDetector

_GUARDED = Counter("landline_stt_guards", "Texts that were not believed at first", ["guard"])
_RETRIED = Counter("landline_stt_retries", "Second tries after a guard", ["outcome"])
_EARLY = Counter("landline_stt_early_finals", "Finals begun at a pause", ["outcome"])
_SPLIT = Counter("landline_stt_utterances_split", "Cuts in utterances longer than a window")
_streams = itertools.count(1)

_TOKENS_PER_S = 10  # as many as fast speech needs, and half as much again
_SPARE_TOKENS = 12
_FULL_FRAMES = MAX_WINDOW_S * FRAMES_PER_S
_CUT_AFTER_MS = 20_000.0  # from here on a pause is looked for
_CUT_AT_MS = 28_000.0
_CUT_PAUSE_MS = 250.0
_TRIM_FROM_TOKENS = 8  # so much must be agreed on before any of it is left out
_KEPT_WORDS = 2  # of it stay in front of what is new
_KEPT_FRAMES = FRAMES_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """All that decides how the utterance is decoded."""

    language: str
    hotwords: tuple[str, ...]
    slot: Slot
    closed_set: ClosedSet


@dataclass(frozen=True, slots=True)
class _Window:
    """A stretch of the utterance, in frames."""

    first: int
    end: int

    @property
    def ms(self) -> int:
        return (self.end - self.first) * FRAME_MS


@dataclass(frozen=True, slots=True)
class _Settled:
    """What partials look at no more: text before the last cut, tokens after it, and their end."""

    text: str = ""
    tokens: tuple[int, ...] = ()
    end_frame: int = 0


@dataclass(frozen=True, slots=True)
class _Pass:
    """A final pass under way."""

    window: _Window
    request: Request
    ticket: Ticket
    voice_ms: float


class WhisperUtterance:
    """services.stt.engine.Utterance over a Batcher."""

    def __init__(
        self,
        batcher: Batcher,
        tokens: WhisperTokens,
        mels: int,
        detector: VoiceDetector,
        config: WhisperConfig,
        manner: Manner,
    ) -> None:
        self._batcher = batcher
        self._tokens = tokens
        self._config = config
        self._manner = manner
        self._stream = next(_streams)
        self._mel = MelStream(mels)
        self._voice = VoiceTrack(detector, on=config.voice_on, off=config.voice_off)
        self._begin_ms = 0.0  # of the part that is not cut off yet
        self._cut: list[_Pass] = []
        self._early: _Pass | None = None
        self._settled = _Settled()
        self._agreement = Agreement()
        self._partial_text = ""
        self._partial: Ticket | None = None
        self._hurried = False
        self._abandoned = False

    def accept(self, pcm: bytes) -> None:
        self._mel.push(pcm)
        self._voice.push(pcm)
        if not self._abandoned:
            self._cut_when_long()
            self._begin_final_when_silent()

    def partial(self) -> str:
        window = self._window(to_voice_end=False)
        if window is None or self._hurried or self._abandoned:
            return self._partial_text
        window = _Window(max(window.first, self._settled.end_frame), window.end)
        request = self._request(window, prefix=self._agreement.agreed, final=False)
        self._partial = self._batcher.submit(
            request, Kind.PARTIAL, self._stream, self._config.partial_age_ms
        )
        # `hurry` and `abandon` may have come before there was anything to cancel.
        if self._hurried or self._abandoned:
            self._batcher.cancel(self._partial)
        decoded = self._partial.wait(self._config.final_deadline_ms / 1000)
        self._partial = None
        if decoded is not None:
            guess = decoded.hypotheses[0].tokens
            if not self._doubted(decoded, self._voice_ms()):
                self._agreement = self._agreement.after(guess, self._tokens.begins_word)
                text = self._tokens.decode((*self._settled.tokens, *guess)).strip()
                self._partial_text = f"{self._settled.text} {text}".strip()
                self._settle(decoded, window)
        return self._partial_text

    def _settle(self, decoded: Decoded, window: _Window) -> None:
        """Leave out of later partials what is agreed on, but for its last words."""
        agreed, guess = self._agreement.agreed, self._agreement.guess
        words = [at for at, token in enumerate(agreed) if self._tokens.begins_word(token)]
        if not decoded.times or len(words) <= _KEPT_WORDS or guess[: len(agreed)] != agreed:
            return
        kept = words[-_KEPT_WORDS]
        end_frame = window.first + decoded.times[kept].start_ms // FRAME_MS
        if not window.first < end_frame <= window.end - _KEPT_FRAMES:
            return
        tokens = (*self._settled.tokens, *agreed[:kept])
        self._settled = _Settled(self._settled.text, tokens, end_frame)
        self._agreement = Agreement(agreed[kept:], guess[kept:])

    def finish(self) -> Recognition:
        passes = [*self._cut]
        if (last := self._last_pass()) is not None:
            passes.append(last)
        if not passes:
            _GUARDED.labels(guard=Guard.NO_VOICE.value).inc()
            return Recognition(reason="no speech")
        results = [self._judge(item) for item in passes]
        return results[0] if len(results) == 1 else _joined(results)

    def hurry(self) -> None:
        self._hurried = True
        self._cancel_partial()

    def abandon(self) -> None:
        self._abandoned = True
        self._cancel_partial()
        for item in [*self._cut, *([self._early] if self._early else [])]:
            self._batcher.cancel(item.ticket)

    def close(self) -> None:
        self.abandon()

    def _cancel_partial(self) -> None:
        if (ticket := self._partial) is not None:
            self._batcher.cancel(ticket)

    # Where to decode

    def _window(self, *, to_voice_end: bool) -> _Window | None:
        """From a little before the voice to its end, or to the end of the audio; None without."""
        onset_ms = self._voice.onset_ms(self._begin_ms)
        end_ms = self._voice.end_ms()
        if onset_ms is None or end_ms is None:
            return None
        if self._voice.voice_ms(self._begin_ms) < self._config.guards.min_voice_ms:
            return None
        heard_ms = samples_to_ms(self._mel.samples)
        first_ms = max(onset_ms - self._config.pre_roll_ms, self._begin_ms)
        last_ms = min(end_ms + self._config.tail_ms, heard_ms) if to_voice_end else heard_ms
        first = int(first_ms // FRAME_MS)
        return _Window(first, min(math.ceil(last_ms / FRAME_MS), first + _FULL_FRAMES))

    def _cut_when_long(self) -> None:
        """What does not fit into one window is decoded in parts, cut where the speaker pauses."""
        onset_ms = self._voice.onset_ms(self._begin_ms)
        if onset_ms is None:
            return
        heard_ms = samples_to_ms(self._mel.samples)
        first_ms = max(onset_ms - self._config.pre_roll_ms, self._begin_ms)
        if heard_ms - first_ms < _CUT_AFTER_MS:
            return
        pause_ms = self._voice.pause_ms(onset_ms, heard_ms, _CUT_PAUSE_MS)
        if pause_ms is None and heard_ms - first_ms < _CUT_AT_MS:
            return
        cut_ms = heard_ms if pause_ms is None else pause_ms
        window = _Window(int(first_ms // FRAME_MS), int(cut_ms // FRAME_MS))
        voice_ms = self._voice.voice_ms(self._begin_ms, cut_ms)
        self._cut.append(self._begin_pass(window, Kind.EARLY_FINAL, voice_ms))
        self._begin_ms = cut_ms
        self._settled = _Settled(self._partial_text)
        self._agreement = Agreement()
        self._early = None
        _SPLIT.inc()

    # The final pass

    def _begin_final_when_silent(self) -> None:
        if self._voice.silence_ms() < max(self._config.soft_end_ms, self._config.tail_ms):
            return
        window = self._window(to_voice_end=True)
        if window is None or (self._early is not None and self._early.window == window):
            return
        self._drop_early()
        self._early = self._begin_pass(window, Kind.EARLY_FINAL, self._voice_ms())

    def _last_pass(self) -> _Pass | None:
        """The pass over what was said since the last cut; the early one where that is enough."""
        window = self._window(to_voice_end=True)
        if window is None:
            return None
        if self._early is not None and self._early.window == window:
            _EARLY.labels(outcome="used").inc()
            return self._early
        self._drop_early()
        return self._begin_pass(window, Kind.FINAL, self._voice_ms())

    def _drop_early(self) -> None:
        if self._early is not None:
            _EARLY.labels(outcome="wasted").inc()
            self._batcher.cancel(self._early.ticket)
            self._early = None

    def _voice_ms(self) -> float:
        return self._voice.voice_ms(self._begin_ms)

    def _begin_pass(self, window: _Window, kind: Kind, voice_ms: float) -> _Pass:
        request = self._request(window, prefix=(), final=True)
        return _Pass(window, request, self._submit(request, kind), voice_ms)

    def _submit(self, request: Request, kind: Kind) -> Ticket:
        ticket = self._batcher.submit(request, kind, self._stream, self._config.final_deadline_ms)
        if self._abandoned:
            self._batcher.cancel(ticket)
        return ticket

    def _request(self, window: _Window, *, prefix: tuple[int, ...], final: bool) -> Request:
        manner, config = self._manner, self._config
        several = final and (manner.slot.closed or manner.slot.alternatives > 0)
        beam = config.slot_beam if several else config.beam if final else 1
        frames = window.end - window.first
        allowed = frames * _TOKENS_PER_S // FRAMES_PER_S + _SPARE_TOKENS
        return Request(
            features=self._mel.window(window.first, window.end),
            frames=self._padded(frames) if config.short_finals or not final else _FULL_FRAMES,
            prompt=Prompt(
                previous=self._tokens.hints(manner.hotwords),
                task=self._tokens.task(manner.language or "en"),
                prefix=prefix,
            ),
            language=manner.language,
            max_tokens=max(allowed - len(prefix), _SPARE_TOKENS),
            beam=beam,
            hypotheses=beam if several else 1,
            align=config.word_times if final else len(prefix) >= _TRIM_FROM_TOKENS,
        )

    def _padded(self, frames: int) -> int:
        """The shortest of the configured windows that holds so many."""
        sizes = (round(size * FRAMES_PER_S) for size in self._config.windows_s)
        return next((size for size in sizes if size >= frames), _FULL_FRAMES)

    # What to believe

    def _judge(self, item: _Pass) -> Recognition:
        decoded = item.ticket.wait(self._config.final_deadline_ms / 1000)
        if decoded is None:
            return self._overdue()
        doubts = self._doubted(decoded, item.voice_ms)
        if not doubts:
            return self._believed(decoded, item.window)
        for guard in doubts:
            _GUARDED.labels(guard=guard.value).inc()
        again = self._retry(item, doubts)
        if again is None:
            return self._overdue()
        doubts = self._doubted(again, item.voice_ms)
        _RETRIED.labels(outcome="rejected" if doubts else "believed").inc()
        if not doubts:
            return self._believed(again, item.window)
        return Recognition(
            rejected=True,
            rejected_text=self._tokens.decode(again.hypotheses[0].tokens).strip(),
            reason=f"not believed: {', '.join(guard.value for guard in doubts)}",
            language=again.language,
        )

    def _retry(self, item: _Pass, doubts: tuple[Guard, ...]) -> Decoded | None:
        """Once more over a full window, with a wider beam, and without hints that were echoed."""
        request = replace(
            item.request,
            frames=_FULL_FRAMES,
            beam=self._config.retry_beam,
            hypotheses=min(item.request.hypotheses, self._config.retry_beam),
        )
        if Guard.ECHO in doubts:
            request = replace(request, prompt=replace(request.prompt, previous=()))
        return self._submit(request, Kind.FINAL).wait(self._config.final_deadline_ms / 1000)

    def _doubted(self, decoded: Decoded, voice_ms: float) -> tuple[Guard, ...]:
        best = decoded.hypotheses[0]
        evidence = Evidence(
            text=self._tokens.decode(best.tokens),
            tokens=len(best.tokens),
            log_probability=best.log_probability,
            no_speech=decoded.no_speech,
            voice_ms=voice_ms,
            hotwords=self._manner.hotwords,
        )
        return guards.tripped(evidence, self._config.guards)

    def _believed(self, decoded: Decoded, window: _Window) -> Recognition:
        slot, closed_set = self._manner.slot, self._manner.closed_set
        best = decoded.hypotheses[0]
        text = self._tokens.decode(best.tokens).strip()
        confidence = _probability(best.log_probability)
        guesses = [
            Guess(self._tokens.decode(guess.tokens).strip(), guess.log_probability)
            for guess in decoded.hypotheses
        ]
        chosen = closed_set.choose(guesses)
        if not text:
            return Recognition(reason="no speech", language=decoded.language)
        if chosen is not None:
            text, confidence = chosen.phrase, confidence * chosen.resemblance * chosen.share
        elif slot.closed and closed_set.complete and closed_set.phrases:
            return Recognition(
                confidence=confidence,
                rejected=True,
                rejected_text=text,
                reason="resembles nothing that may be said now",
                language=decoded.language,
            )
        return Recognition(
            text=_written(text, slot.numbers, decoded.language),
            confidence=confidence,
            words=self._words(decoded, window),
            language=decoded.language,
            alternatives=tuple(
                Alternative(text=guess.text, confidence=_probability(guess.log_probability))
                for guess in guesses[1 : 1 + slot.alternatives]
            ),
        )

    def _words(self, decoded: Decoded, window: _Window) -> tuple[HeardWord, ...]:
        if not decoded.times:
            return ()
        offset_ms = window.first * FRAME_MS
        last_ms = window.end * FRAME_MS
        found = []
        at = 0
        for word in self._tokens.words(decoded.hypotheses[0].tokens, decoded.language):
            times = decoded.times[at : at + len(word.tokens)]
            at += len(word.tokens)
            found.append(
                HeardWord(
                    text=word.text,
                    start_ms=min(offset_ms + times[0].start_ms, last_ms),
                    end_ms=min(offset_ms + times[-1].end_ms, last_ms),
                    confidence=math.prod(time.probability for time in times) ** (1 / len(times)),
                )
            )
        return tuple(found)

    def _overdue(self) -> Recognition:
        """Not decoded in time, or not wanted any more: the last guess is shown, not believed."""
        return Recognition(
            rejected=True,
            rejected_text=self._partial_text,
            reason=f"not decoded within {self._config.final_deadline_ms:.0f} ms",
        )


def _probability(log_probability: float) -> float:
    return min(math.exp(log_probability), 1.0)


def _written(text: str, how: Numbers, language: str) -> str:
    if language != "en" or how is Numbers.AS_HEARD:
        return text
    return numbers.to_digits(text) if how is Numbers.DIGITS else numbers.to_spoken(text)


def _joined(parts: list[Recognition]) -> Recognition:
    """The parts of a long utterance as one; what was not believed is left out."""
    good = [part for part in parts if part.text]
    if not good:
        return parts[-1]
    return Recognition(
        text=" ".join(part.text for part in good),
        confidence=min(part.confidence for part in good),
        words=tuple(word for part in good for word in part.words),
        language=good[0].language,
    )
