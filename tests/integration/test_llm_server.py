"""The chat server as a process of its own, asked over HTTP."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.common.clock import SystemClock
from services.common.config import TlsConfig
from services.llm.config import LlmServerConfig
from services.llm.engines.scripted.engine import ScriptedEngine
from services.llm.server import ChatEndpoints, start_http
from services.llm.service import ChatService
from tests.fakes.clinic_caller import CLINIC, clinic
from tests.fakes.service_process import running

TOML = f'[landline]\nagents = ["{CLINIC}"]\n'
HELLO = {"model": "clinic", "messages": [{"role": "user", "content": "opening hours"}]}
GOODBYE = {
    "model": "clinic",
    "messages": [{"role": "user", "content": "goodbye"}],
    "tools": [{"type": "function", "function": {"name": "hang_up", "parameters": {}}}],
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running("llm", tmp_path, TOML, overrides=("llm.max_body_bytes=5000",)) as service,
        httpx.AsyncClient(base_url=f"http://{service.address}", trust_env=False) as client,
    ):
        yield client
        assert await service.stop() == 0


async def stream(client: httpx.AsyncClient, request: dict[str, Any]) -> list[Any]:
    """The parsed chunks of a streamed answer; the last must be [DONE]."""
    async with client.stream(
        "POST", "/v1/chat/completions", json={**request, "stream": True}
    ) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_everything_a_client_asks_for(server: httpx.AsyncClient) -> None:
    assert (await server.get("/health")).json() == {"status": "ok"}
    models = (await server.get("/v1/models")).json()
    assert [model["id"] for model in models["data"]] == ["clinic"]

    chunks = await stream(server, HELLO)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == clinic().intents["hours"].reply
    assert len(deltas) > 4
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["landline"]["understood"]["intent"] == "hours"
    assert len({chunk["id"] for chunk in chunks}) == 1

    whole = (await server.post("/v1/chat/completions", json=HELLO)).json()
    assert whole["object"] == "chat.completion"
    assert whole["choices"][0]["message"]["content"] == text
    usage = whole["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


async def test_tool_calls_come_in_fragments_that_join(server: httpx.AsyncClient) -> None:
    chunks = await stream(server, {**GOODBYE, "stream_options": {"include_usage": True}})
    calls = [
        call
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", [])
    ]
    assert {call["index"] for call in calls} == {0}
    assert calls[0]["id"]
    assert calls[0]["function"]["name"] == "hang_up"
    arguments = "".join(call["function"].get("arguments", "") for call in calls)
    assert json.loads(arguments) == {"reason": "conversation_finished"}
    assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    without = (
        await server.post("/v1/chat/completions", json={**GOODBYE, "tool_choice": "none"})
    ).json()
    assert "tool_calls" not in without["choices"][0]["message"]
    assert without["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"x" * 5_001, 413),
        ("POST", "/v1/chat/completions", json.dumps({**HELLO, "model": "gpt"}).encode(), 404),
        ("GET", "/v1/chat/completions", b"", 405),
        ("GET", "/v1/nothing", b"", 404),
    ],
)
async def test_bad_requests_get_an_error_object_and_the_next_is_served(
    server: httpx.AsyncClient, method: str, path: str, content: bytes, status: int
) -> None:
    response = await server.request(method, path, content=content)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert (await server.post("/v1/chat/completions", json=HELLO)).status_code == 200


async def test_a_client_that_hangs_up_leaves_the_server_well(server: httpx.AsyncClient) -> None:
    address = server.base_url
    body = json.dumps({**HELLO, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    for cut in (10, len(head) + 5, len(head) + len(body)):
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write((head.encode() + body)[:cut])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    assert (await server.post("/v1/chat/completions", json=HELLO)).status_code == 200


@pytest.mark.parametrize(
    ("toml", "overrides", "said"),
    [
        ("", (), "name at least one agent file"),
        (TOML, ("llm.engine=clever",), "engine"),
        (TOML, ("llm.listen=0.0.0.0:0",), "plain text"),
        ('[landline]\nagents = ["nowhere.toml"]\n', (), "cannot read the agent file"),
    ],
)
def test_a_wrong_configuration_stops_the_start_and_says_why(
    tmp_path: Path, toml: str, overrides: tuple[str, ...], said: str
) -> None:
    config = tmp_path / "landline.toml"
    config.write_text(toml)
    settings = [part for override in overrides for part in ("--set", override)]
    ended = subprocess.run(
        [sys.executable, "-m", "services.llm", "--config", str(config), *settings],
        cwd=CLINIC.parents[4], capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert ended.returncode == 78
    assert said in ended.stderr


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=True)


@pytest.fixture
def tls(tmp_path: Path) -> TlsConfig:
    """A certificate authority of our own, and one certificate for both sides."""
    name = "subjectAltName=IP:127.0.0.1"
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(tmp_path, *new, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    openssl(tmp_path, *new, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=service")
    (tmp_path / "name.cnf").write_text(name)
    openssl(
        tmp_path, "x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-out", "cert.pem", "-extfile", "name.cnf",
    )  # fmt: skip
    return TlsConfig(
        ca_file=tmp_path / "ca.pem", cert_file=tmp_path / "cert.pem", key_file=tmp_path / "key.pem"
    )


async def test_with_tls_only_clients_with_a_certificate_are_served(tls: TlsConfig) -> None:
    config = LlmServerConfig()
    service = ChatService(ScriptedEngine([clinic()]), SystemClock(), max_requests=4)
    server = await start_http(
        ChatEndpoints(service, config, SystemClock()).app(), config.listen, tls
    )
    url = f"https://{server.address}/health"
    trusting = ssl.create_default_context(cafile=str(tls.ca_file))
    known = ssl.create_default_context(cafile=str(tls.ca_file))
    known.load_cert_chain(str(tls.cert_file), str(tls.key_file))
    try:
        async with httpx.AsyncClient(verify=known, trust_env=False) as client:
            assert (await client.get(url)).status_code == 200
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as client:
            with pytest.raises(httpx.HTTPError):
                await client.get(url)
    finally:
        await server.stop()
