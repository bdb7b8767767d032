"""[sip.nat]: what holds for a trunk, and what cannot be."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from services.common.config import load
from services.common.errors import ConfigError
from sip_gateway.config import SipConfig
from sip_gateway.media.source_lock import SourceMode
from sip_gateway.nat.config import is_probably_unreachable

TRUNK = '\n[[sip.trunks]]\nname = "t"\nkind = "peer"\nallow = ["203.0.113.0/24"]\n'
INTERNET = TRUNK + "internet = true\n"
OUTSIDE = 'listen = "0.0.0.0:5060"\n'


def read(folder: Path, sip: str = "", trunks: str = TRUNK) -> SipConfig:
    path = folder / "landline.toml"
    path.write_text(f'[sip]\nagent = "127.0.0.1:6000"\n{sip}{trunks}')
    return load(path).section("sip", SipConfig)


def test_public_address_may_stand_in_either_place(tmp_path: Path) -> None:
    assert read(tmp_path, 'public_address = "198.18.0.1"').nat.public_address == "198.18.0.1"
    config = read(tmp_path, 'nat = { public_address = "198.18.0.1" }')
    assert config.nat.public_address == "198.18.0.1"


def test_a_trunk_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        '[sip.nat]\npublic_address = "198.18.0.1"\nkeepalive_s = 30\n',
        TRUNK + 'media_allow = ["192.0.2.0/28"]\n'
        'nat = { public_address = "", source_lock = "first", rebind_after_ms = 900 }\n',
    )
    (trunk,) = config.trunks
    nat = config.nat.for_trunk(trunk)
    assert (nat.public_address, nat.keepalive_s) == (None, 30)
    sources = nat.sources(trunk, trunk.allow, "198.51.100.9")
    assert (sources.mode, sources.rebind_after_ms) == (SourceMode.FIRST, 900)
    assert {str(network) for network in sources.networks} == {
        "203.0.113.0/24",
        "192.0.2.0/28",
    }
    assert sources.sip_source == "198.51.100.9"
    assert all(isinstance(network, ipaddress.IPv4Network) for network in sources.networks)


def test_a_trunk_in_the_building_uses_neither_stun_nor_relay(tmp_path: Path) -> None:
    sip = '[sip.nat]\nice = true\nstun = ["192.0.2.1:3478"]\n'
    turn = (
        '[sip.nat.turn]\nserver = "192.0.2.1:3478"\nusername = "u"\npassword = { env = "TURN" }\n'
    )
    trunk = TRUNK + "nat = { stun = false, turn = false, ice = false }\n"
    config = read(tmp_path, sip + turn, trunk)
    nat = config.nat.for_trunk(config.trunks[0])
    assert (nat.stun, nat.turn, nat.ice) == ([], None, False)
    assert config.nat.turn is not None


@pytest.mark.parametrize(
    ("sip", "trunks", "says"),
    [
        (OUTSIDE + 'public_address = "10.0.0.1"', INTERNET, "cannot reach the private"),
        (
            OUTSIDE,
            INTERNET + 'nat = { public_address = "192.168.1.1" }\n',
            "'t' is on the internet, which cannot reach the private public_address 192.168.1.1",
        ),
        (OUTSIDE + "nat = { ice = true }", INTERNET, "name a STUN or TURN server"),
        ("", INTERNET, "hears this machine only"),
        ('nat = { public_address = "pbx.example" }', TRUNK, "must be an IPv4 address"),
        ('nat = { public_address = "224.0.0.9" }', TRUNK, "nobody can send"),
        ('nat = { public_address = "0.0.0.0" }', TRUNK, "nobody can send"),
        ("", TRUNK + 'nat = { public_address = "x" }\n', "must be an IPv4 address"),
        (
            'public_address = "198.18.0.1"\nnat = { public_address = "198.18.0.2" }',
            TRUNK,
            "public_address and nat.public_address differ",
        ),
        (
            'nat = { ice = true, turn = { server = "192.0.2.1:3478" } }',
            TRUNK,
            "needs username and password",
        ),
        (
            'nat = { turn = { server = "192.0.2.1:3478", username = "u", '
            'password = { env = "X" } } }',
            TRUNK,
            "turn without ice",
        ),
        (
            'nat = { public_address = "198.18.0.1", stun = ["192.0.2.1:3478"] }',
            TRUNK,
            "both answer the same question",
        ),
        ('nat = { source_lock = "on" }', TRUNK, "'signalled', 'first' or 'off'"),
        ("nat = { rebind_after_ms = 10 }", TRUNK, "greater than or equal to 500"),
        ("nat = { keepalives = 10 }", TRUNK, "did you mean 'keepalive_s'"),
        ("", TRUNK + 'srtp = "maybe"\n', "'off', 'optional' or 'required'"),
        ("", TRUNK + 'media_allow = ["everywhere"]\n', "not an IPv4 network"),
    ],
)
def test_a_contradiction_is_named(tmp_path: Path, sip: str, trunks: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("(", "\\(")):
        read(tmp_path, sip, trunks)


@pytest.mark.parametrize(
    ("sip", "trunks", "warned"),
    [
        (OUTSIDE, INTERNET, True),
        (OUTSIDE, TRUNK, False),
        (OUTSIDE + 'nat = { stun = ["192.0.2.1:3478"] }', INTERNET, False),
        (OUTSIDE + 'public_address = "8.8.4.4"', INTERNET, False),
        ('listen = "8.8.4.4:5060"', INTERNET, False),
    ],
)
def test_an_internet_trunk_that_is_told_nothing_is_warned_of(
    tmp_path: Path, sip: str, trunks: str, warned: bool
) -> None:
    config = read(tmp_path, sip, trunks)
    (trunk,) = config.trunks
    assert is_probably_unreachable(trunk, config.nat.for_trunk(trunk), config.listen) is warned
