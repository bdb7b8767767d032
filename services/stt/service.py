"""The life of utterances: begun, heard, ended or cancelled, and answered exactly once.

One Session per call. A session whose stream breaks is parked for a while, and the next stream of
the same call takes it over: audio is known by its position, so nothing is decoded twice. Decoding
runs in a bounded pool of threads, in short pieces, so that calls
share the processor fairly and the event loop is never held up.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeAlias, TypeVar

import structlog

from services.common.audio import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from services.common.errors import LandlineError
from services.common.metrics import Counter, Gauge, Histogram
from services.stt.engine import DEFAULT_SLOT, EngineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from services.common.clock import Clock
    from services.stt.config import SttConfig
    from services.stt.engine import (
        Engine,
        Recogniser,
        Recognition,
        Slot,
        Utterance,
        Vocabulary,
    )

_STREAMS = Gauge("landline_stt_streams", "Calls that are listened to")
_REFUSED = Counter("landline_stt_streams_refused", "Calls refused because the service was full")
_RESUMED = Counter("landline_stt_streams_resumed", "Broken streams that were taken up again")
_GAPS = Counter("landline_stt_audio_missing_samples", "Samples that never came: taken for silence")
_UTTERANCES = Counter("landline_stt_utterances", "Utterances by what became of them", ["outcome"])
_DROPPED = Counter("landline_stt_audio_dropped_samples", "Samples thrown away", ["reason"])
_PARTIALS_DROPPED = Counter("landline_stt_partials_dropped", "Partials that nobody fetched in time")
_DECODE_MS = Histogram(
    "landline_stt_final_ms",
    "From the end of an utterance to its final result",
    buckets=(5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560),
)
_PIECE_BYTES = SAMPLE_RATE_HZ * BYTES_PER_SAMPLE // 2
_MAX_UNFINISHED = 8
_MAX_WAITING_RESULTS = 64
_MAX_GAP_SAMPLES = 5 * SAMPLE_RATE_HZ
_log = structlog.get_logger()

_P = ParamSpec("_P")
_T = TypeVar("_T")


class ServiceFullError(LandlineError):
    """More calls, or more utterances of one call, than the service takes."""


class ProtocolError(LandlineError):
    """The client asked for something that makes no sense; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """A first guess. `through_sample` is the position in the call up to which it is known."""

    utterance_id: str
    text: str
    through_sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """The one answer to an ended utterance."""

    utterance_id: str
    recognition: Recognition
    decode_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """An utterance of the stream before; audio from `next_sample` on is missing."""

    utterance_id: str
    next_sample: int


Result: TypeAlias = Partial | Final | Resumed


@dataclass(slots=True, kw_only=True)
class _Open:
    """An utterance between its begin and its answer."""

    utterance_id: str
    first_sample: int
    expect: tuple[str, ...]
    slot: Slot
    decoding: Utterance | None = None
    next_sample: int  # position of the audio that is to come
    waiting: bytearray = field(default_factory=bytearray)
    received_samples: int = 0
    decoded_samples: int = 0
    ended_ms: float | None = None
    cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    partial: str = ""
    partial_ms: float


class RecognitionService:
    """Admits calls and owns the threads that decode for them."""

    def __init__(self, engine: Engine, config: SttConfig, clock: Clock) -> None:
        self._engine = engine
        self._config = config
        self._clock = clock
        threads = engine.threads(config.max_streams) or config.threads
        self._threads = ThreadPoolExecutor(threads, "decode")
        self._sessions = 0
        self._calls: dict[str, Session] = {}

    def open(self) -> Session:
        """A place for one more call; ServiceFullError when there is none. Close it in the end."""
        if self._sessions >= self._config.max_streams:
            _REFUSED.inc()
            raise ServiceFullError(
                f"already listening to {self._sessions} calls, "
                "the most that [stt] max_streams allows"
            )
        if refusal := self._engine.refusal(self._sessions):
            _REFUSED.inc()
            raise ServiceFullError(refusal)
        self._sessions += 1
        _STREAMS.inc()
        return Session(self, self._engine, self._config, self._clock)

    def remember(self, call_id: str, session: Session) -> Session | None:
        """The session that may be resumed under this id from now on; the one before, if any."""
        before = self._calls.get(call_id)
        self._calls[call_id] = session
        return before

    def forget(self, call_id: str, session: Session) -> None:
        """The session is over, if it is still the one of its call."""
        if self._calls.get(call_id) is session:
            del self._calls[call_id]

    async def check(self) -> None:
        """Really decode something; EngineError when the engine cannot."""
        await asyncio.to_thread(self._engine.check)

    def release(self) -> None:
        """A session has closed."""
        self._sessions -= 1
        _STREAMS.dec()

    async def run(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """`work` in a decoding thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    def stop(self) -> None:
        """Let the threads end; call it when all sessions are closed."""
        self._engine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class Session:
    """One call. Requests come in by its methods, answers go out by `results`."""

    def __init__(
        self, service: RecognitionService, engine: Engine, config: SttConfig, clock: Clock
    ) -> None:
        self._service = service
        self._engine = engine
        self._clock = clock
        self._partial_interval_ms = config.partial_interval_ms
        self._max_samples = int(config.max_utterance_s * SAMPLE_RATE_HZ)
        self._idle_limit_s = config.idle_limit_s
        self._resume_limit_s = config.resume_limit_s
        self._resume_s = 0.0
        self._call_id = ""
        self._vocabulary: Vocabulary | None = None
        self._heir: Session | None = None
        self._closed = False
        self._ignored: str | None = None  # an utterance that is replayed though it is over
        self._answered: OrderedDict[str, Final] = OrderedDict()
        self._recogniser: Recogniser | None = None
        self._speaking: _Open | None = None
        self._unfinished: dict[str, _Open] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._results: asyncio.Queue[Result | LandlineError | None] = asyncio.Queue(
            _MAX_WAITING_RESULTS
        )

    async def configure(
        self, vocabulary: Vocabulary, *, call_id: str = "", resume_ms: int = 0
    ) -> None:
        """Say what the call may contain; VocabularyError when it cannot be recognised.

        With `resume_ms`, what a broken stream of the same call has left is taken over.
        """
        if self._recogniser is not None:
            raise ProtocolError("the stream is configured already")
        self._recogniser = await self._service.run(self._engine.prepare, vocabulary)
        self._resume_s = min(resume_ms / 1000, self._resume_limit_s) if call_id else 0.0
        self._vocabulary = vocabulary
        if self._resume_s > 0:
            self._call_id = call_id
            before = self._service.remember(call_id, self)
            if before is not None and before._vocabulary == vocabulary:
                await self._inherit(before)

    def begin(
        self,
        utterance_id: str,
        first_sample: int,
        expect: tuple[str, ...],
        slot: Slot = DEFAULT_SLOT,
    ) -> None:
        """Speech has begun at this position of the call."""
        if self._recogniser is None:
            raise ProtocolError("begin came before configure")
        self._ignored = None
        if self._resume_s > 0 and self._is_known(utterance_id):
            return
        if self._speaking is not None:
            raise ProtocolError(
                f"utterance {utterance_id!r} began before {self._speaking.utterance_id!r} "
                "was ended or cancelled"
            )
        if not utterance_id or utterance_id in self._unfinished:
            raise ProtocolError(f"utterance id {utterance_id!r} is empty or in use")
        if len(self._unfinished) >= _MAX_UNFINISHED:
            raise ServiceFullError(f"{_MAX_UNFINISHED} utterances of this call wait for results")
        opened = _Open(
            utterance_id=utterance_id,
            first_sample=first_sample,
            expect=expect,
            slot=slot,
            next_sample=first_sample,
            partial_ms=self._clock.now_ms(),
        )
        self._speaking = self._unfinished[utterance_id] = opened
        task = asyncio.create_task(self._recognise(opened, self._recogniser))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def audio(self, pcm: bytes, first_sample: int | None = None) -> None:
        """More audio of the open utterance; what cannot be used is dropped and counted.

        By its position in the call, `first_sample`, audio that came before is known, and audio that
        is missing becomes silence. Without it, the audio follows what came before.
        """
        samples, odd = divmod(len(pcm), BYTES_PER_SAMPLE)
        if odd:
            _DROPPED.labels(reason="odd_size").inc(samples)
            return
        speaking = self._speaking
        if speaking is None:
            reason = "no_utterance" if self._ignored is None else "repeated"
            _DROPPED.labels(reason=reason).inc(samples)
            return
        if first_sample is not None:
            pcm = _placed(speaking, first_sample, pcm)
            samples = len(pcm) // BYTES_PER_SAMPLE
        speaking.next_sample += samples
        taken = min(samples, self._max_samples - speaking.received_samples)
        if taken < samples:
            _DROPPED.labels(reason="utterance_too_long").inc(samples - taken)
        speaking.received_samples += taken
        speaking.waiting += pcm[: taken * BYTES_PER_SAMPLE]
        speaking.changed.set()

    def end(self, utterance_id: str) -> None:
        """Speech is over; a Final will follow."""
        if utterance_id == self._ignored:
            self._ignored = None
            return
        if self._speaking is None or self._speaking.utterance_id != utterance_id:
            raise ProtocolError(f"end of utterance {utterance_id!r}, which is not open")
        self._end(self._speaking)

    def cancel(self, utterance_id: str) -> None:
        """Forget the utterance. One that was answered in the meantime is no error."""
        if (cancelled := self._unfinished.get(utterance_id)) is not None:
            self._abandon(cancelled)

    async def results(self) -> AsyncIterator[Result]:
        """Answers as they come, until `finish`. EngineError or VocabularyError ends them."""
        while (result := await self._results.get()) is not None:
            if isinstance(result, LandlineError):
                raise result
            yield result

    async def finish(self) -> None:
        """No request will follow: ended utterances are still answered, an open one is dropped."""
        if self._speaking is not None:
            self._abandon(self._speaking)
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._results.put(None)

    async def fail(self, error: LandlineError) -> None:
        """End the results with this error."""
        await self._results.put(error)

    async def park(self) -> None:
        """The stream has broken: give the place back, and wait for the call to come back, if it
        may. Its utterances are heard to their end meanwhile."""
        if self._resume_s <= 0 or self._heir is not None or self._closed:
            await self.close()
            return
        self._closed = True
        self._service.release()
        await asyncio.sleep(self._resume_s)
        if self._heir is None:
            await self._drop()

    async def close(self) -> None:
        """Drop everything that is open and give the place back."""
        if not self._closed:
            self._closed = True
            self._service.release()
        if self._heir is None:
            await self._drop()

    async def _drop(self) -> None:
        self._service.forget(self._call_id, self)
        for opened in list(self._unfinished.values()):
            self._abandon(opened)
        # Results that nobody will fetch must not hold up the tasks that bring them.
        while self._tasks:
            while not self._results.empty():
                self._results.get_nowait()
            await asyncio.wait(self._tasks, timeout=0.05)

    async def _inherit(self, before: Session) -> None:
        """Go on with what the stream before has left, and end it if it is still there."""
        _RESUMED.inc()
        before._heir = self
        self._unfinished, self._tasks = before._unfinished, before._tasks
        self._answered, self._speaking = before._answered, before._speaking
        before._speaking = None
        for opened in self._unfinished.values():
            if not opened.cancelled:
                next_sample = opened.next_sample
                await self._emit(Resumed(utterance_id=opened.utterance_id, next_sample=next_sample))
        while not before._results.empty():
            result = before._results.get_nowait()
            if isinstance(result, Final):
                await self._emit(result)
        before._results.put_nowait(None)

    def _is_known(self, utterance_id: str) -> bool:
        """Whether this utterance goes on, or is over: then the answer is given again."""
        opened = self._unfinished.get(utterance_id)
        if opened is not None and not opened.cancelled and opened.ended_ms is None:
            self._speaking = opened
            return True
        answered = self._answered.get(utterance_id)
        if opened is None and answered is None:
            return False
        self._ignored = utterance_id
        if answered is not None and not self._results.full():
            self._results.put_nowait(answered)
        return True

    async def _emit(self, result: Result | LandlineError) -> None:
        """Hand over a result, to the stream that the call has now."""
        session = self
        while session._heir is not None:
            session = session._heir
        await session._results.put(result)

    def _end(self, opened: _Open) -> None:
        opened.ended_ms = self._clock.now_ms()
        opened.changed.set()
        if opened.decoding is not None:
            opened.decoding.hurry()
        if self._speaking is opened:
            self._speaking = None

    def _abandon(self, opened: _Open) -> None:
        opened.cancelled = True
        opened.waiting.clear()
        opened.changed.set()
        if opened.decoding is not None:
            opened.decoding.abandon()
        if self._speaking is opened:
            self._speaking = None

    async def _recognise(self, opened: _Open, recogniser: Recogniser) -> None:
        """The whole life of one utterance. It is never cancelled from outside: a thread may be
        using what it holds, so it looks at `cancelled` between pieces instead."""
        outcome = "failed"
        try:
            decoding = await self._service.run(recogniser.begin, opened.expect, opened.slot)
            opened.decoding = decoding
            try:
                outcome = await self._decode(opened, decoding)
            finally:
                await self._service.run(decoding.close)
        except LandlineError as error:
            await self._emit(error)
        except Exception as error:
            _log.exception("recognition_failed", utterance_id=opened.utterance_id)
            await self._emit(EngineError(f"recognition failed: {error}"))
        finally:
            del self._unfinished[opened.utterance_id]
            _UTTERANCES.labels(outcome=outcome).inc()

    async def _decode(self, opened: _Open, decoding: Utterance) -> str:
        while not opened.cancelled:
            if opened.waiting:
                piece = bytes(opened.waiting[:_PIECE_BYTES])
                del opened.waiting[:_PIECE_BYTES]
                await self._service.run(decoding.accept, piece)
                opened.decoded_samples += len(piece) // BYTES_PER_SAMPLE
                await self._offer_partial(opened, decoding)
            elif opened.ended_ms is not None:
                recognition = await self._service.run(decoding.finish)
                return await self._answer(opened, recognition, opened.ended_ms)
            else:
                await self._until_changed(opened)
        return "cancelled"

    async def _until_changed(self, opened: _Open) -> None:
        """More audio, or the end; an utterance that nobody feeds any more is ended here."""
        opened.changed.clear()
        try:
            async with asyncio.timeout(self._idle_limit_s):
                await opened.changed.wait()
        except TimeoutError:
            _log.warning("utterance_forgotten", utterance_id=opened.utterance_id)
            self._ignored = opened.utterance_id
            self._end(opened)

    async def _offer_partial(self, opened: _Open, decoding: Utterance) -> None:
        now_ms = self._clock.now_ms()
        due = now_ms - opened.partial_ms >= self._partial_interval_ms
        if not due or opened.ended_ms is not None or opened.cancelled:
            return
        text = await self._service.run(decoding.partial)
        opened.partial_ms = now_ms
        if text == opened.partial or opened.cancelled:
            return
        opened.partial = text
        through = opened.first_sample + opened.decoded_samples
        partial = Partial(utterance_id=opened.utterance_id, text=text, through_sample=through)
        # Half of the queue is kept for finals, which must not wait for partials.
        if self._results.qsize() < _MAX_WAITING_RESULTS // 2:
            await self._emit(partial)
        else:
            _PARTIALS_DROPPED.inc()

    async def _answer(self, opened: _Open, recognition: Recognition, ended_ms: float) -> str:
        if opened.cancelled:
            return "cancelled"
        decode_ms = round(self._clock.now_ms() - ended_ms)
        _DECODE_MS.observe(decode_ms)
        final = Final(
            utterance_id=opened.utterance_id, recognition=recognition, decode_ms=decode_ms
        )
        self._answered[opened.utterance_id] = final
        if len(self._answered) > _MAX_WAITING_RESULTS:
            self._answered.popitem(last=False)
        await self._emit(final)
        if recognition.rejected:
            return "rejected"
        return "recognised" if recognition.text else "silence"


def _placed(opened: _Open, first_sample: int, pcm: bytes) -> bytes:
    """The part of the audio that is new, after silence for what is missing before it."""
    missing = first_sample - opened.next_sample
    if missing < 0:
        known = min(-missing, len(pcm) // BYTES_PER_SAMPLE)
        _DROPPED.labels(reason="repeated").inc(known)
        return pcm[known * BYTES_PER_SAMPLE :]
    filled = min(missing, _MAX_GAP_SAMPLES)
    _GAPS.inc(missing)
    opened.next_sample = first_sample - filled
    return bytes(filled * BYTES_PER_SAMPLE) + pcm
