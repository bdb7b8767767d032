"""python -m sip_gateway --config landline.toml"""

from __future__ import annotations

from typing import TYPE_CHECKING

import uvloop

from services.common.clock import SystemClock
from services.common.process import announce, run
from sip_gateway.config import SipConfig
from sip_gateway.worker import Worker

if TYPE_CHECKING:
    from services.common.config import ConfigFile
    from services.common.process import Stop


async def main(file: ConfigFile, stop: Stop) -> None:
    """Take calls until `stop` is set, and finish those that are live unless `stop.now` is."""
    worker = Worker(
        file.section("sip", SipConfig),
        data_dir=file.shared.data_dir,
        region=file.shared.region,
        tls=file.tls(),
        clock=SystemClock(),
    )
    try:
        await worker.start()
        announce("sip_gateway", worker.address)
        await stop.wait()
        await worker.drain(stop.now)
    finally:
        await worker.stop()


if __name__ == "__main__":
    run(
        "sip_gateway",
        main,
        "Answers telephone calls (SIP and RTP) for the agent service.",
        loop_factory=uvloop.new_event_loop,  # a sixth of the gateway's CPU less
    )
