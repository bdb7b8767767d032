"""How much delay the jitter buffer may add, and what a stream has gone through.

PJMEDIA's buffer adapts by itself. Three things are set for it. Its maximum caps the delay and is
paid for with discarded packets. Its start value turns prefetching on: without it a buffer that ran
dry plays on at once and loses every packet that comes out of order (32 % of them under jitter of
60 ms, instead of 6 %). And it discards steadily, a frame each 200 ms while it holds more than twice
the burst that it expects, which is what brings the delay down after a stall.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sip_gateway.media import quality

if TYPE_CHECKING:
    from sip_gateway.media.quality import Quality

# Values of pjmedia_jb_discard_algo, which pjsua2 does not name.
_DISCARDS = range(3)
DISCARD_STEADILY = 1
_ENOUGH_PACKETS = 50
_PACKET_MS = 20  # ptime of G.711 and G.722 unless another was asked for (RFC 3551)


@dataclass(frozen=True, slots=True, kw_only=True)
class JitterPolicy:
    """Of the buffer of one stream: what it gathers at first, and the most that it may hold."""

    max_ms: int
    start_ms: int = 20

    def apply(self, stream_info: Any) -> None:
        """Set it in a `pjsua2.StreamInfo` before the stream is made."""
        stream_info.jbInit = self.start_ms
        stream_info.jbMax = self.max_ms


def discard_steadily(media_config: Any) -> bool:
    """Set it in a `pjsua2.MediaConfig`; False where this pjsua2 shows it in another way.

    pjsua2 knows the type by name only: what it hands out is a pointer to a copy.
    """
    try:
        algorithm = media_config.jbDiscardAlgo
        value = ctypes.c_int.from_address(int(algorithm))
        algorithm.disown()  # nobody could free it; SWIG would say so on standard output
    except (AttributeError, TypeError, ValueError):
        return False
    if value.value not in _DISCARDS:
        return False
    value.value = DISCARD_STEADILY
    media_config.jbDiscardAlgo = algorithm
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaReport:
    """How a call's audio is doing: its totals, and how it sounded of late and from the start."""

    totals: StreamStatistics
    lately: Quality
    overall: Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatistics:
    """What one RTP stream has seen since it began; discards and empties in packets of 20 ms."""

    jitter_buffer_ms: int
    jitter_buffer_average_ms: int
    jitter_buffer_discards: int
    jitter_buffer_empties: int
    packets_received: int
    packets_lost: int
    packets_sent: int
    jitter_ms: float
    loss_bursts: int = 0
    round_trip_ms: float = 0.0  # 0.0: the other side does not report (RTCP)
    rtcp_received: int = 0

    @classmethod
    def read(cls, stat: Any, frame_ms: int) -> StreamStatistics:
        """From a `pjsua2.StreamStat` of a stream whose codec frames last `frame_ms`."""
        received, sent, buffer = stat.rtcp.rxStat, stat.rtcp.txStat, stat.jbuf
        return cls(
            jitter_buffer_ms=buffer.size * frame_ms,
            jitter_buffer_average_ms=buffer.avgDelayMsec,
            jitter_buffer_discards=buffer.discard * frame_ms // _PACKET_MS,
            jitter_buffer_empties=buffer.empty * frame_ms // _PACKET_MS,
            packets_received=received.pkt,
            packets_lost=received.loss,
            packets_sent=sent.pkt,
            jitter_ms=received.jitterUsec.last / 1000,
            loss_bursts=received.lossPeriodUsec.n,
            round_trip_ms=stat.rtcp.rttUsec.last / 1000,
            rtcp_received=sent.updateCount,
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
            loss_bursts=self.loss_bursts + earlier.loss_bursts,
            round_trip_ms=self.round_trip_ms or earlier.round_trip_ms,
            rtcp_received=self.rtcp_received + earlier.rtcp_received,
        )

    def quality(self, since: StreamStatistics | None = None) -> Quality:
        """How the other side sounded to us from the beginning, or since earlier statistics.

        Of less than a second nothing can be said, so that is answered with the whole. The delay
        is what can be known here: half the round trip, our buffer and one packet.
        """
        if since is not None and self.packets_received - since.packets_received < _ENOUGH_PACKETS:
            since = None
        before = since or _NOTHING
        # A packet that was counted as lost and came late is taken back.
        lost = max(self.packets_lost - before.packets_lost, 0)
        late = max(self.jitter_buffer_discards - before.jitter_buffer_discards, 0)
        received = self.packets_received - before.packets_received  # the late ones too
        bursts = self.loss_bursts - before.loss_bursts
        buffered_ms = self.jitter_buffer_average_ms if since is None else self.jitter_buffer_ms
        sent = lost + received
        ratio = min((lost + late) / sent, 1.0) if sent > 0 else 0.0
        # How late packets come together is not told, so bursts are those of the network.
        burst = quality.burst_ratio(lost / bursts, lost / sent) if bursts > 0 and lost else 1.0
        return quality.estimate(
            delay_ms=self.round_trip_ms / 2 + buffered_ms + _PACKET_MS,
            loss_percent=ratio * 100,
            burst_ratio=burst,
        )


_NOTHING = StreamStatistics(
    jitter_buffer_ms=0,
    jitter_buffer_average_ms=0,
    jitter_buffer_discards=0,
    jitter_buffer_empties=0,
    packets_received=0,
    packets_lost=0,
    packets_sent=0,
    jitter_ms=0.0,
)
