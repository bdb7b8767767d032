"""Starts a gRPC server with health service and mutual TLS, and opens channels the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from services.common.addresses import HostPort, is_private, require_private
from services.common.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.common.config import TlsConfig

# A dead peer is noticed within seconds, and a live stream is never cut for being quiet.
_KEEPALIVE = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.enable_http_proxy", 0),
)
# Two processes must never share a port unknowingly, and a restarted peer is found again at once.
# Beyond a thousand requests that wait at once gRPC cancels some at random if not told otherwise.
_SERVER_OPTIONS = (
    *_KEEPALIVE,
    ("grpc.so_reuseport", 0),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
)
_CHANNEL_OPTIONS = (
    *_KEEPALIVE,
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


class GrpcServer:
    """A started `grpc.aio` server. `port` is the real one when port 0 was asked for."""

    def __init__(
        self, server: grpc.aio.Server, health: health_aio.HealthServicer, port: int
    ) -> None:
        self._server = server
        self._health = health
        self.port = port

    async def set_serving(self, serving: bool) -> None:
        """What the standard health service answers (grpc.health.v1)."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else (health_pb2.HealthCheckResponse.NOT_SERVING)
        )
        await self._health.set("", status)

    async def stop(self, grace_s: float = 1.0) -> None:
        """Refuse new calls, give running ones `grace_s` seconds, then end them."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)


async def start_server(
    listen: HostPort, tls: TlsConfig | None, add_services: Callable[[grpc.aio.Server], None]
) -> GrpcServer:
    """Serve on `listen`; without TLS on loopback only. ConfigError when the port is taken."""
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    add_services(server)
    try:
        if tls is None:
            _require_loopback(listen)
            port = server.add_insecure_port(str(listen))
        else:
            port = server.add_secure_port(str(listen), _server_credentials(tls))
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {listen}: is the port taken?") from error
    await server.start()
    started = GrpcServer(server, health, port)
    await started.set_serving(True)
    return started


def open_channel(address: HostPort, tls: TlsConfig | None, purpose: str) -> grpc.aio.Channel:
    """A channel to a peer inside the owner's network; PublicAddressError for any other."""
    require_private(address, purpose)
    if tls is None:
        return grpc.aio.insecure_channel(str(address), options=_CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=tls.ca_file.read_bytes(),
        private_key=tls.key_file.read_bytes(),
        certificate_chain=tls.cert_file.read_bytes(),
    )
    return grpc.aio.secure_channel(str(address), credentials, options=_CHANNEL_OPTIONS)


def _server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.key_file.read_bytes(), tls.cert_file.read_bytes())],
        root_certificates=tls.ca_file.read_bytes(),
        require_client_auth=True,
    )


def _require_loopback(listen: HostPort) -> None:
    loopback = listen.host == "localhost" or (
        is_private(listen.host) and listen.host.startswith(("127.", "::1"))
    )
    if not loopback:
        raise ConfigError(
            f"refusing to serve {listen} in plain text: add a [tls] section, or listen on 127.0.0.1"
        )
