"""[stt.whisper]: the model, the device, and how speech is cut into windows and batches."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field, model_validator

from services.common.config import Section
from services.stt.engines.whisper.guards import GuardConfig

MAX_WINDOW_S = 30


class Device(StrEnum):
    AUTO = "auto"  # all GPUs, or the processor where there is none
    CPU = "cpu"
    CUDA = "cuda"


class WhisperConfig(Section):
    """[stt.whisper]: Whisper in CTranslate2's format, decoded in batches over all calls."""

    model: Path | None = None  # a folder, such as `landline models pull` makes
    device: Device = Device.AUTO
    device_indexes: list[int] = Field(default_factory=list)  # of GPUs; empty: all
    compute_type: str = "auto"  # or one of CTranslate2's: int8, float16, int8_float16 ...
    # Batches at the same time on the processor, and the threads of each. 0: one batch on all cores
    # or one on each core, whichever turns out to decode more.
    workers: int = Field(default=0, ge=0)
    threads: int = Field(default=0, ge=0)
    max_batch: int = Field(default=16, ge=1)
    batch_window_ms: float = Field(default=6.0, ge=0)  # that a batch waits for company
    # No final can interrupt a batch of partials: it is kept short, by measuring at the start.
    partial_batch_ms: float = Field(default=120.0, gt=0)
    # Lengths to which speech is padded; windows of equal length can share a batch.
    windows_s: list[float] = Field(default=[2.0, 3.0, 6.0, 12.0, 20.0, MAX_WINDOW_S])
    # Whisper was trained on windows of 30 s. Short ones save most of the work, for finals too;
    # check the accuracy on your own speech first (docs/speech-recognition.md).
    short_finals: bool = False
    pre_roll_ms: float = Field(default=300.0, ge=0)  # kept before the voice sets in
    tail_ms: float = Field(default=200.0, ge=0)  # kept after the last voice
    soft_end_ms: float = Field(default=200.0, gt=0)  # of silence, and the final is begun early
    voice_on: float = Field(default=0.5, gt=0, lt=1)  # probability at which voice sets in
    voice_off: float = Field(default=0.35, gt=0, lt=1)  # and below which it ends
    beam: int = Field(default=1, ge=1, le=10)  # of finals
    slot_beam: int = Field(default=4, ge=1, le=10)  # of finals where only certain phrases fit
    retry_beam: int = Field(default=5, ge=1, le=10)  # of the second try, when a guard has tripped
    word_times: bool = True  # costs about as much as the encoder, in finals
    languages: list[str] = Field(default_factory=list)  # that callers may speak; empty: all
    partial_age_ms: float = Field(default=400.0, gt=0)  # a partial that waits longer is dropped
    final_deadline_ms: float = Field(default=4_000.0, gt=0)
    load_limit: float = Field(default=0.85, gt=0, le=1)  # calls are refused above it
    guards: GuardConfig = Field(default_factory=GuardConfig)

    @model_validator(mode="after")
    def _consistent(self) -> WhisperConfig:
        if sorted(set(self.windows_s)) != self.windows_s or not self.windows_s:
            raise ValueError("windows_s must grow from one to the next")
        if self.windows_s[0] <= 0 or self.windows_s[-1] != MAX_WINDOW_S:
            raise ValueError(f"the last of windows_s must be {MAX_WINDOW_S}, Whisper's own window")
        if self.voice_off > self.voice_on:
            raise ValueError("voice_off must not be above voice_on")
        return self
