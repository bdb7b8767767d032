from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.turn import Phase, TurnPolicy, TurnState, transition
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

POLICY = TurnPolicy()


class Talk:
    """A call whose clock the test moves; keeps every effect."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.state = TurnState(deadline_ms=1_000.0)
        self.effects: list[Effect] = []

    def feed(self, *events: Event) -> list[Effect]:
        """Effects of these events."""
        before = len(self.effects)
        for event in events:
            self.state, effects = transition(self.state, event, self.now_ms, POLICY)
            self.effects += effects
        return self.effects[before:]

    def wait(self, ms: float) -> list[Effect]:
        """Let time pass; a deadline on the way is fed when it is due."""
        before = len(self.effects)
        end_ms = self.now_ms + ms
        while self.state.deadline_ms is not None and self.state.deadline_ms <= end_ms:
            self.now_ms = self.state.deadline_ms
            self.feed(DeadlinePassed())
        self.now_ms = end_ms
        return self.effects[before:]

    @property
    def phase(self) -> Phase:
        return self.state.phase


def answered() -> Talk:
    """A call after its greeting."""
    talk = Talk()
    assert talk.feed(CallAnswered()) == [Greet(1)]
    talk.feed(ReplyBegan(1), ProtectionEnded(), ReplyPlayed(1))
    assert talk.phase is Phase.LISTENING
    return talk


def speaking() -> Talk:
    """A call in which the agent is answering the first turn."""
    talk = answered()
    talk.feed(SpeechStarted(), SpeechStopped(500))
    talk.wait(500)
    talk.feed(FinalRecognised(1, "when are you open"))
    talk.feed(ReplyBegan(talk.state.reply))
    assert talk.phase is Phase.AGENT_SPEAKING
    return talk


def test_a_turn_is_recognised_after_its_silence_and_answered_once() -> None:
    talk = answered()
    assert talk.feed(SpeechStarted()) == [BeginUtterance(1)]
    assert talk.feed(SpeechStopped(500)) == []
    assert talk.wait(499) == []
    assert talk.wait(1) == [EndUtterance(1)]
    assert talk.feed(FinalRecognised(1, "when are you open")) == [
        Respond(2, 1, "when are you open")
    ]
    assert talk.feed(FinalRecognised(1, "when are you open")) == []
    talk.feed(ReplyBegan(2), ReplyPlayed(2))
    assert talk.phase is Phase.LISTENING


def test_a_pause_does_not_end_the_turn() -> None:
    talk = answered()
    talk.feed(SpeechStarted(), SpeechStopped(500))
    talk.wait(400)
    assert talk.feed(SpeechStarted()) == []
    assert talk.wait(2_000) == []
    talk.feed(SpeechStopped(500))
    assert talk.wait(500) == [EndUtterance(1)]


def test_speech_after_the_end_joins_the_same_turn() -> None:
    talk = answered()
    talk.feed(SpeechStarted(), SpeechStopped(300))
    talk.wait(300)
    assert talk.feed(SpeechStarted()) == [BeginUtterance(2)]
    assert talk.feed(FinalRecognised(1, "i want an appointment")) == []
    talk.feed(SpeechStopped(300))
    talk.wait(300)
    (respond,) = talk.feed(FinalRecognised(2, "on monday"))
    assert respond == Respond(2, 1, "i want an appointment on monday")


def test_noise_without_words_is_no_turn_but_rejected_speech_is() -> None:
    talk = answered()
    talk.feed(SpeechStarted(), SpeechStopped(300))
    talk.wait(300)
    assert talk.feed(FinalRecognised(1, "")) == []
    assert talk.phase is Phase.LISTENING
    talk.feed(SpeechStarted(), SpeechStopped(300))
    talk.wait(300)
    assert talk.feed(FinalRecognised(2, "", rejected=True)) == [Respond(2, 1, "", rejected=True)]


def test_a_lost_final_is_taken_as_not_understood() -> None:
    talk = answered()
    talk.feed(SpeechStarted(), SpeechStopped(300))
    talk.wait(300)
    (respond,) = talk.wait(POLICY.recognise_ms)
    assert respond == Respond(2, 1, "", rejected=True)


def test_voice_that_lasts_cuts_the_reply() -> None:
    talk = speaking()
    assert talk.feed(SpeechStarted()) == [Duck(), BeginUtterance(2)]
    assert talk.wait(POLICY.barge_in_ms) == [Unduck(), CutReply()]
    assert talk.phase is Phase.CALLER_SPEAKING


def test_a_noise_that_cut_the_reply_is_followed_by_a_question_and_not_by_silence() -> None:
    talk = speaking()
    talk.feed(SpeechStarted())
    talk.wait(POLICY.barge_in_ms)
    talk.feed(SpeechStopped(300))
    talk.wait(300)
    assert talk.feed(FinalRecognised(2, "")) == [Respond(3, 2, "", rejected=True)]


def test_a_hold_settles_what_a_cut_reply_still_owed() -> None:
    talk = speaking()
    talk.feed(SpeechStarted())
    talk.wait(POLICY.barge_in_ms)
    talk.feed(LineHeld(), LineResumed(), SpeechStarted(), SpeechStopped(300))
    talk.wait(300)
    assert talk.feed(FinalRecognised(3, "")) == []
    assert talk.phase is Phase.LISTENING


def test_a_noise_while_the_agent_thinks_does_not_lose_the_answer() -> None:
    talk = answered()
    talk.feed(SpeechStarted(), SpeechStopped(300))
    talk.wait(300)
    talk.feed(FinalRecognised(1, "when are you open"), SpeechStarted())
    assert talk.wait(POLICY.barge_in_ms + 100) == []
    talk.feed(SpeechStopped(300))
    assert talk.feed(FinalRecognised(2, "")) == [Unduck()]
    assert talk.phase is Phase.THINKING


def test_a_final_that_comes_late_is_still_answered() -> None:
    talk = speaking()
    talk.feed(SpeechStarted())
    talk.wait(200)
    talk.feed(SpeechStopped(300))
    assert talk.wait(POLICY.decide_ms) == [Unduck()]
    effects = talk.feed(FinalRecognised(2, "yes please"))
    assert effects == [Unduck(), CutReply(), Respond(3, 2, "yes please")]


def test_the_hash_after_a_complete_entry_changes_nothing() -> None:
    talk = answered()
    talk.feed(*[KeyPressed(digit, wanted=4) for digit in "4271"])
    before = talk.state
    assert talk.feed(KeyPressed("#", wanted=4)) == []
    assert talk.state == before


def test_a_goodbye_of_a_reply_that_was_cut_means_nothing() -> None:
    talk = speaking()
    assert talk.feed(GoodbyeStarted(1), TransferStarted(1)) == []
    assert talk.phase is Phase.AGENT_SPEAKING


def test_words_cut_the_reply_before_the_time_is_up() -> None:
    talk = speaking()
    talk.feed(SpeechStarted())
    assert talk.feed(PartialRecognised(2, "stop")) == [Unduck(), CutReply()]


@pytest.mark.parametrize("heard", ["", "mhm", "right"])
def test_a_cough_or_a_backchannel_does_not_cut(heard: str) -> None:
    talk = speaking()
    talk.feed(SpeechStarted())
    talk.wait(200)
    assert talk.feed(PartialRecognised(2, heard)) == []
    assert talk.feed(SpeechStopped(300)) == [EndUtterance(2)]
    assert talk.feed(FinalRecognised(2, heard)) == [Unduck()]
    assert talk.phase is Phase.AGENT_SPEAKING


def test_a_backchannel_word_answers_a_pending_question() -> None:
    talk = speaking()
    talk.feed(YesOrNoAsked(2), SpeechStarted())
    talk.wait(200)
    talk.feed(SpeechStopped(300))
    effects = talk.feed(FinalRecognised(2, "ok"))
    assert effects == [Unduck(), CutReply(), Respond(3, 2, "ok")]


def test_a_late_short_answer_is_not_lost() -> None:
    talk = answered()
    talk.feed(SpeechStarted(), SpeechStopped(300))
    talk.wait(300)
    talk.feed(FinalRecognised(1, "book it"))
    assert talk.phase is Phase.THINKING
    talk.feed(SpeechStarted(), SpeechStopped(300))
    effects = talk.feed(FinalRecognised(2, "yes please"))
    assert effects == [Unduck(), CutReply(), Respond(3, 2, "yes please")]


def test_protected_words_are_not_cut_and_what_came_in_is_answered_after_them() -> None:
    talk = Talk()
    talk.feed(CallAnswered(), ReplyBegan(1))
    assert talk.feed(SpeechStarted()) == [BeginUtterance(1)]
    assert talk.wait(POLICY.barge_in_ms + 100) == []
    talk.feed(SpeechStopped(300))
    assert talk.feed(FinalRecognised(1, "hello there")) == []
    assert talk.phase is Phase.AGENT_SPEAKING
    assert talk.feed(ProtectionEnded(), ReplyPlayed(1)) == [Respond(2, 1, "hello there")]


def test_a_caller_who_speaks_first_cannot_keep_the_disclosure_from_being_said() -> None:
    talk = Talk()
    talk.feed(CallAnswered())
    assert talk.feed(SpeechStarted()) == [BeginUtterance(1)]
    assert talk.wait(POLICY.barge_in_ms + 100) == []
    assert talk.feed(ReplyBegan(1), ReplyBegan(1)) == []
    assert talk.wait(POLICY.barge_in_ms + 100) == []
    assert talk.state.protected


def test_a_disclosure_that_was_not_heard_is_said_again_and_then_the_call_ends() -> None:
    talk = Talk()
    talk.feed(CallAnswered(), ReplyBegan(1))
    assert talk.feed(ReplyPlayed(1)) == [Greet(2)]
    talk.feed(ReplyBegan(2))
    assert talk.feed(ReplyPlayed(2)) == [CutReply(), EndCall("disclosure_not_heard")]


def test_a_hold_in_the_disclosure_has_it_said_again() -> None:
    talk = Talk()
    talk.feed(CallAnswered(), ReplyBegan(1), LineHeld())
    assert talk.feed(LineResumed()) == [Greet(2)]


def test_a_caller_who_speaks_over_protected_words_gets_the_floor_when_they_end() -> None:
    talk = Talk()
    talk.feed(CallAnswered(), ReplyBegan(1), SpeechStarted())
    talk.wait(1_000)
    assert talk.feed(ProtectionEnded()) == [Duck()]
    assert talk.wait(POLICY.barge_in_ms) == [Unduck(), CutReply()]


def test_reports_of_an_earlier_reply_mean_nothing() -> None:
    talk = speaking()
    talk.feed(SpeechStarted(), PartialRecognised(2, "stop it"), SpeechStopped(300))
    talk.wait(300)
    talk.feed(FinalRecognised(2, "stop it"))
    assert talk.phase is Phase.THINKING
    assert talk.feed(ReplyBegan(2), ReplyPlayed(2)) == []
    assert talk.phase is Phase.THINKING


def test_keys_complete_by_number_by_hash_and_by_time() -> None:
    talk = answered()
    keys = [KeyPressed(digit, wanted=4) for digit in "4271"]
    assert talk.feed(*keys) == [Respond(2, 1, "4271", keyed=True)]
    talk.feed(ReplyBegan(2), ReplyPlayed(2))
    talk.feed(KeyPressed("9"))
    assert talk.feed(KeyPressed("#")) == [Respond(3, 2, "9", keyed=True)]
    talk.feed(ReplyBegan(3), ReplyPlayed(3))
    talk.feed(KeyPressed("5"))
    assert talk.wait(POLICY.keys_ms) == [Respond(4, 3, "5", keyed=True)]


def test_a_key_cuts_the_reply() -> None:
    talk = speaking()
    effects = talk.feed(KeyPressed("1", wanted=1))
    assert effects == [Unduck(), CutReply(), Respond(3, 2, "1", keyed=True)]


def test_a_key_drops_the_speech_that_it_interrupts() -> None:
    talk = answered()
    talk.feed(SpeechStarted())
    assert CancelUtterance(1) in talk.feed(KeyPressed("1"))


def test_the_idle_ladder_asks_twice_and_then_ends_the_call() -> None:
    talk = answered()
    for number in (1, 2):
        (respond,) = talk.wait(POLICY.idle_ms)
        assert isinstance(respond, Respond)
        assert respond.silent
        talk.feed(ReplyBegan(number + 1), ReplyPlayed(number + 1))
    assert talk.wait(POLICY.idle_ms) == [CutReply(), EndCall("caller_silent")]
    assert talk.phase is Phase.ENDED


def test_slow_thinking_gets_a_filler_and_then_an_apology() -> None:
    talk = answered()
    talk.feed(SpeechStarted(), SpeechStopped(300))
    talk.wait(300)
    talk.feed(FinalRecognised(1, "when are you open"))
    assert talk.wait(POLICY.filler_ms) == [SayFiller()]
    assert talk.wait(POLICY.reply_ms) == [CutReply(), GiveUp()]
    assert talk.phase is Phase.CLOSING


def test_a_voice_that_never_stops_is_answered_in_the_end() -> None:
    talk = answered()
    talk.feed(SpeechStarted())
    assert talk.wait(POLICY.max_utterance_ms) == [EndUtterance(1)]


def test_a_closing_line_cuts_the_reply_and_says_goodbye_once() -> None:
    talk = speaking()
    closing = talk.state.reply + 1
    assert talk.feed(LineClosing()) == [CutReply(), SayLineClosing(closing)]
    assert talk.phase is Phase.CLOSING
    assert talk.feed(LineClosing(), SpeechStarted(), KeyPressed("1")) == []
    talk.feed(ReplyBegan(closing), GoodbyeStarted(closing))
    assert talk.wait(POLICY.closing_ms) == [CutReply(), EndCall("goodbye_not_played")]


def test_a_closing_line_is_told_aloud_to_who_speaks_over_the_agent() -> None:
    talk = speaking()
    talk.feed(SpeechStarted())
    assert talk.phase is Phase.OVERLAP
    effects = talk.feed(LineClosing())
    assert effects == [CancelUtterance(2), Unduck(), CutReply(), SayLineClosing(3)]


def test_a_closing_line_ends_at_once_for_who_cannot_hear_the_goodbye() -> None:
    talk = speaking()
    talk.feed(LineHeld())
    assert talk.feed(LineClosing()) == [CutReply(), EndCall("line_closing")]
    assert talk.phase is Phase.ENDED


def test_hold_stops_everything_and_resume_listens() -> None:
    talk = speaking()
    assert talk.feed(LineHeld()) == [CutReply()]
    assert talk.feed(SpeechStarted()) == []
    talk.feed(LineResumed())
    assert talk.phase is Phase.LISTENING


def test_a_failed_transfer_is_told() -> None:
    talk = speaking()
    talk.feed(TransferStarted(2))
    assert talk.feed(TransferFailed()) == [SayTransferFailed(3)]
    assert talk.phase is Phase.THINKING


def test_a_goodbye_that_is_never_played_still_ends_the_call() -> None:
    talk = speaking()
    talk.feed(GoodbyeStarted(2))
    assert talk.wait(POLICY.closing_ms) == [CutReply(), EndCall("goodbye_not_played")]


events = st.one_of(
    st.sampled_from(
        [
            CallAnswered(),
            SpeechStarted(),
            ProtectionEnded(),
            LineHeld(),
            LineClosing(),
            LineResumed(),
            TransferFailed(),
            DeadlinePassed(),
            YesOrNoAsked(2),
        ]
    ),
    st.builds(SpeechStopped, st.floats(0, 2_500)),
    st.builds(PartialRecognised, st.integers(0, 6), st.sampled_from(["", "mhm", "book it"])),
    st.builds(
        FinalRecognised, st.integers(0, 6), st.sampled_from(["", "mhm", "book it"]), st.booleans()
    ),
    st.builds(KeyPressed, st.sampled_from("019#"), st.sampled_from([None, 1, 4])),
    st.builds(ReplyBegan, st.integers(0, 5)),
    st.builds(ReplyPlayed, st.integers(0, 5)),
    st.builds(TransferStarted, st.integers(0, 5)),
    st.builds(GoodbyeStarted, st.integers(0, 5)),
)
scripts = st.lists(st.tuples(st.floats(0, 3_000), events), max_size=60)


@given(scripts)
def test_every_phase_but_the_last_has_a_deadline_and_replies_and_turns_only_grow(
    script: list[tuple[float, Event]],
) -> None:
    talk = Talk()
    responded: list[int] = []
    for gap_ms, event in script:
        before = talk.state
        effects = talk.wait(gap_ms) + talk.feed(event)
        assert (talk.state.deadline_ms is None) == (talk.phase is Phase.ENDED)
        assert talk.state.reply >= before.reply
        responded += [effect.turn for effect in effects if isinstance(effect, Respond)]
    assert responded == sorted(set(responded))


@given(scripts)
def test_utterances_end_or_are_cancelled_once_and_only_after_they_began(
    script: list[tuple[float, Event]],
) -> None:
    talk = Talk()
    for gap_ms, event in script:
        talk.wait(gap_ms)
        talk.feed(event)
    talk.feed(CallEnded())
    begun: set[int] = set()
    ended: set[int] = set()
    cancelled: set[int] = set()
    for effect in talk.effects:
        match effect:
            case BeginUtterance(number):
                assert number not in begun
                begun.add(number)
            case EndUtterance(number):
                assert number in begun - ended - cancelled
                ended.add(number)
            case CancelUtterance(number):
                assert number in begun - cancelled
                cancelled.add(number)
            case _:
                continue
    assert begun == ended | cancelled


@given(scripts)
def test_a_call_left_alone_always_ends(script: list[tuple[float, Event]]) -> None:
    talk = Talk()
    for gap_ms, event in script:
        talk.wait(gap_ms)
        talk.feed(event)
    talk.wait(3_600_000)
    assert talk.phase is Phase.ENDED


@given(scripts)
def test_the_same_inputs_give_the_same_effects(script: list[tuple[float, Event]]) -> None:
    first, second = Talk(), Talk()
    for talk in (first, second):
        for gap_ms, event in script:
            talk.wait(gap_ms)
            talk.feed(event)
    assert first.effects == second.effects
    assert first.state == second.state


@given(scripts, st.sampled_from(["book it", "yes"]))
def test_what_the_caller_says_is_answered_within_the_deadlines(
    script: list[tuple[float, Event]], words: str
) -> None:
    talk = Talk()
    for gap_ms, event in script:
        talk.wait(gap_ms)
        talk.feed(event)
    if talk.phase not in (Phase.LISTENING, Phase.THINKING, Phase.AGENT_SPEAKING):
        return
    talk.state = replace(talk.state, protected=False, disclosed=True, heard="", keys="")
    turns = talk.state.turn
    talk.feed(SpeechStarted())
    number = talk.state.utterance
    talk.wait(300)
    talk.feed(SpeechStopped(500))
    talk.wait(500)
    talk.feed(FinalRecognised(number, words))
    assert talk.state.turn == turns + 1
