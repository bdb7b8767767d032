"""Which dialogs need a route back to where their INVITE came from."""

from __future__ import annotations

import pytest

from sip_gateway.nat.symmetric import route_back


def invite(contact: str, *, via: str = "SIP/2.0/UDP 10.7.0.2:5060;rport", more: str = "") -> str:
    return (
        f"INVITE sip:a@203.0.113.10 SIP/2.0\r\nVia: {via};branch=z9hG4bK1\r\n{more}"
        f"From: <sip:b@10.7.0.2>;tag=1\r\nContact: {contact}\r\n\r\nv=0\r\nm: <sip:x@1.2.3.4>\r\n"
    )


@pytest.mark.parametrize(
    "contact",
    [
        "<sip:b@10.7.0.2:5060>",
        "sip:b@10.7.0.2",
        '"Bob" <sip:b:secret@10.7.0.2:5060;ob>;expires=3',
        "<sip:10.7.0.2>",
    ],
)
def test_a_contact_that_is_not_where_it_came_from(contact: str) -> None:
    assert route_back(invite(contact), "203.0.113.1:1024") == "<sip:203.0.113.1:1024;lr>"


def test_the_connection_of_tcp_is_kept() -> None:
    message = invite("<sip:b@10.7.0.2;transport=tcp>", via="SIP/2.0/TCP 10.7.0.2:5060")
    assert route_back(message, "203.0.113.1:1024") == "<sip:203.0.113.1:1024;transport=tcp;lr>"


@pytest.mark.parametrize(
    ("message", "source"),
    [
        (invite("<sip:b@203.0.113.1:5060>"), "203.0.113.1:1024"),
        (invite("<sip:b@pbx.example>"), "203.0.113.1:1024"),
        (invite("<sip:b@10.7.0.2>", more="Via: SIP/2.0/UDP 10.7.0.9\r\n"), "203.0.113.1:5060"),
        (invite("<sip:b@10.7.0.2>", more="Record-Route: <sip:p;lr>\r\n"), "203.0.113.1:5060"),
        (invite("<sip:b@10.7.0.2>", via="SIP/2.0/UDP a, SIP/2.0/UDP b"), "203.0.113.1:5060"),
        (invite("<sip:b@10.7.0.2>"), "[2001:db8::1]:5060"),
        (invite("<sip:b@10.7.0.2>"), ""),
        (invite("<sip:b@999.1.1.1>"), "203.0.113.1:5060"),
        ("", "203.0.113.1:5060"),
    ],
)
def test_a_contact_that_will_do_or_belongs_to_a_proxy(message: str, source: str) -> None:
    assert route_back(message, source) is None
