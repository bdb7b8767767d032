"""How good a call sounds, estimated from what its RTP went through: E-model, ITU-T G.107 (06/2015).

All parameters that a gateway cannot know have G.107's default values. Those give R = 93.2; what is
taken off it is the delay and what the codec and the losses spoil. It is an estimate for comparing
calls; nobody has listened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# G.107, table 2 and 7.2-7.3: basic signal-to-noise ratio and simultaneous impairments at the
# default values; talker echo loudness, weighted echo path loss, send and receive loudness.
_RO = 94.7688
_IS = 1.4136
_TELR_DB = 65
_WEPL_DB = 110
# G.113 (2007), appendix I: equipment impairment and robustness against loss of G.711 with
# concealment as in its appendix I. G.722 is judged on the same narrow-band scale.
_IE = 0.0
_BPL = 25.1
_WORST_R, _BEST_R = 0.0, 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """An estimate for one direction of a call. `mos` is MOS-CQE, 1.0 (bad) to 4.5."""

    r_factor: float
    mos: float
    delay_ms: float
    loss_percent: float


def estimate(*, delay_ms: float, loss_percent: float, burst_ratio: float = 1.0) -> Quality:
    """Of G.711 or G.722 with loss concealment.

    `delay_ms` is one way, mouth to ear; `loss_percent` counts what was not played, late packets
    too; `burst_ratio` is 1.0 for independent losses and grows as they come together (7.4).
    """
    impairment = equipment_impairment(loss_percent, burst_ratio)
    r_factor = _RO - _IS - delay_impairment(delay_ms) - impairment
    r_factor = min(max(r_factor, _WORST_R), _BEST_R)
    return Quality(
        r_factor=r_factor, mos=mos(r_factor), delay_ms=delay_ms, loss_percent=loss_percent
    )


def mos(r_factor: float) -> float:
    """Mean opinion score (MOS-CQE) of a transmission rating: G.107, annex B."""
    if r_factor <= 0:
        return 1.0
    if r_factor >= 100:
        return 4.5
    score = 1 + 0.035 * r_factor + r_factor * (r_factor - 60) * (100 - r_factor) * 7e-6
    return max(score, 1.0)  # the polynomial dips below 1 for R under 6.5


def equipment_impairment(loss_percent: float, burst_ratio: float = 1.0) -> float:
    """Ie,eff: G.107, 7.4."""
    loss = min(max(loss_percent, 0.0), 100.0)
    if loss == 0:
        return _IE
    return _IE + (95 - _IE) * loss / (loss / max(burst_ratio, 1.0) + _BPL)


def delay_impairment(delay_ms: float) -> float:
    """Id: talker echo, listener echo and plain delay (G.107, 7.3), the same delay both ways."""
    delay = max(delay_ms, 0.0)
    return _talker_echo(delay) + _listener_echo(2 * delay) + _absolute_delay(delay)


def _talker_echo(delay_ms: float) -> float:
    terv = (
        _TELR_DB
        - 40 * math.log10((1 + delay_ms / 10) / (1 + delay_ms / 150))
        + 6 * math.exp(-0.3 * delay_ms**2)
    )
    difference = _RO - (80 + 2.5 * (terv - 14))
    impairment = difference / 2 + math.sqrt(difference**2 / 4 + 100) - 1
    return max(impairment * (1 - math.exp(-delay_ms)), 0.0)


def _listener_echo(round_trip_ms: float) -> float:
    difference = _RO - 10.5 * (_WEPL_DB + 7) / math.sqrt(math.sqrt(round_trip_ms + 1))
    return difference / 2 + math.sqrt(difference**2 / 4 + 169)


def _absolute_delay(delay_ms: float) -> float:
    if delay_ms <= 100:
        return 0.0
    x = math.log2(delay_ms / 100)
    return 25 * (_sixth_root(1 + x**6) - 3 * _sixth_root(1 + (x / 3) ** 6) + 2)


def _sixth_root(value: float) -> float:
    return math.exp(math.log(value) / 6)


def burst_ratio(mean_burst_packets: float, loss_ratio: float) -> float:
    """BurstR (G.107, 7.4): bursts as they were, over those of independent losses."""
    if mean_burst_packets <= 0 or loss_ratio >= 1:
        return 1.0
    return max(mean_burst_packets * (1 - loss_ratio), 1.0)
