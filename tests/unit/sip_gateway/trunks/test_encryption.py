"""Which offers fit which trunk."""

from __future__ import annotations

import pytest

from sip_gateway.trunks.encryption import AudioOffer, audio_offers, refusal
from sip_gateway.trunks.trunk import Srtp

KEY = "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz\r\n"
PLAIN = "v=0\r\nm=audio 4000 RTP/AVP 0\r\n"
SECURE = "v=0\r\nm=audio 4000 RTP/SAVP 0\r\n" + KEY
KEYLESS = "v=0\r\nm=audio 4000 UDP/TLS/RTP/SAVP 0\r\na=fingerprint:sha-256 00\r\n"
BOTH = SECURE + "m=audio 4002 RTP/AVP 0\r\n"
BEST_EFFORT = PLAIN + KEY
VIDEO_KEY = PLAIN + "m=video 5000 RTP/SAVP 96\r\n" + KEY


@pytest.mark.parametrize(
    ("body", "off", "optional", "required"),
    [
        (PLAIN, None, None, "srtp_required"),
        (SECURE, "srtp_not_enabled", None, None),
        (KEYLESS, "srtp_not_enabled", "srtp_without_key", "srtp_without_key"),
        (BOTH, None, None, None),
        (BEST_EFFORT, None, None, "srtp_required"),
        (VIDEO_KEY, None, None, "srtp_required"),
        ("", None, None, None),
        ("v=0\r\nm=audio 0 RTP/AVP 0\r\n", None, None, None),
        ("m=audio\r\nm=\r\nm=audio x\r\na=crypto:", None, None, None),
    ],
)
def test_what_fits(body: str, off: str | None, optional: str | None, required: str | None) -> None:
    answers = [refusal(srtp, body) for srtp in (Srtp.OFF, Srtp.OPTIONAL, Srtp.REQUIRED)]
    assert [answer and answer.why for answer in answers] == [off, optional, required]
    assert all(answer is None or answer.sip_status == 488 for answer in answers)


def test_a_key_belongs_to_its_own_stream() -> None:
    assert audio_offers(VIDEO_KEY) == [AudioOffer(secure=False, has_key=False)]
