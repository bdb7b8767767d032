"""Places of a service, refused when all are taken and when the service is too busy for one more."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from landline.lease.v1 import lease_pb2, lease_pb2_grpc

from services.common.leases import LeaseServicer


class Busy:
    def __init__(self) -> None:
        self.reason = ""


@pytest.fixture
def busy() -> Busy:
    return Busy()


@pytest.fixture
async def stub(busy: Busy) -> AsyncIterator[lease_pb2_grpc.LeasesStub]:
    server = grpc.aio.server()
    servicer = LeaseServicer(2, lambda: busy.reason)
    lease_pb2_grpc.add_LeasesServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield lease_pb2_grpc.LeasesStub(channel)
    await server.stop(0)


async def refusal(stub: lease_pb2_grpc.LeasesStub) -> str:
    call = stub.Hold(lease_pb2.HoldRequest())
    assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return await call.details()


async def test_a_busy_service_gives_no_place_and_keeps_those_it_gave(
    stub: lease_pb2_grpc.LeasesStub, busy: Busy
) -> None:
    first = stub.Hold(lease_pb2.HoldRequest())
    assert (await first.read()).in_use == 1
    busy.reason = "one more call would be too much"
    assert await refusal(stub) == "one more call would be too much"
    busy.reason = ""
    second = stub.Hold(lease_pb2.HoldRequest())
    assert (await second.read()).in_use == 2
    assert await refusal(stub) == "all 2 places are in use"
    assert not first.done()
