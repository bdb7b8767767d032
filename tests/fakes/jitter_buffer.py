"""PJMEDIA's own jitter buffer under a network, in virtual time: run as a program of its own.

It prints one JSON line: `delays_ms`, a pair (when, delay) for each 10 ms that were played, and
`missing`, when there was nothing to play. PJSIP can be opened once in a process, so the test's own
process must not.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fakes.impaired_network import Impairment, Network

_FRAME_MS, _FRAMES_IN_PACKET, _FRAME_BYTES = 10, 2, 80
_TICK_MS = _FRAME_MS * _FRAMES_IN_PACKET
_NORMAL_FRAME = b"\x01"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Played:
    delays_ms: list[tuple[float, float]]
    missing_ms: list[float]

    def delays(self, begin_ms: float, end_ms: float = float("inf")) -> list[float]:
        return sorted(delay for at, delay in self.delays_ms if begin_ms <= at < end_ms)

    def missing_ratio(self) -> float:
        return len(self.missing_ms) / (len(self.missing_ms) + len(self.delays_ms))


def play(
    impairment: Impairment, *, seconds: float, start_ms: int, max_ms: int, steadily: bool = True
) -> Played:
    """What comes out of a buffer with that policy when 20 ms packets go through the network."""
    order = {"seconds": seconds, "start_ms": start_ms, "max_ms": max_ms, "steadily": steadily}
    answer = subprocess.run(
        [sys.executable, "-m", "tests.fakes.jitter_buffer"],
        input=json.dumps({**order, "impairment": asdict(impairment)}),
        capture_output=True,
        text=True,
        check=True,
        cwd=_ROOT,
        timeout=60,
    )
    return Played(**json.loads(answer.stdout.splitlines()[-1]))


class _Buffer:
    """The functions that a stream calls, with the arguments with which it calls them."""

    def __init__(self, *, start_ms: int, max_ms: int, steadily: bool) -> None:
        import pjsua2 as pj

        from sip_gateway.media.jitter import DISCARD_STEADILY
        from sip_gateway.sip.log import pjsip_library

        self._library = pjsip_library()
        self._library.pj_log_set_level(0)
        self._endpoint = pj.Endpoint()
        self._endpoint.libCreate()
        config = pj.EpConfig()
        config.logConfig.level = config.logConfig.consoleLevel = 0
        self._endpoint.libInit(config)
        self._library.pjsua_pool_create.restype = ctypes.c_void_p
        pool = ctypes.c_void_p(self._library.pjsua_pool_create(b"test", 400_000, 4000))
        self._buffer = ctypes.c_void_p()
        no_name = ctypes.create_string_buffer(16)
        frames = max_ms // _FRAME_MS
        self._check(
            self._library.pjmedia_jbuf_create(
                pool, no_name, _FRAME_BYTES, _FRAME_MS, frames, ctypes.byref(self._buffer)
            )
        )
        self._check(
            self._library.pjmedia_jbuf_set_adaptive(
                self._buffer, start_ms // _FRAME_MS, 1, frames * 4 // 5
            )
        )
        algorithm = DISCARD_STEADILY if steadily else 2
        self._check(self._library.pjmedia_jbuf_set_discard(self._buffer, algorithm))
        self._frame = ctypes.create_string_buffer(_FRAME_BYTES)

    @staticmethod
    def _check(status: int) -> None:
        if status != 0:
            raise RuntimeError(f"PJMEDIA: {status}")

    def put(self, number: int, sent_ms: int) -> None:
        frame = sent_ms.to_bytes(8, "little").ljust(_FRAME_BYTES, b"\0")
        size = ctypes.c_size_t(_FRAME_BYTES)
        self._library.pjmedia_jbuf_put_frame(self._buffer, frame, size, number)

    def get(self) -> int | None:
        """When the next frame was sent; None when there is none."""
        kind, size = ctypes.c_char(), ctypes.c_size_t(_FRAME_BYTES)
        self._library.pjmedia_jbuf_get_frame2(
            self._buffer, self._frame, ctypes.byref(size), ctypes.byref(kind), None
        )
        found = kind.value == _NORMAL_FRAME
        return int.from_bytes(self._frame.raw[:8], "little") if found else None


def _main() -> None:
    order = json.loads(sys.stdin.read())
    network = Network(Impairment(**order.pop("impairment")))
    packets = int(order.pop("seconds") * 1000 / _TICK_MS)
    buffer = _Buffer(**order)
    arrivals = sorted(
        (at_ms, number)
        for number in range(packets)
        for at_ms in [network.release_ms(number * _TICK_MS + 7)]  # between two ticks
        if at_ms is not None
    )
    delays_ms, missing_ms = [], []
    for tick in range(packets):
        now_ms = tick * _TICK_MS
        while arrivals and arrivals[0][0] <= now_ms:
            _at, number = arrivals.pop(0)
            for part in range(_FRAMES_IN_PACKET):
                sent_ms = number * _TICK_MS + part * _FRAME_MS
                buffer.put(number * _FRAMES_IN_PACKET + part + 1000, sent_ms)
        for _part in range(_FRAMES_IN_PACKET):
            sent = buffer.get()
            if sent is None:
                missing_ms.append(now_ms)
            else:
                delays_ms.append((now_ms, now_ms - sent))
    print(json.dumps({"delays_ms": delays_ms, "missing_ms": missing_ms}))


if __name__ == "__main__":
    _main()
