"""What [sip.nat] and a trunk's `srtp` mean in PJSIP's words."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pjsua2 as pj

from sip_gateway.nat.config import TurnTransport
from sip_gateway.trunks.trunk import Srtp

if TYPE_CHECKING:
    from services.common.addresses import HostPort
    from sip_gateway.nat.config import Nat
    from sip_gateway.trunks.trunk import Trunk

# Values of pjsua_stun_use and pj_turn_tp_type, which pjsua2 does not name.
_STUN_ALWAYS, _STUN_NEVER = 0, 1
_TURN_TRANSPORTS = {TurnTransport.UDP: 17, TurnTransport.TCP: 6}
_SRTP_USE = {
    Srtp.OFF: pj.PJMEDIA_SRTP_DISABLED,
    Srtp.OPTIONAL: pj.PJMEDIA_SRTP_OPTIONAL,
    Srtp.REQUIRED: pj.PJMEDIA_SRTP_MANDATORY,
}


def apply_nat(config: Any, nat: Nat) -> None:
    """Fill in the NAT side of an AccountConfig; ConfigError without the TURN password."""
    to = config.natConfig
    to.sipStunUse = to.mediaStunUse = _STUN_ALWAYS if nat.stun else _STUN_NEVER
    to.iceEnabled = nat.ice
    to.iceAlwaysUpdate = False  # only when the checks have chosen another address (RFC 8839, 4.4.1)
    if nat.turn is not None and nat.turn.password is not None:
        to.turnEnabled = True
        to.turnServer = str(nat.turn.server)
        to.turnConnType = _TURN_TRANSPORTS[nat.turn.transport]
        to.turnUserName = nat.turn.username
        to.turnPasswordType = 0
        to.turnPassword = nat.turn.password.read()
    to.contactRewriteUse = to.viaRewriteUse = int(nat.rewrite_contact)
    to.sdpNatRewriteUse = int(nat.rewrite_sdp)
    to.udpKaIntervalSec = nat.keepalive_s
    config.mediaConfig.streamKaEnabled = nat.rtp_keepalive
    config.mediaConfig.transportConfig.publicAddress = nat.public_address or ""


def apply_srtp(config: Any, srtp: Srtp) -> None:
    """Fill in the SRTP side of an AccountConfig: keys in SDP, whatever carries the SIP."""
    config.mediaConfig.srtpUse = _SRTP_USE[srtp]
    # TLS ends at the edge, so that what reaches us never looks secure to PJSIP.
    config.mediaConfig.srtpSecureSignaling = 0
    config.mediaConfig.srtpOpt.keyings.append(pj.PJMEDIA_SRTP_KEYING_SDES)


def own_address_towards(trunk: Trunk, listen: HostPort) -> str:
    """Our address on the way to the trunk; nothing is sent to find it."""
    if listen.host not in ("0.0.0.0", "*"):
        return listen.host
    there = trunk.registrar.host if trunk.registrar else str(trunk.allow[0].network_address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((there, 5060))
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])
