"""A gateway's configuration is right or says what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.common import config
from services.common.errors import ConfigError
from sip_gateway.config import Codec, SipConfig
from sip_gateway.trunks.trunk import Transport

if TYPE_CHECKING:
    from pathlib import Path

PEER = '[[sip.trunks]]\nname = "a"\nkind = "peer"\nallow = ["192.0.2.0/24"]\n'
REGISTRATION = (
    '[[sip.trunks]]\nname = "r"\nkind = "registration"\nregistrar = "pbx:5060"\n'
    'username = "600"\npassword = { env = "PBX_PASSWORD" }\n'
)


def load(tmp_path: Path, sip: str = "", trunks: str = PEER) -> SipConfig:
    path = tmp_path / "landline.toml"
    path.write_text(f'[sip]\nagent = "127.0.0.1:7000"\n{sip}\n{trunks}', encoding="utf-8")
    return config.load(path).section("sip", SipConfig)


def test_defaults(tmp_path: Path) -> None:
    sip = load(tmp_path, trunks=PEER + REGISTRATION)
    assert str(sip.listen) == "127.0.0.1:5060"
    assert sip.transports == [Transport.UDP, Transport.TCP]
    assert sip.codecs == [Codec.G722, Codec.PCMA, Codec.PCMU]
    assert str(sip.rtp_ports) == "20000-20399"
    assert sip.recording
    assert sip.transfer_allow == []
    assert [trunk.name for trunk in sip.trunks] == ["a", "r"]


@pytest.mark.parametrize(
    ("sip", "trunks", "says"),
    [
        ('rtp_ports = "20000"', PEER, "20000-20099"),
        ('rtp_ports = "30000-20000"', PEER, "smaller port first"),
        ('rtp_ports = "20001-20099"', PEER, "even port"),
        ('rtp_ports = "20000-20003"', PEER, "at least 16"),
        ('listen = "127.0.0.1:20010"', PEER, "contain the listening port"),
        ('codecs = ["OPUS"]', PEER, "codecs.0"),
        ("codecs = []", PEER, "codecs"),
        ('codecs = ["PCMU", "PCMU"]', PEER, "more than once"),
        ("media = { jitter_buffer_max_ms = 10 }", PEER, "jitter_buffer_max_ms"),
        ('public_address = "pbx.example"', PEER, "IPv4"),
        ('transfer_allow = ["desk"]', PEER, "whole URIs"),
        ("recordings = true", PEER, "did you mean 'recording'"),
        ("", PEER + PEER, "more than once"),
        ("", PEER + PEER.replace('"a"', '"b"').replace("/24", "/25"), "could belong to either"),
        ("", '[[sip.trunks]]\nname = "a"\nkind = "peer"\n', "without allow"),
        ("", PEER + 'username = "600"\n', "is a peer"),
        ("", PEER.replace("192.0.2.0/24", "192.0.2.1/24"), "not an IPv4 network"),
        ("", REGISTRATION.replace('username = "600"\n', ""), "needs registrar"),
        ("", REGISTRATION.replace('{ env = "PBX_PASSWORD" }', '"secret"'), "password"),
        ("", PEER + 'dids = [{ number = "1" }, { number = "1" }]\n', "given twice"),
        ("", PEER + 'did_from = "from"\n', "p-called-party-id"),
        ('country = "Germany"', PEER, "two capitals"),
        ("", REGISTRATION.replace("pbx:5060", "pbx:70000"), "host:port"),
        ("", REGISTRATION.replace('"600"', '"a b"'), "username"),
        ("", REGISTRATION.replace('"600"', '"600@pbx"'), "username"),
        ("", PEER + 'caller_id = "x>"\n', "caller_id"),
        (
            'listen = "127.0.0.1:5061"\nedge.tls = { cert_file = "c", key_file = "k" }',
            PEER,
            "TLS is TCP too",
        ),
        ('transports = ["udp"]', REGISTRATION + 'transport = "tcp"\n', "does not have"),
    ],
)
def test_contradictions_name_the_key(tmp_path: Path, sip: str, trunks: str, says: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        load(tmp_path, sip, trunks)
    assert says in str(wrong.value)


def test_agent_is_required(tmp_path: Path) -> None:
    path = tmp_path / "landline.toml"
    path.write_text("[sip]\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="agent"):
        config.load(path).section("sip", SipConfig)
