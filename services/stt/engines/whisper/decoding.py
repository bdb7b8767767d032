"""What the batches are made of, and what a decoder of batches must be able to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from services.stt.engines.whisper.scheduler import Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.stt.engines.whisper.mel import Floats
    from services.stt.engines.whisper.tokens import Prompt, WhisperTokens

DETECT = ""  # as a language: find out


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Request:
    """One window of speech to decode. `frames`: what `features` [mels, n] is padded to."""

    features: Floats
    frames: int
    prompt: Prompt
    language: str
    max_tokens: int  # beyond the prefix
    beam: int = 1
    hypotheses: int = 1
    align: bool = False

    @property
    def shape(self) -> Shape:
        """Requests of equal shape may share a batch."""
        return Shape(
            frames=self.frames,
            previous_tokens=len(self.prompt.previous),
            task_tokens=len(self.prompt.task),
            beam=self.beam,
            hypotheses=self.hypotheses,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """Text tokens, those of the prefix first, and the mean of their log-probabilities."""

    tokens: tuple[int, ...]
    log_probability: float


@dataclass(frozen=True, slots=True)
class TokenTime:
    """When a token was said, from the beginning of the window."""

    start_ms: int
    end_ms: int
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """`times`: one for each token of the best hypothesis; empty where not asked for."""

    hypotheses: tuple[Hypothesis, ...]
    no_speech: float
    language: str
    times: tuple[TokenTime, ...] = ()


class Decoder(Protocol):
    """One device with the model on it, or the share of one thread in it."""

    @property
    def tokens(self) -> WhisperTokens: ...

    @property
    def mels(self) -> int: ...

    def decode(self, requests: Sequence[Request]) -> list[Decoded]:
        """Decode requests of one shape together; EngineError when the device fails."""
