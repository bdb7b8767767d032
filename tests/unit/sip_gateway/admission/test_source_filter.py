"""Real sockets: what a stranger sends does not arrive."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator

import pytest

from services.common.addresses import HostPort
from sip_gateway.admission.source_filter import SourceFilter, dialog_peers
from sip_gateway.packet_filter import FilterError

REQUEST = b"OPTIONS sip:x SIP/2.0\r\n\r\n"
ANSWER = b"SIP/2.0 200 OK\r\n\r\n"


@pytest.fixture
def listening() -> Iterator[tuple[socket.socket, socket.socket]]:
    """UDP and TCP on the same port, as PJSIP has them."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
    ):
        tcp.bind(("0.0.0.0", 0))
        tcp.listen()
        tcp.settimeout(0.3)
        udp.bind(("0.0.0.0", tcp.getsockname()[1]))
        udp.settimeout(0.3)
        yield udp, tcp


def networks(*texts: str) -> tuple[ipaddress.IPv4Network, ...]:
    return tuple(map(ipaddress.IPv4Network, texts))


def arrives(udp: socket.socket, source: str, datagram: bytes) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.sendto(datagram, ("127.0.0.1", udp.getsockname()[1]))
    try:
        return udp.recv(1000) == datagram
    except TimeoutError:
        return False


def connects(tcp: socket.socket, source: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as caller:
        caller.bind((source, 0))
        caller.settimeout(0.3)
        try:
            caller.connect(("127.0.0.1", tcp.getsockname()[1]))
        except TimeoutError:
            return False
        tcp.accept()[0].close()
        return True


def test_who_is_named_arrives_and_nobody_else(
    listening: tuple[socket.socket, socket.socket],
) -> None:
    udp, tcp = listening
    address = HostPort("0.0.0.0", udp.getsockname()[1])
    sources = SourceFilter(address, networks("127.0.1.0/24", "127.0.0.9/32"))
    assert arrives(udp, "127.0.1.200", REQUEST)
    assert arrives(udp, "127.0.0.9", REQUEST)
    assert arrives(udp, "127.0.0.9", b"\r\n")
    assert connects(tcp, "127.0.1.1")
    assert sources.dropped() == 0
    for datagram in (REQUEST, b"", b"\0", b"SIP", b"A" * 9000):
        assert not arrives(udp, "127.0.2.1", datagram)
    assert not connects(tcp, "127.0.2.1")
    assert sources.dropped() >= 6


def test_answers_to_our_own_requests_come_from_anywhere(
    listening: tuple[socket.socket, socket.socket],
) -> None:
    udp, _tcp = listening
    SourceFilter(HostPort("0.0.0.0", udp.getsockname()[1]), ())
    assert arrives(udp, "127.0.2.1", ANSWER)
    assert not arrives(udp, "127.0.2.1", REQUEST)


def test_our_own_wake_ups_pass_and_others_of_their_address_do_not(
    listening: tuple[socket.socket, socket.socket],
) -> None:
    udp, tcp = listening
    port = udp.getsockname()[1]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
        waker.connect(("127.0.0.1", port))
        SourceFilter(HostPort("0.0.0.0", port), (), HostPort(*waker.getsockname()))
        waker.send(b"\r\n\r\n")
        assert udp.recv(100) == b"\r\n\r\n"
        assert not arrives(udp, "127.0.0.1", b"\r\n\r\n")
        assert not arrives(udp, "127.0.0.2", b"\r\n\r\n")
    assert not connects(tcp, "127.0.0.1")


def test_the_filter_follows_what_becomes_known(
    listening: tuple[socket.socket, socket.socket],
) -> None:
    udp, tcp = listening
    sources = SourceFilter(HostPort("0.0.0.0", udp.getsockname()[1]), networks("127.0.0.9/32"))
    assert not arrives(udp, "127.0.0.10", REQUEST)
    sources.believe(networks("127.0.0.10/32"))
    assert arrives(udp, "127.0.0.10", REQUEST)
    assert connects(tcp, "127.0.0.10")
    assert not arrives(udp, "127.0.0.9", REQUEST)
    sources.believe_peers(["127.0.0.11", "not an address", ""])
    assert arrives(udp, "127.0.0.11", REQUEST)


def test_peers_are_forgotten_when_there_are_too_many(
    listening: tuple[socket.socket, socket.socket],
) -> None:
    udp, _tcp = listening
    sources = SourceFilter(HostPort("0.0.0.0", udp.getsockname()[1]), ())
    sources.believe_peers(["127.0.3.1"])
    assert arrives(udp, "127.0.3.1", REQUEST)
    sources.believe_peers([f"127.0.4.{number}" for number in range(1, 130, 2)])
    assert not arrives(udp, "127.0.3.1", REQUEST)
    assert arrives(udp, "127.0.4.129", REQUEST)


def test_no_socket_and_too_many_networks_are_errors(
    listening: tuple[socket.socket, socket.socket],
) -> None:
    with pytest.raises(FilterError, match="no socket"):
        SourceFilter(HostPort("0.0.0.0", 1), ())
    many = networks(*(f"10.{n // 256}.{n % 256}.0/32" for n in range(201)))
    with pytest.raises(FilterError, match="more than 200"):
        SourceFilter(HostPort("0.0.0.0", listening[0].getsockname()[1]), many)


def test_the_addresses_that_a_dialog_names() -> None:
    message = (
        'INVITE sip:x@y SIP/2.0\r\nContact: "A" <sip:a@192.0.2.1:5062;transport=udp>\r\n'
        "Record-Route: <sip:192.0.2.2;lr>\r\nm: <sip:192.0.2.3>\r\nVia: SIP/2.0/UDP 192.0.2.4\r\n"
        "\r\nContact: <sip:192.0.2.5>"
    )
    assert dialog_peers(message) == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
