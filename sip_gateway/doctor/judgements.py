"""What the messages and sounds of an examination mean. Pure: seen things in, a Finding out."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from sip_gateway.doctor.findings import Finding, failed, passed, skipped, warned
from sip_gateway.nat.reach import is_on_internet
from sip_gateway.trunks.registration import EXPLANATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sip_gateway.doctor.ladder import SipMessage
    from sip_gateway.doctor.signals import Echo
    from sip_gateway.events import RegistrationChanged
    from sip_gateway.media.jitter import StreamStatistics
    from sip_gateway.nat.alg import AlgFinding

_CLOCK_TOLERANCE_S = 2.0
_LONG_DELAY_MS = 300.0  # one way; ITU-T G.114 calls 400 ms the limit of what can be planned with
_QUIET_DBFS = -45.0
_WIDEBAND = ("G722", "opus")
_SHORT_SESSION_S = 90  # RFC 4028, section 5: no session may be shorter
_CONTACT = re.compile(r"<?sips?:(?:[^@>;\s]+@)?([^:;>\s]+)(?::(\d+))?", re.IGNORECASE)
_VIA = re.compile(r"SIP/2\.0/\w+\s+([^:;\s]+)(?::(\d+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenAs:
    """The address that we put into a request, and the one that its answer says it came from."""

    advertised: str
    seen: str

    @property
    def agrees(self) -> bool:
        return self.advertised == self.seen


def registration(change: RegistrationChanged | None, *, waited_s: float) -> Finding:
    """REGISTER and its answer (RFC 3261, section 10)."""
    name = "registration"
    if change is None:
        return failed(
            name,
            f"no answer within {waited_s:.0f} s",
            why=EXPLANATIONS[408],
            remedy="check registrar, its port and transport, and the firewall between",
        )
    if change.registered:
        return passed(name, f"200, for {change.expires_s} s")
    return failed(
        name,
        f"{change.sip_status} {change.reason}",
        why=EXPLANATIONS.get(change.sip_status, "the registrar refuses"),
        remedy="compare username and password with the extension on the PBX"
        if change.sip_status in (401, 403, 404, 407)
        else "look at the registrar's own log",
    )


def seen_as(messages: Sequence[SipMessage]) -> SeenAs | None:
    """From the first answer to a request of ours; None when nobody has answered."""
    requests = {m.transaction: m for m in messages if m.sent and not m.status}
    for message in messages:
        request = requests.get(message.transaction)
        if message.sent or not message.status or request is None:
            continue
        via = message.header("Via")
        sent_by = _VIA.search(via)
        contact = _CONTACT.search(request.header("Contact"))
        if sent_by is None or contact is None:
            continue
        received = re.search(r";received=([^;,\s]+)", via)
        rport = re.search(r";rport=(\d+)", via)
        host = received[1] if received else sent_by[1]
        port = rport[1] if rport else sent_by[2] or "5060"
        return SeenAs(
            advertised=f"{contact[1]}:{contact[2] or '5060'}",
            seen=f"{host}:{port}",
        )
    return None


def advertised_address(messages: Sequence[SipMessage], public_address: str | None) -> Finding:
    """Whether the other side can reach us at what we tell it (RFC 3581)."""
    name = "advertised address"
    address = seen_as(messages)
    if address is None:
        return skipped(name, "nobody answered, so nobody told how we are seen")
    advertised_ip, seen_ip = (
        text.rpartition(":")[0] for text in (address.advertised, address.seen)
    )
    if address.agrees:
        return passed(name, f"{address.advertised}, as the other side sees us")
    evidence = f"we say {address.advertised}, the other side sees {address.seen}"
    if advertised_ip == seen_ip:
        return passed(name, f"{evidence}: a port of the connection, which is normal")
    if public_address is not None:
        return failed(
            name,
            evidence,
            why="public_address is not the address that our packets come from",
            remedy=f'set public_address = "{seen_ip}" or correct the NAT',
        )
    return failed(
        name,
        evidence,
        why="a NAT stands between us and the trunk, and we advertise the address behind it",
        remedy=f'set public_address = "{seen_ip}", or a STUN server',
    )


def nat(messages: Sequence[SipMessage]) -> Finding:
    """Private addresses told to a peer on the public side get no audio back."""
    name = "NAT"
    for message in messages:
        told = _sdp_address(message.text)
        peer = message.peer.rpartition(":")[0].strip("[]")
        if not message.sent or not told or not _is_ip(told) or not _is_ip(peer):
            continue
        if not is_on_internet(told) and is_on_internet(peer):
            return failed(
                name,
                f"SDP asks {peer} to send audio to {told}",
                why="a private address cannot be reached from there: the caller is not heard",
                remedy="set public_address, or a STUN server",
            )
        if is_on_internet(told) or not is_on_internet(peer):
            what = "it can be reached from there" if is_on_internet(told) else "both in one network"
            return passed(name, f"SDP names {told} to {peer}: {what}")
    return skipped(name, "no SDP was sent")


def sip_alg(damage: Sequence[AlgFinding]) -> Finding:
    """What a router's SIP helper has done to our messages."""
    name = "SIP ALG"
    if not damage:
        return passed(name, "messages come and go as they were written")
    kinds = {finding.damage: finding for finding in damage}
    worst_damage = next(iter(kinds.values()))
    return failed(
        name,
        "; ".join(finding.evidence for finding in kinds.values()),
        why=worst_damage.effect,
        remedy=worst_damage.remedy,
    )


def clock(messages: Sequence[SipMessage], *, began: datetime, synchronised: bool | None) -> Finding:
    """The system clock against NTP and against the Date of whoever answered.

    `began` is the moment from which the messages' time counts.
    """
    name = "clock"
    offsets = [
        (moment - began).total_seconds() - message.at_ms / 1000
        for message in messages
        if not message.sent and (moment := _date(message.header("Date"))) is not None
    ]
    offset = min(offsets, key=abs, default=None)
    if offset is not None and abs(offset) > _CLOCK_TOLERANCE_S:
        return failed(
            name,
            f"the other side's Date is {offset:+.0f} s from ours",
            why="call records, consent times and TLS certificates depend on the clock",
            remedy="run an NTP client (chrony, systemd-timesyncd) here and on the PBX",
        )
    against = f"; {offset:+.0f} s to the other side's Date" if offset is not None else ""
    if synchronised is False:
        return warned(
            name,
            f"the kernel says that the clock is not synchronised{against}",
            why="it will drift away from the PBX and from the other hosts",
            remedy="run an NTP client (chrony, systemd-timesyncd)",
        )
    state = "synchronised" if synchronised else "the kernel does not tell its state"
    return passed(name, state + against)


def codecs(agreed: str, offered: Sequence[str], ours: Sequence[str]) -> Finding:
    """What the call speaks, and what the other side would have had."""
    name = "codecs"
    evidence = f"agreed on {agreed}"
    if offered:
        evidence += f"; the other side offers {', '.join(offered)}"
    if not agreed:
        return failed(
            name,
            f"nothing agreed; we have {', '.join(ours)}",
            why="without a common codec no call is possible",
            remedy="allow G722, PCMA or PCMU for this trunk on the PBX",
        )
    wideband = any(agreed.upper().startswith(codec.upper()) for codec in _WIDEBAND)
    possible = any(codec.upper().startswith("G722") for codec in offered)
    if not wideband and possible and "G722" in ours:
        return warned(
            name,
            evidence,
            why="both sides have G.722, whose wider band is recognised better, and do not use it",
            remedy="put G722 first in the codec list of the PBX for this trunk",
        )
    return passed(name, evidence)


def audio(name: str, echo: Echo | None, statistics: StreamStatistics | None) -> Finding:
    """One direction of a call: the test sound as it arrived."""
    if echo is not None:
        evidence = f"heard after {echo.at_ms:.0f} ms at {echo.level_dbfs:.0f} dBFS"
        if echo.at_ms > _LONG_DELAY_MS:
            return warned(
                name,
                evidence,
                why="so long a delay makes people talk over each other (ITU-T G.114)",
                remedy="look for transcoding, a VPN or a far-away media relay on the way",
            )
        if echo.level_dbfs < _QUIET_DBFS:
            return warned(
                name,
                evidence,
                why="it is too quiet to be recognised well",
                remedy="correct the gain on the PBX or trunk",
            )
        return passed(name, evidence)
    packets = statistics.packets_received if statistics is not None else 0
    if packets:
        return failed(
            name,
            f"{packets} RTP packets came, the test sound was not in them",
            why="somebody plays something else, or a transcoder fails",
            remedy="dial a number that comes back to this trunk, or an echo test",
        )
    return failed(
        name,
        "not one RTP packet arrived",
        why="one-way audio: packets go to an address or port that is not ours, or are filtered",
        remedy="open rtp_ports for UDP in the firewall, and check the advertised address",
    )


def dtmf(sent: str, heard: str, *, negotiated: bool) -> Finding:
    """Keys as telephone events (RFC 4733)."""
    name = "DTMF"
    if not negotiated:
        return warned(
            name,
            "the other side does not take telephone-event",
            why="keys would have to come by SIP INFO or as tones in the audio",
            remedy="switch RFC 4733 (RFC 2833) on for this trunk on the PBX",
        )
    if heard == sent:
        return passed(name, f"telephone-event: {sent} arrived as {heard}")
    return failed(
        name,
        f"telephone-event: {sent} arrived as {heard or 'nothing'}",
        why="keys are lost or doubled on the way, so menus and codes will fail",
        remedy="set one DTMF mode (RFC 4733) on every hop of the trunk",
    )


def session_refresh(answer: SipMessage | None, refresh: SipMessage | None) -> Finding:
    """Session timers (RFC 4028): what was agreed, and whether a refresh is taken."""
    name = "session refresh"
    if answer is None:
        return skipped(name, "no call was answered")
    expires = re.match(r"(\d+)", answer.header("Session-Expires"))
    agreed = f"each {expires[1]} s" if expires else "no session timer asked for"
    if refresh is None:
        return failed(
            name,
            f"{agreed}; a re-INVITE was not answered",
            why="the call will be cut when its session expires",
            remedy="let re-INVITE and UPDATE pass between PBX, SBC and firewall",
        )
    if refresh.status // 100 != 2:
        return failed(
            name,
            f"{agreed}; a re-INVITE got {refresh.status}",
            why="the call will be cut when its session expires",
            remedy="allow re-INVITE for this trunk on the PBX",
        )
    if expires and int(expires[1]) < _SHORT_SESSION_S:
        return warned(
            name,
            f"{agreed}; a re-INVITE got {refresh.status}",
            why="RFC 4028 allows no session shorter than 90 s",
            remedy="raise the session timer on the PBX to 1800 s",
        )
    return passed(name, f"{agreed}; a re-INVITE got {refresh.status}")


def hold(
    held: SipMessage | None, resumed: SipMessage | None, *, audio_back: bool | None
) -> Finding:
    """Hold and resume by re-INVITE (RFC 3264, section 8.4); `audio_back` None: nobody can tell."""
    name = "hold"
    for what, message in (("hold", held), ("resume", resumed)):
        if message is None or message.status // 100 != 2:
            status = "no answer" if message is None else str(message.status)
            return failed(
                name,
                f"{what}: {status}",
                why="the other side does not take a re-INVITE that changes direction",
                remedy="allow re-INVITE and hold for this trunk on the PBX",
            )
    if audio_back is None:
        return skipped(name, "accepted, but without an echo nobody tells whether audio came back")
    if not audio_back:
        return failed(
            name,
            "hold and resume were accepted, audio did not come back",
            why="the media path is not set up again after a re-INVITE",
            remedy="switch off direct media or SIP helpers on the way",
        )
    return passed(name, "held, resumed, audio is back")


def transfer(answer: SipMessage | None) -> Finding:
    """REFER (RFC 3515)."""
    name = "transfer"
    if answer is None:
        return failed(
            name,
            "REFER was not answered",
            why="the other side does not know REFER, or a firewall drops it",
            remedy="let agents take a message instead, or allow REFER on the PBX",
        )
    if answer.status // 100 == 2:
        return passed(name, f"REFER got {answer.status}")
    return failed(
        name,
        f"REFER got {answer.status}",
        why="the other side does not let this trunk transfer calls",
        remedy="allow transfers (REFER) for this trunk on the PBX",
    )


def hang_up(seconds: float | None) -> Finding:
    """BYE reaches the other end, so that no call is left behind."""
    name = "hang-up"
    if seconds is not None:
        return passed(name, f"the other leg ended {seconds * 1000:.0f} ms after BYE")
    return failed(
        name,
        "the other leg did not end",
        why="BYE is lost on the way, so dead calls hold lines",
        remedy="check Record-Route and Contact on the way: BYE must reach both ends",
    )


def final_answer(
    messages: Sequence[SipMessage], method: str, *, sent_after_ms: float
) -> SipMessage | None:
    """The final answer to a request of ours of that kind since then; challenges are none."""
    asked: SipMessage | None = None
    for message in messages:
        if message.at_ms < sent_after_ms or message.method != method:
            continue
        if message.sent and not message.status:
            asked = message  # the last one: a challenge makes the first to be sent again
        elif asked is not None and _answers(message, asked):
            return message
    return None


def _answers(message: SipMessage, asked: SipMessage) -> bool:
    return (
        not message.sent
        and message.status >= 200
        and message.status not in (401, 407)
        and message.transaction == asked.transaction
    )


def offered_codecs(messages: Sequence[SipMessage]) -> tuple[str, ...]:
    """Encoding names in the first SDP that came."""
    for message in messages:
        names = re.findall(r"(?m)^a=rtpmap:\d+ ([^\s/]+/\d+)", message.text)
        if not message.sent and names:
            return tuple(name for name in names if not name.startswith("telephone-event"))
    return ()


def takes_telephone_events(messages: Sequence[SipMessage]) -> bool:
    """True when the last SDP that came has telephone-event."""
    sdp = [m.text for m in messages if not m.sent and "\nm=audio" in m.text]
    return bool(sdp) and re.search(r"(?mi)^a=rtpmap:\d+ telephone-event/", sdp[-1]) is not None


def _sdp_address(text: str) -> str:
    match = re.search(r"(?m)^c=IN IP4 (\S+)", text)
    return match[1] if match else ""


def _is_ip(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
