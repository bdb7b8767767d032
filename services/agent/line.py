"""What the conversation knows of the telephone line: events from it, commands to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    call_id: str
    caller: str = ""
    callee: str = ""
    trunk: str = ""
    codec: str = ""
    region: str = ""
    agent: str = ""
    direction: str = "inbound"
    headers: Mapping[str, str] = field(default_factory=dict)
    emergency: bool = False  # an emergency number was dialled: all we can do is say so


@dataclass(frozen=True, slots=True)
class Audio:
    """16 kHz mono s16le PCM; `first_sample` counts from the start of the call's media."""

    first_sample: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Dtmf:
    digit: str


@dataclass(frozen=True, slots=True)
class Held:
    pass


@dataclass(frozen=True, slots=True)
class Resumed:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaStatistics:
    jitter_buffer_ms: int
    discards: int
    empties: int
    packets_received: int
    packets_lost: int
    mos: float = 0.0  # lately; 0.0: the gateway does not say
    call_mos: float = 0.0


@dataclass(frozen=True, slots=True)
class Played:
    mark: str
    played_ms: int
    finished: bool


@dataclass(frozen=True, slots=True)
class Cleared:
    clear_id: str
    marks: tuple[Played, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferUpdated:
    accepted: bool
    failed: bool
    sip_status: int
    reason: str
    emergency: bool = False  # refused: an emergency number, and nobody is named for it


@dataclass(frozen=True, slots=True)
class LineClosing:
    """The gateway is being shut down; it ends the call in `deadline_ms`."""

    deadline_ms: int


@dataclass(frozen=True, slots=True)
class CallerChanged:
    """Somebody else is on the line now."""

    caller: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    result: str
    reason: str
    duration_ms: int = 0
    recording_path: str = ""
    recording_sha256: str = ""


LineEvent: TypeAlias = (
    Started
    | Audio
    | Dtmf
    | Held
    | Resumed
    | MediaStatistics
    | Played
    | Cleared
    | TransferUpdated
    | LineClosing
    | CallerChanged
    | Ended
)


class Line(Protocol):
    """One call's line. Commands are sent in order and never block on the network."""

    def events(self) -> AsyncIterator[LineEvent]:
        """What happens on the line, until it is gone."""
        ...

    async def play(self, mark: str, pcm: bytes, *, last: bool) -> None: ...

    async def clear(self, clear_id: str) -> None: ...

    async def duck(self, gain: float, ramp_ms: int) -> None: ...

    async def transfer(self, target: str, *, attended: bool) -> None:
        """Hand the call to `target` once what is queued has been played.

        `attended`: only when the target has answered; until then the caller is still ours.
        """
        ...

    async def hang_up(self, result: str, reason: str) -> None:
        """End the call once what is queued has been played."""
        ...
