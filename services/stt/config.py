"""[stt]: the engine that recognises speech, and its limits."""

from __future__ import annotations

import os
from enum import StrEnum

from pydantic import Field, model_validator

from services.common.addresses import Address, HostPort
from services.common.config import Section
from services.stt.engines.whisper.config import WhisperConfig


class EngineName(StrEnum):
    POCKETSPHINX = "pocketsphinx"
    WHISPER = "whisper"


class SttConfig(Section):
    """[stt]: one process that listens to many calls."""

    listen: Address = HostPort("127.0.0.1", 0)
    engine: EngineName = EngineName.POCKETSPHINX
    max_streams: int = Field(default=64, ge=1)  # calls at a time; more are refused
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)  # that decode
    partial_interval_ms: float = Field(default=300.0, gt=0)
    max_utterance_s: float = Field(default=40.0, gt=0)  # later audio of an utterance is dropped
    # How much worse speech may fit the grammar than it fits free phones. Lower refuses more.
    rejection_margin: float = Field(default=18.0, gt=0)
    # Words that the dictionary lacks or has wrong: ARPAbet as in the CMU dictionary, for example
    # landline = "L AE N D L AY N".
    pronunciations: dict[str, str] = Field(default_factory=dict)
    # An utterance that gets no audio for so long is over, whatever its client thinks.
    idle_limit_s: float = Field(default=30.0, gt=0)
    # How long at most a broken stream may be resumed; 0 turns resuming off.
    resume_limit_s: float = Field(default=10.0, ge=0)
    health_interval_s: float = Field(default=5.0, gt=0)  # between decodings that prove it works
    whisper: WhisperConfig = Field(default_factory=WhisperConfig)
    metrics: Address | None = None

    @model_validator(mode="after")
    def _consistent(self) -> SttConfig:
        if self.engine is EngineName.WHISPER and self.whisper.model is None:
            raise ValueError('engine = "whisper" needs whisper.model, the folder of a model')
        return self
