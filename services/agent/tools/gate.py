"""Which tool calls may run, decided purely.

The model proposes; these rules dispose. They hold for every model, however it was talked into a
call: unknown tools and wrong arguments never run, personal data and writes need the identity check
that the agent file names, and a write needs the caller's yes to the very arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jsonschema

from services.common.agent_file import Effect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.common.agent_file import AgentFile

Result = dict[str, Any]
NO_VERDICT = frozenset({"error", "timeout"})  # the tool failed, and said nothing of the caller


@dataclass(frozen=True, slots=True)
class IdentityState:
    """What the call knows of who is calling: the value that passed the check, and failures."""

    verified: str | None = None
    failures: int = 0


def refuse(
    agent: AgentFile, name: str, arguments: Mapping[str, Any] | None, identity: IdentityState
) -> Result | None:
    """The result to give the model instead of running the tool, or None when it may run."""
    tool = agent.tools.get(name)
    if tool is None:
        return {"status": "unknown_tool", "message": f"there is no tool {name}"}
    if arguments is None:
        return {"status": "error", "message": "the arguments are not a JSON object"}
    try:
        jsonschema.validate(dict(arguments), tool.parameters)
    except jsonschema.ValidationError as error:
        return {"status": "error", "message": f"wrong arguments: {error.message}"}
    return _refuse_identity(agent, name, arguments, identity)


def needs_confirmation(agent: AgentFile, name: str) -> bool:
    """Whether the caller must say yes before this tool runs."""
    return agent.tools[name].effect is Effect.WRITE


def confirmation(agent: AgentFile, name: str, arguments: Mapping[str, Any]) -> str:
    """The question to ask before a write, with the arguments filled in."""
    return (agent.tools[name].confirm or "").format_map(_Forgiving(arguments))


def after(
    agent: AgentFile,
    name: str,
    arguments: Mapping[str, Any],
    result: Result,
    identity: IdentityState,
) -> IdentityState:
    """The identity state after a tool has run."""
    if agent.identity is None or name != agent.identity.tool:
        return identity
    if result.get("status") == "ok":
        verified = str(arguments.get(agent.identity.slot))
        return IdentityState(verified=verified, failures=identity.failures)
    if result.get("status") in NO_VERDICT:
        return identity
    return IdentityState(verified=identity.verified, failures=identity.failures + 1)


def _refuse_identity(
    agent: AgentFile, name: str, arguments: Mapping[str, Any], identity: IdentityState
) -> Result | None:
    check = agent.identity
    if check is None:
        return None
    if name == check.tool:
        locked = identity.failures >= check.attempts
        return {"status": "locked"} if locked else None
    if not agent.needs_identity(name):
        return None
    if identity.verified is None:
        return {"status": "identity_required"}
    if str(arguments.get(check.slot, identity.verified)) != identity.verified:
        return {"status": "identity_mismatch"}
    return None


class _Forgiving(dict[str, Any]):
    def __missing__(self, key: str) -> str:
        return ""
