"""Runs tools: functions beside the agent file, and HTTP endpoints on allow-listed hosts.

A ledger per call makes a repeated call with the same arguments return the first result, and every
tool call is on record before it goes out.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import inspect
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import structlog

from services.common.agent_file import Effect
from services.common.errors import ConfigError
from services.common.metrics import Counter
from services.common.tools import ToolContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from services.agent.clients.audit import AuditClient
    from services.agent.tools.gate import Result
    from services.common.agent_file import AgentFile, Tool
    from services.common.clock import Clock

    Function = Callable[[dict[str, Any], ToolContext], Awaitable[Result]]

_RUNS = Counter("landline_agent_tool_runs", "Tool runs by outcome", ["tool", "status"])
_MAX_RESULT_CHARACTERS = 8_000
_log = structlog.get_logger()


class ToolBox:
    """The tools of one agent file, loaded once and shared by its calls."""

    def __init__(self, agent: AgentFile, tool_hosts: list[str], data_dir: Path) -> None:
        self.agent = agent
        self.data_dir = data_dir
        self._functions = {
            name: load_function(agent.folder, tool.python)
            for name, tool in agent.tools.items()
            if tool.python is not None
        }
        for name, tool in agent.tools.items():
            if tool.http is not None:
                _require_allowed(name, tool.http, tool_hosts)
        self._http = httpx.AsyncClient(trust_env=False, follow_redirects=False)

    async def call(self, name: str, arguments: dict[str, Any], context: ToolContext) -> Result:
        """Run the tool itself; whatever goes wrong in it is raised."""
        tool = self.agent.tools[name]
        if tool.http is not None:
            return await self._call_http(tool.http, arguments, context)
        return await self._functions[name](arguments, context)

    async def close(self) -> None:
        await self._http.aclose()

    async def _call_http(self, url: str, arguments: dict[str, Any], context: ToolContext) -> Result:
        headers = {"Idempotency-Key": context.idempotency_key}
        response = await self._http.post(url, json=arguments, headers=headers, timeout=None)
        response.raise_for_status()
        result = response.json()
        if not isinstance(result, dict):
            raise ValueError("the endpoint did not answer with a JSON object")
        return result


class ToolRunner:
    """One call's use of the tools."""

    def __init__(self, box: ToolBox, audit: AuditClient, clock: Clock, call_id: str) -> None:
        self._box = box
        self._audit = audit
        self._clock = clock
        self._call_id = call_id
        self._ledger: dict[str, asyncio.Task[Result]] = {}

    async def run(self, name: str, arguments: Mapping[str, Any], occasion: int = 0) -> Result:
        """The tool's result, always a dict with a "status".

        A run goes on when the caller interrupts; only waiting for it is cancelled. Each `occasion`
        is an operation of its own: what the caller confirmed twice is done twice.
        """
        key = idempotency_key(self._call_id, name, arguments, occasion)
        tool = self._box.agent.tools[name]
        task = self._ledger.get(key)
        if task is None or _may_run_again(tool, task):
            task = asyncio.create_task(self._run(name, tool, dict(arguments), key))
            self._ledger[key] = task
        return await asyncio.shield(task)

    async def finish(self) -> None:
        """Let runs that are still under way come to their end."""
        await asyncio.gather(*self._ledger.values(), return_exceptions=True)

    async def _run(self, name: str, tool: Tool, arguments: dict[str, Any], key: str) -> Result:
        await self._audit.record_now(
            self._call_id,
            "tool_called",
            tool=name,
            arguments=arguments,
            effect=tool.effect,
            key=key,
        )
        context = ToolContext(
            call_id=self._call_id,
            data_dir=self._box.data_dir,
            idempotency_key=key,
            now_wall_ms=self._clock.wall_ms(),
        )
        result = await self._guarded(name, tool, arguments, context)
        _RUNS.labels(tool=name, status=str(result["status"])).inc()
        self._audit.record(self._call_id, "tool_returned", tool=name, key=key, result=result)
        return result

    async def _guarded(
        self, name: str, tool: Tool, arguments: dict[str, Any], context: ToolContext
    ) -> Result:
        try:
            async with asyncio.timeout(tool.timeout_s):
                result = await self._box.call(name, arguments, context)
            return _checked(result)
        except TimeoutError:
            return {"status": "timeout", "message": f"no answer within {tool.timeout_s:g} s"}
        except Exception as error:  # a tool is foreign code: its failure is a result
            _log.warning("tool_failed", call_id=self._call_id, tool=name, reason=repr(error))
            return {"status": "error", "message": f"{name} failed"}


def _may_run_again(tool: Tool, task: asyncio.Task[Result]) -> bool:
    """Reads are asked anew; what failed is tried again under the same idempotency key."""
    if not task.done():
        return False
    failed = task.exception() is not None or task.result()["status"] in ("error", "timeout")
    return tool.effect is Effect.READ or failed


def idempotency_key(
    call_id: str, name: str, arguments: Mapping[str, Any], occasion: int = 0
) -> str:
    """The same call, tool, canonical arguments and occasion give the same key."""
    operation = [call_id, name, arguments, occasion]
    canonical = json.dumps(operation, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def load_function(folder: Path, reference: str) -> Function:
    """`module:function` beside the agent file; ConfigError when it is not there."""
    module_name, _, function_name = reference.partition(":")
    path = folder / f"{module_name}.py"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"tool {reference}: there is no {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, function_name, None)
    if not inspect.iscoroutinefunction(function):
        raise ConfigError(f"tool {reference}: {path} has no 'async def {function_name}'")
    return function


def _checked(result: Any) -> Result:
    """What a tool returned, if it can be given to the model."""
    if not isinstance(result, dict) or not isinstance(result.get("status"), str):
        return {"status": "error", "message": "the tool did not return a status"}
    text = json.dumps(result)
    if len(text) > _MAX_RESULT_CHARACTERS:
        return {"status": "error", "message": "the tool returned too much"}
    plain: Result = json.loads(text)
    return plain


def _require_allowed(name: str, url: str, hosts: list[str]) -> None:
    host = urlsplit(url).hostname
    if host not in hosts:
        raise ConfigError(
            f'tool {name}: {url} is on no allowed host; add tool_hosts = ["{host}"] to [agent]'
        )
