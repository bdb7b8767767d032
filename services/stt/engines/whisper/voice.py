"""Where in an utterance somebody speaks, by Silero on onnxruntime: nothing else is decoded.

The model file comes with the silero-vad package and is found without importing it, because the
import would need PyTorch. Windows are 512 samples at 16 kHz (32 ms), preceded by the last 64.

Source: Silero Team, "Silero VAD", https://github.com/snakers4/silero-vad.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnxruntime

from services.common.audio import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from services.common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.stt.engines.whisper.mel import Floats

WINDOW_SAMPLES = 512
WINDOW_MS = WINDOW_SAMPLES * 1000 // SAMPLE_RATE_HZ
_WINDOW_BYTES = WINDOW_SAMPLES * BYTES_PER_SAMPLE
_CONTEXT_SAMPLES = 64
_STATE_SIZE = 128
_MODEL = "data/silero_vad_op18_ifless.onnx"


class VoiceDetector(Protocol):
    """Tells speech from other sound, window by window of one utterance."""

    def __call__(self, window: Floats) -> float:
        """The probability of speech in the next 512 samples, -1 to 1 each."""


def silero() -> Callable[[], VoiceDetector]:
    """Makes detectors that share one network; ConfigError when silero-vad is not installed."""
    spec = find_spec("silero_vad")
    folders = (spec.submodule_search_locations or []) if spec else []
    paths = [path for folder in folders if (path := Path(folder) / _MODEL).is_file()]
    if not paths:
        raise ConfigError("silero-vad is not installed: run pip install --no-deps silero-vad")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(paths[0]), options, providers=["CPUExecutionProvider"]
    )
    return lambda: _SileroStream(session)


class _SileroStream:
    """The network's memory of one utterance. Several may run in several threads."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._rate = np.array(SAMPLE_RATE_HZ, np.int64)
        self._state = np.zeros((2, 1, _STATE_SIZE), np.float32)
        self._context = np.zeros(_CONTEXT_SAMPLES, np.float32)

    def __call__(self, window: Floats) -> float:
        samples = np.concatenate((self._context, window))[None]
        output, self._state = self._session.run(
            None, {"input": samples, "state": self._state, "sr": self._rate}
        )
        self._context = window[-_CONTEXT_SAMPLES:]
        return float(output[0, 0])


class VoiceTrack:
    """Which windows of an utterance are voiced, with hysteresis."""

    def __init__(self, detector: VoiceDetector, *, on: float, off: float) -> None:
        self._detector = detector
        self._on = on
        self._off = off
        self._pending = bytearray()
        self._voiced: list[bool] = []

    def push(self, pcm: bytes) -> None:
        """Take 16 kHz s16le PCM, in whole samples."""
        self._pending += pcm
        while len(self._pending) >= _WINDOW_BYTES:
            window = np.frombuffer(bytes(self._pending[:_WINDOW_BYTES]), "<i2")
            del self._pending[:_WINDOW_BYTES]
            speech = self._detector(window.astype(np.float32) / np.float32(32768))
            before = bool(self._voiced) and self._voiced[-1]
            self._voiced.append(speech > (self._off if before else self._on))

    def voice_ms(self, first_ms: float = 0.0, last_ms: float | None = None) -> float:
        """How long somebody has spoken between these times."""
        end = None if last_ms is None else int(last_ms // WINDOW_MS) + 1
        return float(sum(self._voiced[int(first_ms // WINDOW_MS) : end]) * WINDOW_MS)

    def onset_ms(self, first_ms: float = 0.0) -> float | None:
        """The beginning of the first voice since then."""
        for index in range(int(first_ms // WINDOW_MS), len(self._voiced)):
            if self._voiced[index]:
                return float(index * WINDOW_MS)
        return None

    def end_ms(self) -> float | None:
        """The end of the last voice so far."""
        for index in range(len(self._voiced) - 1, -1, -1):
            if self._voiced[index]:
                return float((index + 1) * WINDOW_MS)
        return None

    def silence_ms(self) -> float:
        """How long it has been silent at the end."""
        end_ms = self.end_ms()
        return len(self._voiced) * WINDOW_MS - (end_ms or 0.0)

    def pause_ms(self, first_ms: float, last_ms: float, least_ms: float) -> float | None:
        """The middle of the last long enough pause between these times; None without one."""
        last: tuple[int, int] | None = None
        begun: int | None = None
        for index in range(int(first_ms // WINDOW_MS), int(last_ms // WINDOW_MS) + 1):
            silent = index < len(self._voiced) and not self._voiced[index]
            if silent and begun is None:
                begun = index
            elif not silent and begun is not None:
                if (index - begun) * WINDOW_MS >= least_ms:
                    last = (begun, index)
                begun = None
        return None if last is None else (last[0] + last[1]) / 2 * WINDOW_MS
