"""What the gateway and the conversation say to each other, inside this process.

The same as landline.agent.v1, without protobuf. Audio has no class here: it is the hot path and
goes straight through agent_client.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from sip_gateway.events import DtmfPressed
from sip_gateway.media.jitter import MediaReport
from sip_gateway.media.playout import Heard
from sip_gateway.trunks.limits import Direction

if TYPE_CHECKING:
    from sip_gateway.dialog.transfer import TransferState


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    call_id: str
    caller: str
    callee: str
    trunk: str
    codec: str
    region: str
    agent: str
    direction: Direction = Direction.INBOUND
    headers: dict[str, str] = field(default_factory=dict)
    emergency: bool = False  # the caller dialled for help that nobody here can give


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldChanged:
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    clear_id: str
    marks: tuple[Heard, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferUpdated:
    state: TransferState
    sip_status: int
    reason: str
    emergency: bool = False  # refused, because nobody is named who could help


@dataclass(frozen=True, slots=True, kw_only=True)
class LineClosing:
    """The gateway is being shut down; it ends the call in `deadline_ms`."""

    deadline_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerChanged:
    """Somebody else is on the line now (RFC 3891)."""

    caller: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    result: str
    reason: str
    duration_ms: int
    recording_path: str = ""
    recording_sha256: str = ""


CallEvent: TypeAlias = (
    DtmfPressed
    | HeldChanged
    | MediaReport
    | Heard
    | Cleared
    | TransferUpdated
    | LineClosing
    | CallerChanged
    | Ended
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    mark: str
    pcm: bytes
    last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Clear:
    clear_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Duck:
    gain: float
    ramp_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    target: str
    after_playout: bool
    attended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SendDtmf:
    digits: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Mute:
    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    result: str
    reason: str
    after_playout: bool


Command: TypeAlias = Play | Clear | Duck | Transfer | SendDtmf | Hold | Mute | HangUp
