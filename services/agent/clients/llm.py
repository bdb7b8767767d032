"""Asks any OpenAI-compatible chat server inside the network, streaming, with tools.

The wire format is OpenAI's chat completions with server-sent events. A server may add a top-level
`landline.expect` list that names the slots its reply asks for; others are used without it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

import httpx

from services.agent.conversation import Message, ToolCall
from services.common.addresses import HostPort, require_private
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from services.common.clock import Clock
    from services.common.config import TlsConfig


_PROBE_S = 1.0
_PROBED_FOR_MS = 1_000.0


class LlmUnavailableError(LandlineError):
    """The model's server did not answer, or broke off, for longer than the retry time."""


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of the answer: tools asked for, and what the reply asks the caller for."""

    tool_calls: tuple[ToolCall, ...]
    expect: tuple[str, ...]


LlmEvent: TypeAlias = Text | Done


class LlmClient:
    """One pool of connections to one server, shared by all calls of the process."""

    def __init__(self, url: str, tls: TlsConfig | None, clock: Clock, *, retry_s: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise LandlineError(f"agent.llm_url: {url!r} is no http:// or https:// address")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        self._address = HostPort(parts.hostname, port)
        self._clock = clock
        self._retry_ms = retry_s * 1000
        self._probing = asyncio.Lock()
        self._alive_until_ms = float("-inf")
        timeout = httpx.Timeout(connect=2.0, read=20.0, write=5.0, pool=5.0)
        self._http = httpx.AsyncClient(
            base_url=url, timeout=timeout, verify=_ssl_context(tls), trust_env=False
        )

    async def chat(self, request: Message) -> AsyncIterator[LlmEvent]:
        """The answer as it is written. Retries for a while, but never once text has come."""
        deadline_ms = self._clock.now_ms() + self._retry_ms
        while True:
            begun = False
            try:
                async for event in self._attempt(request):
                    begun = True
                    yield event
                return
            except (httpx.HTTPError, LlmUnavailableError) as error:
                if begun or self._clock.now_ms() >= deadline_ms:
                    raise LlmUnavailableError(
                        f"no answer from {self._address}: {error!r}"
                    ) from error
                await asyncio.sleep(0.2)

    async def probe(self) -> None:
        """LlmUnavailableError unless the server answers. A good answer counts for a second.

        It asks for the list of models, which every OpenAI-compatible server has.
        """
        async with self._probing:
            if self._clock.now_ms() < self._alive_until_ms:
                return
            try:
                await asyncio.to_thread(require_private, self._address, "agent.llm_url")
                response = await self._http.get("/v1/models", timeout=_PROBE_S)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                raise LlmUnavailableError(f"{self._address} does not answer: {reason}") from error
            if response.status_code >= 500:
                raise LlmUnavailableError(f"{self._address} answers HTTP {response.status_code}")
            self._alive_until_ms = self._clock.now_ms() + _PROBED_FOR_MS

    async def close(self) -> None:
        await self._http.aclose()

    async def _attempt(self, request: Message) -> AsyncIterator[LlmEvent]:
        await asyncio.to_thread(require_private, self._address, "agent.llm_url")
        body = {**request, "stream": True}
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                text = (await response.aread())[:500].decode(errors="replace")
                if response.status_code < 500 and response.status_code != 429:
                    raise LandlineError(f"{self._address} refused the request: {text}")
                raise LlmUnavailableError(f"HTTP {response.status_code}: {text}")
            answer = _Answer()
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    yield answer.done()
                    return
                if text := answer.take(data):
                    yield Text(text)
            raise LlmUnavailableError("the stream ended before [DONE]")


class _Answer:
    """Puts the pieces of a streamed answer together."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        self._expect: tuple[str, ...] = ()

    def take(self, data: str) -> str:
        """Text in one chunk; everything else in it is kept."""
        try:
            chunk = json.loads(data)
            extra = chunk.get("landline") or {}
            if "expect" in extra:
                self._expect = tuple(str(name) for name in extra["expect"])
            choices = chunk.get("choices") or []
            delta: dict[str, Any] = choices[0].get("delta") or {} if choices else {}
            for call in delta.get("tool_calls") or []:
                self._add_call(call)
            return str(delta.get("content") or "")
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise LlmUnavailableError(f"broken chunk {data[:100]!r}") from error

    def done(self) -> Done:
        calls = tuple(
            ToolCall(
                id=call["id"] or f"call_{index}", name=call["name"], arguments=call["arguments"]
            )
            for index, call in sorted(self._calls.items())
        )
        return Done(calls, self._expect)

    def _add_call(self, call: dict[str, Any]) -> None:
        known = self._calls.setdefault(
            int(call.get("index", 0)), {"id": "", "name": "", "arguments": ""}
        )
        function = call.get("function") or {}
        known["id"] = call.get("id") or known["id"]
        known["name"] += function.get("name") or ""
        known["arguments"] += function.get("arguments") or ""


def _ssl_context(tls: TlsConfig | None) -> ssl.SSLContext | bool:
    if tls is None:
        return True
    context = ssl.create_default_context(cafile=str(tls.ca_file))
    context.load_cert_chain(str(tls.cert_file), str(tls.key_file))
    return context
