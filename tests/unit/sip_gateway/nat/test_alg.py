"""What SIP helpers in routers do to messages, before and after."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sip_gateway.nat.alg import Damage, examine_answer, examine_received

PRIVATE, PUBLIC, REGISTRAR = "192.168.1.20", "203.0.113.7", "198.51.100.5"
SOURCE = f"{PUBLIC}:5060"


def sdp(ip: str, *, rtcp: str = "") -> str:
    lines = [
        *("v=0", f"o=- 1 1 IN IP4 {ip}", "s=-", f"c=IN IP4 {ip}", "t=0 0"),
        *("m=audio 4000 RTP/AVP 8 101", "a=rtpmap:8 PCMA/8000"),
        *([f"a=rtcp:4001 IN IP4 {rtcp}"] if rtcp else []),
        "a=ptime:20",
    ]
    return "".join(f"{line}\r\n" for line in lines)


def invite(
    *, via: str = PRIVATE, contact: str = PRIVATE, body: str = "", length: int | None = None,
    more_vias: str = "",
) -> str:  # fmt: skip
    body = body or sdp(PRIVATE)
    return (
        "INVITE sip:200@198.51.100.9 SIP/2.0\r\n"
        f"{more_vias}"
        f"Via: SIP/2.0/UDP {via}:5060;rport;branch=z9hG4bKa1\r\n"
        f"From: <sip:100@{contact}>;tag=1\r\nTo: <sip:200@198.51.100.9>\r\n"
        f"Call-ID: abc@{PRIVATE}\r\nCSeq: 1 INVITE\r\n"
        f"Contact: <sip:100@{contact}:5060>\r\nContent-Type: application/sdp\r\n"
        f"Content-Length: {len(body) if length is None else length}\r\n\r\n{body}"
    )


def found(message: str, source: str = SOURCE) -> list[Damage]:
    findings = examine_received(message, source)
    assert all(finding.evidence and finding.effect and finding.remedy for finding in findings)
    return [finding.damage for finding in findings]


def test_plain_nat_is_no_damage() -> None:
    assert found(invite()) == []


def test_a_caller_without_nat_is_no_damage() -> None:
    assert found(invite(via=PUBLIC, contact=PUBLIC, body=sdp(PUBLIC, rtcp=PUBLIC))) == []


def test_a_carrier_with_a_media_server_of_its_own_is_no_damage() -> None:
    body = sdp("203.0.113.99", rtcp="203.0.113.99")
    assert found(invite(via=PUBLIC, contact=PUBLIC, body=body)) == []


def test_a_pbx_in_the_building_is_no_damage() -> None:
    assert found(invite(), f"{PRIVATE}:5060") == []


def test_a_proxy_on_the_way_may_have_other_addresses() -> None:
    via = f"Via: SIP/2.0/UDP {PUBLIC};branch=z9hG4bKb2\r\n"
    assert found(invite(contact=PUBLIC, more_vias=via)) == []


@pytest.mark.parametrize(
    ("via", "contact", "media", "evidence"),
    [
        (PUBLIC, PRIVATE, PRIVATE, f"Via {PUBLIC}, but Contact {PRIVATE} and SDP {PRIVATE}"),
        (PUBLIC, PUBLIC, PRIVATE, f"Via {PUBLIC} and Contact {PUBLIC}, but SDP {PRIVATE}"),
        (PRIVATE, PRIVATE, PUBLIC, f"SDP {PUBLIC}, but Via {PRIVATE} and Contact {PRIVATE}"),
    ],
)
def test_some_addresses_rewritten_and_some_not(
    via: str, contact: str, media: str, evidence: str
) -> None:
    (finding,) = examine_received(invite(via=via, contact=contact, body=sdp(media)), SOURCE)
    assert finding.damage is Damage.SIGNALLING_HALF
    assert finding.evidence == evidence
    assert "SIP ALG" in finding.remedy


def test_sdp_rewritten_up_to_the_line_that_was_forgotten() -> None:
    message = invite(via=PUBLIC, contact=PUBLIC, body=sdp(PUBLIC, rtcp=PRIVATE))
    assert found(message) == [Damage.SDP_HALF]


def test_the_length_of_before_the_rewriting() -> None:
    before, after = sdp(PRIVATE), sdp("203.0.113.123")
    message = invite(via=PUBLIC, contact=PUBLIC, body=after, length=len(before))
    (finding,) = examine_received(message, SOURCE)
    assert finding.damage is Damage.LENGTH
    assert finding.evidence == (
        f"Content-Length says {len(before)}, the body has {len(after)} bytes"
    )


@pytest.mark.parametrize(
    ("cut", "evidence"),
    [
        ("a=pti", "ends in the middle of 'a=pti'"),
        ("m=audio 40", "ends in the middle of 'm=audio 40'"),
        ("t=0 0\r\n", "no m= line"),
    ],
)
def test_sdp_cut_off(cut: str, evidence: str) -> None:
    whole = sdp(PRIVATE)
    body = whole[: whole.index(cut) + len(cut)]
    (finding,) = examine_received(invite(body=body), SOURCE)
    assert finding.damage is Damage.TRUNCATED
    assert evidence in finding.evidence


def register(contact: str = PRIVATE) -> str:
    return (
        f"REGISTER sip:{REGISTRAR} SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP {PRIVATE}:5060;rport;branch=z9hG4bKr1\r\n"
        f"From: <sip:600@{REGISTRAR}>;tag=9\r\nTo: <sip:600@{REGISTRAR}>\r\n"
        f"Call-ID: r1\r\nCSeq: 7 REGISTER\r\nContact: <sip:600@{contact}:5060>\r\n"
        "Content-Length: 0\r\n\r\n"
    )


def answer(
    *, via: str = f"{PRIVATE}:5060;rport=40001;received={PUBLIC}", branch: str = "z9hG4bKr1",
    call_id: str = "r1", contact: str = PRIVATE,
) -> str:  # fmt: skip
    return (
        "SIP/2.0 200 OK\r\n"
        f"Via: SIP/2.0/UDP {via};branch={branch}\r\n"
        f"From: <sip:600@{REGISTRAR}>;tag=9\r\nTo: <sip:600@{REGISTRAR}>;tag=x\r\n"
        f"Call-ID: {call_id}\r\nCSeq: 7 REGISTER\r\n"
        f"Contact: <sip:600@{contact}:5060>;expires=300\r\nContent-Length: 0\r\n\r\n"
    )


def answered(text: str, request: str = "", source: str = f"{REGISTRAR}:5060") -> list[Damage]:
    return [finding.damage for finding in examine_answer(text, source, request)]


def test_an_answer_by_way_of_plain_nat_is_no_damage() -> None:
    assert answered(answer(), register()) == []


def test_an_answer_in_the_building_is_no_damage() -> None:
    assert answered(answer(via=f"{PRIVATE}:5060"), register(), "192.168.1.5:5060") == []


def test_a_registrar_that_never_saw_our_private_address() -> None:
    assert answered(answer(via=f"{PRIVATE}:5060;rport=5060")) == [Damage.VIA_MASKED]


def test_a_registrar_outside_that_claims_to_have_seen_a_private_address() -> None:
    via = f"{PRIVATE}:5060;rport=5060;received=192.168.1.1"
    assert answered(answer(via=via)) == [Damage.SOURCE_ODD]


def test_a_call_id_or_branch_that_comes_back_changed() -> None:
    text = answer(call_id=f"r1@{PUBLIC}", branch="z9hG4bKother")
    (finding,) = examine_answer(text, f"{REGISTRAR}:5060", register())
    assert finding.damage is Damage.ECHO_CHANGED
    assert finding.evidence == (
        f"call-id 'r1' came back as 'r1@{PUBLIC}'; branch 'z9hG4bKr1' came back as 'z9hG4bKother'"
    )


def test_a_binding_that_is_not_the_one_we_asked_for() -> None:
    assert answered(answer(contact=PUBLIC), register()) == [Damage.CONTACT_CHANGED]


def test_compact_headers_and_folded_lines_are_understood() -> None:
    message = invite().replace("Contact:", "m:").replace("Via:", "v:")
    message = message.replace("Content-Length: ", "l:\r\n ")
    assert found(message) == []


@given(st.text(max_size=400), st.sampled_from([SOURCE, "", "::1", "x:1"]))
def test_whatever_comes_is_examined_without_an_error(text: str, source: str) -> None:
    examine_received(text, source)
    examine_received(invite() + text, source)
    examine_answer(text, source, text[::-1])
    examine_answer(answer() + text, source, register() + text)


@given(st.integers(0, len(invite())), st.integers(0, len(answer())))
def test_a_message_cut_anywhere_is_examined_without_an_error(at: int, answer_at: int) -> None:
    examine_received(invite()[:at], SOURCE)
    examine_answer(answer()[:answer_at], f"{REGISTRAR}:5060", register())
