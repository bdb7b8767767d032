"""Voice activity of every call in this process, by Silero on onnxruntime, batched.

The model file comes with the silero-vad package and is found without importing it, because the
import would need PyTorch. Windows are 512 samples at 16 kHz (32 ms), preceded by the last 64
samples of the window before; the recurrent state is kept per call.

Source: Silero Team, "Silero VAD", https://github.com/snakers4/silero-vad.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import structlog

from services.common.audio import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from services.common.errors import ConfigError
from services.common.metrics import Counter

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

_FAILURES = Counter("landline_agent_vad_failures", "Voice activity that a call could not take")
_log = structlog.get_logger()
WINDOW_SAMPLES = 512
WINDOW_MS = WINDOW_SAMPLES * 1000 // SAMPLE_RATE_HZ
_WINDOW_BYTES = WINDOW_SAMPLES * BYTES_PER_SAMPLE
_CONTEXT_SAMPLES = 64
_MODEL = "data/silero_vad_op18_ifless.onnx"


def model_path() -> Path:
    """Where the installed silero-vad keeps its model; ConfigError when it is not installed."""
    spec = find_spec("silero_vad")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / _MODEL
        if path.is_file():
            return path
    raise ConfigError("silero-vad is not installed: run pip install --no-deps silero-vad")


class SileroModel:
    """The network: probabilities of speech for one window of each of N calls."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self._rate = np.array(SAMPLE_RATE_HZ, np.int64)

    def run(
        self, windows: npt.NDArray[np.float32], state: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """`windows` [N, 64 + 512], `state` [2, N, 128] to probabilities [N] and the new state."""
        output, new_state = self._session.run(
            None, {"input": windows, "state": state, "sr": self._rate}
        )
        return output[:, 0], new_state


class VadBatch:
    """Runs the windows that calls have ready in one go, once each turn of the event loop."""

    def __init__(self, model: SileroModel) -> None:
        self._model = model
        self._ready: dict[VadStream, None] = {}

    def submit(self, stream: VadStream) -> None:
        """`stream` has at least one whole window waiting."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._run)
        self._ready[stream] = None

    def _run(self) -> None:
        streams = list(self._ready)
        self._ready.clear()
        windows = np.stack([stream.take_window() for stream in streams])
        state = np.concatenate([stream.state for stream in streams], axis=1)
        probabilities, state = self._model.run(windows, state)
        for index, stream in enumerate(streams):
            stream.state = state[:, index : index + 1]
            try:
                stream.judge(float(probabilities[index]))
            except Exception:
                _FAILURES.inc()
                _log.exception("voice_activity_not_taken")


@dataclass(frozen=True, slots=True, kw_only=True)
class VadPolicy:
    """Hysteresis: voice is on after `on_windows` windows above `on`, off after silence."""

    on: float = 0.5
    off: float = 0.35
    on_windows: int = 2
    off_windows: int = 5

    @property
    def off_ms(self) -> int:
        """Silence that has passed when voice is declared off."""
        return self.off_windows * WINDOW_MS


class VadStream:
    """One call's voice activity. `changed(voice, sample)` is called on the event loop.

    `sample` is where the voice began, or where the last voiced window ended.
    """

    def __init__(
        self, batch: VadBatch, policy: VadPolicy, changed: Callable[[bool, int], None]
    ) -> None:
        self.state: npt.NDArray[np.float32] = np.zeros((2, 1, 128), np.float32)
        self._batch = batch
        self._policy = policy
        self._changed = changed
        self._pending = bytearray()
        self._context = np.zeros(_CONTEXT_SAMPLES, np.float32)
        self._judged_samples = 0
        self._last_voiced_sample = 0
        self._above = 0
        self._below = 0
        self._voice = False

    def push(self, pcm: bytes) -> None:
        """Add PCM of any length."""
        self._pending += pcm
        if len(self._pending) >= _WINDOW_BYTES:
            self._batch.submit(self)

    def take_window(self) -> npt.NDArray[np.float32]:
        """The oldest waiting window with its context, as floats in [-1, 1)."""
        raw: npt.NDArray[Any] = np.frombuffer(bytes(self._pending[:_WINDOW_BYTES]), np.int16)
        del self._pending[:_WINDOW_BYTES]
        samples = raw.astype(np.float32) / 32768.0
        window = np.concatenate([self._context, samples])
        self._context = samples[-_CONTEXT_SAMPLES:]
        return window

    def judge(self, probability: float) -> None:
        """Take the next window's probability of speech into account."""
        self._judged_samples += WINDOW_SAMPLES
        if probability >= self._policy.on:
            self._above += 1
            self._below = 0
            self._last_voiced_sample = self._judged_samples
        elif probability < self._policy.off:
            self._above = 0
            self._below += 1
        if not self._voice and self._above >= self._policy.on_windows:
            self._switch(True, self._judged_samples - self._above * WINDOW_SAMPLES)
        elif self._voice and self._below >= self._policy.off_windows:
            self._switch(False, self._last_voiced_sample)
        if len(self._pending) >= _WINDOW_BYTES:
            self._batch.submit(self)

    def _switch(self, voice: bool, sample: int) -> None:
        self._voice = voice
        self._above = 0
        self._below = 0
        self._changed(voice, sample)
