"""python -m services.tts: one process that speaks for many calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from landline.lease.v1 import lease_pb2_grpc
from landline.tts.v1 import tts_pb2_grpc

from services.common import metrics, process
from services.common.addresses import HostPort
from services.common.clock import SystemClock
from services.common.grpc_server import start_server
from services.common.leases import LeaseServicer
from services.tts.config import TtsConfig
from services.tts.engines.choice import open_engine
from services.tts.server import TextToSpeechServicer
from services.tts.service import SpeechService

if TYPE_CHECKING:
    import asyncio

    import grpc.aio

    from services.common.config import ConfigFile


async def main(file: ConfigFile, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    config = file.section("tts", TtsConfig)
    service = SpeechService(open_engine(config), config, SystemClock())
    servicer = TextToSpeechServicer(service)
    leases = LeaseServicer(config.max_calls)

    def add_services(grpc_server: grpc.aio.Server) -> None:
        tts_pb2_grpc.add_TextToSpeechServicer_to_server(servicer, grpc_server)
        lease_pb2_grpc.add_LeasesServicer_to_server(leases, grpc_server)

    server = await start_server(config.listen, file.tls(), add_services)
    if config.metrics is not None:
        metrics.serve(config.metrics)
    process.announce("tts", HostPort(config.listen.host, server.port))
    await stop.wait()
    await server.stop()
    service.stop()


if __name__ == "__main__":
    process.run("services.tts", main, __doc__ or "")
