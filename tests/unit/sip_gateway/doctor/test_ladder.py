from __future__ import annotations

from sip_gateway.doctor.ladder import SipMessage, ladder

REQUEST = (
    "INVITE sip:200@10.0.0.5 SIP/2.0\r\n"
    "Via: SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bK1\r\n"
    "Call-ID: abc\r\nCSeq: 7 INVITE\r\n"
    "{extra}"
    "\r\nv=0\r\nc=IN IP4 10.0.0.9\r\nm=audio 20000 RTP/AVP 0\r\na=sendonly\r\n"
)


def message(text: str, *, sent: bool = True) -> SipMessage:
    return SipMessage(at_ms=12.4, sent=sent, peer="10.0.0.5:5060", text=text)


def test_a_ladder_has_a_rung_for_each_message() -> None:
    answer = "SIP/2.0 180 Ringing\r\nCSeq: 7 INVITE\r\n\r\n"
    drawn = ladder([message(REQUEST.format(extra="")), message(answer, sent=False)]).splitlines()
    assert drawn[0].startswith("      12 ms  us |-- INVITE, audio sendonly at 20000 ---")
    assert drawn[1].startswith("      12 ms  us |<- 180 Ringing (INVITE) ---")
    assert len({len(rung) for rung in drawn}) == 1


def test_headers_are_found_whatever_their_case() -> None:
    parsed = message(REQUEST.format(extra="DATE: now\r\n"))
    assert parsed.header("Date") == "now"
    assert parsed.header("Expires") == ""
    assert (parsed.method, parsed.status) == ("INVITE", 0)


def test_an_answer_in_short_forms_belongs_to_its_request() -> None:
    short = message("SIP/2.0 200 OK\r\ni: abc\r\nCSeq: 7 INVITE\r\nx: 90\r\n\r\n", sent=False)
    assert short.transaction == message(REQUEST.format(extra="")).transaction
    assert short.header("Session-Expires") == "90"


def test_a_message_of_another_kind_does_not_break_the_ladder() -> None:
    assert "\x00garbage" in ladder([message("\x00garbage")])
