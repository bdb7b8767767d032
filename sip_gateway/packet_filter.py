"""Packet filters in the kernel: classic BPF programs on sockets, which need no privilege.

A datagram or segment that the program refuses never reaches the process; the kernel counts it, and
the sender learns nothing (linux/filter.h, SO_ATTACH_FILTER in socket(7)).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Iterable, Iterator

# linux/filter.h, asm-generic/socket.h, linux/sock_diag.h
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8
LOAD_WORD, LOAD_HALF = 0x20, 0x28
AND, JUMP_EQUAL, RETURN = 0x54, 0x15, 0x06
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from here count from the IP header
SOURCE_ADDRESS = _NETWORK_HEADER + 12
WHOLE, NOTHING = 0xFFFFFFFF, 0
_MOST_NETWORKS = 200  # what the kernel lends a socket for options (optmem_max) is soon used up


class FilterError(Exception):
    """There is no such socket, or the kernel refuses the filter."""


def instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """One `struct sock_filter`."""
    return struct.pack("HBBI", code, then, otherwise, value)


def accept_from(networks: Iterable[ipaddress.IPv4Network]) -> bytes:
    """Instructions that take packets from these networks and go on with all others."""
    networks = tuple(networks)
    if len(networks) > _MOST_NETWORKS:
        raise FilterError(f"more than {_MOST_NETWORKS} networks to believe")
    code = []
    for network in networks:
        code.append(instruction(LOAD_WORD, SOURCE_ADDRESS))
        code.append(instruction(AND, int(network.netmask)))
        code.append(instruction(JUMP_EQUAL, int(network.network_address), otherwise=1))
        code.append(instruction(RETURN, WHOLE))
    return b"".join(code)


def attach(descriptor: int, code: bytes) -> None:
    """Have the program decide from the next packet on."""
    buffer = ctypes.create_string_buffer(code, len(code))
    head = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    try:
        with borrowed(descriptor) as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
    except OSError as error:
        raise FilterError(f"the kernel refuses the filter: {error.strerror}") from error


def detach(descriptor: int) -> None:
    """Let everything in; nothing happens where there is no filter."""
    with borrowed(descriptor) as duplicate, contextlib.suppress(FileNotFoundError):
        duplicate.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def dropped(descriptor: int) -> int:
    """What the kernel kept from the socket since it was opened, for a full buffer as well."""
    with borrowed(descriptor) as duplicate:
        info = duplicate.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
    return int(struct.unpack_from("I", info, 4 * _MEMINFO_DROPS)[0])


@contextlib.contextmanager
def borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A duplicate, so that closing it here leaves the owner's open."""
    number = -1
    try:
        number = os.dup(descriptor)
        duplicate = socket.socket(fileno=number)
    except OSError as error:
        if number >= 0:
            os.close(number)
        raise FilterError(f"no socket behind descriptor {descriptor}") from error
    with duplicate:
        yield duplicate
