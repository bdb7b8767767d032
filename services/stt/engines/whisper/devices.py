"""On what the model runs: found by measuring at the start, not by guessing."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
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
_RIDING = 8
_RIDE_BELOW = 1.6  # times the cost of one, for eight
_TRIED_SIZES = (1, 2, 4, 8)
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Placed:
    """The decoders, one for each thread that decodes.

    `riders`: a batch of eight costs hardly more than one. `max_partials`: so many fit into a batch
    that is over in the time that finals may have to wait.
    """

    decoders: tuple[Decoder, ...]
    compute_type: str
    riders: bool
    max_partials: int


def place(folder: Path, config: WhisperConfig, clock: Clock) -> Placed:
    """Load the model on each device, in the fastest form, and warm it up."""
    gpus = ctranslate2.get_cuda_device_count()
    device = config.device
    if device is Device.AUTO:
        device = Device.CUDA if gpus else Device.CPU
    indexes = _indexes(config, device, gpus)
    trials = []
    for compute_type in _candidates(config, device):
        for workers, threads in _layouts(config, device):
            decoder = CTranslateDecoder(
                folder,
                device=device.value,
                device_index=indexes[0],
                compute_type=compute_type,
                threads=threads,
                workers=workers,
            )
            took_ms = trial_ms(decoder, _TRIAL_WINDOWS, clock, workers=workers) / workers
            _log.info(
                "whisper_measured", device=device.value, type=compute_type, workers=workers,
                threads=threads, ms=round(took_ms),
            )  # fmt: skip
            trials.append(_Trial(took_ms, compute_type, workers, threads, decoder))
    best = min(trials, key=lambda trial: trial.took_ms)
    others = [
        CTranslateDecoder(
            folder, device=device.value, device_index=index, compute_type=best.compute_type,
            threads=best.threads,
        )
        for index in indexes[1:]
    ]  # fmt: skip
    for decoder in others:
        trial_ms(decoder, 1, clock)
    times_ms = {size: trial_ms(best.decoder, size, clock) for size in _TRIED_SIZES}
    growth = times_ms[_RIDING] / max(times_ms[1], 0.1)
    most = _max_partials(times_ms, config)
    _log.info(
        "whisper_ready", device=device.value, type=best.compute_type, devices=len(indexes),
        workers=best.workers, threads=best.threads, eight_cost_times=round(growth, 1),
        partials_in_a_batch=most,
    )  # fmt: skip
    decoders = (best.decoder,) * best.workers + tuple(others)
    return Placed(decoders, best.compute_type, growth < _RIDE_BELOW, most)


def _max_partials(times_ms: dict[int, float], config: WhisperConfig) -> int:
    """The most windows whose batch is over soon enough; where even eight are, any number."""
    fitting = [size for size, took_ms in times_ms.items() if took_ms <= config.partial_batch_ms]
    if max(fitting, default=1) == _RIDING:
        return config.max_batch
    return min(max(fitting, default=1), config.max_batch)


@dataclass(frozen=True, slots=True)
class _Trial:
    took_ms: float
    compute_type: str
    workers: int
    threads: int
    decoder: CTranslateDecoder


def _layouts(config: WhisperConfig, device: Device) -> list[tuple[int, int]]:
    """Ways to share the cores among batches, as workers and the threads of each."""
    cores = os.cpu_count() or 1
    if device is Device.CUDA:
        return [(1, 1)]
    if config.workers or config.threads:
        workers = config.workers or max(cores // config.threads, 1)
        return [(workers, config.threads or max(cores // workers, 1))]
    return [(1, cores), (cores, 1)] if cores > 1 else [(1, 1)]


def trial_ms(decoder: Decoder, windows: int, clock: Clock, *, workers: int = 1) -> float:
    """How long `workers` batches of so many short windows take together, the better of two."""
    request = trial_request(decoder)
    took = []
    with ThreadPoolExecutor(workers) as threads:
        for _ in range(2):
            began_ms = clock.now_ms()
            list(threads.map(decoder.decode, [[request] * windows] * workers))
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
