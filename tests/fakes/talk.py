"""An answered call between a bare user agent and a gateway, with the agent's side of it."""

from __future__ import annotations

import asyncio

from sip_gateway.media.tones import ToneListener
from tests.fakes.agent import FakeAgent, FakeCall
from tests.fakes.g711 import G711, PCMU
from tests.fakes.gateway_process import GatewayProcess
from tests.fakes.sip_peer import Dialog, SipMessage, SipPeer, audio_of
from tests.fakes.tones import peak_hz, tone


class Talk:
    """The dialog, our 200's audio address, and the agent's side."""

    def __init__(self, dialog: Dialog, answer: SipMessage, agent: FakeCall) -> None:
        self.dialog = dialog
        self.answer = answer
        self.agent = agent
        self.audio = audio_of(answer.body)
        self.peer = dialog.peer
        self._version = 1

    async def reinvite(self, body: str | None = None, **sdp: object) -> SipMessage:
        """A re-INVITE to its final answer, acknowledged."""
        self._version += 1
        offer = body or self.peer.sdp(version=self._version, **sdp)  # type: ignore[arg-type]
        return await self.dialog.invite(offer)

    async def update(self, **sdp: object) -> SipMessage:
        self._version += 1
        offer = self.peer.sdp(version=self._version, **sdp)  # type: ignore[arg-type]
        return await self.dialog.ask("UPDATE", offer)

    async def still_talks(self, codec: G711 = PCMU) -> None:
        """Both sides hear each other now, by what comes from now on."""
        self._version += 1
        ours, theirs = len(self.agent.audio), len(self.peer.rtp.received)
        self.agent.play(f"check{self._version}", tone(900, 3.0))
        sending = asyncio.create_task(self.peer.rtp.send(self.audio, tone(440, 3.0), codec))
        heard = (0.0, 0.0)
        try:
            async with asyncio.timeout(4):
                while not (_near(heard[0], 440) and _near(heard[1], 900)):
                    await asyncio.sleep(0.05)
                    to_agent = bytes(self.agent.audio[ours:])[-6400:]
                    packets = self.peer.rtp.received[theirs:][-10:]
                    to_peer = codec.decode(b"".join(packets)).repeat(2).tobytes()
                    heard = (peak_hz(to_agent), peak_hz(to_peer))
        except TimeoutError:
            raise AssertionError(f"agent and caller hear {heard} Hz, not 440 and 900") from None
        finally:
            sending.cancel()
            self.agent.clear(f"check{self._version}")


def _near(heard_hz: float, sent_hz: float) -> bool:
    return abs(heard_hz - sent_hz) <= 15


async def call(peer: SipPeer, gateway: GatewayProcess, agent: FakeAgent, **sdp: object) -> Talk:
    """Call the gateway and be answered; `sdp` goes to `SipPeer.sdp`."""
    dialog = peer.dialog(gateway.uri())
    answer = await dialog.invite(peer.sdp(**sdp))  # type: ignore[arg-type]
    assert answer.status == 200, answer.start
    return Talk(dialog, answer, await agent.next_call())


def replaces(dialog: Dialog) -> str:
    """The header that names the gateway's side of a dialog of ours (RFC 3891, 3)."""
    return f"Replaces: {dialog.call_id};to-tag={dialog.remote_tag};from-tag={dialog.local_tag}"


async def sent_as_tones(talk: Talk) -> None:
    """The agent's keys are heard in the voice, each once, and come in no other way."""
    talk.agent.send_dtmf("0#7")
    await asyncio.sleep(1.2)
    pcm = talk.peer.rtp.heard(PCMU, 1.2)
    listener = ToneListener()
    heard = [listener.hear(pcm[at : at + 640]) for at in range(0, len(pcm) - 639, 640)]
    assert "".join(key[0] for key in heard if key) == "0#7"
    assert not talk.peer.rtp.events
    assert not talk.peer.received("INFO")
    await talk.dialog.bye()
