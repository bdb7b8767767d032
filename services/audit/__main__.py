"""python -m services.audit: keeps the record of every call."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from landline.audit.v1 import audit_pb2_grpc

from services.audit.config import AuditConfig
from services.audit.journal import JOURNAL, Journal
from services.audit.server import AuditServicer
from services.audit.service import AuditService, write_transcript
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
    transcripts = Transcripts(data_dir / "transcripts")
    journal = await asyncio.to_thread(
        Journal,
        data_dir / JOURNAL,
        writer=f"audit@{socket.gethostname()}:{os.getpid()}",
        clock=SystemClock(),
        fsync=config.fsync,
        on_record=transcripts.collect,
    )
    try:
        # Calls that a crash of this process has cut out of its memory.
        for call_id in transcripts.running():
            write_transcript(transcripts, call_id)
        await _serve(
            file, config, AuditService(journal, transcripts, max_waiting=config.max_waiting), stop
        )
    finally:
        journal.close()


async def _serve(
    file: ConfigFile, config: AuditConfig, service: AuditService, stop: asyncio.Event
) -> None:
    committing = asyncio.create_task(service.run())
    servicer = AuditServicer(service)
    server = await start_server(
        config.listen,
        file.tls(),
        lambda grpc_server: audit_pb2_grpc.add_AuditServicer_to_server(servicer, grpc_server),
    )
    if config.metrics is not None:
        metrics.serve(config.metrics)
    process.announce("audit", HostPort(config.listen.host, server.port))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, committing], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    await server.stop()
    service.close()
    await committing


if __name__ == "__main__":
    process.run("services.audit", main, __doc__ or "")
