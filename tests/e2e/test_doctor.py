"""`landline doctor` as an admin runs it, at a real registrar and at a bad PBX."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.test_commands import LANDLINE, run
from tests.fakes.bad_pbx import BadPbx
from tests.fakes.kamailio import Kamailio, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PASSWORD = "correct horse"


@pytest.fixture
async def registrar(tmp_path: Path) -> AsyncIterator[Kamailio]:
    folder = tmp_path / "kamailio"
    folder.mkdir()
    server = Kamailio(folder, password=PASSWORD)
    await server.start()
    yield server
    await server.stop()


def write_config(folder: Path, trunk: str, *, listen: int) -> None:
    (folder / "landline.toml").write_text(
        '[landline]\ndata_dir = "var"\n\n'
        f'[sip]\nlisten = "127.0.0.1:{listen}"\nrtp_ports = "28000-28099"\n'
        f'agent = "127.0.0.1:1"\n\n[[sip.trunks]]\n{trunk}\n',
        encoding="utf-8",
    )


def extension(folder: Path, registrar: str, password: str = PASSWORD) -> str:
    (folder / "secret").write_text(password, encoding="utf-8")
    return (
        f'name = "pbx"\nkind = "registration"\nregistrar = "{registrar}"\nusername = "200"\n'
        'password = { file = "secret" }'
    )


async def examine(folder: Path, *options: str, expect: int) -> dict[str, Any]:
    shown = await run(folder, LANDLINE, "doctor", "--json", *options, expect=expect)
    reports = json.loads(shown)
    assert len(reports) == 1
    report: dict[str, Any] = reports[0]
    return report


def statuses(report: dict[str, Any]) -> dict[str, str]:
    return {finding["check"]: finding["status"] for finding in report["findings"]}


def finding(report: dict[str, Any], check: str) -> dict[str, str]:
    (found,) = (item for item in report["findings"] if item["check"] == check)
    return dict(found)


async def test_an_extension_that_works_passes_every_check(
    registrar: Kamailio, tmp_path: Path
) -> None:
    write_config(tmp_path, extension(tmp_path, f"127.0.0.1:{registrar.port}"), listen=free_port())
    report = await examine(tmp_path, expect=0)
    found = statuses(report)
    found.pop("clock")  # depends on the machine
    assert found == dict.fromkeys(
        (
            *("registration", "call", "codecs", "audio out", "audio in", "DTMF", "hold"),
            *("session refresh", "hang-up", "transfer", "advertised address", "NAT", "SIP ALG"),
        ),
        "pass",
    )
    assert finding(report, "codecs")["evidence"].startswith("agreed on G722")
    sent = [message["text"] for message in report["messages"]]
    assert any(text.startswith("REGISTER") and "Authorization: (hidden)" in text for text in sent)
    assert not any(word in "".join(sent) for word in (PASSWORD, "response=", "cnonce="))


async def test_the_report_for_people_has_a_ladder(registrar: Kamailio, tmp_path: Path) -> None:
    trunk = extension(tmp_path, f"127.0.0.1:{registrar.port}", password="wrong")
    write_config(tmp_path, trunk, listen=free_port())
    shown = await run(tmp_path, LANDLINE, "doctor", "pbx", "--ladder", expect=1)
    assert "fail registration       401 Unauthorized" in shown
    assert "do:  compare username and password" in shown
    assert "us |-- REGISTER with credentials ---" in shown
    assert "us |<- 401 Unauthorized (REGISTER) ---" in shown
    assert "response=" not in shown


async def test_a_wrong_password_is_named_and_nothing_else_is_tried(
    registrar: Kamailio, tmp_path: Path
) -> None:
    trunk = extension(tmp_path, f"127.0.0.1:{registrar.port}", password="wrong")
    write_config(tmp_path, trunk, listen=free_port())
    report = await examine(tmp_path, expect=1)
    wrong = finding(report, "registration")
    assert wrong["status"] == "fail"
    assert "does not accept the username or password" in wrong["why"]
    assert "compare username and password" in wrong["remedy"]
    assert statuses(report)["call"] == "skip"
    assert statuses(report)["advertised address"] == "pass"


async def test_everything_that_is_wrong_with_a_pbx_is_named(tmp_path: Path) -> None:
    async with BadPbx() as pbx:
        write_config(
            tmp_path, 'name = "bad"\nkind = "peer"\nallow = ["127.0.0.1/32"]', listen=free_port()
        )
        report = await examine(tmp_path, "--number", f"sip:echo@{pbx.address}", expect=1)
    assert statuses(report) == {
        "registration": "skip",
        "call": "pass",
        "codecs": "pass",
        "audio out": "skip",
        "audio in": "fail",
        "DTMF": "warn",
        "hold": "fail",
        "session refresh": "fail",
        "hang-up": "skip",
        "transfer": "fail",
        "advertised address": "fail",
        "NAT": "pass",
        "SIP ALG": "pass",
        "clock": "fail",
    }
    assert "one-way audio" in finding(report, "audio in")["why"]
    assert finding(report, "hold")["evidence"] == "hold: 488"
    assert finding(report, "transfer")["evidence"] == "REFER got 603"
    assert 'public_address = "203.0.113.9"' in finding(report, "advertised address")["remedy"]
    assert pbx.requests.count("BYE") == 2


async def test_every_trunk_is_examined_at_its_own_server_over_its_transport(
    registrar: Kamailio, tmp_path: Path
) -> None:
    address = f"127.0.0.1:{registrar.port}"
    peer = (
        f'name = "carrier"\nkind = "peer"\nallow = ["127.0.0.9/32"]\nserver = "{address}"\n'
        'username = "300"\npassword = { file = "secret" }\ntransport = "tcp"'
    )
    write_config(
        tmp_path, f"{extension(tmp_path, address)}\n[[sip.trunks]]\n{peer}", listen=free_port()
    )
    reports = json.loads(await run(tmp_path, LANDLINE, "doctor", "--json", expect=1))
    assert [report["trunk"] for report in reports] == ["pbx", "carrier"]
    assert statuses(reports[0])["call"] == "pass"
    call = finding(reports[1], "call")
    assert "404" in call["evidence"]  # nobody is registered there as 300
    assert "transport=tcp" in call["evidence"]
    invites = [m["text"] for m in reports[1]["messages"] if m["text"].startswith("INVITE ")]
    assert invites
    assert all("SIP/2.0/TCP" in text for text in invites)


async def test_a_port_in_use_says_that_landline_may_be_running(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        write_config(
            tmp_path,
            'name = "bad"\nkind = "peer"\nallow = ["127.0.0.1/32"]',
            listen=other.getsockname()[1],
        )
        shown = await run(tmp_path, LANDLINE, "doctor", "--number", "sip:echo@127.0.0.1", expect=78)
    assert "cannot listen there" in shown
    assert "stop it for the examination" in shown


async def test_a_trunk_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    write_config(
        tmp_path, 'name = "carrier"\nkind = "peer"\nallow = ["127.0.0.1/32"]', listen=free_port()
    )
    shown = await run(tmp_path, LANDLINE, "doctor", "pbx", expect=1)
    assert "no trunk pbx in [[sip.trunks]]; there are: carrier" in shown
