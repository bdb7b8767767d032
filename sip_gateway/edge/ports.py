"""Addresses for the edge, kept from everybody else until it takes them."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

from services.common.errors import ConfigError
from sip_gateway.trunks.trunk import Transport

if TYPE_CHECKING:
    from services.common.addresses import HostPort

EVERY_ADDRESS = "0.0.0.0"
_ATTEMPTS = 20


class ReservedPorts:
    """Holds ports while the workers start, which would otherwise be given them."""

    def __init__(self) -> None:
        self._held = contextlib.ExitStack()

    def take(self, key: str, listen: HostPort, transports: tuple[Transport, ...]) -> HostPort:
        """`listen`, its port filled in when it is 0; ConfigError naming `key` when it is taken."""
        for attempt in range(_ATTEMPTS):
            port = listen.port
            with contextlib.ExitStack() as tried:
                try:
                    for transport in transports:
                        opened = tried.enter_context(_bound(listen.host, port, transport))
                        port = int(opened.getsockname()[1])
                except OSError as error:
                    if listen.port or attempt == _ATTEMPTS - 1:
                        raise ConfigError(
                            f"{key} = {listen}: cannot listen there: {error.strerror}; "
                            "is another program using the port?"
                        ) from None
                    continue
                self._held.push(tried.pop_all())
                return listen._replace(port=port)
        raise AssertionError("unreachable")

    def release(self) -> None:
        """Let go of all of them."""
        self._held.close()


def _bound(host: str, port: int, transport: Transport) -> socket.socket:
    kind = socket.SOCK_DGRAM if transport is Transport.UDP else socket.SOCK_STREAM
    opened = socket.socket(socket.AF_INET, kind)
    try:
        if kind is socket.SOCK_STREAM:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(("" if host == EVERY_ADDRESS else host, port))
    except OSError:
        opened.close()
        raise
    return opened


def own_address() -> str:
    """The address that others most likely reach this machine at. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            raise ConfigError(
                "[sip] listen = 0.0.0.0 and this machine has no route to others: write its address"
            ) from None
        return str(probe.getsockname()[0])
