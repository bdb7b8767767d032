"""Whisper with real weights on a human voice over telephone codecs and lossy lines.

LANDLINE_MODELS names a folder with models, as `landline models pull --folder` fills it. Prints the
word error rate by codec and loss, with finals over short and over full windows: that table is what
[stt.whisper] short_finals is to be decided by.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from services.common.clock import SystemClock
from services.stt.engine import Vocabulary
from services.stt.engines.whisper.config import WhisperConfig
from services.stt.engines.whisper.engine import WhisperEngine
from services.stt.engines.whisper.guards import normalised
from tests.fakes import telephone
from tests.fakes.g711 import PCMA, PCMU

PROMPTS = 60
LOSSES = (0.0, 0.02, 0.05)
FRAME = 160  # 20 ms at 8 kHz
MOST_WRONG = 0.35  # of the words, over G.711 without loss; a model that is broken has 1
CODECS: dict[str, Callable[[NDArray[np.int16]], NDArray[np.int16]]] = {
    "linear 8 kHz": lambda samples: samples,
    "PCMU": lambda samples: PCMU.decode(PCMU.encode(samples)),
    "PCMA": lambda samples: PCMA.decode(PCMA.encode(samples)),
}


def models() -> list[Path]:
    folder = os.environ.get("LANDLINE_MODELS")
    if not folder:
        return []
    root = Path(folder)
    return sorted(path.parent for path in [*root.glob("model.bin"), *root.glob("*/model.bin")])


def over_the_line(path: Path, codec: str, loss: float, seed: int) -> bytes:
    """A prompt through a codec, with 20 ms packets lost and the one before repeated for each."""
    samples = np.frombuffer(path.read_bytes()[44:], "<i2")
    pause = np.zeros(2_400, np.int16)
    coded = CODECS[codec](np.concatenate((pause, samples, pause))).astype(np.float64)
    dice = random.Random(seed)
    for at in range(FRAME, len(coded) - FRAME, FRAME):
        if dice.random() < loss:
            coded[at : at + FRAME] = 0.7 * coded[at - FRAME : at]
    wide = soxr.resample(coded, 8_000, 16_000)
    return np.clip(wide, -32_768, 32_767).astype("<i2").tobytes()


@dataclass(frozen=True, slots=True)
class Score:
    wrong: int
    words: int
    rejected: int

    def __str__(self) -> str:
        return f"{100 * self.wrong / self.words:5.1f} %  ({self.rejected} not believed)"


def score(engine: WhisperEngine, codec: str, loss: float) -> Score:
    chosen = telephone.prompts(range(3, 16))
    random.Random(9).shuffle(chosen)
    recogniser = engine.prepare(Vocabulary(language="en", phrase_sets=()))
    wrong = words = rejected = 0
    for number, (text, path) in enumerate(chosen[:PROMPTS]):
        utterance = recogniser.begin(())
        pcm = over_the_line(path, codec, loss, number)
        for at in range(0, len(pcm), 6_400):
            utterance.accept(pcm[at : at + 6_400])
        heard = utterance.finish()
        utterance.close()
        expected = normalised(text).split()
        wrong += Levenshtein.distance(expected, normalised(heard.text).split())
        words += len(expected)
        rejected += heard.rejected
    return Score(wrong, words, rejected)


@pytest.mark.slow
@pytest.mark.skipif(
    not models(),
    reason="no weights: LANDLINE_MODELS names no folder with Whisper models "
    "(landline models pull whisper-base --folder FOLDER)",
)
@pytest.mark.parametrize("model", models(), ids=lambda path: path.name)
def test_word_error_rate_by_codec_and_loss(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain: dict[bool, Score] = {}
    for short in (True, False):
        config = WhisperConfig(short_finals=short, final_deadline_ms=60_000)
        engine = WhisperEngine.load(config, model, SystemClock())
        try:
            for codec in CODECS:
                for loss in LOSSES:
                    found = score(engine, codec, loss)
                    if (codec, loss) == ("PCMU", 0.0):
                        plain[short] = found
                    with capsys.disabled():
                        window = "short" if short else "full"
                        print(
                            f"\n{model.name}, {window} windows, {codec}, {loss:.0%} lost: {found}"
                        )
        finally:
            engine.close()
    for found in plain.values():
        assert found.wrong <= MOST_WRONG * found.words
