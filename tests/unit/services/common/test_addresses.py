from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.addresses import (
    HostPort,
    PublicAddressError,
    is_private,
    parse_host_port,
    require_private,
)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_what_is_written_is_read_again(ip: object, port: int) -> None:
    address = HostPort(str(ip), port)
    assert parse_host_port(str(address)) == address


@pytest.mark.parametrize("text", ["", "localhost", ":5060", "host:", "host:99999", "host:sip"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:5060"):
        parse_host_port(text)


@pytest.mark.parametrize(
    ("ip", "private"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("192.168.0.9", True),
        ("172.16.0.1", True),
        ("fd00::1", True),
        ("::1", True),
        ("8.8.8.8", False),
        ("0.0.0.0", False),
        ("2001:4860:4860::8888", False),
    ],
)
def test_private_networks(ip: str, private: bool) -> None:
    assert is_private(ip) is private


def test_a_public_peer_is_refused() -> None:
    require_private(HostPort("127.0.0.1", 1), "a test")
    with pytest.raises(PublicAddressError, match=r"public address 9\.9\.9\.9"):
        require_private(HostPort("9.9.9.9", 1), "a test")
