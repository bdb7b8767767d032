"""[stt]: the engine that recognises speech, and its limits."""

from __future__ import annotations

import os
from enum import StrEnum

from pydantic import Field

from services.common.addresses import Address, HostPort
from services.common.config import Section


class EngineName(StrEnum):
    POCKETSPHINX = "pocketsphinx"


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
    metrics: Address | None = None
