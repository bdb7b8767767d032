"""One call's conversation: events go through the turn machine, its effects are carried out."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import structlog

from services.agent import line as on_line
from services.agent import turn, turn_events
from services.agent.clients.stt import Recognised, SttClient
from services.agent.conversation import NOT_UNDERSTOOD, SILENCE, Conversation, Piece, keypad
from services.agent.endpointing import EndpointPolicy, silence_needed_ms
from services.agent.reply import Outcome, ReplyMaker
from services.agent.timing import TurnTiming
from services.agent.tools.runner import ToolRunner
from services.agent.vad import VadPolicy, VadStream
from services.agent.voice import PieceTiming, Voice
from services.common.agent_file import YES_NO_SLOT, SlotKind, expected_sets, phrase_sets
from services.common.audio import BYTES_PER_SAMPLE, SAMPLE_RATE_HZ
from services.common.metrics import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import grpc.aio

    from services.agent.clients.audit import AuditClient
    from services.agent.clients.llm import LlmClient
    from services.agent.clients.tts import TtsClient
    from services.agent.config import AgentConfig
    from services.agent.line import Line, Started
    from services.agent.tools.runner import ToolBox
    from services.agent.vad import VadBatch
    from services.common.clock import Clock

_ACTIVE = Gauge("landline_agent_calls_active", "Conversations in this process")
_CALLS = Counter("landline_agent_calls", "Conversations by result and reason", ["result", "reason"])
_TURNS = Counter("landline_agent_turns", "Caller turns", ["kind"])
_CUTS = Counter("landline_agent_barge_ins", "Replies cut by the caller")
_FAILURES = Counter("landline_agent_reply_failures", "Replies that failed", ["error"])
_DELAY = Histogram(
    "landline_agent_turn_seconds",
    "From the caller's last sound to the first sound of the reply",
    buckets=(0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0),
)
_EVENTS_DROPPED = Counter("landline_agent_events_dropped", "Events of calls that were stuck")
_MAX_EVENTS = 1_000
_DUCKED_GAIN = 0.25
_DUCK_RAMP_MS = 40
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a conversation needs from its process."""

    config: AgentConfig
    clock: Clock
    stt: grpc.aio.Channel
    tts: TtsClient
    llm: LlmClient
    audit: AuditClient
    vad: VadBatch
    box: ToolBox
    vad_policy: VadPolicy = field(default_factory=VadPolicy)
    endpoint_policy: EndpointPolicy = field(default_factory=EndpointPolicy)


class Session:
    """Owns one call, from its first event to its last. `run` returns when the call is over."""

    def __init__(self, line: Line, started: Started, around: Surroundings) -> None:
        self._line = line
        self._started = started
        self._around = around
        self._clock = around.clock
        self._agent = around.box.agent
        self._call_id = started.call_id
        self._policy = around.config.turn.policy()
        self._state = turn.TurnState(deadline_ms=self._clock.now_ms() + self._policy.idle_ms)
        self._events: asyncio.Queue[turn_events.Event] = asyncio.Queue(_MAX_EVENTS)
        self._conversation = Conversation(self._agent.prompt)
        self._stt = SttClient(
            around.stt,
            call_id=self._call_id,
            language=self._agent.language,
            phrase_sets=phrase_sets(self._agent),
            on_partial=self._on_partial,
            on_final=self._on_final,
        )
        self._voice = Voice(
            line,
            around.tts,
            self._clock,
            call_id=self._call_id,
            voice=self._agent.voice,
            language=self._agent.language,
            on_first_audio=self._on_first_audio,
            on_heard=self._on_heard,
            on_failure=self._on_failure,
        )
        self._tools = ToolRunner(around.box, around.audit, self._clock, self._call_id)
        self._replies = ReplyMaker(
            agent=self._agent,
            conversation=self._conversation,
            llm=around.llm,
            llm_config=around.config.llm,
            tools=self._tools,
            clock=self._clock,
            say=self._say,
            filler=self._say_filler,
        )
        self._vad = VadStream(around.vad, around.vad_policy, self._on_voice)
        self._reply: asyncio.Task[None] | None = None
        self._cutting: asyncio.Task[None] | None = None
        self._next_sample = 0
        self._audio_arrived_ms = 0.0
        self._voice_ended_ms = 0.0
        self._confirmed_ms = 0.0
        self._partial = ""
        self._finals: list[Recognised] = []
        self._timing: TurnTiming | None = None
        self._question: Piece | None = None  # a yes-or-no question that is not yet being heard
        self._transfer_target = ""
        self._emergency_refused = False  # the last transfer was to an emergency number
        self._disclosure: Piece | None = None
        self._media: on_line.MediaStatistics | None = None
        self._ended = on_line.Ended(result="failed", reason="gateway_lost")

    async def run(self) -> None:
        """Hold the conversation. Whatever goes wrong in it ends this call only."""
        _ACTIVE.inc()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(work) for work in (self._stt.run(), self._voice.run())]
                turns = group.create_task(self._turns())
                await self._listen_to_line()
                self._post(turn_events.CallEnded())
                await turns
                for task in tasks:
                    task.cancel()
        except asyncio.CancelledError:
            self._ended = on_line.Ended(result="failed", reason="agent_stopped")
            raise
        except Exception:
            self._ended = on_line.Ended(result="failed", reason="agent_failed")
            raise
        finally:
            _ACTIVE.dec()
            await self._close()

    # The line and the recogniser report; everything becomes an event of the turn machine.

    async def _listen_to_line(self) -> None:
        self._post(turn_events.CallAnswered())
        async for event in self._line.events():
            match event:
                case on_line.Audio():
                    self._take_audio(event)
                case on_line.Played():
                    self._take_question(event.mark)
                    await self._voice.played(event)
                case on_line.Cleared():
                    self._voice.cleared(event)
                case on_line.Dtmf(digit):
                    self._post(turn_events.KeyPressed(digit, self._keys_wanted()))
                case on_line.Held():
                    self._post(turn_events.LineHeld())
                case on_line.Resumed():
                    self._post(turn_events.LineResumed())
                case on_line.MediaStatistics():
                    self._media = event
                case on_line.TransferUpdated():
                    self._take_transfer(event)
                case on_line.LineClosing():
                    self._record("line_closing", deadline_ms=event.deadline_ms)
                    self._post(turn_events.LineClosing())
                case on_line.CallerChanged(caller):
                    self._replies.forget_identity()
                    self._record("caller_changed", caller=caller)
                case on_line.Ended():
                    self._ended = event
                    return

    def _take_audio(self, audio: on_line.Audio) -> None:
        self._next_sample = audio.first_sample + len(audio.pcm) // BYTES_PER_SAMPLE
        self._audio_arrived_ms = self._clock.now_ms()
        self._stt.push(audio.first_sample, audio.pcm)
        self._vad.push(audio.pcm)

    def _take_question(self, mark: str) -> None:
        """A yes or no means something from the moment at which the question is heard."""
        if self._question is not None and self._question.mark == mark:
            self._question = None
            self._post(turn_events.YesOrNoAsked(self._state.reply))

    def _take_transfer(self, event: on_line.TransferUpdated) -> None:
        self._record(
            "transfer_failed" if event.failed else "transfer_progressed",
            sip_status=event.sip_status,
            reason=event.reason,
        )
        if event.failed:
            self._emergency_refused = event.emergency
            self._post(turn_events.TransferFailed())

    def _on_voice(self, voice: bool, sample: int) -> None:
        if voice:
            self._post(turn_events.SpeechStarted())
            return
        behind_ms = (self._next_sample - sample) * 1000 / SAMPLE_RATE_HZ
        self._voice_ended_ms = self._audio_arrived_ms - behind_ms
        needed_ms = silence_needed_ms(
            self._partial,
            expects_yes_no=YES_NO_SLOT in self._replies.state.expect,
            expects_digits=self._digits_wanted() is not None,
            policy=self._around.endpoint_policy,
        )
        passed_ms = self._clock.now_ms() - self._voice_ended_ms
        self._post(turn_events.SpeechStopped(max(0.0, needed_ms - passed_ms)))

    def _on_partial(self, utterance: int, text: str) -> None:
        self._partial = text
        self._post(turn_events.PartialRecognised(utterance, text))

    def _on_final(self, final: Recognised) -> None:
        self._finals.append(final)
        rejected = final.rejected or final.lost
        self._post(turn_events.FinalRecognised(final.utterance, final.text, rejected))

    def _on_first_audio(self, piece: Piece, timing: PieceTiming) -> None:
        if piece.filler:
            return
        if self._timing is not None and self._timing.first_audio_ms is None:
            self._timing.asked_tts_ms = timing.asked_ms
            self._timing.first_audio_ms = timing.first_audio_ms
            self._measure(self._timing)
        self._post(turn_events.ReplyBegan(self._state.reply))

    def _on_heard(self, piece: Piece) -> None:
        if piece is self._disclosure:
            if piece.finished:
                self._post(turn_events.ProtectionEnded())
            self._record(
                "disclosure_heard",
                text=piece.text,
                complete=not piece.cut,
                heard_ms=piece.played_ms,
            )
        if heard := piece.heard():
            self._record(
                "agent_said",
                turn=piece.turn,
                text=heard,
                complete=not piece.cut,
                heard_ms=piece.played_ms,
            )

    def _on_failure(self, error: Exception) -> None:
        _FAILURES.labels(error=type(error).__name__).inc()
        self._record("speech_failed", reason=str(error))
        _log.error("speech_failed", call_id=self._call_id, reason=str(error))

    # The turn machine decides.

    def _post(self, event: turn_events.Event) -> None:
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            _EVENTS_DROPPED.inc()

    async def _turns(self) -> None:
        while self._state.phase is not turn.Phase.ENDED:
            event = await self._next_event()
            before = self._state.phase
            self._state, effects = turn.transition(
                self._state, event, self._clock.now_ms(), self._policy
            )
            if self._state.phase is not before:
                _log.debug("phase_changed", call_id=self._call_id, phase=self._state.phase)
            for effect in effects:
                await self._carry_out(effect)
            if not (self._state.heard or self._state.rejected or self._state.awaited):
                self._finals.clear()

    async def _next_event(self) -> turn_events.Event:
        deadline_ms = self._state.deadline_ms
        wait_ms = None if deadline_ms is None else deadline_ms - self._clock.now_ms()
        if wait_ms is not None and wait_ms <= 0 and self._events.empty():
            return turn_events.DeadlinePassed()
        try:
            async with asyncio.timeout(None if wait_ms is None else max(0.0, wait_ms / 1000)):
                return await self._events.get()
        except TimeoutError:
            return turn_events.DeadlinePassed()

    async def _carry_out(self, effect: turn_events.Effect) -> None:
        match effect:
            case turn_events.Greet(reply):
                self._start_reply(reply, self._greet)
            case turn_events.Respond():
                self._respond(effect)
            case turn_events.BeginUtterance(utterance):
                self._partial = ""
                self._stt.begin(utterance, expected_sets(self._agent, self._replies.state.expect))
            case turn_events.EndUtterance(utterance):
                self._confirmed_ms = self._clock.now_ms()
                self._stt.end(utterance)
            case turn_events.CancelUtterance(utterance):
                self._stt.cancel(utterance)
            case turn_events.Duck():
                await self._line.duck(_DUCKED_GAIN, _DUCK_RAMP_MS)
            case turn_events.Unduck():
                await self._line.duck(1.0, _DUCK_RAMP_MS)
            case turn_events.CutReply():
                self._cut_reply()
            case turn_events.SayFiller():
                self._say_filler(self._agent.speech.wait)
            case turn_events.SayTransferFailed(reply):
                self._start_reply(reply, self._say_transfer_failed)
            case turn_events.SayLineClosing(reply):
                self._start_reply(reply, self._say_line_closing)
            case turn_events.GiveUp():
                self._start_reply(self._state.reply, self._apologise)
            case turn_events.EndCall(reason):
                await self._line.hang_up("completed", reason)

    # Effects.

    def _respond(self, effect: turn_events.Respond) -> None:
        finals, self._finals = self._finals, []
        text = effect.text
        if effect.silent:
            text = SILENCE
        elif effect.keyed:
            text = keypad(effect.text)
        elif effect.rejected:
            text = NOT_UNDERSTOOD
        kind = "silent" if effect.silent else "keyed" if effect.keyed else "spoken"
        _TURNS.labels(kind="rejected" if effect.rejected else kind).inc()
        self._record(
            "caller_said",
            turn=effect.turn,
            text=text,
            rejected=effect.rejected,
            confidence=round(min((final.confidence for final in finals), default=1.0), 3),
            rejected_text=" ".join(final.rejected_text for final in finals if final.rejected),
            reason="; ".join(final.reason for final in finals if final.reason),
        )
        self._timing = None
        if kind == "spoken":
            self._timing = TurnTiming(
                voice_ended_ms=self._voice_ended_ms,
                confirmed_ms=self._confirmed_ms,
                recognised_ms=self._clock.now_ms(),
                decode_ms=sum(final.decode_ms for final in finals),
            )
        answer = partial(self._replies.answer, text, self._timing)
        self._start_reply(effect.reply, answer)

    def _start_reply(self, reply: int, work: Callable[[], Awaitable[Outcome]]) -> None:
        if self._reply is not None:
            self._reply.cancel()
        self._reply = asyncio.create_task(self._make_reply(reply, work))

    async def _make_reply(self, reply: int, work: Callable[[], Awaitable[Outcome]]) -> None:
        if self._cutting is not None:
            await asyncio.wait([self._cutting])
        try:
            outcome = await work()
        except Exception as error:
            _FAILURES.labels(error=type(error).__name__).inc()
            _log.error("reply_failed", call_id=self._call_id, reason=str(error))
            self._record("reply_failed", error=type(error).__name__, reason=str(error))
            outcome = await self._apologise()
        await self._finish_reply(reply, outcome)

    async def _finish_reply(self, reply: int, outcome: Outcome) -> None:
        if YES_NO_SLOT in self._replies.state.expect:
            self._question = self._voice.last
        if outcome.transfer is not None:
            self._post(turn_events.TransferStarted(reply))
            self._transfer_target = outcome.transfer
            await self._voice.all_made()
            person = self._agent.transfers[outcome.transfer]
            self._record("transfer_started", target=person.target)
            await self._line.transfer(person.target, attended=person.attended)
        elif outcome.hang_up is not None:
            self._post(turn_events.GoodbyeStarted(reply))
            await self._voice.all_made()
            await self._line.hang_up("completed", outcome.hang_up)
        else:
            await self._voice.all_heard()
            self._post(turn_events.ReplyPlayed(reply))

    async def _greet(self) -> Outcome:
        entry = self._conversation.add_agent()
        if self._started.emergency:
            entry.pieces.append(self._say(self._agent.speech.emergency))
            return Outcome(hang_up="emergency_refused")
        self._disclosure = self._say(self._agent.speech.disclosure)
        entry.pieces += [self._disclosure, self._say(self._agent.speech.greeting)]
        return Outcome()

    async def _say_transfer_failed(self) -> Outcome:
        entry = self._conversation.add_agent()
        failed = self._agent.transfers[self._transfer_target].failed
        speech = self._agent.speech.emergency if self._emergency_refused else failed
        entry.pieces.append(self._say(speech))
        return Outcome()

    async def _say_line_closing(self) -> Outcome:
        entry = self._conversation.add_agent()
        entry.pieces.append(self._say(self._agent.speech.line_closing))
        return Outcome(hang_up="line_closing")

    async def _apologise(self) -> Outcome:
        entry = self._conversation.add_agent()
        entry.pieces.append(self._say(self._agent.speech.apology))
        return Outcome(hang_up="reply_failed")

    def _say(self, text: str) -> Piece:
        return self._voice.say(text, turn=self._state.turn)

    def _say_filler(self, text: str) -> None:
        self._voice.say(text, turn=self._state.turn, filler=True)

    def _cut_reply(self) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.cancel()
        if self._voice.speaking:
            _CUTS.inc()
            self._cutting = asyncio.create_task(self._voice.cut())

    def _digits_wanted(self) -> int | None:
        """How many digits the last question asked for."""
        for name in self._replies.state.expect:
            slot = self._agent.slots.get(name)
            if slot is not None and slot.kind is SlotKind.DIGITS:
                return slot.length
        return None

    def _keys_wanted(self) -> int | None:
        """How many keys complete an entry; one when keys stand for menu items or yes and no."""
        wanted = self._digits_wanted()
        if wanted is not None:
            return wanted
        menu = any(intent.key for intent in self._agent.intents.values())
        return 1 if menu or YES_NO_SLOT in self._replies.state.expect else None

    def _measure(self, timing: TurnTiming) -> None:
        if figures := timing.figures():
            _DELAY.observe(figures["total_ms"] / 1000)
            self._record("turn_measured", turn=self._state.turn, **figures)

    def _record(self, type_: str, **fields: object) -> None:
        self._around.audit.record(self._call_id, type_, **fields)

    async def _close(self) -> None:
        """Leave nothing running; the last words go on record."""
        for task in (self._reply, self._cutting):
            if task is not None:
                task.cancel()
        await self._tools.finish()
        self._voice.settle_all()
        _CALLS.labels(result=self._ended.result, reason=self._ended.reason).inc()
        media = self._media
        self._record(
            "call_ended",
            result=self._ended.result,
            reason=self._ended.reason,
            duration_ms=self._ended.duration_ms,
            turns=self._state.turn,
            recording_path=self._ended.recording_path,
            recording_sha256=self._ended.recording_sha256,
            packets_received=media.packets_received if media else 0,
            packets_lost=media.packets_lost if media else 0,
        )
        _log.info(
            "call_ended",
            call_id=self._call_id,
            result=self._ended.result,
            reason=self._ended.reason,
            turns=self._state.turn,
        )
