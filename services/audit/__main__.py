"""python -m services.audit: writes the journal of this machine or region."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

from landline.audit.v1 import audit_pb2_grpc

from services.audit.config import AuditConfig
from services.audit.journal import Journal
from services.audit.reader import journal_path
from services.audit.records import Event
from services.audit.server import AuditServicer
from services.audit.service import AuditService
from services.audit.transcripts import Transcripts
from services.common import metrics, process
from services.common.addresses import HostPort
from services.common.clock import SystemClock
from services.common.grpc_server import start_server

if TYPE_CHECKING:
    from services.common.config import ConfigFile


async def main(file: ConfigFile, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    config = file.section("audit", AuditConfig)
    data_dir = file.shared.data_dir
    clock = SystemClock()
    journal = await asyncio.to_thread(
        Journal,
        journal_path(data_dir),
        writer=config.writer,
        clock=clock,
        fsync=config.fsync,
    )
    transcripts = Transcripts(data_dir / "transcripts") if config.transcripts else None
    service = AuditService(journal, transcripts)
    writing = asyncio.create_task(service.run())
    await service.record([Event(type="journal_opened", time_unix_ms=clock.wall_ms())])
    add = partial(audit_pb2_grpc.add_AuditServicer_to_server, AuditServicer(service))
    server = await start_server(config.listen, file.tls(), add)
    if config.metrics is not None:
        metrics.serve(config.metrics)
    process.announce("audit", HostPort(config.listen.host, server.port))
    await stop.wait()
    await server.stop()
    await service.record([Event(type="journal_closed", time_unix_ms=clock.wall_ms())])
    writing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await writing
    journal.close()


if __name__ == "__main__":
    process.run("services.audit", main, __doc__ or "")
