"""The two sockets of a call's media, found behind PJMEDIA, and a filter in the kernel for each.

The filter is a classic BPF program (SO_ATTACH_FILTER), which needs no privilege: datagrams from
other sources never reach PJMEDIA, are counted by the kernel, and the sender learns nothing.
Unlike connect() it takes networks as well as one address, and cannot fail a later sendto().
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sip_gateway.sip_log import pjsip_library

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sip_gateway.media.source_lock import Filters, SourceFilter

# linux/filter.h, asm-generic/socket.h, linux/sock_diag.h
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8
_LOAD_WORD, _LOAD_HALF = 0x20, 0x28
_AND, _JUMP_EQUAL, _RETURN = 0x54, 0x15, 0x06
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from here count from the IP header
_SOURCE_ADDRESS = _NETWORK_HEADER + 12
_SOURCE_PORT = 0  # the program sees the datagram from its UDP header on
_WHOLE, _NOTHING = 0xFFFFFFFF, 0
_MOST_NETWORKS = 200  # what the kernel lends a socket for options (optmem_max) is soon used up
# pjmedia_transport_info begins with pjmedia_sock_info: a descriptor, its address, the other's.
_RTP_DESCRIPTOR, _RTCP_DESCRIPTOR = 0, 40
_INFO_BYTES = 8192


class RtpSocketError(Exception):
    """The call's sockets could not be found or filtered."""


@dataclass(frozen=True, slots=True)
class RtpSockets:
    """File descriptors that PJMEDIA owns; valid as long as the stream runs."""

    rtp: int
    rtcp: int

    def apply(self, filters: Filters) -> None:
        """Let in what `filters` says, from the next datagram on."""
        _attach(self.rtp, filters.rtp)
        _attach(self.rtcp, filters.rtcp)

    def dropped(self) -> int:
        """Datagrams that the kernel kept from the RTP socket since it was opened.

        A full receive buffer counts here too; PJMEDIA reads too soon for that to happen.
        """
        with _borrowed(self.rtp) as borrowed:
            info = borrowed.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
        return int(struct.unpack_from("I", info, 4 * _MEMINFO_DROPS)[0])

    def open_to_all(self) -> None:
        """Take the filters away."""
        for descriptor in (self.rtp, self.rtcp):
            with _borrowed(descriptor) as borrowed, contextlib.suppress(FileNotFoundError):
                borrowed.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


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
    if len(source.networks) > _MOST_NETWORKS:
        raise RtpSocketError(f"more than {_MOST_NETWORKS} networks to believe")
    code: list[bytes] = []
    if source.port is not None:
        code.append(_instruction(_LOAD_HALF, _SOURCE_PORT))
        code.append(_instruction(_JUMP_EQUAL, source.port, then=1))
        code.append(_instruction(_RETURN, _NOTHING))
    for network in source.networks:
        code.append(_instruction(_LOAD_WORD, _SOURCE_ADDRESS))
        code.append(_instruction(_AND, int(network.netmask)))
        code.append(_instruction(_JUMP_EQUAL, int(network.network_address), otherwise=1))
        code.append(_instruction(_RETURN, _WHOLE))
    return b"".join((*code, _instruction(_RETURN, _NOTHING)))


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", code, then, otherwise, value)


def _attach(descriptor: int, source: SourceFilter) -> None:
    code = program(source)
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    try:
        with _borrowed(descriptor) as borrowed:
            borrowed.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
    except OSError as error:
        raise RtpSocketError(f"the kernel refuses the filter: {error.strerror}") from error


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A duplicate, so that closing it here leaves PJMEDIA's own open."""
    try:
        duplicate = socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise RtpSocketError(f"no socket behind descriptor {descriptor}") from error
    with duplicate:
        yield duplicate


def _require_udp(descriptor: int) -> None:
    with _borrowed(descriptor) as borrowed:
        if (borrowed.family, borrowed.type) != (socket.AF_INET, socket.SOCK_DGRAM):
            raise RtpSocketError(f"descriptor {descriptor} is no UDP socket")
