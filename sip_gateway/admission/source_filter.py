"""Keeps strangers' packets from PJSIP: a filter in the kernel on each SIP socket.

PJSIP's build keeps its assertions, and a crafted sequence of requests can end the process. From an
address that no trunk names, nothing but answers to our own requests gets as far as its parser, and
over TCP not even a connection.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections import OrderedDict
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from sip_gateway import packet_filter as bpf

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.common.addresses import HostPort

    Network = ipaddress.IPv4Network

_UDP_SOURCE_PORT = 0
_UDP_PAYLOAD = 8  # the program sees a datagram from its UDP header on
_ANSWER = int.from_bytes(b"SIP/")  # a status line begins with it (RFC 3261, 7.2)
_MOST_PEERS = 64
_NAMED = re.compile(
    r"^(?:contact|m|record-route)\s*:[^\n]*?sips?:(?:[^@>\s;]*@)?(\d+\.\d+\.\d+\.\d+)",
    re.IGNORECASE | re.MULTILINE,
)


def program(
    networks: Iterable[Network], *, answers_pass: bool, waker: HostPort | None = None
) -> bytes:
    """Take packets of these networks, answers of anybody where that is asked for, nothing else.

    `waker`: the one UDP socket, our own, whose datagrams pass too.
    """
    code = [bpf.accept_from(networks)]
    if waker is not None:
        code.append(bpf.instruction(bpf.LOAD_WORD, bpf.SOURCE_ADDRESS))
        code.append(bpf.instruction(bpf.JUMP_EQUAL, int(IPv4Address(waker.host)), otherwise=3))
        code.append(bpf.instruction(bpf.LOAD_HALF, _UDP_SOURCE_PORT))
        code.append(bpf.instruction(bpf.JUMP_EQUAL, waker.port, otherwise=1))
        code.append(bpf.instruction(bpf.RETURN, bpf.WHOLE))
    if answers_pass:
        code.append(bpf.instruction(bpf.LOAD_WORD, _UDP_PAYLOAD))
        code.append(bpf.instruction(bpf.JUMP_EQUAL, _ANSWER, otherwise=1))
        code.append(bpf.instruction(bpf.RETURN, bpf.WHOLE))
    return b"".join((*code, bpf.instruction(bpf.RETURN, bpf.NOTHING)))


def dialog_peers(message: str) -> set[str]:
    """Addresses that a request names for what follows in its dialog (RFC 3261, 12.1)."""
    head = message.replace("\r\n", "\n").partition("\n\n")[0]
    return set(_NAMED.findall(head))


class SourceFilter:
    """The filter of all SIP sockets that listen on `address`.

    Beside the trunks' networks it believes the last addresses that the other sides of our own
    dialogs were found at, or named for them.
    """

    def __init__(
        self, address: HostPort, networks: Iterable[Network], waker: HostPort | None = None
    ) -> None:
        """`waker`: see `program`. bpf.FilterError when this system has no such filters."""
        self._waker = waker
        self._sockets = _listening_sockets(address)
        self._networks = frozenset(networks)
        self._peers: OrderedDict[Network, None] = OrderedDict()
        self._apply()

    def believe(self, networks: Iterable[Network]) -> None:
        """These, and no longer those of before."""
        self._networks = frozenset(networks)
        self._apply()

    def believe_peers(self, addresses: Iterable[str]) -> None:
        """The other sides of a dialog of ours."""
        for address in addresses:
            try:
                peer = ipaddress.IPv4Network(address)
            except ValueError:
                continue  # a name, or nonsense: nothing can come from there
            if any(peer.subnet_of(network) for network in self._networks):
                continue
            fresh = peer not in self._peers
            self._peers[peer] = None
            self._peers.move_to_end(peer)
            if fresh:
                while len(self._peers) > _MOST_PEERS:
                    self._peers.popitem(last=False)
                self._apply()

    def dropped(self) -> int:
        """Packets that were kept away since the sockets were opened."""
        return sum(bpf.dropped(descriptor) for descriptor, _kind in self._sockets)

    def _apply(self) -> None:
        networks = ipaddress.collapse_addresses((*self._networks, *self._peers))
        believed = tuple(networks)
        for descriptor, kind in self._sockets:
            udp = kind == socket.SOCK_DGRAM
            code = program(believed, answers_pass=udp, waker=self._waker if udp else None)
            bpf.attach(descriptor, code)


def _listening_sockets(address: HostPort) -> list[tuple[int, int]]:
    """Descriptors of this process that datagrams and connections for `address` come in at."""
    found: list[tuple[int, int]] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            with bpf.borrowed(int(name)) as candidate:
                if candidate.family != socket.AF_INET or candidate.getsockname()[1] != address.port:
                    continue
                listens = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if candidate.type == socket.SOCK_DGRAM or listens:
                    found.append((int(name), candidate.type))
        except (OSError, bpf.FilterError):  # no socket, or closed in the meantime
            continue
    if not found:
        raise bpf.FilterError(f"no socket listens on {address}")
    return found
