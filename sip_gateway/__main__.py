"""python -m sip_gateway --config landline.toml

One process that takes calls, or a supervisor with several of them behind an edge.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import structlog
import uvloop

from services.common.clock import SystemClock
from services.common.process import announce, run
from sip_gateway.config import SipConfig

if TYPE_CHECKING:
    from services.common.config import ConfigFile
    from services.common.process import Stop
    from sip_gateway.fleet.worker_status import WorkerStatus


async def main(file: ConfigFile, stop: Stop) -> None:
    """Take calls until `stop` is set, and finish those that are live unless `stop.now` is."""
    from sip_gateway.fleet import plan as fleet

    config = file.section("sip", SipConfig)
    plan = await fleet.plan_for(config)
    if plan is None:
        await _work(file, config, stop)
    else:
        from sip_gateway.fleet.supervisor import supervise

        await supervise(file, config, plan, stop)


def _with_paths(file: ConfigFile, config: SipConfig) -> SipConfig:
    """Relative paths count from the file's folder."""
    music = config.admission.hold_music
    if music is None:
        return config
    found = config.admission.model_copy(update={"hold_music": file.resolve(music)})
    return config.model_copy(update={"admission": found})


async def _work(file: ConfigFile, config: SipConfig, stop: Stop) -> None:
    """Be a worker: alone, or one of several."""
    from sip_gateway.worker import Worker

    place = config.worker
    if place is not None:
        structlog.contextvars.bind_contextvars(worker=place.name.partition("-")[0])
    worker = Worker(
        _with_paths(file, config),
        data_dir=file.shared.data_dir,
        region=file.shared.region,
        tls=file.tls(),
        clock=SystemClock(),
        report=(lambda _status: None) if place is None else _report,
    )
    try:
        await worker.start()
        # The usual signal for "look at your surroundings again"; `kill -HUP` after a new address.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, worker.renew_trunks)
        announce("sip_gateway", worker.address)
        await stop.wait()
        await worker.drain(stop.now)
    finally:
        await worker.stop()


def _report(status: WorkerStatus) -> None:
    # Without a supervisor nobody reads it; the end of our standard input is what stops us.
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), f"{status.line()}\n".encode())


if __name__ == "__main__":
    run(
        "sip_gateway",
        main,
        "Answers telephone calls (SIP and RTP) for the agent service.",
        loop_factory=uvloop.new_event_loop,  # a sixth of the gateway's CPU less
    )
