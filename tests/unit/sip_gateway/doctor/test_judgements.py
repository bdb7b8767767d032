from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sip_gateway.doctor import judgements
from sip_gateway.doctor.findings import Status, worst
from sip_gateway.doctor.ladder import SipMessage
from sip_gateway.doctor.signals import Echo
from sip_gateway.events import RegistrationChanged
from sip_gateway.media.jitter import StreamStatistics
from sip_gateway.nat.alg import AlgFinding, Damage

NOW = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


def sent(
    method: str, *headers: str, at_ms: float = 0, peer: str = "198.51.100.7:5060"
) -> SipMessage:
    text = "\r\n".join((f"{method} sip:x SIP/2.0", f"CSeq: 1 {method}", "Call-ID: a", *headers))
    return SipMessage(at_ms=at_ms, sent=True, peer=peer, text=text)


def answer(status: str, method: str, *headers: str, at_ms: float = 1) -> SipMessage:
    text = "\r\n".join((f"SIP/2.0 {status}", f"CSeq: 1 {method}", "Call-ID: a", *headers))
    return SipMessage(at_ms=at_ms, sent=False, peer="198.51.100.7:5060", text=text)


def registered(sip_status: int, reason: str, *, expires_s: int = 0) -> RegistrationChanged:
    return RegistrationChanged(
        trunk="pbx",
        registered=expires_s > 0,
        sip_status=sip_status,
        reason=reason,
        expires_s=expires_s,
        registrar_ip="198.51.100.7",
    )


@pytest.mark.parametrize(
    ("change", "status", "remedy"),
    [
        (registered(200, "OK", expires_s=300), Status.PASS, ""),
        (registered(403, "Forbidden"), Status.FAIL, "compare username and password"),
        (registered(500, "Oops"), Status.FAIL, "registrar's own log"),
        (None, Status.FAIL, "firewall"),
    ],
)
def test_registration(change: RegistrationChanged | None, status: Status, remedy: str) -> None:
    finding = judgements.registration(change, waited_s=8)
    assert finding.status is status
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("via", "public", "status"),
    [
        ("10.0.0.9:5060;rport=5060", None, Status.PASS),
        ("10.0.0.9:5060;received=203.0.113.9;rport=6000", None, Status.FAIL),
        ("10.0.0.9:5060;received=203.0.113.9", "203.0.113.8", Status.FAIL),
        ("10.0.0.9:5060;rport=40000", None, Status.PASS),
    ],
)
def test_advertised_address(via: str, public: str | None, status: Status) -> None:
    messages = [
        sent("REGISTER", "Contact: <sip:200@10.0.0.9:5060;ob>"),
        answer("200 OK", "REGISTER", f"Via: SIP/2.0/UDP {via};branch=z9hG4bK1"),
    ]
    finding = judgements.advertised_address(messages, public)
    assert finding.status is status
    if status is Status.FAIL:
        assert 'public_address = "203.0.113.9"' in finding.remedy


def test_an_address_behind_a_nat_that_is_advertised_as_public_passes() -> None:
    messages = [
        sent("REGISTER", "Contact: <sip:200@203.0.113.9:5060>"),
        answer(
            "200 OK",
            "REGISTER",
            "Via: SIP/2.0/UDP 203.0.113.9:5060;received=203.0.113.9;rport=5060",
        ),
    ]
    assert judgements.advertised_address(messages, "203.0.113.9").status is Status.PASS


def test_without_an_answer_nobody_knows_how_we_are_seen() -> None:
    messages = [sent("REGISTER", "Contact: <sip:200@10.0.0.9>")]
    assert judgements.advertised_address(messages, None).status is Status.SKIP


@pytest.mark.parametrize(
    ("told", "peer", "status"),
    [
        ("10.0.0.9", "8.8.4.4:5060", Status.FAIL),
        ("10.0.0.9", "10.0.0.5:5060", Status.PASS),
        ("8.8.8.8", "8.8.4.4:5060", Status.PASS),
        ("", "8.8.4.4:5060", Status.SKIP),
    ],
)
def test_nat(told: str, peer: str, status: Status) -> None:
    messages = [sent("INVITE", "", f"c=IN IP4 {told}" if told else "v=0", peer=peer)]
    assert judgements.nat(messages).status is status


def test_sip_alg() -> None:
    finding = AlgFinding(
        damage=Damage.LENGTH,
        evidence="Content-Length says 9, the body has 7 bytes",
        effect="the end of the SDP is cut off",
        remedy="switch it off",
    )
    assert judgements.sip_alg([]).status is Status.PASS
    found = judgements.sip_alg([finding, finding])
    assert found.status is Status.FAIL
    assert found.evidence == finding.evidence
    assert found.remedy == "switch it off"


@pytest.mark.parametrize(
    ("date", "synchronised", "status"),
    [
        ("Tue, 01 Jan 2030 12:00:01 GMT", True, Status.PASS),
        ("Tue, 01 Jan 2030 13:00:00 GMT", True, Status.FAIL),
        ("Tue, 01 Jan 2030 12:00:00 GMT", False, Status.WARN),
        ("no date at all", True, Status.PASS),
        ("", None, Status.PASS),
    ],
)
def test_clock(date: str, synchronised: bool | None, status: Status) -> None:
    messages = [answer("200 OK", "REGISTER", f"Date: {date}")]
    assert judgements.clock(messages, began=NOW, synchronised=synchronised).status is status


def test_a_date_is_compared_with_the_moment_in_which_it_came() -> None:
    # A registrar tells it once, at the beginning; what follows takes half a minute.
    late = answer("200 OK", "REGISTER", "Date: Tue, 01 Jan 2030 12:00:30 GMT", at_ms=30_000)
    assert judgements.clock([late], began=NOW, synchronised=True).status is Status.PASS
    wrong = answer("200 OK", "REGISTER", "Date: Tue, 01 Jan 2030 12:00:00 GMT", at_ms=30_000)
    assert judgements.clock([wrong], began=NOW, synchronised=True).status is Status.FAIL


@pytest.mark.parametrize(
    ("agreed", "offered", "status"),
    [
        ("G722/8000", ("G722/8000", "PCMA/8000"), Status.PASS),
        ("PCMA/8000", ("PCMA/8000",), Status.PASS),
        ("PCMA/8000", ("PCMA/8000", "G722/8000"), Status.WARN),
        ("", (), Status.FAIL),
    ],
)
def test_codecs(agreed: str, offered: tuple[str, ...], status: Status) -> None:
    assert judgements.codecs(agreed, offered, ["G722", "PCMA"]).status is status


def test_offered_codecs_leave_out_telephone_events() -> None:
    body = "a=rtpmap:9 G722/8000\r\na=rtpmap:101 telephone-event/8000"
    assert judgements.offered_codecs([answer("200 OK", "INVITE", "", body)]) == ("G722/8000",)


@pytest.mark.parametrize(
    ("echo", "status", "word"),
    [
        (Echo(at_ms=40, likeness=0.9, level_dbfs=-20), Status.PASS, ""),
        (Echo(at_ms=400, likeness=0.9, level_dbfs=-20), Status.WARN, "delay"),
        (Echo(at_ms=40, likeness=0.9, level_dbfs=-60), Status.WARN, "quiet"),
        (None, Status.FAIL, "one-way"),
    ],
)
def test_audio(echo: Echo | None, status: Status, word: str) -> None:
    finding = judgements.audio("audio in", echo, None)
    assert finding.status is status
    assert word in finding.why


def test_audio_that_is_not_the_test_sound(statistics: StreamStatistics) -> None:
    finding = judgements.audio("audio in", None, statistics)
    assert finding.status is Status.FAIL
    assert "somebody plays something else" in finding.why


@pytest.mark.parametrize(
    ("heard", "negotiated", "status"),
    [("159", True, Status.PASS), ("1", True, Status.FAIL), ("", False, Status.WARN)],
)
def test_dtmf(heard: str, negotiated: bool, status: Status) -> None:
    assert judgements.dtmf("159", heard, negotiated=negotiated).status is status


@pytest.mark.parametrize(
    ("expires", "refresh", "status"),
    [
        ("1800;refresher=uac", "200 OK", Status.PASS),
        ("", "200 OK", Status.PASS),
        ("60", "200 OK", Status.WARN),
        ("1800", "488 No", Status.FAIL),
        ("1800", "", Status.FAIL),
    ],
)
def test_session_refresh(expires: str, refresh: str, status: Status) -> None:
    first = answer("200 OK", "INVITE", f"Session-Expires: {expires}" if expires else "X: y")
    second = answer(refresh, "INVITE") if refresh else None
    assert judgements.session_refresh(first, second).status is status


def test_a_refresh_needs_a_call() -> None:
    assert judgements.session_refresh(None, None).status is Status.SKIP


@pytest.mark.parametrize(
    ("held", "resumed", "audio_back", "status"),
    [
        ("200 OK", "200 OK", True, Status.PASS),
        ("200 OK", "200 OK", False, Status.FAIL),
        ("200 OK", "200 OK", None, Status.SKIP),
        ("488 No", "200 OK", True, Status.FAIL),
        ("200 OK", "", True, Status.FAIL),
    ],
)
def test_hold(held: str, resumed: str, audio_back: bool | None, status: Status) -> None:
    answers = [answer(text, "INVITE") if text else None for text in (held, resumed)]
    assert judgements.hold(answers[0], answers[1], audio_back=audio_back).status is status


@pytest.mark.parametrize(
    ("status_line", "status"),
    [("202 Accepted", Status.PASS), ("405 No", Status.FAIL), ("", Status.FAIL)],
)
def test_transfer(status_line: str, status: Status) -> None:
    message = answer(status_line, "REFER") if status_line else None
    assert judgements.transfer(message).status is status


def test_hang_up() -> None:
    assert judgements.hang_up(0.02).evidence == "the other leg ended 20 ms after BYE"
    assert judgements.hang_up(None).status is Status.FAIL


def test_the_final_answer_is_that_to_the_request_after_the_challenge() -> None:
    messages = [
        sent("REFER", at_ms=1),
        answer("401 Unauthorized", "REFER", at_ms=2),
        sent("REFER", at_ms=3),
        answer("100 Trying", "REFER", at_ms=4),
        answer("202 Accepted", "REFER", at_ms=5),
    ]
    found = judgements.final_answer(messages, "REFER", sent_after_ms=0)
    assert found is messages[4]
    assert judgements.final_answer(messages, "REFER", sent_after_ms=4) is None
    assert judgements.final_answer(messages[:2], "REFER", sent_after_ms=0) is None


def test_the_worst_finding_is_the_result() -> None:
    findings = [judgements.hang_up(0.1), judgements.dtmf("1", "", negotiated=False)]
    assert worst(findings) is Status.WARN
    assert worst([*findings, judgements.hang_up(None)]) is Status.FAIL
    assert worst([]) is Status.SKIP


@pytest.fixture
def statistics() -> StreamStatistics:
    return StreamStatistics(
        jitter_buffer_ms=40,
        jitter_buffer_average_ms=40,
        jitter_buffer_discards=0,
        jitter_buffer_empties=0,
        packets_received=100,
        packets_lost=0,
        packets_sent=100,
        jitter_ms=1.0,
    )
