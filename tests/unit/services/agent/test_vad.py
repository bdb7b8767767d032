from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import numpy as np
import pytest

from services.agent.vad import (
    WINDOW_SAMPLES,
    SileroModel,
    VadBatch,
    VadPolicy,
    VadStream,
    model_path,
)

CALLERS = Path(__file__).parents[4] / "scripts" / "caller"


@pytest.fixture(scope="module")
def model() -> SileroModel:
    return SileroModel(model_path())


def speech() -> bytes:
    """A synthetic caller's question between silences, 16 kHz."""
    with wave.open(str(CALLERS / "hours.wav")) as file:
        assert file.getframerate() == 8_000
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
    doubled = np.interp(np.arange(len(samples) * 2) / 2, np.arange(len(samples)), samples)
    silence = bytes(2 * 16_000)
    return silence + doubled.astype(np.int16).tobytes() + silence


async def changes(model: SileroModel, pcm: bytes, calls: int = 1) -> list[list[tuple[bool, int]]]:
    """What each of `calls` streams fed with the same audio reports."""
    batch = VadBatch(model)
    seen: list[list[tuple[bool, int]]] = [[] for _ in range(calls)]
    streams = [
        VadStream(batch, VadPolicy(), lambda voice, sample, log=log: log.append((voice, sample)))
        for log in seen
    ]
    for start in range(0, len(pcm), 640):
        for stream in streams:
            stream.push(pcm[start : start + 640])
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return seen


async def test_speech_between_silences_is_found_where_it_is(model: SileroModel) -> None:
    pcm = speech()
    (seen,) = await changes(model, pcm)
    assert seen[0][0] is True
    assert seen[-1][0] is False
    assert abs(seen[0][1] - 16_000) < 4_000
    assert abs(seen[-1][1] - (len(pcm) // 2 - 16_000)) < 6_000


async def test_silence_and_hum_are_no_speech(model: SileroModel) -> None:
    hum = (3_000 * np.sin(2 * np.pi * 100 * np.arange(48_000) / 16_000)).astype(np.int16)
    (quiet,) = await changes(model, bytes(2 * 48_000))
    (humming,) = await changes(model, hum.tobytes())
    assert quiet == []
    assert humming == []


async def test_calls_in_a_batch_hear_what_each_would_hear_alone(model: SileroModel) -> None:
    pcm = speech()
    (alone,) = await changes(model, pcm)
    assert await changes(model, pcm, calls=5) == [alone] * 5


async def test_an_odd_chunking_changes_nothing(model: SileroModel) -> None:
    batch = VadBatch(model)
    seen: list[bool] = []
    stream = VadStream(batch, VadPolicy(), lambda voice, _sample: seen.append(voice))
    stream.push(speech())
    for _ in range(len(speech()) // (2 * WINDOW_SAMPLES) + 2):
        await asyncio.sleep(0)
    assert seen[0] is True
    assert seen[-1] is False
