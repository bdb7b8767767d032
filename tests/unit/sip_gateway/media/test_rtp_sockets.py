"""The filters in the kernel, on real sockets."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator

import pytest

from sip_gateway.media.rtp_sockets import RtpSocketError, RtpSockets, program
from sip_gateway.media.source_lock import Filters, SourceFilter

OpenUdp = Callable[[str], socket.socket]


@pytest.fixture
def udp() -> Iterator[OpenUdp]:
    opened: list[socket.socket] = []

    def open_socket(ip: str) -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.append(one)
        one.bind((ip, 0))
        one.setblocking(False)
        return one

    yield open_socket
    for one in opened:
        one.close()


def let_in(*networks: str, port: int | None = None) -> SourceFilter:
    return SourceFilter(tuple(ipaddress.IPv4Network(text) for text in networks), port)


def arrived(ear: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(ear.recv(100))
        except BlockingIOError:
            return found


def test_only_what_the_filter_names_comes_in_and_the_rest_is_counted(udp: OpenUdp) -> None:
    ear, control = udp("127.0.0.1"), udp("127.0.0.1")
    right, wrong_port, wrong_host = udp("127.0.0.2"), udp("127.0.0.2"), udp("127.0.0.3")
    sockets = RtpSockets(ear.fileno(), control.fileno())
    port = right.getsockname()[1]
    sockets.apply(Filters(rtp=let_in("127.0.0.2/32", port=port), rtcp=let_in("127.0.0.0/30")))
    for sender in (right, wrong_port, wrong_host):
        sender.sendto(sender.getsockname()[0].encode(), ear.getsockname())
        sender.sendto(b"report", control.getsockname())
    assert arrived(ear) == [b"127.0.0.2"]
    assert len(arrived(control)) == 3
    assert sockets.dropped() == 2

    sockets.apply(Filters(rtp=let_in("127.0.0.2/32"), rtcp=let_in("127.0.0.2/32")))
    wrong_port.sendto(b"now", ear.getsockname())
    wrong_host.sendto(b"never", ear.getsockname())
    assert arrived(ear) == [b"now"]
    assert sockets.dropped() == 3


def test_any_of_many_networks_counts(udp: OpenUdp) -> None:
    ear = udp("127.0.0.1")
    many = [f"10.{number // 250}.{number % 250}.0/24" for number in range(198)]
    sockets = RtpSockets(ear.fileno(), ear.fileno())
    sockets.apply(Filters(rtp=let_in(*many, "127.5.0.0/16"), rtcp=let_in(*many, "127.5.0.0/16")))
    udp("127.5.0.9").sendto(b"in", ear.getsockname())
    udp("127.6.0.9").sendto(b"out", ear.getsockname())
    assert arrived(ear) == [b"in"]


def test_nobody_is_let_in_by_an_empty_filter_and_everybody_when_it_is_taken_away(
    udp: OpenUdp,
) -> None:
    ear = udp("127.0.0.1")
    sockets = RtpSockets(ear.fileno(), ear.fileno())
    sockets.apply(Filters(rtp=let_in(), rtcp=let_in()))
    udp("127.0.0.1").sendto(b"out", ear.getsockname())
    assert arrived(ear) == []
    sockets.open_to_all()
    udp("127.0.0.9").sendto(b"in", ear.getsockname())
    assert arrived(ear) == [b"in"]


def test_the_sockets_stay_open_for_their_owner(udp: OpenUdp) -> None:
    ear = udp("127.0.0.1")
    sockets = RtpSockets(ear.fileno(), ear.fileno())
    sockets.dropped()
    udp("127.0.0.1").sendto(b"still here", ear.getsockname())
    assert arrived(ear) == [b"still here"]


def test_a_descriptor_that_is_no_socket_is_an_error() -> None:
    with pytest.raises(RtpSocketError, match="no socket"):
        RtpSockets(10_000, 10_000).dropped()


def test_too_many_networks_are_an_error_and_not_a_cut_filter() -> None:
    with pytest.raises(RtpSocketError, match="more than 200"):
        program(let_in(*(f"10.{n // 250}.{n % 250}.0/24" for n in range(201))))
