"""What is read out of requests, offers, telephone events and transfer targets."""

from __future__ import annotations

import pytest

from services.common.addresses import HostPort
from sip_gateway.dialog import dtmf, transfer
from sip_gateway.dialog.transfer import TransferState
from sip_gateway.events import TransferProgressed
from sip_gateway.sip.message import from_edge, parse_invite
from sip_gateway.sip.sdp import first_common_codec

INVITE = """\
INVITE sip:+4930123@192.0.2.1:5060;user=phone SIP/2.0
Via: SIP/2.0/UDP 192.0.2.9
f: "Ann" <sip:0301%2A2;x=1@example.com>;tag=7
To: <tel:+4930123>
i: abc@x
X-Account: 42
Diversion: <sip:99@example.com>
 ;reason=busy
P-Asserted-Identity: <sip:0301@example.com>
Authorization: Digest username="secret"
Content-Type: application/sdp

v=0
""".replace("\n", "\r\n")


def test_invite_is_read() -> None:
    invite = parse_invite(INVITE, "192.0.2.9:5062")
    assert (invite.source_ip, invite.source_port) == ("192.0.2.9", 5062)
    assert invite.request_user == "+4930123"
    assert invite.caller == "0301*2;x=1".partition(";")[0]
    assert invite.callee == "+4930123"
    assert invite.sip_call_id == "abc@x"
    assert invite.body == "v=0\n"
    assert invite.headers == {
        "X-Account": "42",
        "Diversion": "<sip:99@example.com> ;reason=busy",
        "P-Asserted-Identity": "<sip:0301@example.com>",
    }


@pytest.mark.parametrize("text", ["", "INVITE", "INVITE sip: SIP/2.0\r\nFrom\r\nTo: <sip:@>\r\n"])
def test_nonsense_has_no_names(text: str) -> None:
    invite = parse_invite(text, "")
    assert (invite.caller, invite.callee, invite.headers) == ("", "", {})


@pytest.mark.parametrize(
    "name", ['"sip:112@evil.example"', '"a \\" <sip:112@evil.example>"', '"tel:112"']
)
def test_a_display_name_is_nobodys_number(name: str) -> None:
    text = INVITE.replace('"Ann"', name).replace("<tel:+4930123>", f"{name} <sip:200@x>")
    invite = parse_invite(text, "192.0.2.9:5060")
    assert (invite.caller, invite.callee) == ("0301*2", "200")


def test_an_anonymous_caller_has_no_number() -> None:
    text = INVITE.replace('"Ann" <sip:0301%2A2;x=1@example.com>', "<sip:anonymous.invalid>")
    assert parse_invite(text, "192.0.2.9:5060").caller == ""


FROM_EDGE = INVITE.replace(
    "X-Account",
    "X-Landline-Trunk: carrier\r\nX-Landline-Source: 198.51.100.4:5080\r\nX-Account",
)


def test_the_edge_is_believed_about_trunk_and_source() -> None:
    invite = from_edge(parse_invite(FROM_EDGE, "10.0.0.1:5060"), HostPort("10.0.0.1", 5060))
    assert invite.via_edge
    assert (invite.trunk, invite.source_ip, invite.source_port) == ("carrier", "198.51.100.4", 5080)
    assert "X-Account" in invite.headers
    assert not any(name.startswith("X-Landline") for name in invite.headers)


@pytest.mark.parametrize("edge", [None, HostPort("10.0.0.2", 5060), HostPort("10.0.0.1", 5061)])
def test_nobody_else_is_believed_about_trunk_and_source(edge: HostPort | None) -> None:
    invite = from_edge(parse_invite(FROM_EDGE, "10.0.0.1:5060"), edge)
    assert not invite.via_edge
    assert (invite.trunk, invite.source_ip) == ("", "10.0.0.1")
    assert not any(name.startswith("X-Landline") for name in invite.headers)


def test_headers_of_the_edge_are_not_crowded_out() -> None:
    crowd = "".join(f"X-{number}: 1\r\n" for number in range(50))
    text = FROM_EDGE.replace("X-Landline-Trunk", crowd + "X-Landline-Trunk")
    invite = from_edge(parse_invite(text, "10.0.0.1:5060"), HostPort("10.0.0.1", 5060))
    assert invite.trunk == "carrier"


@pytest.mark.parametrize(
    ("body", "codec"),
    [
        ("m=audio 5000 RTP/AVP 8 0 101\r\n", "PCMA/8000"),
        ("m=audio 5000 RTP/AVP 96 9\r\na=rtpmap:96 opus/48000/2\r\n", "G722/8000"),
        (
            "m=video 1 RTP/AVP 31\r\nm=audio 5000 RTP/AVP 97\r\na=rtpmap:97 PCMU/8000\r\n",
            "PCMU/8000",
        ),
        ("m=audio 5000 RTP/AVP 3\r\n", ""),
        ("", ""),
    ],
)
def test_codec_that_the_answer_will_choose(body: str, codec: str) -> None:
    assert first_common_codec(body, ("G722", "PCMA", "PCMU")) == codec


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        ("sip:desk@pbx.example", True),
        ("SIP:desk@PBX.example", True),
        ("sip:Desk@pbx.example", False),
        ("sip:desk@pbx.example.evil", False),
        ("sip:desk@pbx.example;user=phone", True),
        ("sip:desk@pbx.example;maddr=192.0.2.1", False),
        ("sip:desk@pbx.example:5062", False),
        ("sip:de\x00sk@pbx.example", False),
        ("sip:desk@pbx.example?Replaces=1", False),
        ("sip:desk@pbx.example>\r\nX: y", False),
        ("sip:evil@other@pbx.example", False),
        ("tel:+4930123", True),
        ("tel:+1900123", False),
        ("", False),
    ],
)
def test_transfer_targets(target: str, verdict: bool) -> None:
    assert transfer.allowed(target, ["sip:desk@pbx.example", "tel:+4930*"]) is verdict


def test_nothing_is_allowed_by_default() -> None:
    assert not transfer.allowed("sip:desk@pbx.example", [])


@pytest.mark.parametrize(
    ("status", "final", "state"),
    [
        (100, False, TransferState.TRYING),
        (202, False, TransferState.TRYING),
        (180, False, TransferState.TRYING),
        (200, True, TransferState.ACCEPTED),
        (404, True, TransferState.FAILED),
        (603, False, TransferState.FAILED),
    ],
)
def test_what_a_notify_means(status: int, final: bool, state: TransferState) -> None:
    assert transfer.state_of(TransferProgressed(sip_status=status, reason="", final=final)) is state


def test_a_key_is_told_once_with_its_duration() -> None:
    keys = dtmf.KeyPress()
    assert keys.update("5", 20, begins=True, ends=False) == []
    assert keys.update("5", 60, begins=False, ends=False) == []
    assert keys.update("5", 120, begins=False, ends=True) == [("5", 120)]
    assert keys.update("5", 120, begins=False, ends=True) == []


def test_a_key_without_an_end_is_told_when_the_next_begins() -> None:
    keys = dtmf.KeyPress()
    keys.update("5", 20, begins=True, ends=False)
    keys.update("5", 80, begins=False, ends=False)
    assert keys.update("5", 20, begins=True, ends=False) == [("5", 80)]
    assert keys.update("6", 20, begins=True, ends=False) == [("5", 20)]


@pytest.mark.parametrize(
    ("digits", "valid"), [("12#", True), ("aD", True), ("", False), ("1x", False)]
)
def test_telephone_keys(digits: str, valid: bool) -> None:
    assert dtmf.valid_digits(digits) is valid
