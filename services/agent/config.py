"""[agent]: where the conversation runs, whom it talks to, and its times."""

from __future__ import annotations

from pydantic import Field

from services.agent.turn import TurnPolicy
from services.common.addresses import Address, HostPort
from services.common.config import Section

_LOOPBACK = HostPort("127.0.0.1", 0)


class LlmConfig(Section):
    """[agent.llm]: how the language model is asked."""

    model: str | None = None  # None: the agent's name, which is what the scripted engine serves
    temperature: float = 0.3
    max_tokens: int = 300
    retry_s: float = 6.0


class TurnConfig(Section):
    """[agent.turn]: times of the turn machine in milliseconds."""

    barge_in_ms: float = TurnPolicy().barge_in_ms
    filler_ms: float = TurnPolicy().filler_ms
    reply_ms: float = TurnPolicy().reply_ms
    idle_ms: float = TurnPolicy().idle_ms
    max_idle_prompts: int = TurnPolicy().max_idle_prompts
    keys_ms: float = TurnPolicy().keys_ms

    def policy(self) -> TurnPolicy:
        return TurnPolicy(**self.model_dump())


class AgentConfig(Section):
    """[agent]: one process that holds many conversations."""

    listen: Address = _LOOPBACK
    stt: Address = _LOOPBACK
    tts: Address = _LOOPBACK
    audit: Address = _LOOPBACK
    llm_url: str = "http://127.0.0.1:0"  # any OpenAI-compatible server inside the network
    llm: LlmConfig = LlmConfig()
    turn: TurnConfig = TurnConfig()
    max_calls: int = Field(default=64, ge=1)
    tool_hosts: list[str] = Field(default_factory=list)  # hosts that HTTP tools may call
    metrics: Address | None = None
