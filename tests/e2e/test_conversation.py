"""The whole of Landline, phoned for real: SIP, RTP, every service a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import wave
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.audit import reader
from services.audit.records import Event
from services.audit.verify import verify_file
from services.cli import write_example
from services.common import config
from services.common.clock import SystemClock
from services.eval.caller import Caller
from services.stack import Stack
from sip_gateway.softphone import CallRefusedError, Softphone, read_wav
from tests.fakes.certificates import tls_section

ROOT = Path(__file__).parents[2]
VOICES = ROOT / "scripts" / "caller"


class Clinic:
    """A running stack with the clinic's reception, and what is on record of it."""

    def __init__(self, stack: Stack, file: config.ConfigFile) -> None:
        self.stack = stack
        self.file = file
        self.journal = reader.journal_path(file.shared.data_dir)

    @property
    def uri(self) -> str:
        return f"sip:reception@{self.stack.running['gateway'].address}"

    def events(self, type_: str) -> list[Event]:
        return [event for event in reader.events(self.journal) if event.type == type_]

    async def until(self, type_: str, **fields: Any) -> Event:
        """Wait until an event with these fields is on record."""
        async with asyncio.timeout(30):
            while True:
                for event in self.events(type_):
                    if all(event.fields.get(key) == value for key, value in fields.items()):
                        return event
                await asyncio.sleep(0.1)

    def kill(self, part: str) -> None:
        os.kill(self.stack.running[part].pid, signal.SIGKILL)


Open = Callable[..., AbstractAsyncContextManager[Clinic]]


@pytest.fixture
def open_clinic(tmp_path: Path) -> Open:
    """`async with open_clinic("agent.turn.idle_ms=900") as clinic:`"""

    @asynccontextmanager
    async def open_(*overrides: str, extra: str = "") -> AsyncIterator[Clinic]:
        path = write_example(tmp_path)
        path.write_text(path.read_text() + extra)
        settings = ("sip.listen=127.0.0.1:0", *overrides)
        file = config.load(path, settings)
        async with Stack(file, settings) as stack:
            yield Clinic(stack, file)

    return open_


@pytest.fixture
async def phone() -> AsyncIterator[Softphone]:
    async with Softphone() as softphone:
        yield softphone


async def dial(phone: Softphone, clinic: Clinic) -> Caller:
    return Caller(await phone.dial(clinic.uri), SystemClock())


def voice(name: str) -> bytes:
    return read_wav(VOICES / f"{name}.wav")


def loudness(path: Path) -> tuple[float, float]:
    """RMS of the left and the right channel."""
    with wave.open(str(path)) as file:
        assert file.getnchannels() == 2
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    left, right = np.sqrt(np.mean(samples.astype(np.float64) ** 2, axis=0))
    return float(left), float(right)


async def test_a_caller_is_answered_and_everything_is_on_record(
    open_clinic: Open, phone: Softphone
) -> None:
    async with open_clinic() as clinic:
        caller = await dial(phone, clinic)
        await caller.until_quiet()
        said = await caller.say(voice("hours"))
        await caller.until_voice(after_ms=said.ended_ms)
        await caller.until_quiet()
        await caller.call.hang_up()
        ended = await clinic.until("call_ended", result="completed", reason="caller_hung_up")

        (disclosure,) = clinic.events("disclosure_heard")
        assert disclosure.fields["complete"] is True
        assert "recorded" in disclosure.fields["text"]
        (heard,) = clinic.events("caller_said")
        assert heard.fields["text"] == "what are your opening hours"
        answer = " ".join(event.fields["text"] for event in clinic.events("agent_said"))
        assert "from nine to twelve and from two to five" in answer
        (measured,) = clinic.events("turn_measured")
        assert measured.fields["total_ms"] >= measured.fields["endpointing_ms"] > 0

        left, right = loudness(Path(ended.fields["recording_path"]))
        assert left > 100
        assert right > 100
        transcript = clinic.file.shared.data_dir / "transcripts" / f"{ended.call_id}.txt"
        assert "caller: what are your opening hours" in transcript.read_text()
        await check_commands(clinic, ended.call_id)
    assert verify_file(clinic.journal).ok


async def check_commands(clinic: Clinic, call_id: str) -> None:
    """The command line tells the same of the call."""
    (listed,) = json.loads(await landline(clinic, "calls", "--json"))
    assert (listed["call_id"], listed["result"], listed["agent"]) == (
        call_id,
        "completed",
        "clinic",
    )
    assert "what are your opening hours" in await landline(clinic, "calls", call_id)
    assert json.loads(await landline(clinic, "audit", "verify", "--json"))["ok"] is True


async def landline(clinic: Clinic, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", *arguments, "--config", str(clinic.file.path)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_an_interruption_clears_what_is_queued_and_history_keeps_what_was_heard(
    open_clinic: Open, phone: Softphone
) -> None:
    async with open_clinic() as clinic:
        caller = await dial(phone, clinic)
        await clinic.until("disclosure_heard", complete=True)
        await asyncio.sleep(1.0)
        said = await caller.say(voice("hours"))
        await caller.until_voice(after_ms=said.ended_ms)
        await caller.until_quiet()
        spoken = clinic.events("agent_said")
        cut = [event.fields for event in spoken if not event.fields["complete"]]
        assert len(cut) == 1
        assert cut[0]["text"].startswith("You can ask")
        assert "What can I do for you" not in cut[0]["text"]
        assert 500 <= cut[0]["heard_ms"] <= 3_000
        assert clinic.events("caller_said")[0].fields["text"] == "what are your opening hours"


async def test_the_disclosure_is_heard_in_full_however_the_caller_talks_over_it(
    open_clinic: Open, phone: Softphone
) -> None:
    async with open_clinic() as clinic:
        caller = await dial(phone, clinic)
        await caller.until_voice(after_ms=0.0)
        await caller.say(voice("hours"))
        disclosure = await clinic.until("disclosure_heard")
        assert disclosure.fields["complete"] is True
        heard = await clinic.until("caller_said")
        assert heard.fields["text"] == "what are your opening hours"


@pytest.mark.parametrize("part", ["stt", "llm", "tts", "audit"])
async def test_a_service_killed_in_mid_call_comes_back_and_no_call_is_lost(
    open_clinic: Open, phone: Softphone, part: str
) -> None:
    async with open_clinic() as clinic:
        callers = [await dial(phone, clinic), await dial(phone, clinic)]
        await asyncio.gather(*(caller.until_quiet() for caller in callers))
        clinic.kill(part)
        said = await asyncio.gather(*(caller.say(voice("hours")) for caller in callers))
        await asyncio.gather(
            *(
                caller.until_voice(after_ms=one.ended_ms)
                for caller, one in zip(callers, said, strict=True)
            )
        )
        await asyncio.gather(*(caller.until_quiet(quiet_ms=2_000) for caller in callers))
        answers = [event.fields["text"] for event in clinic.events("agent_said")]
        assert sum("from nine to twelve" in answer for answer in answers) == 2
        assert [event.fields["text"] for event in clinic.events("caller_said")] == [
            "what are your opening hours"
        ] * 2
        assert not clinic.events("call_ended")
    assert verify_file(clinic.journal).ok


async def test_a_killed_agent_ends_its_calls_with_a_reason_and_the_next_is_answered(
    open_clinic: Open, phone: Softphone
) -> None:
    async with open_clinic() as clinic:
        caller = await dial(phone, clinic)
        await caller.until_voice(after_ms=0.0)
        agent = clinic.stack.running["agent"]
        killed = agent.pid
        clinic.kill("agent")
        async with asyncio.timeout(10):
            await caller.call.ended()
        async with asyncio.timeout(20):
            while agent.pid == killed:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        again = await dial(phone, clinic)
        await again.until_voice(after_ms=0.0)


async def test_a_caller_who_hangs_up_in_the_greeting_leaves_nothing_behind(
    open_clinic: Open, phone: Softphone
) -> None:
    async with open_clinic() as clinic:
        for _ in range(4):
            caller = await dial(phone, clinic)
            await caller.until_voice(after_ms=0.0)
            await caller.call.hang_up()
        async with asyncio.timeout(10):
            while len(clinic.events("call_ended")) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        results = {event.fields["result"] for event in clinic.events("call_ended")}
        assert results == {"abandoned"}
        disclosures = [event.fields["complete"] for event in clinic.events("disclosure_heard")]
        assert disclosures == [False] * 4


async def test_keys_work_as_words_do_and_a_person_takes_over(
    open_clinic: Open, phone: Softphone
) -> None:
    async with open_clinic() as clinic:
        caller = await dial(phone, clinic)
        await caller.until_quiet()
        keyed = await caller.key("5")
        await caller.until_voice(after_ms=keyed.ended_ms)
        await caller.until_quiet()
        assert clinic.events("caller_said")[0].fields["text"] == "[keypad] 5"
        assert any("Maple Street, opp" in e.fields["text"] for e in clinic.events("agent_said"))
        await caller.key("0")
        async with asyncio.timeout(20):
            assert await caller.call.transferred() == "sip:reception@127.0.0.1"
        ended = await clinic.until("call_ended")
        assert ended.fields["result"] == "transferred"


async def test_a_silent_caller_is_asked_twice_and_then_let_go(
    open_clinic: Open, phone: Softphone
) -> None:
    async with open_clinic("agent.turn.idle_ms=700") as clinic:
        caller = await dial(phone, clinic)
        async with asyncio.timeout(60):
            await caller.call.ended()
        said = [event.fields["text"] for event in clinic.events("caller_said")]
        assert said == ["[silence]", "[silence]"]
        ended = await clinic.until("call_ended")
        assert ended.fields["reason"] == "caller_silent"


async def test_a_full_service_is_named_and_an_emergency_call_is_told_so(
    open_clinic: Open, phone: Softphone
) -> None:
    async with open_clinic("stt.max_streams=1") as clinic:
        caller = await dial(phone, clinic)
        with pytest.raises(CallRefusedError, match="503"):
            await phone.dial(clinic.uri)
        log = (clinic.stack.logs / "gateway.log").read_text()
        assert "speech recognition: all 1 places are in use" in log
        await caller.call.hang_up()
        await clinic.until("call_ended")
        call = await phone.dial(clinic.uri.replace("reception@", "112@"))
        async with asyncio.timeout(30):
            await call.ended()
        await clinic.until("call_ended", reason="emergency_refused")
        said = clinic.events("agent_said")[-1].fields["text"]
        assert "dial the emergency number from another telephone" in said


async def test_the_services_talk_over_mutual_tls(
    open_clinic: Open, phone: Softphone, tmp_path: Path
) -> None:
    _, section = await asyncio.to_thread(tls_section, tmp_path)
    async with open_clinic(extra=section) as clinic:
        caller = await dial(phone, clinic)
        await caller.until_quiet()
        said = await caller.say(voice("hours"))
        await caller.until_voice(after_ms=said.ended_ms)
        heard = await clinic.until("caller_said")
        assert heard.fields["text"] == "what are your opening hours"
