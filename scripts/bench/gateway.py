#!/usr/bin/env python
"""What a call costs at the gateway, and how much delay it adds, on good networks and bad ones.

    scripts/bench/gateway.py [--quick] [--json FILE] [--plot FILE.png]

A real gateway (supervisor, workers, Kamailio before them) answers real SIP; callers and agents
live in this process and are left out of the CPU figures. Both sides of each call talk all the time,
PCMU, and each call is recorded. The baseline, measured in the same run with the same callers, is a
bare pjsua2 port that talks to nobody: what is above it is gRPC, playout, recording and the call.

Delay is one way, from the moment at which an RTP packet is due at the caller to the moment at which
the agent has the first sample of it; the network's own delay is part of it. It is measured while
other calls are up. `--plot` needs the extra `bench` (matplotlib).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway_load import (
    HOST,
    Agents,
    Choir,
    Impairment,
    Processes,
    Trace,
    dial,
    metric,
    start,
    trace,
)
from report import machine, parser, percentile, publish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONFIG = """\
[landline]
data_dir = "var"
log_format = "json"
log_level = "error"
[sip]
listen = "127.0.0.1:0"
agent = "127.0.0.1:{agent_port}"
metrics = "127.0.0.1:{metrics_port}"
rtp_ports = "22000-22599"
[[sip.trunks]]
name = "bench"
kind = "peer"
allow = ["127.0.0.1/32"]
"""
BASELINE_CALLS = 3
STALL_MS = 200
BUFFERED_AGAIN_MS = 40  # above what was buffered before, a packet of 20 ms
SETTLE_S = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured, and for how long."""

    fleets: tuple[int, ...]
    load_s: float
    trace_s: float
    stall_s: float  # after the first packet
    networks: tuple[str, ...]
    leak_calls: int

    def impairments(self) -> dict[str, Impairment]:
        known = {
            "clean": Impairment(),
            "jitter, sigma 20 ms": Impairment(jitter_ms=20, seed=11),
            "jitter, sigma 60 ms": Impairment(jitter_ms=60, seed=11),
            "one stall of 200 ms": Impairment(
                stall_at_ms=self.stall_s * 1000, stall_ms=STALL_MS, seed=11
            ),
            "1 % loss": Impairment(loss=0.01, seed=11),
            "5 % loss": Impairment(loss=0.05, seed=11),
            "2 % reordered": Impairment(reorder=0.02, seed=11),
        }
        return {name: known[name] for name in self.networks}


QUICK = Plan(
    fleets=(20,),
    load_s=4,
    trace_s=8.5,
    stall_s=2.5,
    networks=("clean", "jitter, sigma 60 ms", "one stall of 200 ms"),
    leak_calls=0,
)
FULL = Plan(
    fleets=(1, 4, 20, 40),
    load_s=30,
    trace_s=60,
    stall_s=20,
    networks=(
        "clean",
        "jitter, sigma 20 ms",
        "jitter, sigma 60 ms",
        "one stall of 200 ms",
        "1 % loss",
        "5 % loss",
        "2 % reordered",
    ),
    leak_calls=1000,
)


@dataclass(frozen=True, slots=True)
class Gateway:
    processes: Processes
    metrics_port: int


@contextlib.asynccontextmanager
async def gateway(agents: Agents, calls: int) -> AsyncIterator[Gateway]:
    """A gateway for so many calls."""
    with tempfile.TemporaryDirectory() as folder:
        metrics_port = _free_port()
        config = Path(folder) / "landline.toml"
        config.write_text(CONFIG.format(agent_port=agents.port, metrics_port=metrics_port))
        command = ("-m", "sip_gateway", "--config", str(config), "--set", f"sip.calls={calls}")
        processes = await start(*command)
        try:
            yield Gateway(processes, metrics_port)
        finally:
            await processes.stop()


# -- what is measured -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cost:
    cpu_percent_per_call: float
    rss_mb: float
    minutes: float  # of all calls together


async def cost_of(processes: Processes, calls: int, seconds: float) -> Cost:
    """CPU and memory while `calls` talk, without their beginning and end."""
    async with Choir(processes.port, calls):
        await asyncio.sleep(SETTLE_S)
        begin, used = time.monotonic(), processes.cpu_s()
        await asyncio.sleep(seconds)
        percent = 100 * (processes.cpu_s() - used) / (time.monotonic() - begin)
        return Cost(percent / calls, processes.rss_mb(), calls * (seconds + SETTLE_S) / 60)


async def traces(agents: Agents, port: int, plan: Plan) -> dict[str, Trace]:
    """A call over each network, all at the same time."""
    running = {}
    for name, impairment in plan.impairments().items():
        running[name] = asyncio.create_task(trace(agents, port, impairment, plan.trace_s))
        await asyncio.sleep(0.15)
    return {name: await task for name, task in running.items()}


def stall_recovery_ms(found: Trace, stall_s: float) -> float | None:
    """From the end of the stall until at most 60 ms are buffered; None when that never came."""
    before = [ms for at, ms in found.delays if 1.0 <= at < stall_s - 0.1]
    if not before:
        return None
    limit = statistics.median(before) + BUFFERED_AGAIN_MS
    end_s = stall_s + STALL_MS / 1000
    after = [(at, ms) for at, ms in found.delays if at >= end_s]
    for place, (at, _ms) in enumerate(after):
        near = [ms for _at, ms in after[place : place + 5]]
        if len(near) == 5 and statistics.median(near) <= limit:
            return max(at - end_s, 0.0) * 1000
    return None


async def calls_per_second(port: int, seconds: float) -> float:
    """Complete calls without talk, one after the other, as fast as they are admitted."""
    begin, done = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        await (await dial(port)).hang_up()
        done += 1
    return done / (time.monotonic() - begin)


async def growth_mb(processes: Processes, calls: int) -> float:
    """Resident memory after so many calls above that after the first 300."""

    async def some(number: int) -> None:
        for _ in range(number):
            await (await dial(processes.port)).hang_up()

    await some(300)
    await asyncio.sleep(2)
    before = processes.rss_mb()
    await some(calls)
    await asyncio.sleep(2)
    return processes.rss_mb() - before


@dataclass(slots=True)
class Figures:
    plan: Plan
    values: dict[str, Any] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)


async def measure(plan: Plan) -> Figures:
    figures = Figures(plan)
    figures.values["load_before"] = round(os.getloadavg()[0], 2)
    async with Agents() as agents:
        for calls in plan.fleets:
            await _measure_fleet(agents, calls, figures)
        async with gateway(agents, BASELINE_CALLS) as alone:
            figures.values["rss_mb_idle"] = round(alone.processes.rss_mb(), 1)
            one_worker = await cost_of(alone.processes, BASELINE_CALLS, plan.load_s)
            if plan.leak_calls:
                grown = await growth_mb(alone.processes, plan.leak_calls)
                figures.values["leak_calls"] = plan.leak_calls
                figures.values["rss_growth_mb"] = round(grown, 2)
    bare = await start(str(Path(__file__).with_name("bare_port.py")))
    try:
        baseline = await cost_of(bare, BASELINE_CALLS, plan.load_s)
    finally:
        await bare.stop()
    ours, theirs = one_worker.cpu_percent_per_call, baseline.cpu_percent_per_call
    figures.values["cpu_percent_per_call_one_worker"] = round(ours, 3)
    figures.values["baseline_cpu_percent_per_call"] = round(theirs, 3)
    figures.values["cpu_ratio_to_baseline"] = round(ours / theirs, 2)
    return figures


async def _measure_fleet(agents: Agents, calls: int, figures: Figures) -> None:
    values, plan = figures.values, figures.plan
    async with gateway(agents, calls) as found:
        processes = found.processes
        idle_mb = processes.rss_mb()
        cost = await cost_of(processes, calls, plan.load_s)
        values[f"cpu_percent_per_call_at_{calls}"] = round(cost.cpu_percent_per_call, 3)
        values["calls"] = calls
        values["cpu_percent_per_call"] = round(cost.cpu_percent_per_call, 3)
        values["rss_mb_per_call"] = round((cost.rss_mb - idle_mb) / calls, 2)
        values["rss_mb_fleet"] = round(cost.rss_mb, 1)
        underruns = metric(found.metrics_port, "landline_sip_playout_underruns_total")
        values["underruns_per_min"] = round(underruns / cost.minutes, 3)
        values[f"underruns_at_{calls}"] = underruns
        if calls < 20 or figures.traces:
            return
        figures.traces = await traces(agents, processes.port, plan)
        values.update(_delays(figures))
        values["calls_per_second"] = round(await calls_per_second(processes.port, 2.0), 1)


def _delays(figures: Figures) -> dict[str, Any]:
    """One key for each figure of each trace; those of DESIGN keep their names."""
    short = {
        "clean": "clean",
        "jitter, sigma 20 ms": "jitter20",
        "jitter, sigma 60 ms": "jitter60",
        "one stall of 200 ms": "stall",
        "1 % loss": "loss1",
        "5 % loss": "loss5",
        "2 % reordered": "reorder2",
    }
    found: dict[str, Any] = {}
    for name, one in figures.traces.items():
        key = short[name]
        found[f"added_delay_{key}_ms"] = percentile(one.delays_ms, 50)
        found[f"added_delay_{key}_p95_ms"] = percentile(one.delays_ms, 95)
        marks = len(one.delays) + len(one.missing_s)
        found[f"marks_missed_{key}_percent"] = round(100 * len(one.missing_s) / marks, 1)
        if one.reports:
            found[f"mos_{key}"] = round(one.reports[-1][1].call_mos, 2)
    recovery = stall_recovery_ms(figures.traces["one stall of 200 ms"], figures.plan.stall_s)
    found["stall_recovery_ms"] = None if recovery is None else round(recovery)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Measure, print, write."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--plot", type=Path, help="write a picture of delay and loss (PNG)")
    options = arguments.parse_args()
    plan = QUICK if options.quick and options.plot is None else FULL
    figures = asyncio.run(measure(plan))
    values = {"peer": None, **figures.values}
    publish(values, options.json)
    print(
        f"\none of {values['calls']} calls costs {values['cpu_percent_per_call']} % of a core; "
        f"in one worker {values['cpu_ratio_to_baseline']} times a bare PJSIP port"
    )
    if options.plot is not None:
        from gateway_plot import draw

        title = f"Gateway, PCMU, one call over each network; {machine()}, {time.strftime('%F')}"
        draw(figures.traces, options.plot, stall_s=plan.stall_s, title=title)
        print(f"picture: {options.plot}")


if __name__ == "__main__":
    main()
