"""python -m services.llm: chat completions for the agents of landline.toml."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.common import agent_file, metrics, process
from services.common.clock import SystemClock
from services.common.errors import ConfigError
from services.llm.config import LlmServerConfig
from services.llm.engines.scripted.engine import ScriptedEngine
from services.llm.server import ChatEndpoints, start_http
from services.llm.service import ChatService

if TYPE_CHECKING:
    import asyncio

    from services.common.config import ConfigFile


async def main(file: ConfigFile, stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    config = file.section("llm", LlmServerConfig)
    if not file.shared.agents:
        raise ConfigError(f"{file.path}: [landline] agents: name at least one agent file")
    agents = [agent_file.load(path) for path in file.shared.agents]
    clock = SystemClock()
    service = ChatService(ScriptedEngine(agents), clock, max_requests=config.max_requests)
    endpoints = ChatEndpoints(service, config, clock)
    server = await start_http(endpoints.app(), config.listen, file.tls())
    if config.metrics is not None:
        metrics.serve(config.metrics)
    process.announce("llm", server.address)
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    process.run("services.llm", main, __doc__ or "")
