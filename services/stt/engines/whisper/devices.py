"""On what the model runs: found by measuring at the start, not by guessing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ctranslate2
import numpy as np
import structlog

from services.common.errors import ConfigError
from services.stt.engines.whisper.config import Device
from services.stt.engines.whisper.ctranslate import CTranslateDecoder
from services.stt.engines.whisper.decoding import Request
from services.stt.engines.whisper.mel import FRAMES_PER_S
from services.stt.engines.whisper.tokens import Prompt

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.clock import Clock
    from services.stt.engines.whisper.config import WhisperConfig
    from services.stt.engines.whisper.decoding import Decoder

# Tried in this order, as far as the device can do them.
_GPU_TYPES = ("float16", "int8_float16", "bfloat16", "float32")
_CPU_TYPES = ("int8", "float32")
_MAX_TRIED = 2
_TRIAL_WINDOWS = 4
_TRIAL_TOKENS = 12
_TRIAL_S = 3
_RIDE_BELOW = 1.6
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Placed:
    """The decoders, one for each device. `riders`: a batch of eight costs hardly more than one."""

    decoders: tuple[Decoder, ...]
    compute_type: str
    riders: bool


def place(folder: Path, config: WhisperConfig, clock: Clock) -> Placed:
    """Load the model on each device, in the fastest form, and warm it up."""
    gpus = ctranslate2.get_cuda_device_count()
    device = config.device
    if device is Device.AUTO:
        device = Device.CUDA if gpus else Device.CPU
    indexes = _indexes(config, device, gpus)

    def load(compute_type: str, index: int) -> CTranslateDecoder:
        return CTranslateDecoder(
            folder,
            device=device.value,
            device_index=index,
            compute_type=compute_type,
            threads=config.threads or os.cpu_count() or 1,
        )

    timed = []
    for compute_type in _candidates(config, device):
        decoder = load(compute_type, indexes[0])
        took_ms = trial_ms(decoder, _TRIAL_WINDOWS, clock)
        _log.info("whisper_measured", device=device.value, type=compute_type, ms=round(took_ms))
        timed.append((took_ms, compute_type, decoder))
    _, chosen, first = min(timed, key=lambda item: item[0])
    others = [load(chosen, index) for index in indexes[1:]]
    for decoder in others:
        trial_ms(decoder, 1, clock)
    growth = trial_ms(first, 8, clock) / max(trial_ms(first, 1, clock), 0.1)
    _log.info(
        "whisper_ready", device=device.value, type=chosen, devices=len(indexes),
        eight_cost_times=round(growth, 1),
    )  # fmt: skip
    return Placed((first, *others), chosen, growth < _RIDE_BELOW)


def trial_ms(decoder: Decoder, windows: int, clock: Clock) -> float:
    """How long a batch of so many short windows takes, the better of two."""
    request = trial_request(decoder)
    took = []
    for _ in range(2):
        began_ms = clock.now_ms()
        decoder.decode([request] * windows)
        took.append(clock.now_ms() - began_ms)
    return min(took)


def trial_request(decoder: Decoder) -> Request:
    """A window of quiet noise that is decoded to a few tokens."""
    frames = _TRIAL_S * FRAMES_PER_S
    noise = np.random.default_rng(0).standard_normal((decoder.mels, frames)) * 0.1
    return Request(
        features=noise.astype(np.float32),
        frames=frames,
        prompt=Prompt(previous=(), task=decoder.tokens.task("en")),
        language="en",
        max_tokens=_TRIAL_TOKENS,
    )


def _indexes(config: WhisperConfig, device: Device, gpus: int) -> list[int]:
    if device is Device.CPU:
        return [0]
    wanted = config.device_indexes or list(range(gpus))
    if not wanted or max(wanted) >= gpus:
        raise ConfigError(f"[stt.whisper] device: GPU {wanted or 0} wanted, but {gpus} found")
    return wanted


def _candidates(config: WhisperConfig, device: Device) -> list[str]:
    supported = ctranslate2.get_supported_compute_types(device.value)
    if config.compute_type != "auto":
        if config.compute_type not in supported:
            raise ConfigError(
                f"[stt.whisper] compute_type: {config.compute_type!r} is not possible on "
                f"{device.value}; possible are {', '.join(sorted(supported))}"
            )
        return [config.compute_type]
    preferred = _GPU_TYPES if device is Device.CUDA else _CPU_TYPES
    return [name for name in preferred if name in supported][:_MAX_TRIED]
