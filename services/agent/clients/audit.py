"""Sends what happened to the audit service, in order, and keeps it until it is on disk there."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import structlog
from landline.audit.v1 import audit_pb2, audit_pb2_grpc

from services.common.errors import LandlineError
from services.common.metrics import Counter, Gauge

if TYPE_CHECKING:
    from services.common.clock import Clock

_WAITING = Gauge("landline_agent_audit_waiting", "Events not yet acknowledged by the audit service")
_DROPPED = Counter("landline_agent_audit_dropped", "Events that are not on record", ["reason"])
_BATCH = 256
_log = structlog.get_logger()


class AuditUnavailableError(LandlineError):
    """An event that had to be on record was not acknowledged in time."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    event: audit_pb2.Event
    acknowledged: asyncio.Future[None] | None

    @property
    def abandoned(self) -> bool:
        return self.acknowledged is not None and self.acknowledged.cancelled()


class AuditClient:
    """One ordered, bounded queue for the process. `run` must be running."""

    def __init__(
        self, channel: grpc.aio.Channel, clock: Clock, *, max_waiting: int = 20_000
    ) -> None:
        self._stub = audit_pb2_grpc.AuditStub(channel)
        self._clock = clock
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(max_waiting)
        self._name = secrets.token_hex(6)
        self._numbers = itertools.count()

    def record(self, call_id: str, type_: str, **fields: Any) -> None:
        """Put an event on record soon. When the queue is full it is dropped and counted."""
        self._put(_Waiting(self._event(call_id, type_, fields), None))

    async def record_now(self, call_id: str, type_: str, **fields: Any) -> None:
        """Put an event on record before going on; AuditUnavailableError after 3 s."""
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._put(_Waiting(self._event(call_id, type_, fields), acknowledged))
        try:
            async with asyncio.timeout(3.0):
                await acknowledged
        except TimeoutError:
            raise AuditUnavailableError(
                f"{type_} could not be put on record: is the audit service running?"
            ) from None

    async def run(self) -> None:
        """Send batches for ever; a batch is sent again until it is acknowledged."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._send(batch)
            _WAITING.set(self._queue.qsize())

    async def drain(self) -> None:
        """Wait until everything recorded so far is acknowledged, or the time is up."""
        try:
            await self.record_now("", "agent_process_stopped")
        except AuditUnavailableError as error:
            _log.error("audit_events_lost", reason=str(error), waiting=self._queue.qsize())

    async def _send(self, batch: list[_Waiting]) -> None:
        while True:
            # Whoever gave up waiting for an event has acted as if it were not on record.
            batch = [item for item in batch if not item.abandoned]
            request = audit_pb2.RecordRequest(events=[item.event for item in batch])
            try:
                await self._stub.Record(request, timeout=5.0)
                break
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    await self._send_singly(batch, str(error.details()))
                    return
                _log.warning("audit_unavailable", reason=f"{error.code().name}: {error.details()}")
                await asyncio.sleep(0.3)
        for item in batch:
            if item.acknowledged is not None and not item.acknowledged.done():
                item.acknowledged.set_result(None)

    async def _send_singly(self, batch: list[_Waiting], reason: str) -> None:
        """One event is refused for what it is: the others must not wait behind it."""
        if len(batch) > 1:
            for item in batch:
                await self._send([item])
            return
        _DROPPED.labels(reason="refused").inc()
        _log.error("audit_event_refused", type=batch[0].event.type, reason=reason)

    def _put(self, item: _Waiting) -> None:
        try:
            self._queue.put_nowait(item)
        except asyncio.QueueFull:
            _DROPPED.labels(reason="queue_full").inc()
            _log.error("audit_event_dropped", type=item.event.type)

    def _event(self, call_id: str, type_: str, fields: dict[str, Any]) -> audit_pb2.Event:
        # A batch that is sent again, because its answer was lost, is recorded once.
        event = audit_pb2.Event(
            call_id=call_id,
            type=type_,
            time_unix_ms=self._clock.wall_ms(),
            id=f"{self._name}-{next(self._numbers)}",
        )
        event.fields.update(fields)
        return event
