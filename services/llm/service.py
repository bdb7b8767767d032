"""Answers chat requests with an engine: how many at once, which models, which tools."""

from __future__ import annotations

from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

import structlog

from services.common.errors import LandlineError
from services.common.metrics import Counter, Gauge, Histogram
from services.llm.engine import Finished, Text, ToolCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from services.common.clock import Clock
    from services.llm.engine import ChatRequest, Engine, Piece

_ACTIVE = Gauge("landline_llm_requests_active", "Chat requests being answered")
_FINISHED = Counter("landline_llm_answers", "Answers by finish reason", ["reason"])
_ABANDONED = Counter("landline_llm_abandoned", "Answers whose reader went away")
_WITHHELD = Counter("landline_llm_tool_calls_withheld", "Calls of tools that were not offered")
_FIRST_TEXT = Histogram(
    "landline_llm_first_text_seconds",
    "From the request to the first text",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
)
_log = structlog.get_logger()


class UnknownModelError(LandlineError):
    """The request names a model that is not served here."""


class BusyError(LandlineError):
    """As many requests as allowed are being answered."""


class ChatService:
    """One engine, shared by all requests of the process."""

    def __init__(self, engine: Engine, clock: Clock, *, max_requests: int) -> None:
        self._engine = engine
        self._clock = clock
        self._max_requests = max_requests
        self._active = 0

    @property
    def models(self) -> tuple[str, ...]:
        return self._engine.models

    def check(self, request: ChatRequest) -> None:
        """UnknownModelError or BusyError when the request cannot be answered now."""
        if request.model not in self._engine.models:
            known = ", ".join(self._engine.models)
            raise UnknownModelError(f"there is no model {request.model!r}; served here: {known}")
        if self._active >= self._max_requests:
            raise BusyError(f"{self._max_requests} requests are being answered; try again")

    async def chat(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """Text, then tool calls, then Finished. Closing it early stops the engine."""
        started_ms = self._clock.now_ms()
        with self._counted():
            finished = False
            try:
                async with aclosing(self._engine.chat(request)) as pieces:
                    async for piece in pieces:
                        match piece:
                            case Text() if started_ms >= 0:
                                _FIRST_TEXT.observe((self._clock.now_ms() - started_ms) / 1000)
                                started_ms = -1.0
                            case ToolCall(name=name) if name not in request.tools:
                                _WITHHELD.inc()
                                _log.error("tool_call_withheld", tool=name)
                                continue
                            case Finished():
                                _FINISHED.labels(reason=piece.reason).inc()
                                finished = True
                        yield piece
            finally:
                if not finished:
                    _ABANDONED.inc()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._active += 1
        _ACTIVE.inc()
        try:
            yield
        finally:
            self._active -= 1
            _ACTIVE.dec()
