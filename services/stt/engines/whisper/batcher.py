"""Decodes requests of many calls in batches, one thread for each device.

`Schedule` decides, this module waits, decodes and hands out results. What goes wrong in a batch is
tried again one by one, so that one request never spoils another's.
"""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from services.common.metrics import Counter, Gauge, Histogram
from services.stt.engine import EngineError
from services.stt.engines.whisper.admission import Load
from services.stt.engines.whisper.mel import FRAME_MS
from services.stt.engines.whisper.scheduler import Batch, DropReason, Job, Kind, Schedule

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from services.common.clock import Clock
    from services.stt.engines.whisper.decoding import Decoded, Decoder, Request
    from services.stt.engines.whisper.scheduler import Dropped

_QUEUE = Gauge("landline_stt_queue", "Windows of speech that wait for a batch")
_BATCH_SIZE = Histogram(
    "landline_stt_batch_size", "Windows decoded together", buckets=(1, 2, 4, 8, 16, 32, 64)
)
_BATCH_MS = Histogram(
    "landline_stt_batch_ms",
    "Time that a batch takes on its device",
    buckets=(5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560),
)
_WAITED_MS = Histogram(
    "landline_stt_queue_ms",
    "Time that a window waits until its batch begins",
    ["kind"],
    buckets=(1, 2, 5, 10, 20, 40, 80, 160, 320, 640, 1280),
)
_PARTIAL_AGE_MS = Histogram(
    "landline_stt_partial_age_ms",
    "Age of a partial when it is ready, from the audio it was asked with",
    buckets=(10, 20, 40, 80, 160, 320, 640, 1280),
)
_JOBS_DROPPED = Counter("landline_stt_jobs_dropped", "Windows never decoded", ["kind", "reason"])
_FACTOR = Gauge("landline_stt_real_time_factor", "Device time by speech decoded, in the last batch")
_LOAD = Gauge("landline_stt_load", "Share of the time that the devices decode")
_FAILED = Counter("landline_stt_batches_failed", "Batches that the device could not decode")
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request under way. Its result is None when it was cancelled or is of no use any more."""

    number: int
    result: Future[Decoded | None]

    def wait(self, timeout_s: float | None = None) -> Decoded | None:
        """The result; None too when it does not come in time. EngineError when decoding failed."""
        try:
            return self.result.result(timeout_s)
        except TimeoutError:
            return None


class Batcher:
    """Takes requests from any thread. `close` lets its threads end."""

    def __init__(
        self, decoders: Sequence[Decoder], schedule: Schedule, clock: Clock, *, load_limit: float
    ) -> None:
        self._schedule = schedule
        self._clock = clock
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[Request, Ticket]] = {}
        self._load = Load(devices=len(decoders), limit=load_limit)
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, args=(decoder,), name=f"batches-{number}")
            for number, decoder in enumerate(decoders)
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def submit(self, request: Request, kind: Kind, stream: Hashable, within_ms: float) -> Ticket:
        """Queue a request; it is dropped when its batch has not begun `within_ms` from now."""
        with self._changed:
            number = next(self._numbers)
            ticket = Ticket(number, Future())
            if self._closed:
                ticket.result.set_result(None)
                return ticket
            now_ms = self._clock.now_ms()
            job = Job(
                number=number,
                stream=stream,
                kind=kind,
                shape=request.shape,
                queued_ms=now_ms,
                deadline_ms=now_ms + within_ms,
            )
            self._waiting[number] = (request, ticket)
            self._forget(self._schedule.add(job))
            _QUEUE.set(len(self._schedule))
            self._changed.notify()
            return ticket

    def __len__(self) -> int:
        """How many requests wait for a batch."""
        with self._changed:
            return len(self._schedule)

    def cancel(self, ticket: Ticket) -> None:
        """The result is not wanted: whoever waits for it gets None at once."""
        with self._changed:
            if self._schedule.cancel(ticket.number):
                self._waiting.pop(ticket.number, None)
                _QUEUE.set(len(self._schedule))
        _answer(ticket, None)

    def refusal(self, streams: int) -> str:
        """Why the devices cannot bear one more call than these; empty when they can."""
        with self._changed:
            return self._load.refusal(self._clock.now_ms(), streams)

    def close(self) -> None:
        """Answer everything that waits with None and end when the running batches are done."""
        with self._changed:
            self._closed = True
            waiting = [ticket for _, ticket in self._waiting.values()]
            for ticket in waiting:
                self._schedule.cancel(ticket.number)
            self._waiting.clear()
            self._changed.notify_all()
        for ticket in waiting:
            _answer(ticket, None)
        for thread in self._threads:
            thread.join(10)

    def _run(self, decoder: Decoder) -> None:
        while (jobs := self._next()) is not None:
            began_ms = self._clock.now_ms()
            self._decode(decoder, jobs)
            self._account(jobs, began_ms)

    def _next(self) -> list[tuple[Job, Request, Ticket]] | None:
        """Wait for a batch; None when there will be none."""
        with self._changed:
            while not self._closed:
                now_ms = self._clock.now_ms()
                decision, dropped = self._schedule.next(now_ms)
                self._forget(dropped)
                _QUEUE.set(len(self._schedule))
                if isinstance(decision, Batch):
                    return [(job, *self._waiting.pop(job.number)) for job in decision.jobs]
                until_ms = decision.until_ms
                wait_s = None if until_ms is None else max(until_ms - now_ms, 0.0) / 1000
                self._changed.wait(wait_s)
            return None

    def _decode(self, decoder: Decoder, jobs: list[tuple[Job, Request, Ticket]]) -> None:
        try:
            results = decoder.decode([request for _, request, _ in jobs])
        except Exception as error:
            _FAILED.inc()
            _log.exception("batch_failed", size=len(jobs))
            if len(jobs) > 1:
                for one in jobs:
                    self._decode(decoder, [one])
                return
            known = error if isinstance(error, EngineError) else EngineError(str(error))
            with suppress(InvalidStateError):
                jobs[0][2].result.set_exception(known)
            return
        now_ms = self._clock.now_ms()
        for (job, _, ticket), result in zip(jobs, results, strict=True):
            if job.kind is Kind.PARTIAL:
                _PARTIAL_AGE_MS.observe(now_ms - job.queued_ms)
            _answer(ticket, result)

    def _account(self, jobs: list[tuple[Job, Request, Ticket]], began_ms: float) -> None:
        ended_ms = self._clock.now_ms()
        with self._changed:
            self._load.decoded(began_ms, ended_ms)
            _LOAD.set(self._load.share(ended_ms))
        speech_ms = sum(request.features.shape[1] * FRAME_MS for _, request, _ in jobs)
        _FACTOR.set((ended_ms - began_ms) / max(speech_ms, FRAME_MS))
        _BATCH_SIZE.observe(len(jobs))
        _BATCH_MS.observe(ended_ms - began_ms)
        for job, _, _ in jobs:
            _WAITED_MS.labels(kind=job.kind.name.lower()).observe(began_ms - job.queued_ms)

    def _forget(self, dropped: list[Dropped]) -> None:
        for item in dropped:
            _JOBS_DROPPED.labels(kind=item.job.kind.name.lower(), reason=item.reason.value).inc()
            if item.reason is DropReason.LATE:
                _log.warning("decoding_too_late", kind=item.job.kind.name.lower())
            _, ticket = self._waiting.pop(item.job.number)
            _answer(ticket, None)


def _answer(ticket: Ticket, result: Decoded | None) -> None:
    """Who has cancelled has been answered already."""
    with suppress(InvalidStateError):
        ticket.result.set_result(result)
