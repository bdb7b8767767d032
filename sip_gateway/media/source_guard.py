"""Keeps a call's RTP sockets as source_lock.py wants them. Everything runs on the PJSIP thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from sip_gateway import telemetry
from sip_gateway.media import rtp_sockets
from sip_gateway.media.source_lock import (
    LockState,
    Observation,
    Source,
    SourceLock,
    SourceMode,
    SourcePolicy,
)

if TYPE_CHECKING:
    from services.common.clock import Clock
    from sip_gateway.media.rtp_sockets import RtpSockets

_log = structlog.get_logger()
_UNSETTLED_LOOK_MS = 50
_SETTLED_LOOK_MS = 500


class SourceGuard:
    """Of one call. It never keeps the `pjsua2.Call` that it is handed.

    A cycle would leave the call's end to the garbage collector, on any thread.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._index = 0
        self._lock: SourceLock | None = None
        self._sockets: RtpSockets | None = None
        self._next_look_ms = 0.0
        self._dropped = 0
        self._told_strangers = False

    def begin(self, call: Any, index: int, signalled: str, policy: SourcePolicy) -> None:
        """A stream is about to be made. `signalled` is the other side's `ip:port` in its SDP."""
        self._sockets = None
        if policy.mode is SourceMode.OFF:
            self._lock = None
            return
        now_ms = self._clock.now_ms()
        source = Source.parse(signalled)
        try:
            sockets = rtp_sockets.find(call.getId(), index)
            if sockets is None:  # ICE: PJMEDIA talks to the checked pair of addresses only
                self._lock = None
                return
            self._dropped = sockets.dropped()
            if self._lock is not None and self._lock.resumes(source, policy):
                self._lock.restart(now_ms, dropped=self._dropped)
            else:
                self._lock = SourceLock(source, policy, now_ms, dropped=self._dropped)
            sockets.apply(self._lock.filters)
        except rtp_sockets.RtpSocketError as error:
            self._give_up(error)
            return
        self._index, self._sockets = index, sockets
        self._next_look_ms = now_ms

    def end(self) -> None:
        """The stream is gone, and with it perhaps its sockets."""
        self._sockets = None

    def look(self, call: Any) -> None:
        """Called often; looks at the sockets only when it is time to."""
        now_ms = self._clock.now_ms()
        if self._sockets is None or self._lock is None or now_ms < self._next_look_ms:
            return
        try:
            self._look(call, self._sockets, self._lock, now_ms)
        except rtp_sockets.RtpSocketError as error:
            self._give_up(error)
            return
        settled = self._lock.state is LockState.LOCKED
        self._next_look_ms = now_ms + (_SETTLED_LOOK_MS if settled else _UNSETTLED_LOOK_MS)

    def _look(self, call: Any, sockets: RtpSockets, lock: SourceLock, now_ms: float) -> None:
        dropped = sockets.dropped()
        self._count_strangers(dropped - self._dropped, lock)
        self._dropped = dropped
        before = lock.state, lock.locked_to
        observation = Observation(
            received=call.getStreamStat(self._index).rtcp.rxStat.pkt,
            dropped=dropped,
            source=Source.parse(call.getMedTransportInfo(self._index).srcRtpName),
        )
        if lock.observe(observation, now_ms):
            sockets.apply(lock.filters)
        if (lock.state, lock.locked_to) != before:
            _log.info("rtp_source", state=lock.state, source=str(lock.locked_to or ""))

    def _count_strangers(self, packets: int, lock: SourceLock) -> None:
        if packets <= 0:
            return
        telemetry.RTP_STRANGERS.inc(packets)
        # In EXACT they may be the caller's own, from behind a NAT.
        if not self._told_strangers and lock.state is not LockState.EXACT:
            self._told_strangers = True
            _log.warning(
                "rtp_from_stranger",
                state=lock.state,
                locked_to=str(lock.locked_to or ""),
                effect="dropped; neither heard nor sent to",
            )

    def _give_up(self, error: Exception) -> None:
        """A call that cannot be guarded goes on unguarded, and says so."""
        telemetry.RTP_UNGUARDED.inc()
        _log.error("rtp_source_not_locked", reason=str(error))
        self._sockets = self._lock = None
