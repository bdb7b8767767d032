"""The two sockets of a call's media, found behind PJMEDIA, and a filter in the kernel for each.

The filter is a classic BPF program (SO_ATTACH_FILTER), which needs no privilege: datagrams from
other sources never reach PJMEDIA, are counted by the kernel, and the sender learns nothing.
Unlike connect() it takes networks as well as one address, and cannot fail a later sendto().
"""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sip_gateway import packet_filter as bpf
from sip_gateway.packet_filter import FilterError as RtpSocketError
from sip_gateway.sip.log import pjsip_library

if TYPE_CHECKING:
    from sip_gateway.media.source_lock import Filters, SourceFilter

__all__ = ["RtpSocketError", "RtpSockets", "find", "program"]

_SOURCE_PORT = 0  # the program sees the datagram from its UDP header on
# pjmedia_transport_info begins with pjmedia_sock_info: a descriptor, its address, the other's.
_RTP_DESCRIPTOR, _RTCP_DESCRIPTOR = 0, 40
_INFO_BYTES = 8192


@dataclass(frozen=True, slots=True)
class RtpSockets:
    """File descriptors that PJMEDIA owns; valid as long as the stream runs."""

    rtp: int
    rtcp: int

    def apply(self, filters: Filters) -> None:
        """Let in what `filters` says, from the next datagram on."""
        bpf.attach(self.rtp, program(filters.rtp))
        bpf.attach(self.rtcp, program(filters.rtcp))

    def dropped(self) -> int:
        """Datagrams that the kernel kept from the RTP socket since it was opened.

        A full receive buffer counts here too; PJMEDIA reads too soon for that to happen.
        """
        return bpf.dropped(self.rtp)

    def open_to_all(self) -> None:
        """Take the filters away."""
        for descriptor in (self.rtp, self.rtcp):
            bpf.detach(descriptor)


def find(pjsua_call_id: int, media_index: int) -> RtpSockets | None:
    """The sockets of a call's stream; None when there are none, as with ICE or a loop.

    For the PJSIP thread. RtpSocketError when PJSIP answers something else than UDP sockets.
    """
    info = ctypes.create_string_buffer(_INFO_BYTES)
    status = pjsip_library().pjsua_call_get_med_transport_info(pjsua_call_id, media_index, info)
    if status != 0:
        raise RtpSocketError(f"PJSIP knows no transport of this call: {status}")
    rtp = struct.unpack_from("q", info, _RTP_DESCRIPTOR)[0]
    rtcp = struct.unpack_from("q", info, _RTCP_DESCRIPTOR)[0]
    if rtp < 0:
        return None
    sockets = RtpSockets(rtp, rtcp if rtcp >= 0 else rtp)
    for descriptor in (sockets.rtp, sockets.rtcp):
        _require_udp(descriptor)
    return sockets


def program(source: SourceFilter) -> bytes:
    """The BPF program of a filter: an array of `struct sock_filter`."""
    code: list[bytes] = []
    if source.port is not None:
        code.append(bpf.instruction(bpf.LOAD_HALF, _SOURCE_PORT))
        code.append(bpf.instruction(bpf.JUMP_EQUAL, source.port, then=1))
        code.append(bpf.instruction(bpf.RETURN, bpf.NOTHING))
    code.append(bpf.accept_from(source.networks))
    return b"".join((*code, bpf.instruction(bpf.RETURN, bpf.NOTHING)))


def _require_udp(descriptor: int) -> None:
    with bpf.borrowed(descriptor) as borrowed:
        if (borrowed.family, borrowed.type) != (socket.AF_INET, socket.SOCK_DGRAM):
            raise RtpSocketError(f"descriptor {descriptor} is no UDP socket")
