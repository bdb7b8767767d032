from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip_gateway.sip.redaction import without_secrets

REQUEST = (
    "INVITE sip:200@10.0.0.5 SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bK1\r\n"
    "Call-ID: abc\r\nCSeq: 7 INVITE\r\n"
    "{extra}"
    "\r\nv=0\r\nc=IN IP4 10.0.0.9\r\nm=audio 20000 RTP/AVP 0\r\na=sendonly\r\n"
)


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
    text = without_secrets(REQUEST.format(extra=secret))
    assert "d41d8cd98f00" not in text
    assert "m=audio 20000 RTP/AVP 0" in text
    assert text.startswith("INVITE sip:200@10.0.0.5 SIP/2.0\r\n")


@given(st.text(alphabet=st.characters(exclude_characters="\r\n"), max_size=60))
def test_no_answer_to_a_challenge_gets_through(answer: str) -> None:
    text = without_secrets(
        f"REGISTER sip:x SIP/2.0\r\nAuthorization: Digest {answer}\r\nCSeq: 1 REGISTER"
    )
    assert text == "REGISTER sip:x SIP/2.0\r\nAuthorization: (hidden)\r\nCSeq: 1 REGISTER"


def test_a_message_without_secrets_stays_as_it_is() -> None:
    text = REQUEST.format(extra="From: <sip:caller@10.0.0.9:5060>;tag=1\r\n")
    assert without_secrets(text) == text


def test_the_kind_of_an_srtp_key_stays_readable() -> None:
    text = without_secrets("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d41d8cd98f00\r\n")
    assert text == "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:(hidden)\r\n"
