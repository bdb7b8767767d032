"""G.711 (ITU-T), both laws, by table: for tests that look into RTP packets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def _mu_law(code: int) -> int:
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return 0x84 - magnitude if code & 0x80 else magnitude - 0x84


def _a_law(code: int) -> int:
    code ^= 0x55
    exponent = (code & 0x70) >> 4
    magnitude = ((code & 0x0F) << 4) + 8
    if exponent:
        magnitude = (magnitude + 0x100) << (exponent - 1)
    return magnitude if code & 0x80 else -magnitude


@dataclass(frozen=True)
class G711:
    payload_type: int
    levels: NDArray[np.int16]  # of each code

    def decode(self, payload: bytes) -> NDArray[np.int16]:
        return self.levels[np.frombuffer(payload, np.uint8)]

    def encode(self, samples: NDArray[np.int16]) -> bytes:
        order = np.argsort(self.levels, kind="stable")
        at = np.clip(np.searchsorted(self.levels[order], samples), 0, 255)
        return order[at].astype(np.uint8).tobytes()


PCMU = G711(0, np.array([_mu_law(code) for code in range(256)], np.int16))
PCMA = G711(8, np.array([_a_law(code) for code in range(256)], np.int16))
CODECS = {0: PCMU, 8: PCMA}
