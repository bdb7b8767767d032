"""A softphone in the terminal: dials, speaks what is typed, and shows what the agent made of it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from landline.tts.v1 import tts_pb2, tts_pb2_grpc

from services.common.clock import SystemClock
from services.common.errors import LandlineError
from services.common.grpc_server import open_channel
from services.eval.caller import Caller, NoAnswerError
from services.eval.watch import describe, follow
from sip_gateway.softphone import Softphone, read_wav

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from services.common.addresses import HostPort
    from services.common.config import TlsConfig
    from sip_gateway.softphone import SoftphoneCall

HELP = "type what to say · @FILE plays a WAV · #4271 presses keys · ! stops speaking · . hangs up"


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalCall:
    """What a call needs: whom to dial, and where the stack on this machine can be reached."""

    uri: str
    steps: tuple[str, ...]
    record: Path | None
    tts: HostPort | None
    tls: TlsConfig | None
    journal: Path | None
    voice: str


async def run(settings: TerminalCall, show: Callable[[str, str], None]) -> None:
    """Place the call and stay until its end. With `steps` nothing is read from the keyboard."""
    async with Softphone() as phone:
        show("dial", settings.uri)
        call = await phone.dial(settings.uri)
        show("answer", f"{call.sip_status} {call.codec}")
        if settings.record is not None:
            call.record(settings.record)
        watching = asyncio.create_task(_watch(settings.journal, show))
        talking = asyncio.create_task(_talk(settings, call, show))
        ended = asyncio.create_task(call.ended())
        try:
            await asyncio.wait([talking, ended], return_when=asyncio.FIRST_COMPLETED)
            if talking.done():
                talking.result()
        finally:
            talking.cancel()
            await call.hang_up()
            recording = await call.stop_recording()
            # The record of the call's end comes a moment after the call's end.
            await asyncio.sleep(0.5)
            for task in (watching, ended):
                task.cancel()
        show("end", f"{call.sip_status} {call.sip_reason}".strip())
        if recording is not None:
            show("record", str(recording.path))


async def _talk(
    settings: TerminalCall, call: SoftphoneCall, show: Callable[[str, str], None]
) -> None:
    clock = SystemClock()
    caller = Caller(call, clock)
    if settings.steps:
        await caller.until_quiet()
        for step in settings.steps:
            await _do(step, settings, caller, show)
            with contextlib.suppress(NoAnswerError):
                await caller.until_voice(after_ms=clock.now_ms())
                await caller.until_quiet()
        return
    show("help", HELP)
    async for line in _typed():
        if line == ".":
            return
        try:
            await _do(line, settings, caller, show)
        except LandlineError as error:
            show("trouble", str(error))


async def _do(
    step: str, settings: TerminalCall, caller: Caller, show: Callable[[str, str], None]
) -> None:
    if step == "!":
        show("you", f"(stopped after {caller.call.interrupt()} ms)")
    elif step.startswith("#"):
        show("you", f"(keys {step[1:]})")
        await caller.key(step[1:])
    elif step.startswith("@"):
        show("you", f"(plays {step[1:]})")
        await caller.say(await asyncio.to_thread(read_wav, Path(step[1:])))
    elif step:
        show("you", step)
        await caller.say(await _speak(step, settings))


async def _speak(text: str, settings: TerminalCall) -> bytes:
    """The text as speech, made by the TTS service of the stack on this machine."""
    if settings.tts is None:
        raise LandlineError("no TTS service runs here to speak for you: play a WAV with @FILE")
    channel = open_channel(settings.tts, settings.tls, "the softphone's voice")
    try:
        stub = tts_pb2_grpc.TextToSpeechStub(channel)
        request = tts_pb2.SynthesizeRequest(call_id="softphone", text=text, voice=settings.voice)
        return b"".join([response.pcm async for response in stub.Synthesize(request)])
    finally:
        await channel.close()


async def _watch(journal: Path | None, show: Callable[[str, str], None]) -> None:
    """Show what the stack recognised, said and did; all calls of this machine."""
    if journal is None:
        return
    async for event in follow(journal):
        if (line := describe(event)) is not None:
            show(*line)


async def _typed() -> AsyncIterator[str]:
    """Lines from the keyboard, until it is closed."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield line.decode(errors="replace").strip()
