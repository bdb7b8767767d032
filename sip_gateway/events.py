"""What happens on the SIP side, as it is told to the event loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from sip_gateway.dialog.dtmf import DtmfMethod

if TYPE_CHECKING:
    from sip_gateway.leg import Leg
    from sip_gateway.media.jitter import StreamStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """An initial INVITE, before anything was done about it."""

    source_ip: str
    source_port: int
    request_user: str
    caller: str
    callee: str
    sip_call_id: str
    body: str
    headers: dict[str, str] = field(default_factory=dict)  # those that the conversation may see
    called_party: str = ""  # user part of P-Called-Party-ID
    diverted_from: str = ""  # user part of the first Diversion
    via_edge: bool = False  # the edge has brought it, and names the source and the trunk
    trunk: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegConfirmed:
    """The dialog is up: our 200 was acknowledged, or theirs came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LegProceeding:
    """A provisional answer to our INVITE."""

    sip_status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaStarted:
    codec: str
    held_by_peer: bool
    dtmf_events: bool = True  # both sides speak RFC 4733


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinviteRefused:
    """Our re-INVITE got this final answer; the call goes on as it was."""

    sip_status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LegReplaced:
    """Somebody else has taken the other side's place (RFC 3891); media and leg go on."""

    remote: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DtmfPressed:
    digit: str
    duration_ms: int
    method: DtmfMethod = DtmfMethod.RFC4733


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgressed:
    """What the other side says about our REFER (RFC 3515)."""

    sip_status: int
    reason: str
    final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequested:
    """The other side sent a REFER; PJSIP dials the target on `new_leg`."""

    target: str
    new_leg: Leg


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed:
    statistics: StreamStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class LegEnded:
    sip_status: int
    reason: str


LegEvent: TypeAlias = (
    LegConfirmed
    | LegProceeding
    | MediaStarted
    | ReinviteRefused
    | LegReplaced
    | DtmfPressed
    | TransferProgressed
    | TransferRequested
    | StreamClosed
    | LegEnded
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationChanged:
    trunk: str
    registered: bool
    sip_status: int
    reason: str
    expires_s: int
    registrar_ip: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionsAnswered:
    """What became of an OPTIONS; `by_peer` is false for a status that PJSIP made up itself."""

    trunk: str
    sip_status: int
    by_peer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The answer to an INVITE that is not taken.

    `why` is a word for the counter, `missing` says in plain words what was not there.
    """

    sip_status: int
    why: str
    retry_after_s: int | None = None
    contact: str | None = None  # of a redirection
    missing: str = ""
    elsewhere: bool = False  # another worker may well take the call
