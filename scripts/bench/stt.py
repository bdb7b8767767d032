#!/usr/bin/env python
"""How many live calls one recogniser bears: batched over calls, one at a time, and padded to 30 s.

    scripts/bench/stt.py [--quick] [--json FILE] [--size tiny|base|small|large-v3-turbo]

Each call speaks 5 s in every 10 s. While it speaks it wants a partial each 400 ms, over the last
words, of which the first are forced, and what is new; then a final of 30 tokens. A number of calls
counts when the 95th percentile of the finals is at most 300 ms and at most 5 % of the partials were
dropped as stale. Times of words are not asked for.

The model has true dimensions and random weights, so times are true and texts are not. All three
ways run the same requests through the same scheduler; one at a time is a batch of one. Each has
one worker with all cores or one worker on each core, whichever bears more. The numbers are found in
virtual time: the schedule runs as in service, and a batch lasts as long as the best of several
measurements of such a batch with the other workers busy too; for workers of one thread, its
processor time, so that other work on the machine does not count. Then that many calls are run in
real time through the service's own batcher; `confirmed_` is how many passed there, which on a
machine that does other work is fewer.
"""

from __future__ import annotations

import argparse
import heapq
import os
import resource
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from report import percentile, publish

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "proto" / "gen")]

import ctranslate2  # noqa: E402

from services.common.clock import SystemClock  # noqa: E402
from services.stt.engines.whisper.batcher import Batcher  # noqa: E402
from services.stt.engines.whisper.ctranslate import CTranslateDecoder  # noqa: E402
from services.stt.engines.whisper.decoding import Request  # noqa: E402
from services.stt.engines.whisper.scheduler import Batch, Job, Kind, Schedule  # noqa: E402
from services.stt.engines.whisper.tokens import Prompt  # noqa: E402
from tests.fakes import whisper_model  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SPEECH_MS, CYCLE_MS, PARTIAL_MS = 5_000, 10_000, 400
FINAL_TOKENS, FORCED_TOKENS, UNAGREED_TOKENS = 30, 4, 6
PARTIAL_WINDOW_MS = 2_000  # that the engine keeps in partials
FINAL_LIMIT_MS, STALE_LIMIT = 300.0, 0.05
PARTIAL_AGE_MS, WINDOW_MS = 400.0, 6.0
PRE_ROLL_MS, TAIL_MS = 300, 200  # around the speech
_MOST_CALLS = 4_096
REPEATS = 3  # of a measurement, of which the best counts: others may be using the machine
WINDOWS_MS = (2_000, 3_000, 6_000, 12_000, 20_000, 30_000)
SIZES = {
    "tiny": whisper_model.TINY,
    "base": whisper_model.BASE,
    "small": whisper_model.SMALL,
    "large-v3-turbo": whisper_model.LARGE_V3_TURBO,
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One decoding that a call wants at a time."""

    at_ms: float
    call: int
    kind: Kind
    frames: int
    prefix: int
    tokens: int


@dataclass(slots=True)
class Outcome:
    """What became of the decodings of a run."""

    finals_ms: list[float] = field(default_factory=list)
    partials: int = 0
    stale: int = 0
    batches: list[int] = field(default_factory=list)
    calls: int = 0
    cpu_s: float = 0.0

    def passes(self) -> bool:
        late = percentile(self.finals_ms, 95)
        return (
            late is not None
            and late <= FINAL_LIMIT_MS
            and self.stale <= STALE_LIMIT * max(self.partials, 1)
        )


@dataclass(frozen=True, slots=True)
class Way:
    """How decodings are grouped: workers, cores of each, batch size, and the padding."""

    name: str
    workers: int
    threads: int
    max_batch: int
    padded: bool = False
    max_partials: int | None = None


def wishes(calls: int, seconds: float, *, padded: bool) -> Iterator[Wanted]:
    """All decodings of so many calls, which begin evenly spread over a cycle, in order of time."""
    waiting: list[tuple[float, int, Wanted]] = []
    number = 0
    for call in range(calls):
        begin = call * CYCLE_MS / calls
        while begin + SPEECH_MS < seconds * 1000:
            for spoken in (*range(PARTIAL_MS, SPEECH_MS, PARTIAL_MS), SPEECH_MS):
                number += 1
                final = spoken == SPEECH_MS
                said = round(FINAL_TOKENS * spoken / SPEECH_MS)
                new = said if final else min(said, UNAGREED_TOKENS)
                prefix = min(said - new, FORCED_TOKENS)
                heard = spoken + PRE_ROLL_MS
                heard = heard + TAIL_MS if final else min(heard, PARTIAL_WINDOW_MS)
                window = next(size for size in WINDOWS_MS if size >= heard)
                wanted = Wanted(
                    begin + spoken,
                    call,
                    Kind.FINAL if final else Kind.PARTIAL,
                    (WINDOWS_MS[-1] if padded else window) // 10,
                    prefix,
                    new,
                )
                heapq.heappush(waiting, (wanted.at_ms, number, wanted))
            begin += CYCLE_MS
    while waiting:
        yield heapq.heappop(waiting)[2]


def request_of(decoder: CTranslateDecoder, wanted: Wanted) -> Request:
    noise = np.random.default_rng(wanted.call).standard_normal((decoder.mels, wanted.frames))
    words = tuple(1_000 + index for index in range(wanted.prefix))
    return Request(
        features=(noise * 0.1).astype(np.float32),
        frames=wanted.frames,
        prompt=Prompt(previous=(), task=decoder.tokens.task("en"), prefix=words),
        language="en",
        max_tokens=wanted.tokens,
    )


_LOADS = {  # forced and new tokens
    Kind.FINAL: (0, FINAL_TOKENS),
    Kind.PARTIAL: (FORCED_TOKENS, UNAGREED_TOKENS),
}


class Costs:
    """Measured times of batches, by size, window and tokens; between them, by proportion."""

    def __init__(
        self,
        decoder: CTranslateDecoder,
        layout: tuple[int, int],
        max_batch: int,
        windows: Sequence[tuple[Kind, int]],
    ) -> None:
        self._sizes = [size for size in (1, 2, 4, 8, 16, 32) if size <= max_batch]
        self._times: dict[tuple[int, int, Kind], float] = {}
        for kind, window in windows:
            prefix, tokens = _LOADS[kind]
            request = request_of(decoder, Wanted(0.0, 1, kind, window, prefix, tokens))
            for size in self._sizes:
                self._times[window, size, kind] = _best_ms(decoder, layout, [request] * size)

    def of(self, jobs: Sequence[tuple[int, Kind]]) -> float:
        """Milliseconds for a batch of windows, given as frames and kind."""
        kind = min(kind for _, kind in jobs)
        frames, size = jobs[0][0], len(jobs)
        below = max(known for known in self._sizes if known <= size)
        above = min((known for known in self._sizes if known >= size), default=below)
        low, high = self._times[frames, below, kind], self._times[frames, above, kind]
        return low if above == below else low + (high - low) * (size - below) / (above - below)

    def __str__(self) -> str:
        return ", ".join(
            f"{kind.name.lower()} {size} x {time_ms / size:.0f} ms"
            for (_, size, kind), time_ms in self._times.items()
        )

    def each(self, frames: int, size: int, kind: Kind) -> float:
        """Milliseconds of a batch by its windows."""
        return self._times[frames, size, kind] / size


def _best_ms(decoder: CTranslateDecoder, way: tuple[int, int], requests: list[Request]) -> float:
    """A batch on each worker at a time: how long one takes."""
    workers, threads = way

    def once(_: int) -> float:
        began = time.perf_counter()
        decoder.decode(requests)
        return (time.perf_counter() - began) * 1000

    took = []
    with ThreadPoolExecutor(workers) as pool:
        for _ in range(REPEATS):
            began = time.process_time()
            wall = list(pool.map(once, range(workers)))
            cpu = (time.process_time() - began) * 1000 / workers
            took.append(cpu if threads == 1 and decoder.on_cpu else float(np.mean(wall)))
    return min(took)


def schedule_of(way: Way) -> Schedule:
    return Schedule(
        max_batch=way.max_batch,
        max_partials=way.max_partials,
        window_ms=WINDOW_MS if way.max_batch > 1 else 0.0,
        partial_age_ms=PARTIAL_AGE_MS,
        riders=False,
    )


def simulate(way: Way, costs: Costs, calls: int, seconds: float) -> Outcome:
    """The run in virtual time: the same schedule, batches last as long as measured."""
    outcome, schedule = Outcome(), schedule_of(way)
    coming = list(wishes(calls, seconds, padded=way.padded))[::-1]
    free = [0.0] * way.workers
    jobs: dict[int, Wanted] = {}
    now = 0.0
    while coming or len(schedule):
        while coming and coming[-1].at_ms <= now:
            wanted = coming.pop()
            number = len(jobs)
            jobs[number] = wanted
            shape = replace(_SHAPE, frames=wanted.frames)
            job = Job(
                number=number, stream=wanted.call, kind=wanted.kind, shape=shape,
                queued_ms=wanted.at_ms, deadline_ms=1e12,
            )  # fmt: skip
            outcome.partials += wanted.kind is Kind.PARTIAL
            outcome.stale += len(schedule.add(job))
        worker = min(range(way.workers), key=free.__getitem__)
        upcoming = coming[-1].at_ms if coming else float("inf")
        if free[worker] > now:
            now = min(free[worker], upcoming) if len(schedule) else upcoming
            continue
        decision, dropped = schedule.next(now)
        outcome.stale += len(dropped)
        if isinstance(decision, Batch):
            batch = [jobs[job.number] for job in decision.jobs]
            free[worker] = now + costs.of([(item.frames, item.kind) for item in batch])
            outcome.batches.append(len(batch))
            outcome.finals_ms += [
                free[worker] - item.at_ms for item in batch if item.kind is Kind.FINAL
            ]
        else:
            until = decision.until_ms if decision.until_ms is not None else float("inf")
            now = min(until, upcoming)
    return outcome


def run(way: Way, decoder: CTranslateDecoder, calls: int, seconds: float) -> Outcome:
    """The run in real time, through the batcher that the service uses."""
    outcome, lock = Outcome(), threading.Lock()
    clock = SystemClock()
    sizes: list[int] = []
    batcher = Batcher(
        [_Counting(decoder, sizes)] * way.workers,  # type: ignore[list-item]
        schedule_of(way),
        clock,
        load_limit=1.0,
    )
    wanted = list(wishes(calls, seconds, padded=way.padded))
    requests = [request_of(decoder, item) for item in wanted]
    tickets = []
    began = clock.now_ms()
    cpu = resource.getrusage(resource.RUSAGE_SELF)

    def note(item: Wanted) -> Callable[[object], None]:
        def done(future: object) -> None:
            delay = clock.now_ms() - began - item.at_ms
            with lock:
                if item.kind is Kind.FINAL:
                    outcome.finals_ms.append(delay)
                else:
                    outcome.stale += future.result() is None  # type: ignore[attr-defined]

        return done

    for item, request in zip(wanted, requests, strict=True):
        time.sleep(max(began + item.at_ms - clock.now_ms(), 0) / 1000)
        outcome.partials += item.kind is Kind.PARTIAL
        ticket = batcher.submit(request, item.kind, item.call, 60_000)
        ticket.result.add_done_callback(note(item))
        tickets.append(ticket)
    for ticket in tickets:
        ticket.wait(30)
    batcher.close()
    after = resource.getrusage(resource.RUSAGE_SELF)
    outcome.cpu_s = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
    outcome.batches, outcome.calls = sizes, calls
    return outcome


class _Counting:
    """A decoder that notes how large its batches were."""

    def __init__(self, decoder: CTranslateDecoder, sizes: list[int]) -> None:
        self.tokens, self.mels = decoder.tokens, decoder.mels
        self._decoder, self._sizes = decoder, sizes

    def decode(self, requests: Sequence[Request]) -> object:
        self._sizes.append(len(requests))
        return self._decoder.decode(requests)


def most_calls(way: Way, costs: Costs) -> int:
    """The largest number of calls that passes in virtual time, by halving what is left."""
    passes, fails = 0, 1
    while fails <= _MOST_CALLS and simulate(way, costs, fails, 40).passes():
        passes, fails = fails, 2 * fails
    while fails - passes > 1:
        middle = (passes + fails) // 2
        if simulate(way, costs, middle, 40).passes():
            passes = middle
        else:
            fails = middle
    return passes


def confirmed(
    way: Way, decoder: CTranslateDecoder, calls: int, seconds: float, tries: int
) -> tuple[int, Outcome]:
    """The number found, or the next smaller one that passes in real time; 0 when none does."""
    outcome = Outcome()
    for _ in range(tries):
        if calls < 1:
            break
        outcome = run(way, decoder, calls, seconds)
        print(
            f"  {way.name}: {calls} calls, finals p95 {percentile(outcome.finals_ms, 95)} ms, "
            f"{outcome.stale} of {outcome.partials} partials stale",
            flush=True,
        )
        if outcome.passes():
            return calls, outcome
        calls = min(calls - 1, round(calls * 0.9))
    return 0, outcome


_SHAPE = Request(
    features=np.zeros((80, 1), np.float32), frames=1, language="en", max_tokens=1,
    prompt=Prompt(previous=(), task=(0, 0, 0, 0)),
).shape  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds; ends within 50 s")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    cores = os.cpu_count() or 1
    cpu = options.device == "cpu"
    seconds, tries = (CYCLE_MS / 1000 + 1, 1) if options.quick else (3 * CYCLE_MS / 1000 + 1, 5)
    layouts = [(1, cores), (cores, 1)] if cpu and cores > 1 else [(1, 1)]
    if options.quick:
        layouts = layouts[-1:]
    max_batch = 8 if cpu else 32
    short = ((Kind.FINAL, 600), (Kind.PARTIAL, 200))
    long = ((Kind.FINAL, 3_000), (Kind.PARTIAL, 3_000))
    found: dict[str, tuple[int, Way, CTranslateDecoder]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = whisper_model.make(Path(folder) / "model", SIZES[options.size])
        for workers, threads in layouts:
            decoder = CTranslateDecoder(
                model, device=options.device, device_index=0, threads=threads, workers=workers,
                compute_type="int8" if cpu else "float16",
            )  # fmt: skip
            costs = Costs(decoder, (workers, threads), max_batch, short)
            # Batches of padded windows gain nothing beyond two on a processor.
            padded_batch = 2 if cpu else 16
            padded_costs = Costs(decoder, (workers, threads), padded_batch, long)
            print(f"  {workers} workers of {threads} threads: {costs}", flush=True)
            batches = [
                Way("batched", workers, threads, max_batch, max_partials=most)
                for most in (2, 4, max_batch)
            ]
            for way, cost in (
                *((way, costs) for way in batches),
                (Way("one at a time", workers, threads, 1), costs),
                (Way("padded to 30 s", workers, threads, padded_batch, padded=True), padded_costs),
            ):
                calls = most_calls(way, cost)
                if way.name not in found or calls > found[way.name][0]:
                    found[way.name] = calls, way, decoder
                    if way.name == "batched":
                        short_costs = costs
        calls, batched, decoder = found["batched"]
        single, single_way, single_decoder = found["one at a time"]
        padded_calls = found["padded to 30 s"][0]
        confirmed_calls, outcome = confirmed(batched, decoder, calls, seconds, tries)
        confirmed_single, _ = confirmed(single_way, single_decoder, single, seconds, tries)
        encoding = {
            f"encode_{frames // 100}s_ms": round(encode_ms(decoder, frames), 1)
            for frames in (200, 600, 3_000)
        }
    publish(
        {
            "peer": None,
            "model": f"{options.size} dimensions, random weights",
            "device": options.device,
            "streams_batched": calls,
            "streams_single": single,
            "batched_workers": batched.workers,
            "batched_max_partials": batched.max_partials,
            "single_workers": single_way.workers,
            "streams_padded30": padded_calls,
            "confirmed_batched": confirmed_calls or None,
            "confirmed_single": confirmed_single or None,
            "ratio": round(calls / single, 2) if single else None,
            "ratio_to_padded30": round(calls / padded_calls, 2) if padded_calls else None,
            "final_delay_p50_ms": percentile(outcome.finals_ms, 50),
            "final_delay_p95_ms": percentile(outcome.finals_ms, 95),
            "mean_batch": round(float(np.mean(outcome.batches)), 2) if outcome.batches else None,
            "cpu_percent_per_call": round(100 * outcome.cpu_s / seconds / outcome.calls, 1)
            if outcome.calls
            else None,
            "final_alone_ms": round(short_costs.each(600, 1, Kind.FINAL), 1),
            "final_of_8_each_ms": round(short_costs.each(600, 8, Kind.FINAL), 1),
            "partial_alone_ms": round(short_costs.each(200, 1, Kind.PARTIAL), 1),
            "partial_of_8_each_ms": round(short_costs.each(200, 8, Kind.PARTIAL), 1),
            **encoding,
            "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        },
        options.json,
    )


def encode_ms(decoder: CTranslateDecoder, frames: int) -> float:
    """The encoder alone, over one window."""
    features = np.zeros((1, decoder.mels, frames), np.float32)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        np.array(decoder.model.encode(ctranslate2.StorageView.from_array(features), to_cpu=True))
        took.append((time.perf_counter() - began) * 1000)
    return min(took)


if __name__ == "__main__":
    main()
