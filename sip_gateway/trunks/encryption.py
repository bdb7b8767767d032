"""Whether a trunk takes an offer of encrypted, or of plain, audio (SDES, RFC 4568)."""

from __future__ import annotations

from dataclasses import dataclass

from sip_gateway.events import Refusal
from sip_gateway.trunks.trunk import Srtp

SRTP_REQUIRED = Refusal(
    sip_status=488,
    why="srtp_required",
    missing="this trunk takes encrypted audio only: offer RTP/SAVP with a=crypto",
)
SRTP_NOT_ENABLED = Refusal(
    sip_status=488,
    why="srtp_not_enabled",
    missing='this trunk takes plain audio only: offer RTP/AVP, or set srtp = "optional" here',
)
SRTP_WITHOUT_KEY = Refusal(
    sip_status=488,
    why="srtp_without_key",
    missing="encrypted audio is offered without a=crypto: DTLS-SRTP is not supported, SDES is",
)


@dataclass(frozen=True, slots=True)
class AudioOffer:
    """How one m=audio line of an offer wants its RTP carried."""

    secure: bool
    has_key: bool


def refusal(srtp: Srtp, body: str) -> Refusal | None:
    """Why an offer does not fit the trunk's `srtp`; None when it does, or when there is none."""
    offers = audio_offers(body)
    if not offers:
        return None
    usable = any(offer.secure and offer.has_key for offer in offers)
    plain = any(not offer.secure for offer in offers)
    if srtp is Srtp.REQUIRED:
        if usable:
            return None
        return SRTP_REQUIRED if plain else SRTP_WITHOUT_KEY
    if plain or (usable and srtp is Srtp.OPTIONAL):
        return None
    return SRTP_WITHOUT_KEY if srtp is Srtp.OPTIONAL else SRTP_NOT_ENABLED


def audio_offers(body: str) -> list[AudioOffer]:
    """Each audio stream of an SDP that is not switched off."""
    found: list[AudioOffer] = []
    in_audio = False
    for line in body.splitlines():
        if line.startswith("m="):
            fields = line[2:].split()
            in_audio = len(fields) > 2 and fields[0] == "audio" and fields[1] != "0"
            if in_audio:
                found.append(AudioOffer(secure="SAVP" in fields[2], has_key=False))
        elif in_audio and line.startswith("a=crypto:"):
            found[-1] = AudioOffer(secure=found[-1].secure, has_key=True)
    return found
