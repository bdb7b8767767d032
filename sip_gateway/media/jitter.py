"""How much delay the jitter buffer may add, and what it had to do.

PJMEDIA's buffer adapts by itself; the one setting that matters is its maximum: it caps the delay
after a stall and is paid for with discarded packets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class JitterPolicy:
    """The longest delay that the buffer of one stream may build up."""

    max_ms: int

    def apply(self, stream_info: Any) -> None:
        """Set it in a `pjsua2.StreamInfo` before the stream is made."""
        stream_info.jbMax = self.max_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatistics:
    """What one RTP stream has seen since it began."""

    jitter_buffer_ms: int
    jitter_buffer_average_ms: int
    jitter_buffer_discards: int
    jitter_buffer_empties: int
    packets_received: int
    packets_lost: int
    packets_sent: int
    jitter_ms: float

    @classmethod
    def read(cls, stat: Any, frame_ms: int) -> StreamStatistics:
        """From a `pjsua2.StreamStat` of a stream whose codec frames last `frame_ms`."""
        received, buffer = stat.rtcp.rxStat, stat.jbuf
        return cls(
            jitter_buffer_ms=buffer.size * frame_ms,
            jitter_buffer_average_ms=buffer.avgDelayMsec,
            jitter_buffer_discards=buffer.discard,
            jitter_buffer_empties=buffer.empty,
            packets_received=received.pkt,
            packets_lost=received.loss,
            packets_sent=stat.rtcp.txStat.pkt,
            jitter_ms=received.jitterUsec.last / 1000,
        )

    def plus(self, earlier: StreamStatistics) -> StreamStatistics:
        """Totals of a call whose stream was made anew, as each re-INVITE does."""
        return StreamStatistics(
            jitter_buffer_ms=self.jitter_buffer_ms,
            jitter_buffer_average_ms=self.jitter_buffer_average_ms,
            jitter_buffer_discards=self.jitter_buffer_discards + earlier.jitter_buffer_discards,
            jitter_buffer_empties=self.jitter_buffer_empties + earlier.jitter_buffer_empties,
            packets_received=self.packets_received + earlier.packets_received,
            packets_lost=self.packets_lost + earlier.packets_lost,
            packets_sent=self.packets_sent + earlier.packets_sent,
            jitter_ms=self.jitter_ms,
        )
