"""Tools that every agent has: hand the call to a person, and end it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.agent.conversation import Message
    from services.common.agent_file import AgentFile

TRANSFER = "transfer_call"
HANG_UP = "hang_up"


def offered_tools(agent: AgentFile) -> list[Message]:
    """Every tool that the model may ask for, in OpenAI's form."""
    offered = [
        _function(name, tool.description, tool.parameters) for name, tool in agent.tools.items()
    ]
    if agent.transfers:
        people = "; ".join(f"{name}: {item.description}" for name, item in agent.transfers.items())
        target = {"type": "string", "enum": list(agent.transfers)}
        offered.append(
            _function(
                TRANSFER,
                f"Hand the call to a person. {people}",
                {"type": "object", "properties": {"target": target}, "required": ["target"]},
            )
        )
    reason = {"type": "string", "description": "why the call is over"}
    offered.append(
        _function(
            HANG_UP,
            "End the call after saying goodbye.",
            {"type": "object", "properties": {"reason": reason}},
        )
    )
    return offered


def _function(name: str, description: str, parameters: Message) -> Message:
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}
