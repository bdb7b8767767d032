"""python -m services.agent: one process that holds many conversations."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from landline.agent.v1 import agent_pb2_grpc

from services.agent.clients.audit import AuditClient
from services.agent.clients.leases import Leases
from services.agent.clients.llm import LlmClient
from services.agent.clients.tts import TtsClient
from services.agent.config import AgentConfig
from services.agent.server import ConversationServicer
from services.agent.service import ConversationService
from services.agent.session import Surroundings
from services.agent.tools.runner import ToolBox
from services.agent.vad import SileroModel, VadBatch, model_path
from services.common import agent_file, metrics, process
from services.common.addresses import HostPort
from services.common.clock import SystemClock
from services.common.errors import ConfigError
from services.common.grpc_server import open_channel, start_server

if TYPE_CHECKING:
    from services.common.config import ConfigFile


async def main(file: ConfigFile, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    config = file.section("agent", AgentConfig)
    shared = file.shared
    tls = file.tls()
    clock = SystemClock()
    if not shared.agents:
        raise ConfigError(f"{file.path}: [landline] agents: name at least one agent file")
    boxes = [
        ToolBox(agent_file.load(path), config.tool_hosts, shared.data_dir) for path in shared.agents
    ]
    audit_channel = open_channel(config.audit, tls, "agent.audit")
    stt_channel = open_channel(config.stt, tls, "agent.stt")
    tts_channel = open_channel(config.tts, tls, "agent.tts")
    audit = AuditClient(audit_channel, clock)
    llm = LlmClient(config.llm_url, tls, clock, retry_s=config.llm.retry_s)
    vad = VadBatch(SileroModel(model_path()))
    agents = {
        box.agent.name: Surroundings(
            config=config,
            clock=clock,
            stt=stt_channel,
            tts=TtsClient(tts_channel, clock),
            llm=llm,
            audit=audit,
            vad=vad,
            box=box,
        )
        for box in boxes
    }
    leases = Leases({"speech recognition": stt_channel, "speech": tts_channel}, llm)
    service = ConversationService(agents, config.max_calls, leases)
    servicer = ConversationServicer(service.admit, service.converse)
    recording = asyncio.create_task(audit.run())
    server = await start_server(
        config.listen,
        tls,
        lambda grpc_server: agent_pb2_grpc.add_ConversationServicer_to_server(
            servicer, grpc_server
        ),
    )
    if config.metrics is not None:
        metrics.serve(config.metrics)
    process.announce("agent", HostPort(config.listen.host, server.port))
    await stop.wait()
    await server.stop()
    await audit.drain()
    recording.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await recording
    await llm.close()
    for box in boxes:
        await box.close()
    for channel in (audit_channel, stt_channel, tts_channel):
        await channel.close()


if __name__ == "__main__":
    process.run("services.agent", main, __doc__ or "")
