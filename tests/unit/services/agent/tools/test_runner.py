from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from services.agent.tools.runner import ToolBox, ToolRunner, idempotency_key, load_function
from services.common.agent_file import AgentFile
from services.common.clock import ManualClock
from services.common.errors import ConfigError
from tests.fakes.audit import FakeAudit

TOOLS = """
import asyncio

runs = 0

async def slow(arguments, context):
    await asyncio.sleep(30)

async def count(arguments, context):
    global runs
    runs += 1
    await asyncio.sleep(0.05)
    return {"status": "ok", "runs": runs}

async def flaky(arguments, context):
    global runs
    runs += 1
    if runs == 1:
        raise OSError("the first time")
    return {"status": "ok", "key": context.idempotency_key}

async def nothing(arguments, context):
    return None

async def much(arguments, context):
    return {"status": "ok", "text": "x" * 1_000_000}

def plain(arguments, context):
    return {"status": "ok"}
"""


class Endpoint(BaseHTTPRequestHandler):
    """Echoes a JSON POST; other paths misbehave."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answers = {
            "/echo": (200, {"status": "ok", "got": json.loads(body), "key": self._key()}),
            "/broken": (500, {}),
            "/list": (200, [1]),
            "/moved": (302, {}),
        }
        status, answer = answers.get(self.path, (200, None))
        payload = b"<html>no</html>" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _key(self) -> str | None:
        return self.headers["Idempotency-Key"]

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def agent(folder: Path, tools: dict[str, dict[str, Any]]) -> AgentFile:
    (folder / "tools.py").write_text(TOOLS)
    base = {"description": "d", "effect": "read", "parameters": {"type": "object"}}
    return AgentFile.model_validate(
        {
            "name": "test",
            "prompt": "p",
            "speech": {"disclosure": "d", "greeting": "g", "not_understood": ["n"]},
            "tools": {name: {**base, **tool} for name, tool in tools.items()},
            "folder": folder,
        }
    )


def runner(
    folder: Path, tools: dict[str, dict[str, Any]], hosts: list[str] | None = None
) -> tuple[ToolRunner, FakeAudit]:
    audit = FakeAudit()
    box = ToolBox(agent(folder, tools), hosts or [], folder)
    return ToolRunner(box, audit, ManualClock(), "c1"), audit  # type: ignore[arg-type]


async def test_a_slow_tool_is_given_up(tmp_path: Path) -> None:
    tools, audit = runner(tmp_path, {"slow": {"python": "tools:slow", "timeout_s": 0.05}})
    assert (await tools.run("slow", {}))["status"] == "timeout"
    assert audit.types() == ["tool_called", "tool_returned"]


@pytest.mark.parametrize(("name", "says"), [("nothing", "did not return"), ("much", "too much")])
async def test_a_useless_result_is_an_error(tmp_path: Path, name: str, says: str) -> None:
    tools, _ = runner(tmp_path, {name: {"python": f"tools:{name}"}})
    result = await tools.run(name, {})
    assert result["status"] == "error"
    assert says in result["message"]


async def test_a_write_that_is_asked_for_twice_at_once_runs_once(tmp_path: Path) -> None:
    write = {"python": "tools:count", "effect": "write", "confirm": "Sure?"}
    tools, audit = runner(tmp_path, {"count": write})
    results = await asyncio.gather(tools.run("count", {"a": 1}), tools.run("count", {"a": 1}))
    assert results == [{"status": "ok", "runs": 1}] * 2
    assert (await tools.run("count", {"a": 2}))["runs"] == 2
    assert audit.types().count("tool_called") == 2


async def test_a_write_goes_on_when_the_caller_interrupts(tmp_path: Path) -> None:
    write = {"python": "tools:count", "effect": "write", "confirm": "Sure?"}
    tools, audit = runner(tmp_path, {"count": write})
    waiting = asyncio.create_task(tools.run("count", {}))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await tools.finish()
    assert audit.events[-1] == (
        "tool_returned",
        {
            "tool": "count",
            "key": idempotency_key("c1", "count", {}),
            "result": {"status": "ok", "runs": 1},
        },
    )


async def test_what_failed_is_tried_again_under_the_same_key(tmp_path: Path) -> None:
    write = {"python": "tools:flaky", "effect": "write", "confirm": "Sure?"}
    tools, _ = runner(tmp_path, {"flaky": write})
    assert (await tools.run("flaky", {}))["status"] == "error"
    assert (await tools.run("flaky", {}))["key"] == idempotency_key("c1", "flaky", {})


async def test_an_http_tool_gets_its_arguments_and_key(tmp_path: Path, endpoint: str) -> None:
    tools, _ = runner(tmp_path, {"echo": {"http": f"{endpoint}/echo"}}, ["127.0.0.1"])
    result = await tools.run("echo", {"day": "monday"})
    assert result["got"] == {"day": "monday"}
    assert result["key"] == idempotency_key("c1", "echo", {"day": "monday"})


@pytest.mark.parametrize("path", ["broken", "list", "html", "moved"])
async def test_a_misbehaving_endpoint_is_an_error(tmp_path: Path, endpoint: str, path: str) -> None:
    tools, _ = runner(tmp_path, {"it": {"http": f"{endpoint}/{path}"}}, ["127.0.0.1"])
    assert await tools.run("it", {}) == {"status": "error", "message": "it failed"}


def test_a_host_that_is_not_allowed_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'tool_hosts = \["crm.example"\]'):
        runner(tmp_path, {"it": {"http": "http://crm.example/x"}}, ["127.0.0.1"])


@pytest.mark.parametrize("reference", ["tools:missing", "tools:plain", "nowhere:x"])
def test_a_function_that_is_not_there_stops_the_start(tmp_path: Path, reference: str) -> None:
    (tmp_path / "tools.py").write_text(TOOLS)
    with pytest.raises(ConfigError, match="tool"):
        load_function(tmp_path, reference)


def test_the_key_knows_the_call_the_tool_and_the_arguments() -> None:
    key = idempotency_key("c1", "t", {"a": 1, "b": 2})
    assert key == idempotency_key("c1", "t", {"b": 2, "a": 1})
    assert key != idempotency_key("c1", "t", {"a": 1, "b": 2}, 1)
    others = [("c2", "t", {"a": 1, "b": 2}), ("c1", "u", {"a": 1, "b": 2}), ("c1", "t", {"a": 1})]
    assert key not in {idempotency_key(*other) for other in others}
