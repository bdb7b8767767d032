"""Places of a service, one for each call, held by a stream that lives as long as the call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
from landline.lease.v1 import lease_pb2, lease_pb2_grpc

from services.common.metrics import Counter, Gauge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    Context = grpc.aio.ServicerContext[lease_pb2.HoldRequest, lease_pb2.Held]

_IN_USE = Gauge("landline_leases_in_use", "Calls that hold a place in this service")
_REFUSED = Counter("landline_leases_refused", "Calls for which there was no place")


class LeaseServicer(lease_pb2_grpc.LeasesServicer):
    """Gives `capacity` places; a caller whose connection breaks has given its place back."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.in_use = 0

    async def Hold(  # noqa: N802
        self, request: lease_pb2.HoldRequest, context: Context
    ) -> AsyncIterator[lease_pb2.Held]:
        if self.in_use >= self._capacity:
            _REFUSED.inc()
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"all {self._capacity} places are in use"
            )
        self.in_use += 1
        _IN_USE.set(self.in_use)
        try:
            yield lease_pb2.Held(in_use=self.in_use, capacity=self._capacity)
            await asyncio.Event().wait()
        finally:
            self.in_use -= 1
            _IN_USE.set(self.in_use)
