"""python -m services.stt: one process that listens to many calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from landline.lease.v1 import lease_pb2_grpc
from landline.stt.v1 import stt_pb2_grpc

from services.common import metrics, process
from services.common.addresses import HostPort
from services.common.clock import SystemClock
from services.common.grpc_server import start_server
from services.common.leases import LeaseServicer
from services.stt.config import SttConfig
from services.stt.engines.pocketsphinx import PocketSphinxEngine
from services.stt.server import SpeechToTextServicer
from services.stt.service import RecognitionService

if TYPE_CHECKING:
    import asyncio

    import grpc.aio

    from services.common.config import ConfigFile


async def main(file: ConfigFile, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    config = file.section("stt", SttConfig)
    engine = PocketSphinxEngine(
        rejection_margin=config.rejection_margin, pronunciations=config.pronunciations
    )
    service = RecognitionService(engine, config, SystemClock())
    servicer = SpeechToTextServicer(service)
    leases = LeaseServicer(config.max_streams)

    def add_services(grpc_server: grpc.aio.Server) -> None:
        stt_pb2_grpc.add_SpeechToTextServicer_to_server(servicer, grpc_server)
        lease_pb2_grpc.add_LeasesServicer_to_server(leases, grpc_server)

    server = await start_server(config.listen, file.tls(), add_services)
    if config.metrics is not None:
        metrics.serve(config.metrics)
    process.announce("stt", HostPort(config.listen.host, server.port))
    await stop.wait()
    await server.stop()
    service.stop()


if __name__ == "__main__":
    process.run("services.stt", main, __doc__ or "")
