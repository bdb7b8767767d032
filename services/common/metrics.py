"""Prometheus counters of this process, served on a loopback or cluster address when configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from services.common.addresses import HostPort

__all__ = ["REGISTRY", "Counter", "Gauge", "Histogram", "serve"]


def serve(address: HostPort, registry: CollectorRegistry = REGISTRY) -> int:
    """Serve /metrics on `address` from a thread of its own; returns the port."""
    server, _thread = start_http_server(address.port, addr=address.host, registry=registry)
    return int(server.server_port)
