"""Speech as it comes over a telephone line: flite or a human reader, 8 kHz, G.711 mu-law."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import wave
from functools import cache
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

PROMPTS = Path("/usr/share/asterisk/sounds/en")
PROMPT_TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
_LINE_RATE_HZ = 8_000
_HOUSE_RATE_HZ = 16_000


@cache
def flite(text: str, voice: str = "rms") -> bytes:
    """The text spoken by flite over the line: 16 kHz mono s16le with silence around it."""
    if shutil.which("flite") is None:
        raise RuntimeError("flite is missing: apt install flite")
    path = Path("/dev/stdout")
    spoken = subprocess.run(
        ["flite", "-voice", voice, "-t", text, "-o", str(path)], capture_output=True, check=True
    ).stdout
    samples = np.frombuffer(spoken[44:], dtype="<i2").astype(np.float64)
    return over_the_line(soxr.resample(samples, _HOUSE_RATE_HZ, _LINE_RATE_HZ))


def over_the_line(samples: NDArray[np.float64], *, gain_db: float = 0.0) -> bytes:
    """8 kHz samples through G.711 mu-law, and up to 16 kHz as the gateway delivers them."""
    pause = np.zeros(_LINE_RATE_HZ * 3 // 10)
    padded = np.concatenate((pause, samples, pause)) * 10 ** (gain_db / 20)
    coded = g711(padded)
    resampled = soxr.resample(coded, _LINE_RATE_HZ, _HOUSE_RATE_HZ)
    return np.clip(resampled, -32768, 32767).astype("<i2").tobytes()


def g711(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each sample as the nearest of the 255 levels of ITU-T G.711 mu-law."""
    levels = _levels()
    right = np.clip(np.searchsorted(levels, samples), 1, len(levels) - 1)
    left_is_nearer = samples - levels[right - 1] < levels[right] - samples
    return levels[np.where(left_is_nearer, right - 1, right)]


def prompts(words: range) -> list[tuple[str, Path]]:
    """Texts and recordings of Asterisk's human reader, each text once, in order of names."""
    if not PROMPTS.is_dir() or not PROMPT_TEXTS.is_file():
        raise RuntimeError(
            "the human prompts are missing: "
            "apt install asterisk-core-sounds-en asterisk-core-sounds-en-wav"
        )
    found: dict[str, Path] = {}
    for line in gzip.decompress(PROMPT_TEXTS.read_bytes()).decode(errors="replace").splitlines():
        match = re.fullmatch(r"([\w/-]+):\s*([^\[\]<>0-9]+)", line)
        if match is None:
            continue
        text = " ".join(re.sub(r"[^a-z' ]", " ", match[2].lower().replace("-", " ")).split())
        path = PROMPTS / f"{match[1]}.wav"
        if len(text.split()) in words and path.is_file():
            found.setdefault(text, path)
    return sorted(found.items(), key=lambda item: item[1].name)


def read_prompt(path: Path, *, gain_db: float = 0.0) -> bytes:
    """A prompt over the line."""
    with wave.open(str(path)) as file:
        assert file.getframerate() == _LINE_RATE_HZ
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return over_the_line(samples.astype(np.float64), gain_db=gain_db)


@cache
def _levels() -> NDArray[np.float64]:
    segments = [
        ((2 * step + 33) * 2**exponent - 33) * 4.0 for exponent in range(8) for step in range(16)
    ]
    positive = np.array(sorted(set(segments)))
    return np.concatenate((-positive[:0:-1], positive))
