"""The gateway benchmark's baseline: a bare PJSIP port in a process of its own.

It answers every call; PCM is read by pointer and thrown away, silence goes out. No gRPC, no playout
queue, no recording.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pjsua2 as pj

from services.common.audio import FRAME_BYTES, FRAME_MS, SAMPLE_RATE_HZ, SILENCE_FRAME
from sip_gateway.sip.log import pjsip_library

HOST = "127.0.0.1"


class Port(pj.AudioMediaPort):  # type: ignore[misc]
    """As pjsua2's documentation shows it, but for bytes that are copied by pointer."""

    def __init__(self) -> None:
        super().__init__()
        self._silence = pj.ByteVector(SILENCE_FRAME)
        audio_format = pj.MediaFormatAudio()
        audio_format.init(pj.PJMEDIA_FORMAT_PCM, SAMPLE_RATE_HZ, 1, FRAME_MS * 1000, 16)
        self.createPort("bare", audio_format)

    def onFrameRequested(self, frame: Any) -> None:  # noqa: N802
        frame.type = pj.PJMEDIA_FRAME_TYPE_AUDIO
        frame.buf = self._silence
        frame.size = FRAME_BYTES

    def onFrameReceived(self, frame: Any) -> None:  # noqa: N802
        if frame.type == pj.PJMEDIA_FRAME_TYPE_AUDIO and frame.size == FRAME_BYTES:
            begin = ctypes.c_void_p.from_address(int(frame.buf.this)).value
            ctypes.string_at(begin or 0, FRAME_BYTES)


class Call(pj.Call):  # type: ignore[misc]
    port: Any = None

    def onCallMediaState(self, _prm: Any) -> None:  # noqa: N802
        info = self.getInfo()
        for media in info.media:
            if media.status == pj.PJSUA_CALL_MEDIA_ACTIVE:
                self.port = self.port or Port()
                audio = self.getAudioMedia(media.index)
                audio.startTransmit(self.port)
                self.port.startTransmit(audio)


class Account(pj.Account):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def onIncomingCall(self, prm: Any) -> None:  # noqa: N802
        call = Call(self, prm.callId)
        self.calls.append(call)
        answer = pj.CallOpParam()
        answer.statusCode = 200
        call.answer(answer)


def main() -> None:
    """Serve until killed."""
    pjsip_library().pj_log_set_level(0)
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    config = pj.EpConfig()
    config.logConfig.level = config.logConfig.consoleLevel = 0
    config.uaConfig.threadCnt = 0
    config.medConfig.clockRate = 16_000
    config.medConfig.noVad = True
    config.medConfig.ecTailLen = 0
    endpoint.libInit(config)
    endpoint.audDevManager().setNullDev()
    transport = pj.TransportConfig()
    transport.boundAddress = HOST
    number = endpoint.transportCreate(pj.PJSIP_TRANSPORT_UDP, transport)
    endpoint.libStart()
    account_config = pj.AccountConfig()
    account_config.idUri = f"sip:agent@{HOST}"
    account_config.mediaConfig.transportConfig.boundAddress = HOST
    account = Account()
    account.create(account_config)
    print(f"LISTENING baseline {endpoint.transportGetInfo(number).localName}", flush=True)
    while True:
        endpoint.libHandleEvents(10)


if __name__ == "__main__":
    main()
