"""python -m services.audit: writes the journal of this machine or region."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

from landline.audit.v1 import audit_pb2_grpc

from services.audit.config import AuditConfig
from services.audit.journal import Journal, JournalError
from services.audit.layout import AuditFolder
from services.audit.records import Event
from services.audit.sealer import Sealer
from services.audit.server import AuditServicer
from services.audit.service import AuditService, Upkeep
from services.audit.transcripts import Transcripts
from services.common import metrics, process
from services.common.addresses import HostPort
from services.common.clock import SystemClock
from services.common.grpc_server import start_server

if TYPE_CHECKING:
    from services.common.config import ConfigFile

_MIB = 1024 * 1024


async def main(file: ConfigFile, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    config = file.section("audit", AuditConfig)
    data_dir = file.shared.data_dir
    folder = AuditFolder(data_dir / "audit")
    clock = SystemClock()
    journal = await asyncio.to_thread(
        Journal,
        folder.journal,
        writer=config.writer,
        clock=clock,
        fsync=config.fsync,
        sealer=Sealer(folder.keys, config.writer, clock),
        segment_bytes=int(config.segment_mb * _MIB),
        min_free_bytes=config.min_free_mb * _MIB,
        max_bytes=config.max_mb * _MIB,
    )
    origin = config.log_name or f"landline.local/{file.shared.region}"
    log = await asyncio.to_thread(
        folder.open_log, origin, [file.resolve(path) for path in config.also]
    )
    serving: asyncio.Queue[bool] = asyncio.Queue()
    upkeep = Upkeep(
        clock=clock,
        epoch_ms=config.epoch_s * 1000,
        log=log,
        retention_ms=int(config.retention_days * 86_400_000),
        on_serving=lambda well, _reason: serving.put_nowait(well),
    )
    transcripts = Transcripts(data_dir / "transcripts") if config.transcripts else None
    service = AuditService(journal, transcripts, upkeep)
    writing = asyncio.create_task(service.run())
    await service.record([Event(type="journal_opened", time_unix_ms=clock.wall_ms())])
    add = partial(audit_pb2_grpc.add_AuditServicer_to_server, AuditServicer(service))
    server = await start_server(config.listen, file.tls(), add)

    async def tell_health() -> None:
        while True:
            await server.set_serving(await serving.get())

    telling = asyncio.create_task(tell_health())
    if config.metrics is not None:
        metrics.serve(config.metrics)
    process.announce("audit", HostPort(config.listen.host, server.port))
    await _until(stop, writing)
    await server.stop()
    with contextlib.suppress(JournalError):  # no room: said before, and the seal follows
        await service.record([Event(type="journal_closed", time_unix_ms=clock.wall_ms())])
    await service.end_epoch(last=True)
    for task in (writing, telling):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    journal.close()


async def _until(stop: asyncio.Event, writing: asyncio.Task[None]) -> None:
    """Wait for `stop`; when writing fails in a way that nobody thought of, the process ends."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((stopping, writing), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if writing.done():
        await writing


if __name__ == "__main__":
    process.run("services.audit", main, __doc__ or "")
