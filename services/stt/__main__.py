"""python -m services.stt: one process that listens to many calls."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import structlog
from landline.stt.v1 import stt_pb2_grpc

from services.common import metrics, process
from services.common.addresses import HostPort
from services.common.clock import SystemClock
from services.common.errors import ConfigError, LandlineError
from services.common.grpc_server import start_server
from services.common.metrics import Gauge
from services.stt.config import EngineName, SttConfig
from services.stt.engines.pocketsphinx import PocketSphinxEngine
from services.stt.server import SpeechToTextServicer
from services.stt.service import RecognitionService

if TYPE_CHECKING:
    from services.common.clock import Clock
    from services.common.config import ConfigFile
    from services.common.grpc_server import GrpcServer
    from services.stt.engine import Engine

_HEALTHY = Gauge("landline_stt_healthy", "1 when the last check decoded something")
_log = structlog.get_logger()


async def main(file: ConfigFile, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    config = file.section("stt", SttConfig)
    clock = SystemClock()
    engine = await asyncio.to_thread(_engine, file, config, clock)
    service = RecognitionService(engine, config, clock)
    await service.check()
    servicer = SpeechToTextServicer(service)
    server = await start_server(
        config.listen,
        file.tls(),
        lambda grpc_server: stt_pb2_grpc.add_SpeechToTextServicer_to_server(servicer, grpc_server),
    )
    if config.metrics is not None:
        metrics.serve(config.metrics)
    process.announce("stt", HostPort(config.listen.host, server.port))
    watching = asyncio.create_task(_watch_health(service, server, config.health_interval_s))
    await stop.wait()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await server.stop()
    service.stop()


def _engine(file: ConfigFile, config: SttConfig, clock: Clock) -> Engine:
    """The engine that the configuration names, ready to decode."""
    if config.engine is EngineName.POCKETSPHINX or config.whisper.model is None:
        return PocketSphinxEngine(
            rejection_margin=config.rejection_margin, pronunciations=config.pronunciations
        )
    try:
        from services.stt.engines.whisper.engine import WhisperEngine
    except ImportError as error:
        raise ConfigError(
            f'[stt] engine: Whisper needs {error.name}: pip install "landline[whisper]"'
        ) from error
    return WhisperEngine.load(config.whisper, file.resolve(config.whisper.model), clock)


async def _watch_health(service: RecognitionService, server: GrpcServer, every_s: float) -> None:
    """Say that the service serves only while it really decodes."""
    _HEALTHY.set(True)  # checked before the start
    while True:
        await asyncio.sleep(every_s)
        try:
            await service.check()
            healthy = True
        except LandlineError as error:
            healthy = False
            _log.error("check_failed", reason=str(error))
        _HEALTHY.set(healthy)
        await server.set_serving(healthy)


if __name__ == "__main__":
    process.run("services.stt", main, __doc__ or "")
