"""The audit service as a process of its own: killed while it writes, and started again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from landline.audit.v1 import audit_pb2, audit_pb2_grpc

from services.audit import reader
from services.audit.verify import verify_file
from services.common.addresses import HostPort
from tests.fakes.service_process import running


def toml(folder: Path) -> str:
    return f'[landline]\ndata_dir = "{folder / "data"}"\n'


def journal(folder: Path) -> Path:
    return folder / "data" / "audit" / "journal.jsonl"


def event(type_: str, **fields: Any) -> audit_pb2.Event:
    made = audit_pb2.Event(call_id="c1", type=type_, time_unix_ms=1_795_248_000_000)
    made.fields.update(fields)
    return made


async def record(address: HostPort, *events: audit_pb2.Event) -> audit_pb2.RecordResponse:
    async with grpc.aio.insecure_channel(str(address)) as channel:
        stub = audit_pb2_grpc.AuditStub(channel)
        return await stub.Record(audit_pb2.RecordRequest(events=events), timeout=5)


async def test_what_was_acknowledged_survives_a_kill_in_the_middle_of_writing(
    tmp_path: Path,
) -> None:
    acknowledged: list[int] = []

    async def write(address: HostPort, writer: int) -> None:
        async with grpc.aio.insecure_channel(str(address)) as channel:
            stub = audit_pb2_grpc.AuditStub(channel)
            for number in range(writer * 100_000, (writer + 1) * 100_000):
                request = audit_pb2.RecordRequest(events=[event("caller_said", turn=number)])
                try:
                    await stub.Record(request)
                except grpc.RpcError:
                    return
                acknowledged.append(number)

    async with running("audit", tmp_path, toml(tmp_path)) as service:
        writers = [asyncio.create_task(write(service.address, n)) for n in range(4)]
        async with asyncio.timeout(20):
            while len(acknowledged) < 200:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        service.process.kill()
        await asyncio.gather(*writers)
    async with running("audit", tmp_path, toml(tmp_path)) as service:
        await record(service.address, event("call_ended"))
        assert await service.stop() == 0
    verdict = verify_file(journal(tmp_path))
    assert verdict.ok, verdict.reason
    kept = {item.fields.get("turn") for item in reader.events(journal(tmp_path))}
    assert set(acknowledged) <= kept


async def test_a_torn_last_line_is_set_aside_and_put_on_record(tmp_path: Path) -> None:
    async with running("audit", tmp_path, toml(tmp_path)) as service:
        await record(service.address, event("caller_said", text="kept"))
        assert await service.stop() == 0
    with journal(tmp_path).open("ab") as file:
        file.write(b'{"call_id":"c1","fields":{"te')
    async with running("audit", tmp_path, toml(tmp_path)) as service:
        assert await service.stop() == 0
    assert verify_file(journal(tmp_path)).ok
    types = [item.type for item in reader.events(journal(tmp_path))]
    assert "journal_recovered" in types
    assert any(b'{"te' in path.read_bytes() for path in journal(tmp_path).parent.glob("*.torn*"))


async def start_fails(folder: Path) -> None:
    with pytest.raises((AssertionError, ValueError)):
        async with running("audit", folder, toml(folder)):
            pass


async def test_damage_and_a_second_writer_stop_the_start(tmp_path: Path) -> None:
    async with running("audit", tmp_path, toml(tmp_path)) as service:
        await record(service.address, event("caller_said", text="before"))
        await start_fails(tmp_path)
        await record(service.address, event("caller_said", text="after"))
        assert await service.stop() == 0
    path = journal(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"before", b"forged"))
    await start_fails(tmp_path)
    assert not verify_file(path).ok


async def test_an_event_that_is_no_json_is_refused_and_the_next_is_taken(tmp_path: Path) -> None:
    async with running("audit", tmp_path, toml(tmp_path)) as service:
        with pytest.raises(grpc.RpcError) as refused:
            await record(service.address, event("caller_said", confidence=float("nan")))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        answer = await record(service.address, event("caller_said", turn=2, confidence=0.5))
        assert len(answer.head) == 64
        assert await service.stop() == 0
    last = [item for item in reader.events(journal(tmp_path)) if item.call_id][-1]
    assert last.fields == {"turn": 2, "confidence": 0.5}
    assert isinstance(last.fields["turn"], int)
