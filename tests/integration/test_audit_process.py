"""The audit service as a process of its own: killed while it writes, and started again."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
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


async def test_two_thousand_requests_at_once_are_all_answered(tmp_path: Path) -> None:
    async with running("audit", tmp_path, toml(tmp_path)) as service:
        async with grpc.aio.insecure_channel(str(service.address)) as channel:
            stub = audit_pb2_grpc.AuditStub(channel)
            requests = [
                audit_pb2.RecordRequest(events=[event("caller_said", turn=number)])
                for number in range(2_000)
            ]
            answers = await asyncio.gather(*(stub.Record(item, timeout=30) for item in requests))
        assert len({answer.last_sequence for answer in answers}) == 2_000
        assert await service.stop() == 0
    assert verify_file(journal(tmp_path)).ok


async def test_a_batch_sent_again_also_after_a_restart_is_recorded_once(tmp_path: Path) -> None:
    sent = event("caller_said", text="once")
    sent.id = "a-1"
    for _ in range(2):
        async with running("audit", tmp_path, toml(tmp_path)) as service:
            await record(service.address, sent)
            await record(service.address, sent)
            assert await service.stop() == 0
    texts = [item for item in reader.events(journal(tmp_path)) if item.type == "caller_said"]
    assert len(texts) == 1


async def test_without_room_health_says_so_and_the_answer_says_why(tmp_path: Path) -> None:
    full = ("audit.max_mb=1",)
    async with running("audit", tmp_path, toml(tmp_path), overrides=full) as service:
        async with grpc.aio.insecure_channel(str(service.address)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest()
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
            await record(service.address, event("caller_said", text="x" * 1_100_000))
            async with asyncio.timeout(10):
                while (  # noqa: ASYNC110
                    await health.Check(request)
                ).status == health_pb2.HealthCheckResponse.SERVING:
                    await asyncio.sleep(0.05)
        with pytest.raises(grpc.RpcError) as refused:
            await record(service.address, event("caller_said"))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "audit.max_mb" in str(refused.value.details())
        assert await service.stop() == 0
    assert verify_file(journal(tmp_path)).ok


async def landline(folder: Path, *arguments: str, expect: int = 0) -> str:
    """A command of the guide for compliance officers, run beside audit.toml."""
    (folder / "landline.toml").write_text(toml(folder))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.cli", "audit", *arguments),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COLUMNS": "200"},
    )
    output, _ = await process.communicate()
    assert process.returncode == expect, output.decode()
    return output.decode()


async def test_the_commands_of_the_guide(tmp_path: Path) -> None:
    settings = ("audit.epoch_s=0.5", "landline.region=north")
    async with running("audit", tmp_path, toml(tmp_path), overrides=settings) as service:
        await record(service.address, event("call_started"), event("call_ended"))
        await asyncio.sleep(1.2)
        assert await service.stop() == 0
    shown = await landline(tmp_path, "verify")
    for words in ("unbroken", "checked, 0 without a key", "landline.local/north", "cannot find"):
        assert words in shown
    assert "still lies on this machine" in await landline(tmp_path, "keys", "show")

    log = str(tmp_path / "data/audit/log")
    witnessing = ("witness", log, "--state", "state.json", "--key", "witness.key")
    assert "seen for the first time" in await landline(tmp_path, *witnessing)
    assert "goes on from what was seen" in await landline(tmp_path, *witnessing)
    seen = json.loads(await landline(tmp_path, *witnessing, "--json"))
    compare = ("verify", "--witness", "state.json", "--root", seen["root"], "--json")
    assert json.loads(await landline(tmp_path, *compare))["witnesses"] == 2

    await landline(tmp_path, "keys", "export", "away.key")
    key = ("--verification-key", "away.key", "--form", "--state", "check.json", "--json")
    report = json.loads(await landline(tmp_path, "verify", *key))
    assert (report["ok"], report["findings"], report["seals_unchecked"]) == (True, [], 0)
    assert json.loads(await landline(tmp_path, "verify", *key))["records_checked"] == 0
    assert "seals: 0 checked" in await landline(tmp_path, "verify")

    assert "2 records" in await landline(tmp_path, "evidence", "c1", "--script")
    script = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "verify_evidence.py", "c1.json"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await script.communicate()
    assert b"HOLDS: 2 records of call c1, from its start to its end" in output

    assert "new keys are in use" in await landline(tmp_path, "keys", "rotate")
    assert json.loads(await landline(tmp_path, "verify", "--json"))["ok"] is True
    result = json.loads(await landline(tmp_path, "selftest", "--json"))
    assert result["passed"] is True
    assert "Not tried here" in await landline(tmp_path, "selftest")

    seal_key = tmp_path / "data/audit/keys/seal.key"
    seal_key.chmod(0o644)
    assert "can be read by others" in await landline(tmp_path, "verify", expect=1)
    seal_key.chmod(0o600)
    path = journal(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"call_ended"', b'"call_paused"'))
    assert "BROKEN at line" in await landline(tmp_path, "verify", expect=3)
    path.write_bytes(b'{"v":3}\n')
    assert "written by a later Landline" in await landline(tmp_path, "verify", str(path), expect=1)
    assert "there is no journal" in await landline(tmp_path, "verify", "none.jsonl", expect=1)
