"""The gateway benchmark's picture: delay and loss over time on bad networks. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from gateway_load import Trace

# Okabe and Ito's palette: told apart also without red and green.
_COLOURS = {
    "clean": "#0072B2",
    "jitter, sigma 20 ms": "#009E73",
    "jitter, sigma 60 ms": "#D55E00",
    "one stall of 200 ms": "#CC79A7",
    "1 % loss": "#56B4E9",
    "5 % loss": "#000000",
    "2 % reordered": "#E69F00",
}
_DELAY = ("jitter, sigma 60 ms", "jitter, sigma 20 ms", "one stall of 200 ms", "clean")
_LOSS = ("5 % loss", "1 % loss", "2 % reordered", "jitter, sigma 60 ms")
_BIN_S = 5.0


def draw(traces: dict[str, Trace], path: Path, *, stall_s: float, title: str) -> None:
    """Write a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(10, 7.5), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    for name in _DELAY:
        at_s, ms = zip(*traces[name].delays, strict=True)
        upper.plot(at_s, ms, ".", color=_COLOURS[name], markersize=3, alpha=0.35)
        upper.plot(
            *_running_median(np.array(at_s), np.array(ms)),
            color=_COLOURS[name],
            linewidth=1.8,
            label=f"{name}: median {np.median(ms):.0f} ms",
        )
    upper.axvline(stall_s, color=_COLOURS["one stall of 200 ms"], linewidth=0.8, linestyle=":")
    upper.annotate(
        "stall",
        (stall_s, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(3, -12),
        textcoords="offset points",
        color=_COLOURS["one stall of 200 ms"],
        fontsize=9,
    )
    upper.set_ylabel("one-way delay,\ncaller's packet to agent's PCM (ms)")
    upper.set_ylim(bottom=0)
    upper.set_title(title, fontsize=11, loc="left")
    upper.legend(loc="upper right", fontsize=9, framealpha=0.95)

    width_s = _BIN_S / (len(_LOSS) + 1)
    end_s = max(at for name in _LOSS for at, _ in traces[name].delays)
    begins = np.arange(0, end_s - _BIN_S / 2, _BIN_S)
    for place, name in enumerate(_LOSS):
        network, heard = _losses(traces[name], begins)
        at_s = begins + (place + 0.5) * width_s
        lower.bar(
            at_s,
            heard,
            width_s * 0.9,
            align="edge",
            color=_COLOURS[name],
            label=f"{name}: {np.mean(heard):.1f} % not played",
        )
        lower.hlines(
            network, at_s, at_s + width_s * 0.9, color="white", linewidth=2.6, linestyle="-"
        )
        lower.hlines(
            network,
            at_s,
            at_s + width_s * 0.9,
            color="#444444",
            linewidth=1.2,
            label="of it lost by the network itself" if place == len(_LOSS) - 1 else None,
        )
    lower.set_ylabel(f"packets lost or too late\nin each {_BIN_S:.0f} s (%)")
    lower.set_xlabel("time since the call's first packet (s)")
    lower.set_xlim(0, end_s)
    lower.set_ylim(0, max(12.0, lower.get_ylim()[1] * 1.35))  # room for the legend
    lower.legend(loc="upper right", fontsize=9, ncols=3, framealpha=0.95)
    for axes in (upper, lower):
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _running_median(at_s: np.ndarray, ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    half = 3
    median = [float(np.median(ms[max(i - half, 0) : i + half + 1])) for i in range(len(ms))]
    return at_s, np.array(median)


def _losses(trace: Trace, begins: np.ndarray) -> tuple[list[float], list[float]]:
    """Percent in each bin: lost by the network, and not played for any reason."""
    network = [
        100 * sum(begin <= at < begin + _BIN_S for at in trace.dropped_s) / (_BIN_S * 50)
        for begin in begins
    ]
    heard = []
    for begin in begins:
        middle = begin + _BIN_S
        nearest = min(trace.reports, key=lambda item: abs(item[0] - middle), default=None)
        heard.append(nearest[1].loss_percent if nearest is not None else 0.0)
    return network, heard
