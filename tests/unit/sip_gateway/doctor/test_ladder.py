from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip_gateway.doctor.ladder import SipMessage, ladder, redacted

REQUEST = (
    "INVITE sip:200@10.0.0.5 SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bK1\r\n"
    "Call-ID: abc\r\nCSeq: 7 INVITE\r\n"
    "{extra}"
    "\r\nv=0\r\nc=IN IP4 10.0.0.9\r\nm=audio 20000 RTP/AVP 0\r\na=sendonly\r\n"
)


def message(text: str, *, sent: bool = True) -> SipMessage:
    return SipMessage(at_ms=12.4, sent=sent, peer="10.0.0.5:5060", text=text)


@pytest.mark.parametrize(
    "secret",
    [
        'Authorization: Digest username="200", response="d41d8cd98f00", cnonce="zz"\r\n',
        'Proxy-Authorization: Digest username="200",\r\n response="d41d8cd98f00"\r\n',
        "authorization : Basic d41d8cd98f00\r\n",
        'Authentication-Info: rspauth="d41d8cd98f00"\r\n',
        "Refer-To: <sip:200:d41d8cd98f00@10.0.0.5>\r\n",
        "\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d41d8cd98f00|2^31\r\n",
        "\r\na=ice-pwd:d41d8cd98f00\r\n",
    ],
)
def test_what_is_secret_is_hidden(secret: str) -> None:
    text = redacted(REQUEST.format(extra=secret))
    assert "d41d8cd98f00" not in text
    assert "m=audio 20000 RTP/AVP 0" in text
    assert text.startswith("INVITE sip:200@10.0.0.5 SIP/2.0\r\n")


@given(st.text(alphabet=st.characters(exclude_characters="\r\n"), max_size=60))
def test_no_answer_to_a_challenge_gets_through(answer: str) -> None:
    text = redacted(f"REGISTER sip:x SIP/2.0\r\nAuthorization: Digest {answer}\r\nCSeq: 1 REGISTER")
    assert text == "REGISTER sip:x SIP/2.0\r\nAuthorization: (hidden)\r\nCSeq: 1 REGISTER"


def test_a_message_without_secrets_stays_as_it_is() -> None:
    text = REQUEST.format(extra="From: <sip:caller@10.0.0.9:5060>;tag=1\r\n")
    assert redacted(text) == text


def test_a_ladder_has_a_rung_for_each_message() -> None:
    answer = "SIP/2.0 180 Ringing\r\nCSeq: 7 INVITE\r\n\r\n"
    drawn = ladder([message(REQUEST.format(extra="")), message(answer, sent=False)]).splitlines()
    assert drawn[0].startswith("      12 ms  us |-- INVITE, audio sendonly at 20000 ---")
    assert drawn[1].startswith("      12 ms  us |<- 180 Ringing (INVITE) ---")
    assert len({len(rung) for rung in drawn}) == 1


def test_headers_are_found_whatever_their_case() -> None:
    parsed = message(REQUEST.format(extra="DATE: now\r\n"))
    assert parsed.header("Date") == "now"
    assert parsed.header("Expires") == ""
    assert (parsed.method, parsed.status) == ("INVITE", 0)


def test_a_message_of_another_kind_does_not_break_the_ladder() -> None:
    assert "\x00garbage" in ladder([message("\x00garbage")])
