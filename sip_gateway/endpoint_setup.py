"""What [sip] means for PJSIP before it starts: sizes, transports, ports and codecs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pjsua2 as pj
import structlog

from services.common.addresses import HostPort
from services.common.audio import FRAME_MS, SAMPLE_RATE_HZ
from services.common.errors import ConfigError
from sip_gateway.config import Codec, EndpointConfig
from sip_gateway.media.jitter import discard_steadily
from sip_gateway.trunks.trunk import Transport

if TYPE_CHECKING:
    from sip_gateway.sip.log import SipLog

_log = structlog.get_logger()
_PORT_ATTEMPTS = 10
MORE_LEGS_THAN_FIT = 32  # PJSIP was built for fewer, and takes as many as it can
_CODEC_IDS = {
    Codec.G722: "G722/16000/1",
    Codec.PCMA: "PCMA/8000/1",
    Codec.PCMU: "PCMU/8000/1",
}
_PJ_TRANSPORTS = {
    Transport.UDP: pj.PJSIP_TRANSPORT_UDP,
    Transport.TCP: pj.PJSIP_TRANSPORT_TCP,
}


def pj_config(config: EndpointConfig, log_writer: SipLog) -> Any:
    """Everything that PJSIP must know before it begins."""
    to = pj.EpConfig()
    to.uaConfig.maxCalls = MORE_LEGS_THAN_FIT
    to.uaConfig.threadCnt = 0
    for server in config.nat.stun:
        to.uaConfig.stunServer.append(str(server))
    for address in config.nameservers:
        to.uaConfig.nameserver.append(address)
    to.uaConfig.userAgent = config.user_agent
    media = to.medConfig
    media.clockRate = SAMPLE_RATE_HZ
    media.sndClockRate = SAMPLE_RATE_HZ
    media.channelCount = 1
    media.audioFramePtime = FRAME_MS
    media.noVad = True
    if not discard_steadily(media):
        _log.warning("slow_jitter_buffer", reason="this pjsua2 hides how frames are discarded")
    media.ecTailLen = 0
    log_writer.configure(to.logConfig)
    return to


def open_transports(endpoint: Any, config: EndpointConfig) -> HostPort:
    """Listen with every transport on one port; ConfigError when the address cannot be had."""
    listen = config.listen
    for attempt in range(_PORT_ATTEMPTS):
        opened: list[int] = []
        port = listen.port
        try:
            for transport in config.transports:
                number = endpoint.transportCreate(
                    _PJ_TRANSPORTS[transport], _transport_config(config, port)
                )
                opened.append(number)
                name = endpoint.transportGetInfo(number).localName
                port = int(name.rpartition(":")[2])
        except pj.Error as error:
            if listen.port or attempt == _PORT_ATTEMPTS - 1:
                raise ConfigError(
                    f"[sip] listen = {listen}: cannot listen there: {error.reason}; "
                    "is another program using the port?"
                ) from None
            for number in opened:
                endpoint.transportClose(number)
        else:
            return HostPort(listen.host, port)
    raise AssertionError("unreachable")


def _transport_config(config: EndpointConfig, port: int) -> Any:
    to = pj.TransportConfig()
    to.port = port
    to.boundAddress = bound_host(config)
    to.publicAddress = config.nat.public_address or ""
    return to


def bound_host(config: EndpointConfig) -> str:
    """The address to listen on; empty for all."""
    return "" if config.listen.host in ("0.0.0.0", "*") else config.listen.host


def _media_host(config: EndpointConfig) -> str:
    """Behind an edge SIP comes from it alone, but audio comes from everywhere."""
    place = config.place
    if place is None:
        return bound_host(config)
    return "" if place.media_host in ("0.0.0.0", "*") else place.media_host


def media_config(config: EndpointConfig, to: Any) -> None:
    """Fill in an AccountMediaConfig."""
    rtp = to.transportConfig
    rtp.port = config.rtp_ports.first
    rtp.portRange = config.rtp_ports.last - config.rtp_ports.first
    rtp.boundAddress = _media_host(config)


def choose_codecs(endpoint: Any, config: EndpointConfig) -> None:
    """Those of the configuration, in their order, and no others."""
    for codec in endpoint.codecEnum2():
        endpoint.codecSetPriority(codec.codecId, 0)
    for rank, name in enumerate(config.codecs):
        endpoint.codecSetPriority(_CODEC_IDS[name], 250 - rank)
