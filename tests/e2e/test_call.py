"""Calls by our own softphone through a real gateway process to an agent on gRPC."""

from __future__ import annotations

import asyncio
import hashlib
import wave
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sip_gateway.config import Codec
from sip_gateway.softphone import CallRefusedError, PhoneState, Softphone, SoftphoneCall
from sip_gateway.trunks.trunk import Transport
from tests.fakes.tones import peak_hz, rms, tone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.fakes.agent import FakeAgent
    from tests.fakes.gateway_process import GatewayProcess

    LaunchGateway = Callable[..., Awaitable[GatewayProcess]]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that comes within three seconds."""
    async with asyncio.timeout(3):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def listen(call: SoftphoneCall, seconds: float) -> bytes:
    """What the caller hears in the next seconds."""
    heard = bytearray()
    async for frame in call.frames():
        heard += frame.pcm
        if len(heard) >= seconds * 32_000:
            break
    return bytes(heard)


@pytest.mark.parametrize("codec", list(Codec))
@pytest.mark.parametrize("transport", list(Transport))
async def test_both_sides_hear_each_other(
    agent: FakeAgent, gateway: GatewayProcess, codec: Codec, transport: Transport
) -> None:
    async with Softphone(codecs=(codec,), transport=transport) as phone:
        call = await phone.dial(gateway.uri("4711"))
        talk = await agent.next_call()
        call.play(tone(440, 3.0))
        talk.play("hello", tone(1000, 3.0))
        caller_heard, agent_heard = await asyncio.gather(listen(call, 1.5), talk.hear(1.5))
        await call.hang_up()
        ended = await talk.ended()

    assert peak_hz(agent_heard[-16_000:]) == pytest.approx(440, abs=5)
    assert peak_hz(caller_heard[-16_000:]) == pytest.approx(1000, abs=5)
    assert call.codec == f"{codec}/8000"
    assert talk.started.codec == f"{codec}/8000"
    assert (talk.started.callee, talk.started.caller) == ("4711", "caller")
    assert talk.started.trunk == "lab"
    assert talk.gaps == 0
    assert ended.reason == "caller_hung_up"


async def test_recording_has_the_caller_left_and_the_agent_right(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    call.play(tone(440, 2.0))
    talk.play("hello", tone(1000, 2.0))
    await talk.wait_for("played", lambda played: played.finished)
    await call.hang_up()
    ended = await talk.ended()

    (path,) = gateway.recordings
    assert ended.recording_path == str(path)
    assert ended.recording_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stem == talk.started.call_id
    left, right = channels(path)
    middle = slice(int(0.7 * 16_000), int(1.7 * 16_000))
    assert peak_hz(left[middle].tobytes()) == pytest.approx(440, abs=5)
    assert peak_hz(right[middle].tobytes()) == pytest.approx(1000, abs=5)
    assert ended.duration_ms == pytest.approx(len(left) / 16, abs=150)


async def test_recording_can_be_switched_off(
    agent: FakeAgent, launch_gateway: LaunchGateway, phone: Softphone
) -> None:
    gateway = await launch_gateway(sip="recording = false")
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    await call.hang_up()
    ended = await talk.ended()
    assert (ended.recording_path, ended.recording_sha256) == ("", "")
    assert gateway.recordings == []


async def test_killed_gateway_leaves_a_recording_that_opens(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    call.play(tone(440, 4.0))
    await talk.hear(2.5)
    await gateway.kill()
    (path,) = gateway.recordings
    left, _right = channels(path)
    assert len(left) >= 1.5 * 16_000
    assert peak_hz(left[12_000:20_000].tobytes()) == pytest.approx(440, abs=5)


async def test_played_is_told_as_it_goes_and_at_the_end(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    await phone.dial(gateway.uri())
    talk = await agent.next_call()
    speech = tone(600, 1.01)
    for at in range(0, len(speech), 5_000):
        talk.play("greeting", speech[at : at + 5_000], last=False)
    talk.play("greeting", b"", last=True)
    talk.play("next", tone(700, 0.3))
    await talk.wait_for("played", lambda played: played.mark == "next" and played.finished)
    greeting = [played for played in talk.all("played") if played.mark == "greeting"]
    assert [played.played_ms for played in greeting] == [200, 400, 600, 800, 1000, 1010]
    assert [played.finished for played in greeting] == [False] * 5 + [True]
    assert talk.all("played")[-1].played_ms == 300


async def test_clear_silences_the_line_and_tells_what_was_heard(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    talk.play("long", tone(600, 10.0))
    talk.play("later", tone(700, 1.0))
    await talk.wait_for("played", lambda played: played.played_ms >= 600)
    talk.clear("c1")
    cleared = await talk.wait_for("cleared")
    after = await listen(call, 0.8)
    await call.hang_up()
    await talk.ended()

    assert cleared.clear_id == "c1"
    assert [mark.mark for mark in cleared.marks] == ["long", "later"]
    assert 600 <= cleared.marks[0].played_ms <= 900
    assert cleared.marks[1].played_ms == 0
    assert rms(after[-12_800:]) < 20
    _left, right = channels(gateway.recordings[0])
    said_ms = np.count_nonzero(right.reshape(-1, 320).any(axis=1)) * 20
    assert said_ms == cleared.marks[0].played_ms


async def test_duck_lowers_the_agent_and_lifts_it_again(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    talk.play("long", tone(600, 6.0))
    loud = rms((await listen(call, 0.6))[-6400:])
    talk.duck(0.25, 60)
    quiet = rms((await listen(call, 0.6))[-6400:])
    talk.duck(1.0, 60)
    again = rms((await listen(call, 0.6))[-6400:])
    assert quiet == pytest.approx(loud / 4, rel=0.1)
    assert again == pytest.approx(loud, rel=0.1)


async def test_hang_up_after_playout_lets_the_goodbye_be_heard(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    heard = asyncio.create_task(listen(call, 20))
    talk.play("bye", tone(800, 1.0))
    talk.hang_up("goodbye", after_playout=True)
    ended = await talk.ended()
    await call.ended()
    speech = await heard
    assert (ended.result, ended.reason) == ("completed", "goodbye")
    assert talk.all("played")[-1].finished
    frames = np.frombuffer(speech, "<i2").reshape(-1, 320)
    assert np.count_nonzero(np.abs(frames).max(axis=1) > 2000) * 20 >= 960
    await gateway.wait_for_metric(
        "landline_sip_calls_total", 1, result="completed", reason="goodbye"
    )


async def test_agent_that_closes_its_stream_ends_the_call(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    talk.close()
    await asyncio.wait_for(call.ended(), 3)
    await gateway.wait_for_metric(
        "landline_sip_calls_total", 1, result="completed", reason="agent_hung_up"
    )


async def test_keys_go_both_ways(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    await asyncio.sleep(0.2)
    await call.send_dtmf("42#")
    talk.send_dtmf("1*")
    await talk.wait_for("dtmf", lambda dtmf: dtmf.digit == "#")
    await until(lambda: len(call.digits) == 2)
    assert [dtmf.digit for dtmf in talk.all("dtmf")] == ["4", "2", "#"]
    assert all(80 <= dtmf.duration_ms <= 250 for dtmf in talk.all("dtmf"))
    assert [dtmf.digit for dtmf in call.digits] == ["1", "*"]


async def test_hold_and_resume_are_told_and_the_recording_keeps_time(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    await talk.hear(0.3)
    await call.hold(True)
    await talk.wait_for("held")
    await asyncio.sleep(1.0)
    await call.hold(False)
    await talk.wait_for("resumed")
    call.play(tone(440, 2.0))
    heard = await talk.hear(1.5)
    await call.hang_up()
    ended = await talk.ended()
    assert peak_hz(heard[-16_000:]) == pytest.approx(440, abs=5)
    left, _right = channels(gateway.recordings[0])
    assert len(left) / 16 == pytest.approx(ended.duration_ms, abs=200)


async def test_agent_holds_the_caller(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    await talk.hear(0.3)
    talk.hold(True)
    await until(lambda: call.state is PhoneState.HELD)
    talk.hold(False)
    await until(lambda: call.state is PhoneState.TALKING)
    talk.play("back", tone(900, 2.0))
    assert peak_hz((await listen(call, 1.2))[-16_000:]) == pytest.approx(900, abs=5)


async def test_caller_who_hangs_up_in_the_greeting_has_abandoned(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    talk.play("greeting", tone(600, 5.0))
    await talk.wait_for("played")
    await call.hang_up()
    ended = await talk.ended()
    assert (ended.result, ended.reason) == ("abandoned", "caller_hung_up")


async def test_caller_who_gives_up_before_the_answer(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    agent.accepts = False
    call = await phone.place(gateway.uri())
    await until(lambda: call.state is PhoneState.RINGING)
    await call.hang_up()
    assert call.sip_status == 487
    await gateway.wait_for_metric(
        "landline_sip_calls_total", 1, result="abandoned", reason="caller_cancelled"
    )
    await gateway.wait_for_metric("landline_sip_active_calls", 0)


async def test_statistics_come_at_the_end(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    await talk.hear(1.0)
    await call.hang_up()
    await talk.ended()
    media = talk.all("media")[-1]
    assert media.packets_received >= 40
    assert 0 <= media.jitter_buffer_ms <= 200
    assert media.packets_lost == 0
    assert gateway.logged("media_statistics")[-1]["jitter_buffer_ms"] == media.jitter_buffer_ms


async def test_one_call_too_many_is_told_to_come_back(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    calls = [await phone.dial(gateway.uri(f"line{number}")) for number in range(3)]
    with pytest.raises(CallRefusedError) as refused:
        await phone.dial(gateway.uri())
    assert refused.value.sip_status == 503
    assert agent.taken == 3
    assert [call.state for call in calls] == [PhoneState.TALKING] * 3
    await calls[0].hang_up()
    await gateway.wait_for_metric("landline_sip_active_calls", 2)
    again = await phone.dial(gateway.uri())
    assert again.state is PhoneState.TALKING
    assert await gateway.metric("landline_sip_refused_total", reason="full") == 1


async def test_no_agent_means_503_and_the_gateway_lives(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    await agent.stop()
    with pytest.raises(CallRefusedError) as refused:
        await phone.dial(gateway.uri())
    assert refused.value.sip_status == 503
    assert await gateway.metric("landline_sip_refused_total", reason="agent_unavailable") == 1
    await gateway.wait_for_metric("landline_sip_active_calls", 0)


async def test_agent_lost_in_mid_call_ends_that_call(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    await (await agent.next_call()).hear(0.2)
    await agent.stop()
    await asyncio.wait_for(call.ended(), 4)
    await gateway.wait_for_metric(
        "landline_sip_calls_total", 1, result="failed", reason="agent_lost"
    )
    assert len(gateway.recordings) == 1


async def test_stop_says_goodbye_to_live_calls(
    agent: FakeAgent, gateway: GatewayProcess, phone: Softphone
) -> None:
    call = await phone.dial(gateway.uri())
    talk = await agent.next_call()
    begin = asyncio.get_running_loop().time()
    assert await gateway.stop() == 0
    assert asyncio.get_running_loop().time() - begin < 4
    await asyncio.wait_for(call.ended(), 2)
    ended = await talk.ended()
    assert (ended.result, ended.reason) == ("failed", "gateway_stopped")
    assert ended.recording_sha256


def channels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The left and right samples of a recording."""
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getframerate()) == (2, 16_000)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    return samples[:, 0].copy(), samples[:, 1].copy()
