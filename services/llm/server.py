"""The chat service over HTTP: OpenAI's endpoints, server-sent events, mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import uuid
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from services.common.addresses import HostPort, is_private
from services.common.errors import ConfigError
from services.common.metrics import Counter
from services.llm import wire
from services.llm.engine import Finished, Text, ToolCall
from services.llm.service import BusyError, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from services.common.clock import Clock
    from services.common.config import TlsConfig
    from services.llm.config import LlmServerConfig
    from services.llm.service import ChatService

_REQUESTS = Counter("landline_llm_requests", "HTTP requests by status", ["status"])
_STOP_GRACE_S = 1
_log = structlog.get_logger()


class ChatEndpoints:
    """The HTTP endpoints. Every error has OpenAI's form."""

    def __init__(self, service: ChatService, config: LlmServerConfig, clock: Clock) -> None:
        self._service = service
        self._config = config
        self._clock = clock

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
            ],
            exception_handlers={
                wire.RequestError: _refused,
                HTTPException: _http_error,
                Exception: _internal_error,
            },
        )

    async def _chat(self, request: Request) -> Response:
        try:
            body = await self._body(request)
        except ClientDisconnect:
            _REQUESTS.labels(status="abandoned").inc()
            return Response(status_code=400)
        parsed = wire.parse(body)
        try:
            self._service.check(parsed.chat)
        except UnknownModelError as error:
            raise wire.RequestError(
                404, str(error), param="model", code="model_not_found"
            ) from error
        except BusyError as error:
            raise wire.RequestError(429, str(error), code="rate_limit_exceeded") from error
        _REQUESTS.labels(status=200).inc()
        envelope = wire.Envelope(
            id=f"chatcmpl-{uuid.uuid4().hex}",
            created_s=self._clock.wall_ms() // 1000,
            model=parsed.chat.model,
        )
        if parsed.stream:
            return StreamingResponse(self._stream(parsed, envelope), media_type="text/event-stream")
        return JSONResponse(await self._whole(parsed, envelope))

    async def _body(self, request: Request) -> bytes:
        limit = self._config.max_body_bytes
        body = bytearray()
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                async for part in request.stream():
                    body += part
                    if len(body) > limit:
                        raise wire.RequestError(413, f"the body is larger than {limit} bytes")
        except TimeoutError:
            raise wire.RequestError(408, "the body did not arrive in time") from None
        return bytes(body)

    async def _stream(self, parsed: wire.Parsed, envelope: wire.Envelope) -> AsyncIterator[bytes]:
        yield wire.sse(envelope.chunk({"role": "assistant", "content": ""}))
        calls = 0
        try:
            async with aclosing(self._service.chat(parsed.chat)) as pieces:
                async for piece in pieces:
                    match piece:
                        case Text(text):
                            yield wire.sse(envelope.chunk({"content": text}))
                        case ToolCall():
                            for delta in wire.tool_call_deltas(calls, piece):
                                yield wire.sse(envelope.chunk(delta))
                            calls += 1
                        case Finished():
                            yield wire.sse(envelope.last_chunk(piece))
                            if parsed.include_usage:
                                yield wire.sse(envelope.usage_chunk(piece))
        except Exception as error:
            # The status line is out already: the error goes into the stream.
            _log.exception("answer_failed", reason=repr(error))
            yield wire.sse(wire.RequestError(500, "the answer failed").body())
            return
        yield wire.SSE_DONE

    async def _whole(self, parsed: wire.Parsed, envelope: wire.Envelope) -> dict[str, Any]:
        text, calls = "", list[ToolCall]()
        async with aclosing(self._service.chat(parsed.chat)) as pieces:
            async for piece in pieces:
                match piece:
                    case Text(more):
                        text += more
                    case ToolCall():
                        calls.append(piece)
                    case Finished():
                        return envelope.completion(text, calls, piece)
        raise wire.RequestError(500, "the engine did not finish its answer")

    async def _models(self, _request: Request) -> Response:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "landline"}
            for name in self._service.models
        ]
        return JSONResponse({"object": "list", "data": data})

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})


def _refused(_request: Request, error: Exception) -> Response:
    refused = error if isinstance(error, wire.RequestError) else wire.RequestError(500, str(error))
    _REQUESTS.labels(status=refused.status).inc()
    return JSONResponse(refused.body(), refused.status)


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"{request.method} {request.url.path}: no such endpoint"
    return _refused(request, wire.RequestError(status, message))


def _internal_error(request: Request, error: Exception) -> Response:
    _log.error("request_failed", path=request.url.path, reason=repr(error))
    return _refused(request, wire.RequestError(500, "the request failed; see the server's log"))


class HttpServer:
    """A started server; `address` is the real one when port 0 was asked for."""

    def __init__(self, server: uvicorn.Server, serving: asyncio.Task[None], at: HostPort) -> None:
        self._server = server
        self._serving = serving
        self.address = at

    async def stop(self) -> None:
        """Finish running answers for a moment, then close."""
        self._server.should_exit = True
        await self._serving


async def start_http(app: Starlette, listen: HostPort, tls: TlsConfig | None) -> HttpServer:
    """Serve on `listen`; without TLS on loopback only. ConfigError when that cannot be."""
    listening = _bind(listen, tls)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_STOP_GRACE_S,
        server_header=False,
        **_ssl_options(tls),
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.005)
        if serving.done():
            listening.close()
            raise ConfigError(f"cannot serve on {listen}") from serving.exception()
    host, port = listening.getsockname()[:2]
    return HttpServer(server, serving, HostPort(host, port))


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals belong to the process, which tells the server when to stop."""
        yield


def _bind(listen: HostPort, tls: TlsConfig | None) -> socket.socket:
    if tls is None and not _is_loopback(listen.host):
        raise ConfigError(
            f"refusing to serve {listen} in plain text: add a [tls] section, or listen on 127.0.0.1"
        )
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Restarting on the same port must not wait for connections in TIME_WAIT.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((listen.host, listen.port))
        listening.listen(256)
    except OSError as error:
        listening.close()
        raise ConfigError(f"cannot listen on {listen}: {error.strerror}") from error
    return listening


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (host.startswith(("127.", "::1")) and is_private(host))


def _ssl_options(tls: TlsConfig | None) -> dict[str, Any]:
    if tls is None:
        return {}
    return {
        "ssl_keyfile": str(tls.key_file),
        "ssl_certfile": str(tls.cert_file),
        "ssl_ca_certs": str(tls.ca_file),
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }
