"""The turn machine: who has the floor, decided purely.

`transition(state, event, now_ms, policy) -> (state, effects)`. It awaits nothing and reads no
clock, so a recorded sequence of events replays to the same effects. Every phase but ENDED has a
deadline; when it passes, the caller feeds `DeadlinePassed`.

An utterance is one stretch of caller speech that the recogniser is listening to; a turn is what the
caller said until the agent answers, and may hold several utterances. The caller's speech while the
agent has the floor is an overlap: the agent ducks, and goes on or gives way when it is known what
was said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

from services.agent.turn_events import (
    BeginUtterance,
    CallAnswered,
    CallEnded,
    CancelUtterance,
    CutReply,
    DeadlinePassed,
    Duck,
    Effect,
    EndCall,
    EndUtterance,
    Event,
    FinalRecognised,
    GiveUp,
    GoodbyeStarted,
    Greet,
    KeyPressed,
    LineClosing,
    LineHeld,
    LineResumed,
    PartialRecognised,
    ProtectionEnded,
    ReplyBegan,
    ReplyPlayed,
    Respond,
    SayFiller,
    SayLineClosing,
    SayTransferFailed,
    SpeechStarted,
    SpeechStopped,
    TransferFailed,
    TransferStarted,
    Unduck,
    YesOrNoAsked,
)


class Phase(StrEnum):
    STARTING = "starting"
    LISTENING = "listening"
    CALLER_SPEAKING = "caller_speaking"
    MAYBE_DONE = "maybe_done"  # silence, but perhaps only a pause
    RECOGNISING = "recognising"  # the turn is over; its last words are being recognised
    THINKING = "thinking"
    AGENT_SPEAKING = "agent_speaking"
    OVERLAP = "overlap"  # the caller speaks while the agent thinks or speaks
    DECIDING = "deciding"  # the overlap is over; was it meant for us?
    ON_HOLD = "on_hold"
    TRANSFERRING = "transferring"
    CLOSING = "closing"  # the last words are being played
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPolicy:
    """Times in milliseconds, and what counts as merely listening aloud."""

    barge_in_ms: float = 400.0
    decide_ms: float = 1_500.0
    recognise_ms: float = 6_000.0
    max_utterance_ms: float = 30_000.0
    filler_ms: float = 1_500.0
    reply_ms: float = 15_000.0
    max_reply_ms: float = 90_000.0
    idle_ms: float = 8_000.0
    max_idle_prompts: int = 2
    max_greetings: int = 2
    keys_ms: float = 2_500.0
    hold_ms: float = 600_000.0
    transfer_ms: float = 60_000.0
    closing_ms: float = 20_000.0
    backchannels: frozenset[str] = frozenset(
        {"mhm", "mm", "uh huh", "uh", "um", "hm", "right", "ok", "okay", "i see", "yeah"}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnState:
    """`deadline_ms` is on the clock of `now_ms`; only an ended call has none."""

    phase: Phase = Phase.STARTING
    deadline_ms: float | None = None
    reply: int = 0  # the last reply asked for; reports of earlier ones mean nothing
    turn: int = 0  # the last turn answered
    utterance: int = 0  # the last utterance begun
    awaited: frozenset[int] = frozenset()  # ended utterances whose finals have not come
    heard: str = ""  # finals of this turn so far
    rejected: bool = False  # something in this turn was not understood
    keys: str = ""
    interrupted: Phase = Phase.THINKING  # what an overlap interrupts
    cut: bool = False  # in this turn a reply was cut, and its answer is still owed
    greetings: int = 0
    disclosed: bool = False  # the disclosure has been heard in full
    protected: bool = False  # it is being said and cannot be interrupted
    yes_no: bool = False
    filled: bool = False  # a filler was said in this thinking
    idle_prompts: int = 0


Step: TypeAlias = tuple[TurnState, tuple[Effect, ...]]

_AGENT_HAS_FLOOR = frozenset({Phase.THINKING, Phase.AGENT_SPEAKING})
_LISTENING_TO_CALLER = frozenset({Phase.CALLER_SPEAKING, Phase.MAYBE_DONE, Phase.OVERLAP})


def transition(state: TurnState, event: Event, now_ms: float, policy: TurnPolicy) -> Step:
    """One step of the conversation. Events that mean nothing in a phase change nothing."""
    if state.phase is Phase.ENDED:
        return state, ()
    match event:
        case CallEnded():
            return _end(state)
        case LineHeld():
            return _hold(state, now_ms, policy)
        case LineClosing():
            return _close(state, now_ms, policy)
        case TransferStarted(reply) | GoodbyeStarted(reply) if reply != state.reply:
            return state, ()
        case TransferStarted():
            return _leave_floor(state, Phase.TRANSFERRING, now_ms + policy.transfer_ms)
        case GoodbyeStarted():
            return _leave_floor(state, Phase.CLOSING, now_ms + policy.closing_ms)
        case YesOrNoAsked(reply):
            return replace(state, yes_no=reply == state.reply), ()
        case ProtectionEnded():
            return _unprotect(state, now_ms, policy)
        case SpeechStarted():
            return _speech_started(state, now_ms, policy)
        case SpeechStopped(wait_ms):
            return _speech_stopped(state, now_ms, wait_ms, policy)
        case PartialRecognised():
            return _partial(state, event, now_ms, policy)
        case FinalRecognised():
            return _final(state, event, now_ms, policy)
        case KeyPressed():
            return _key(state, event, now_ms, policy)
        case DeadlinePassed():
            if state.deadline_ms is None or now_ms < state.deadline_ms:
                return state, ()
            return _deadline(state, now_ms, policy)
        case _:
            return _progress(state, event, now_ms, policy)


def _unprotect(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    """From now on the caller may interrupt, and one who is speaking already is about to."""
    unprotected = replace(state, protected=False, disclosed=True)
    if state.phase is not Phase.OVERLAP or not state.protected:
        return unprotected, ()
    return replace(unprotected, deadline_ms=now_ms + policy.barge_in_ms), (Duck(),)


def _talked_over(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    """The reply sets in while the caller speaks."""
    begun = replace(state, interrupted=Phase.AGENT_SPEAKING)
    if state.protected:
        return begun, ()
    return replace(begun, deadline_ms=now_ms + policy.barge_in_ms), (Duck(),)


def _progress(state: TurnState, event: Event, now_ms: float, policy: TurnPolicy) -> Step:
    """The agent's own side moved on."""
    match event, state.phase:
        case CallAnswered(), Phase.STARTING:
            return _greet(state, now_ms, policy)
        case ((ReplyBegan(reply=reply) | ReplyPlayed(reply=reply)), _) if reply != state.reply:
            return state, ()
        case ReplyBegan(), Phase.THINKING:
            spoken = replace(state, phase=Phase.AGENT_SPEAKING)
            return replace(spoken, deadline_ms=now_ms + policy.max_reply_ms), ()
        case ReplyBegan(), Phase.OVERLAP if state.interrupted is Phase.THINKING:
            return _talked_over(state, now_ms, policy)
        case ReplyBegan(), Phase.DECIDING if state.interrupted is Phase.THINKING:
            begun = replace(state, interrupted=Phase.AGENT_SPEAKING)
            return begun, () if state.protected else (Duck(),)
        case ReplyPlayed(), Phase.THINKING | Phase.AGENT_SPEAKING:
            return _floor_is_free(state, now_ms, policy)
        case ReplyPlayed(), Phase.OVERLAP | Phase.DECIDING if not state.disclosed:
            return _greet_again(state, now_ms, policy)
        case ReplyPlayed(), Phase.OVERLAP:
            freed = replace(state, phase=Phase.CALLER_SPEAKING, protected=False)
            return replace(freed, deadline_ms=now_ms + policy.max_utterance_ms), (Unduck(),)
        case ReplyPlayed(), Phase.DECIDING:
            freed = replace(state, phase=Phase.RECOGNISING, protected=False)
            return replace(freed, deadline_ms=now_ms + policy.recognise_ms), (Unduck(),)
        case LineResumed(), Phase.ON_HOLD:
            return _floor_is_free(state, now_ms, policy)
        case TransferFailed(), Phase.TRANSFERRING:
            return _think(state, now_ms, policy, (SayTransferFailed(state.reply + 1),))
        case _:
            return state, ()


def _speech_started(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    if state.phase is Phase.MAYBE_DONE:
        resumed = replace(state, phase=Phase.CALLER_SPEAKING)
        return replace(resumed, deadline_ms=now_ms + policy.max_utterance_ms), ()
    if state.phase in (Phase.LISTENING, Phase.RECOGNISING):
        began, effects = _begin(state, Phase.CALLER_SPEAKING, now_ms + policy.max_utterance_ms)
        return replace(began, keys=""), effects
    if state.phase in _AGENT_HAS_FLOOR:
        state = replace(state, interrupted=state.phase)
        audible = state.phase is Phase.AGENT_SPEAKING and not state.protected
        began, effects = _begin(state, Phase.OVERLAP, now_ms + _overlap_ms(state, policy))
        return began, (Duck(), *effects) if audible else effects
    if state.phase is Phase.DECIDING:
        return _begin(state, Phase.OVERLAP, now_ms + _overlap_ms(state, policy))
    return state, ()


def _overlap_ms(state: TurnState, policy: TurnPolicy) -> float:
    """How long mere sound may last before it cuts: nothing is gained by cutting what is unheard."""
    heard = state.interrupted is Phase.AGENT_SPEAKING
    return policy.barge_in_ms if heard else policy.max_utterance_ms


def _speech_stopped(state: TurnState, now_ms: float, wait_ms: float, policy: TurnPolicy) -> Step:
    if state.phase is Phase.CALLER_SPEAKING:
        return replace(state, phase=Phase.MAYBE_DONE, deadline_ms=now_ms + wait_ms), ()
    if state.phase is Phase.OVERLAP:
        return _await_final(state, Phase.DECIDING, now_ms + policy.decide_ms)
    return state, ()


def _partial(state: TurnState, event: PartialRecognised, now_ms: float, policy: TurnPolicy) -> Step:
    meant = event.utterance == state.utterance and not _backchannel(event.text, state, policy)
    if state.phase is Phase.OVERLAP and meant and not state.protected:
        return _give_way(state, now_ms, policy)
    return state, ()


def _final(state: TurnState, event: FinalRecognised, now_ms: float, policy: TurnPolicy) -> Step:
    if event.utterance not in state.awaited:
        return state, ()
    heard = f"{state.heard} {event.text}".strip()
    state = replace(
        state,
        awaited=state.awaited - {event.utterance},
        heard=heard,
        rejected=state.rejected or event.rejected,
    )
    if state.awaited:
        return state, ()
    if state.phase is Phase.RECOGNISING:
        return _turn_over(state, now_ms, policy)
    if state.phase is Phase.DECIDING:
        return _decide(state, now_ms, policy)
    if state.phase is Phase.LISTENING:
        return _turn_over(state, now_ms, policy)
    if state.phase in _AGENT_HAS_FLOOR:
        return _decide(replace(state, interrupted=state.phase), now_ms, policy)
    return state, ()


def _decide(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    """An overlap is over and known: answer it, keep it for later, or go on speaking."""
    if _backchannel(state.heard, state, policy):
        state = replace(state, heard="", rejected=False)
    elif not state.protected:
        thinking, effects = _turn_over(state, now_ms, policy)
        return thinking, (Unduck(), CutReply(), *effects)
    return _resume(state, now_ms, policy)


def _resume(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    """The agent goes on where it was talked over."""
    wait_ms = policy.reply_ms if state.interrupted is Phase.THINKING else policy.max_reply_ms
    resumed = replace(state, phase=state.interrupted, deadline_ms=now_ms + wait_ms)
    return resumed, () if state.protected else (Unduck(),)


def _key(state: TurnState, event: KeyPressed, now_ms: float, policy: TurnPolicy) -> Step:
    effects: tuple[Effect, ...] = ()
    if event.digit == "#" and not state.keys:
        return state, ()  # the habitual end of an entry that was complete already
    if state.phase in (Phase.ON_HOLD, Phase.TRANSFERRING, Phase.CLOSING, Phase.STARTING):
        return state, ()
    if state.phase is not Phase.LISTENING and not state.protected:
        state, effects = _drop_speech(state)
        effects = (*effects, Unduck(), CutReply())
        state = replace(state, phase=Phase.LISTENING)
    keys = state.keys if event.digit == "#" else state.keys + event.digit
    complete = event.digit == "#" or (event.wanted is not None and len(keys) >= event.wanted)
    state = replace(state, keys=keys, idle_prompts=0)
    if state.protected:
        return state, effects
    if complete and keys:
        thinking, more = _respond(state, now_ms, policy, text=keys, keyed=True)
        return thinking, (*effects, *more)
    return replace(state, deadline_ms=now_ms + policy.keys_ms), effects


def _deadline(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    match state.phase:
        case Phase.STARTING:
            return _end(state, EndCall("never_answered"))
        case Phase.LISTENING:
            return _idle(state, now_ms, policy)
        case Phase.CALLER_SPEAKING | Phase.MAYBE_DONE:
            return _await_final(state, Phase.RECOGNISING, now_ms + policy.recognise_ms)
        case Phase.RECOGNISING:
            lost = replace(state, awaited=frozenset(), rejected=True)
            return _turn_over(lost, now_ms, policy)
        case Phase.THINKING if not state.filled:
            filled = replace(state, filled=True, deadline_ms=now_ms + policy.reply_ms)
            return filled, (SayFiller(),)
        case Phase.THINKING:
            closing, effects = _leave_floor(state, Phase.CLOSING, now_ms + policy.closing_ms)
            return closing, (*effects, CutReply(), GiveUp())
        case Phase.AGENT_SPEAKING:
            listening, effects = _floor_is_free(state, now_ms, policy)
            return listening, (CutReply(), *effects)
        case Phase.OVERLAP if state.protected:
            return replace(state, deadline_ms=now_ms + policy.max_utterance_ms), ()
        case Phase.OVERLAP:
            return _give_way(state, now_ms, policy)
        case Phase.DECIDING:
            return _resume(state, now_ms, policy)
        case Phase.ON_HOLD:
            return _end(state, EndCall("held_too_long"))
        case Phase.TRANSFERRING:
            return _think(state, now_ms, policy, (SayTransferFailed(state.reply + 1),))
        case _:
            return _end(state, EndCall("goodbye_not_played"))


def _idle(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    if state.keys:
        return _respond(state, now_ms, policy, text=state.keys, keyed=True)
    if state.idle_prompts >= policy.max_idle_prompts:
        return _end(state, EndCall("caller_silent"))
    state = replace(state, idle_prompts=state.idle_prompts + 1)
    return _respond(state, now_ms, policy, text="", silent=True)


def _turn_over(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    """All words of the caller's turn are known; noise without words is no turn."""
    if not state.heard and not state.rejected and not state.cut:
        return _listen(state, now_ms, policy)
    rejected = not state.heard
    return _respond(state, now_ms, policy, text=state.heard, rejected=rejected)


def _respond(
    state: TurnState,
    now_ms: float,
    policy: TurnPolicy,
    *,
    text: str,
    rejected: bool = False,
    keyed: bool = False,
    silent: bool = False,
) -> Step:
    turn = state.turn + 1
    idle_prompts = state.idle_prompts if silent else 0
    state = replace(state, turn=turn, idle_prompts=idle_prompts)
    effect = Respond(state.reply + 1, turn, text, rejected=rejected, keyed=keyed, silent=silent)
    return _think(state, now_ms, policy, (effect,))


def _think(
    state: TurnState, now_ms: float, policy: TurnPolicy, effects: tuple[Effect, ...]
) -> Step:
    thinking = replace(
        state,
        phase=Phase.THINKING,
        reply=state.reply + 1,
        deadline_ms=now_ms + policy.filler_ms,
        heard="",
        rejected=False,
        keys="",
        filled=False,
        cut=False,
        protected=False,
        yes_no=False,
    )
    return thinking, effects


def _greet(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    """Say the disclosure, which nothing may interrupt; a call in which it cannot be said ends."""
    if state.greetings == policy.max_greetings:
        return _end(state, EndCall("disclosure_not_heard"))
    greeting, effects = _think(state, now_ms, policy, (Greet(state.reply + 1),))
    # No filler: nothing may be said before the disclosure.
    protected = replace(greeting, protected=True, filled=True, greetings=state.greetings + 1)
    return replace(protected, deadline_ms=now_ms + policy.reply_ms), effects


def _greet_again(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    """The disclosure could not be played while the caller spoke."""
    state, dropped = _drop_speech(state)
    greeting, effects = _greet(state, now_ms, policy)
    return greeting, (*dropped, *effects)


def _floor_is_free(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    """The agent is done; what came in while it could not be interrupted is answered now."""
    if not state.disclosed:
        return _greet(state, now_ms, policy)
    state = replace(state, protected=False)
    if state.heard:
        return _turn_over(state, now_ms, policy)
    return _listen(state, now_ms, policy)


def _listen(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    wait_ms = policy.keys_ms if state.keys else policy.idle_ms
    listening = replace(
        state,
        phase=Phase.LISTENING,
        deadline_ms=now_ms + wait_ms,
        heard="",
        rejected=False,
        cut=False,
        protected=False,
    )
    return listening, ()


def _give_way(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    speaking = replace(
        state, phase=Phase.CALLER_SPEAKING, deadline_ms=now_ms + policy.max_utterance_ms, cut=True
    )
    return speaking, (Unduck(), CutReply())


def _begin(state: TurnState, phase: Phase, deadline_ms: float) -> Step:
    utterance = state.utterance + 1
    began = replace(state, phase=phase, utterance=utterance, deadline_ms=deadline_ms)
    return replace(began, idle_prompts=0), (BeginUtterance(utterance),)


def _await_final(state: TurnState, phase: Phase, deadline_ms: float) -> Step:
    awaited = state.awaited | {state.utterance}
    ended = replace(state, phase=phase, awaited=awaited, deadline_ms=deadline_ms)
    return ended, (EndUtterance(state.utterance),)


def _drop_speech(state: TurnState) -> Step:
    """Forget what the recogniser is working on."""
    dropped = set(state.awaited)
    if state.phase in _LISTENING_TO_CALLER:
        dropped.add(state.utterance)
    effects = tuple(CancelUtterance(utterance) for utterance in sorted(dropped))
    return replace(state, awaited=frozenset(), heard="", rejected=False), effects


def _hold(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    if state.phase in (Phase.CLOSING, Phase.TRANSFERRING, Phase.ON_HOLD):
        return state, ()
    held, effects = _leave_floor(state, Phase.ON_HOLD, now_ms + policy.hold_ms)
    return held, (*effects, CutReply())


def _close(state: TurnState, now_ms: float, policy: TurnPolicy) -> Step:
    """The line will go away. Who cannot hear a goodbye, or has got one, is not given another."""
    if state.phase in (Phase.CLOSING, Phase.TRANSFERRING):
        return state, ()
    if state.phase in (Phase.STARTING, Phase.ON_HOLD):
        return _end(state, EndCall("line_closing"))
    ducked = state.phase in (Phase.OVERLAP, Phase.DECIDING)
    state = replace(state, reply=state.reply + 1)
    closing, dropped = _leave_floor(state, Phase.CLOSING, now_ms + policy.closing_ms)
    unduck = (Unduck(),) if ducked else ()
    return closing, (*dropped, *unduck, CutReply(), SayLineClosing(state.reply))


def _leave_floor(state: TurnState, phase: Phase, deadline_ms: float) -> Step:
    state, effects = _drop_speech(state)
    left = replace(state, phase=phase, deadline_ms=deadline_ms, keys="", protected=False)
    return left, effects


def _end(state: TurnState, *effects: Effect) -> Step:
    state, dropped = _drop_speech(state)
    ended = replace(state, phase=Phase.ENDED, deadline_ms=None)
    return ended, (*dropped, CutReply(), *effects)


def _backchannel(text: str, state: TurnState, policy: TurnPolicy) -> bool:
    """Nothing said, or only "I am listening"; a pending yes-or-no question makes it an answer."""
    return not text or (not state.yes_no and text.lower() in policy.backchannels)
