"""Events that go into the turn machine, and effects that come out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# Events: what happened.


@dataclass(frozen=True, slots=True)
class CallAnswered:
    """The call's media runs."""


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The caller's voice set in."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The caller's voice ceased; without new voice the turn ends `wait_ms` from now."""

    wait_ms: float


@dataclass(frozen=True, slots=True)
class PartialRecognised:
    utterance: int
    text: str


@dataclass(frozen=True, slots=True)
class FinalRecognised:
    """What an ended utterance was: `text` is empty when nothing was said or it was rejected."""

    utterance: int
    text: str
    rejected: bool = False


@dataclass(frozen=True, slots=True)
class KeyPressed:
    """A DTMF digit; `wanted` digits complete the entry, None when the number is not known."""

    digit: str
    wanted: int | None = None


@dataclass(frozen=True, slots=True)
class ReplyBegan:
    """The first sound of a reply is on its way."""

    reply: int


@dataclass(frozen=True, slots=True)
class ProtectionEnded:
    """The disclosure has been heard in full: from now on the caller may interrupt."""


@dataclass(frozen=True, slots=True)
class ReplyPlayed:
    """All of the reply has been played (or there was nothing to play)."""

    reply: int


@dataclass(frozen=True, slots=True)
class YesOrNoAsked:
    """A yes-or-no question is being heard, so that "ok" is an answer and not a backchannel."""

    reply: int


@dataclass(frozen=True, slots=True)
class LineHeld:
    pass


@dataclass(frozen=True, slots=True)
class LineResumed:
    pass


@dataclass(frozen=True, slots=True)
class TransferStarted:
    reply: int


@dataclass(frozen=True, slots=True)
class TransferFailed:
    pass


@dataclass(frozen=True, slots=True)
class GoodbyeStarted:
    """The agent is hanging up once its last words are played."""

    reply: int


@dataclass(frozen=True, slots=True)
class LineClosing:
    """The telephone line will go away: what is left is a goodbye."""


@dataclass(frozen=True, slots=True)
class CallEnded:
    pass


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    pass


Event: TypeAlias = (
    CallAnswered
    | SpeechStarted
    | SpeechStopped
    | PartialRecognised
    | FinalRecognised
    | KeyPressed
    | ReplyBegan
    | ProtectionEnded
    | ReplyPlayed
    | YesOrNoAsked
    | LineHeld
    | LineResumed
    | TransferStarted
    | TransferFailed
    | GoodbyeStarted
    | LineClosing
    | CallEnded
    | DeadlinePassed
)


# Effects: what is to be done.


@dataclass(frozen=True, slots=True)
class Greet:
    reply: int


@dataclass(frozen=True, slots=True)
class BeginUtterance:
    utterance: int


@dataclass(frozen=True, slots=True)
class EndUtterance:
    utterance: int


@dataclass(frozen=True, slots=True)
class CancelUtterance:
    utterance: int


@dataclass(frozen=True, slots=True)
class Respond:
    """Answer this turn. `text` is what was said; empty and `rejected` if not understood."""

    reply: int
    turn: int
    text: str
    rejected: bool = False
    keyed: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True)
class SayFiller:
    pass


@dataclass(frozen=True, slots=True)
class Duck:
    pass


@dataclass(frozen=True, slots=True)
class Unduck:
    pass


@dataclass(frozen=True, slots=True)
class CutReply:
    """Stop making the reply and drop what is queued of it."""


@dataclass(frozen=True, slots=True)
class SayTransferFailed:
    reply: int


@dataclass(frozen=True, slots=True)
class SayLineClosing:
    """Tell the caller that the call has to end, and end it."""

    reply: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No reply could be made in time: apologise and end the call."""


@dataclass(frozen=True, slots=True)
class EndCall:
    reason: str


Effect: TypeAlias = (
    Greet
    | BeginUtterance
    | EndUtterance
    | CancelUtterance
    | Respond
    | SayFiller
    | Duck
    | Unduck
    | CutReply
    | SayTransferFailed
    | SayLineClosing
    | GiveUp
    | EndCall
)
