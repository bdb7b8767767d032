"""The configuration that is written for Kamailio, read by the real one."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

import pytest

from services.common.addresses import HostPort
from services.common.errors import ConfigError
from sip_gateway.edge.config import EdgeConfig, EdgeTls
from sip_gateway.edge.plan import EdgePlan, EdgeTrunk, Seat
from sip_gateway.edge.render import CONFIG_FILE, TLS_FILE, files
from sip_gateway.trunks.trunk import Server, Transport, TrunkKind

PASSWORD = "pass:word\\with everything"
PEER = EdgeTrunk(
    key="trunk1",
    name="carrier",
    kind=TrunkKind.PEER,
    networks=(ipaddress.IPv4Network("192.0.2.0/24"), ipaddress.IPv4Network("198.51.100.7/32")),
)
EXTENSION = EdgeTrunk(
    key="trunk2",
    name="pbx",
    kind=TrunkKind.REGISTRATION,
    username="600",
    password=PASSWORD,
    registrar=Server("pbx.example", 0),
    transport=Transport.TCP,
)
SEAT = Seat(number=1, name="w1-abc", address=HostPort("127.0.0.1", 6001), load=2)


def plan(folder: Path, **changes: object) -> EdgePlan:
    parts: dict[str, object] = {
        "config": EdgeConfig(scanners=["my scanner-1.0"]),
        "outside": HostPort("127.0.0.1", 5060),
        "advertised": HostPort("203.0.113.9", 5060),
        "inside": HostPort("127.0.0.1", 6000),
        "transports": (Transport.UDP, Transport.TCP),
        "trunks": (PEER, EXTENSION),
        "workers": 2,
        "slots": 3,
        "folder": folder,
        **changes,
    }
    return EdgePlan(**parts)  # type: ignore[arg-type]


def accepted(folder: Path, made: EdgePlan) -> str:
    """What was written, after Kamailio has read it."""
    for name, text in files(made, [SEAT], {"trunk2": ["192.0.2.200"]}).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    config = folder / CONFIG_FILE
    check = subprocess.run(["kamailio", "-c", "-f", config], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr
    return config.read_text()


def test_kamailio_reads_it_and_no_password_is_in_it(tmp_path: Path) -> None:
    text = accepted(tmp_path, plan(tmp_path))
    assert PASSWORD not in text
    assert 'listen=udp:127.0.0.1:5060 advertise 203.0.113.9:5060 name "outside_udp"' in text
    assert '$sht(worker=>w1-abc) = "127.0.0.1:6001";' in text
    assert "$sht(registrar=>trunk2::192.0.2.200) = 1;" in text


def test_kamailio_reads_it_with_tls_and_with_peers_only(tmp_path: Path) -> None:
    tls = EdgeTls(cert_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem")
    text = accepted(tmp_path, plan(tmp_path, config=EdgeConfig(tls=tls), trunks=(PEER,)))
    assert "enable_tls=yes" in text
    assert "uac.so" not in text


def test_certificates_may_lie_where_names_have_spaces(tmp_path: Path) -> None:
    tls = EdgeTls(cert_file=tmp_path / "my certs" / "a.pem", key_file=tmp_path / "#key.pem")
    text = files(plan(tmp_path, config=EdgeConfig(tls=tls)), (), {})[TLS_FILE]
    assert f'certificate = "{tls.cert_file}"' in text
    assert f'private_key = "{tls.key_file}"' in text


def test_kamailio_reads_it_without_trunks_and_over_one_transport(tmp_path: Path) -> None:
    for transport in Transport:
        accepted(tmp_path, plan(tmp_path, trunks=(), transports=(transport,)))


def test_a_password_is_escaped_where_it_stands(tmp_path: Path) -> None:
    row = files(plan(tmp_path), (), {})["db/uacreg"].splitlines()[1]
    assert "pass\\:word\\\\with everything" in row
    assert row.count(":") - row.count("\\:") == 15


def test_while_draining_nothing_registers_again(tmp_path: Path) -> None:
    texts = files(plan(tmp_path), (), {}, draining=True)
    assert "with everything" not in texts["db/uacreg"]
    assert "$sht(state=>draining) = 1;" in texts[CONFIG_FILE]
    assert len(files(plan(tmp_path), (), {})["db/uacreg"].splitlines()) == 2


def test_what_would_break_out_of_a_string_is_refused(tmp_path: Path) -> None:
    evil = EdgeTrunk(
        key="trunk1",
        name='x"; exit; #',
        kind=TrunkKind.PEER,
        networks=(ipaddress.IPv4Network("192.0.2.0/24"),),
    )
    with pytest.raises(ConfigError, match="no quotes"):
        files(plan(tmp_path, trunks=(evil,)), (), {})


def test_a_trunk_does_not_show_its_password() -> None:
    assert PASSWORD not in repr(EXTENSION)
    assert PASSWORD not in str(plan(Path()))
