"""The agent's voice on one call: clauses become audio, and it is known what was heard of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.agent.conversation import Piece
from services.common.audio import bytes_to_ms
from services.common.errors import LandlineError
from services.common.metrics import Counter

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.agent.clients.tts import TtsClient
    from services.agent.line import Cleared, Line, Played
    from services.common.clock import Clock

_DROPPED = Counter("landline_agent_clauses_dropped", "Clauses of a reply that had far too many")
_CLEAR_TIMEOUT_S = 1.0
_MAX_PIECES = 200


class PieceTiming:
    """When a piece was asked for, and when its first sound left for the gateway."""

    __slots__ = ("asked_ms", "first_audio_ms")

    def __init__(self, asked_ms: float) -> None:
        self.asked_ms = asked_ms
        self.first_audio_ms: float | None = None


class Voice:
    """Speaks pieces one after the other. `cut` silences it and settles what was heard.

    `on_first_audio(piece)` is called when the first sound of a piece goes out, and
    `on_heard(piece)` once for each piece, when it has been played or cut.
    """

    def __init__(
        self,
        line: Line,
        tts: TtsClient,
        clock: Clock,
        *,
        call_id: str,
        voice: str,
        language: str,
        on_first_audio: Callable[[Piece, PieceTiming], None],
        on_heard: Callable[[Piece], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._line = line
        self._tts = tts
        self._clock = clock
        self._call_id = call_id
        self._voice = voice
        self._language = language
        self._on_first_audio = on_first_audio
        self._on_heard = on_heard
        self._on_failure = on_failure
        self._to_make: asyncio.Queue[tuple[Piece, PieceTiming]] = asyncio.Queue(_MAX_PIECES)
        self._open: dict[str, Piece] = {}  # queued, being made or being played
        self._unmade: set[str] = set()
        self.last: Piece | None = None  # the piece that was asked for last
        self._settled = asyncio.Condition()
        self._making: asyncio.Task[None] | None = None
        self._cleared: dict[str, asyncio.Future[Cleared]] = {}
        self._numbers = 0

    def say(self, text: str, *, turn: int = 0, filler: bool = False) -> Piece:
        """Queue a clause; it is spoken when those before it have been."""
        self._numbers += 1
        self.last = piece = Piece(f"m{self._numbers}", text, turn=turn, filler=filler)
        try:
            self._to_make.put_nowait((piece, PieceTiming(self._clock.now_ms())))
        except asyncio.QueueFull:
            _DROPPED.inc()
            piece.cut = True
            return piece
        self._open[piece.mark] = piece
        self._unmade.add(piece.mark)
        return piece

    async def run(self) -> None:
        """Make the queued pieces, for as long as the call lasts."""
        while True:
            piece, timing = await self._to_make.get()
            if not piece.cut:
                await self._make_guarded(piece, timing)
            self._unmade.discard(piece.mark)
            await self._announce_settled()

    @property
    def speaking(self) -> bool:
        """Whether anything is being made or played."""
        return bool(self._open)

    async def all_made(self) -> None:
        """Wait until all that was queued is made; it may still be playing."""
        async with self._settled:
            await self._settled.wait_for(lambda: not self._unmade)

    def settle_all(self) -> None:
        """The line is gone: what the gateway last reported is what was heard."""
        for piece in list(self._open.values()):
            self._settle(piece, cut=True)

    async def all_heard(self) -> None:
        """Wait until nothing is left to be made or played."""
        async with self._settled:
            await self._settled.wait_for(lambda: not self._open)

    async def cut(self) -> None:
        """Stop speaking at once, and learn from the gateway what had been heard."""
        if not self._open:
            return
        cut = list(self._open.values())
        for piece in cut:
            piece.cut = True
        if self._making is not None:
            self._making.cancel()
        self._numbers += 1
        clear_id = f"c{self._numbers}"
        answer: asyncio.Future[Cleared] = asyncio.get_running_loop().create_future()
        self._cleared[clear_id] = answer
        await self._line.clear(clear_id)
        try:
            async with asyncio.timeout(_CLEAR_TIMEOUT_S):
                for played in (await answer).marks:
                    if (heard := self._open.get(played.mark)) is not None:
                        heard.played_ms = played.played_ms
        except TimeoutError:
            pass  # the last Played report of each piece stands
        finally:
            del self._cleared[clear_id]
        for piece in cut:
            self._settle(piece, cut=not piece.finished)
        await self._announce_settled()

    async def played(self, event: Played) -> None:
        """The gateway says how much of a piece has been played."""
        if (piece := self._open.get(event.mark)) is None:
            return
        piece.played_ms = event.played_ms
        if event.finished:
            piece.finished = True
            self._settle(piece, cut=False)
            await self._announce_settled()

    def cleared(self, event: Cleared) -> None:
        """The gateway's answer to a clear."""
        answer = self._cleared.get(event.clear_id)
        if answer is not None and not answer.done():
            answer.set_result(event)

    async def _make_guarded(self, piece: Piece, timing: PieceTiming) -> None:
        """Make one piece in a task of its own, so that `cut` can end it and nothing else."""
        self._making = asyncio.create_task(self._make(piece, timing))
        try:
            await asyncio.wait([self._making])
        finally:
            self._making.cancel()
        if self._making.cancelled() or (error := self._making.exception()) is None:
            return
        self._settle(piece, cut=True)
        if not isinstance(error, LandlineError):
            raise error
        self._on_failure(error)

    async def _make(self, piece: Piece, timing: PieceTiming) -> None:
        stream = self._tts.synthesize(
            self._call_id, piece.text, voice=self._voice, language=self._language
        )
        async for audio in stream:
            piece.words.extend(audio.words)
            if not audio.pcm:
                continue
            if timing.first_audio_ms is None:
                timing.first_audio_ms = self._clock.now_ms()
                self._on_first_audio(piece, timing)
            piece.made_ms += bytes_to_ms(len(audio.pcm))
            await self._line.play(piece.mark, audio.pcm, last=False)
        await self._line.play(piece.mark, b"", last=True)

    def _settle(self, piece: Piece, *, cut: bool) -> None:
        if self._open.pop(piece.mark, None) is not None:
            piece.cut = cut
            self._on_heard(piece)

    async def _announce_settled(self) -> None:
        async with self._settled:
            self._settled.notify_all()
