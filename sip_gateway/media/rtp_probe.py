"""Whether a call would get its two ports for audio."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sip_gateway.config import PortRange


class RtpProbe:
    """Binds what a call would bind, and lets go again. Only sockets: it never waits."""

    def __init__(self, host: str, ports: PortRange) -> None:
        self._host = "" if host == "*" else host
        self._pairs = range(ports.first, ports.last, 2)

    def pair_is_free(self) -> bool:
        """True when an even port (RTP) and the one above it (RTCP) can be had (RFC 3550, 11)."""
        return any(self._binds(first) and self._binds(first + 1) for first in self._pairs)

    def _binds(self, port: int) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((self._host, port))
            except OSError:
                return False
            return True
