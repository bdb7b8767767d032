from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.audit import reader, segments
from services.audit.journal import Journal, JournalError
from services.audit.records import Event
from services.audit.sealer import Sealer
from services.audit.service import AuditService, EventRefusedError, Upkeep
from services.audit.transcripts import Transcripts
from services.audit.verify import verify_file
from services.common.clock import ManualClock, SystemClock


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[AuditService]:
    journal = Journal(tmp_path / "journal.jsonl", writer="w", clock=ManualClock(), fsync=False)
    made = AuditService(journal, Transcripts(tmp_path / "transcripts"))
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    journal.close()


def event(type_: str, call_id: str = "c1", **fields: object) -> Event:
    return Event(type=type_, time_unix_ms=1_700_000_000_000, call_id=call_id, fields=fields)


async def test_requests_that_wait_together_keep_their_order_and_their_receipts(
    service: AuditService, tmp_path: Path
) -> None:
    receipts = await asyncio.gather(
        *(
            service.record([event("caller_said", text=str(n)), event("agent_said")])
            for n in range(50)
        )
    )
    assert [receipt.last_sequence for receipt in receipts] == list(range(1, 101, 2))
    verdict = verify_file(tmp_path / "journal.jsonl")
    assert verdict.ok
    assert verdict.head == receipts[-1].head


@pytest.mark.parametrize(
    "wrong",
    [
        event("Not A Type"),
        event("caller_said", call_id="../../etc/passwd"),
        event("caller_said", value=float("inf")),
        replace(event("caller_said"), time_unix_ms=2**52),
        replace(event("caller_said"), time_unix_ms=-1),
    ],
)
async def test_what_is_no_event_is_refused_and_nothing_of_it_written(
    service: AuditService, tmp_path: Path, wrong: Event
) -> None:
    with pytest.raises(EventRefusedError):
        await service.record([event("caller_said"), wrong])
    assert verify_file(tmp_path / "journal.jsonl").records == 0


async def test_a_call_gets_a_transcript_and_a_summary(
    service: AuditService, tmp_path: Path
) -> None:
    await service.record(
        [
            event("call_started", caller="alice", agent="clinic", trunk="pbx"),
            event("agent_said", text="Hello.", complete=True),
            event("caller_said", text="", rejected=True, rejected_text="a cow"),
            event("agent_said", text="Sorry, I did", complete=False),
            event("turn_measured", total_ms=400),
            event(
                "call_ended", result="completed", reason="caller_hung_up", duration_ms=9, turns=1
            ),
            event("caller_said", call_id="c2", text="other"),
        ]
    )
    text = (tmp_path / "transcripts" / "c1.txt").read_text()
    assert text.splitlines() == [
        "22:13:20  call c1 from alice on 2023-11-14",
        "22:13:20  agent:  Hello.",
        "22:13:20  caller: (not understood; best guess: a cow)",
        "22:13:20  agent:  Sorry, I did — (cut)",
        "22:13:20  ended: completed (caller_hung_up)",
    ]
    machine = (tmp_path / "transcripts" / "c1.jsonl").read_text().splitlines()
    assert json.loads(machine[1])["text"] == "Hello."
    (call,) = reader.calls(tmp_path / "journal.jsonl")
    assert (call.caller, call.result, call.turns, call.duration_ms) == ("alice", "completed", 1, 9)
    assert len(reader.events_of(tmp_path / "journal.jsonl", "c2")) == 1


async def test_what_is_sent_again_is_recorded_once_and_answered_as_before(
    service: AuditService, tmp_path: Path
) -> None:
    batch = [replace(event("caller_said", text=str(n)), id=f"a-{n}") for n in range(3)]
    first = await service.record(batch)
    again = await service.record([*batch, replace(event("agent_said"), id="a-3")])
    assert (first.last_sequence, again.last_sequence) == (2, 3)
    assert (await service.record(batch)).last_sequence == 3
    await asyncio.gather(*(service.record(batch) for _ in range(5)))
    assert verify_file(tmp_path / "journal.jsonl").records == 4
    await service.record([event("caller_said"), event("caller_said")])
    assert verify_file(tmp_path / "journal.jsonl").records == 6, "without an id all are new"


@pytest.mark.parametrize("type_", ["epoch_sealed", "segments_retired", "journal_recovered"])
async def test_only_the_journal_itself_seals_and_retires(service: AuditService, type_: str) -> None:
    with pytest.raises(EventRefusedError, match="by the journal itself only"):
        await service.record([event(type_, call_id="")])


async def test_it_stops_without_room_and_goes_on_with_it(tmp_path: Path) -> None:
    clock = ManualClock()
    journal = Journal(
        tmp_path / "journal.jsonl", writer="w", clock=clock, fsync=False, max_bytes=2_000
    )
    told: list[tuple[bool, str]] = []
    upkeep = Upkeep(
        clock=clock, epoch_ms=1e9, on_serving=lambda well, why: told.append((well, why))
    )
    service = AuditService(journal, None, upkeep)
    running = asyncio.create_task(service.run())
    await service.record([event("caller_said", text="x" * 2_000)])
    async with asyncio.timeout(10):
        while not told:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert told[0][0] is False
    assert "audit.max_mb" in told[0][1]
    with pytest.raises(JournalError, match=r"as much as audit\.max_mb allows"):
        await service.record([event("caller_said")])
    journal._max_bytes = 10_000
    await service.record([event("caller_said")])
    assert told[1:] == [(True, "")]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    journal.close()
    assert verify_file(tmp_path / "journal.jsonl").records == 2


async def test_epochs_end_in_time_also_when_nothing_happens(tmp_path: Path) -> None:
    clock = SystemClock()
    sealer = Sealer(tmp_path / "keys", "w", clock)
    journal = Journal(
        tmp_path / "journal.jsonl", writer="w", clock=clock, fsync=False, sealer=sealer
    )
    service = AuditService(journal, None, Upkeep(clock=clock, epoch_ms=50.0))
    running = asyncio.create_task(service.run())
    async with asyncio.timeout(10):
        while journal.records < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    journal.close()
    types = {item.type for item in reader.events(tmp_path / "journal.jsonl")}
    assert types == {"epoch_sealed"}


async def test_a_damaged_full_file_stops_neither_writing_nor_seals(tmp_path: Path) -> None:
    clock = ManualClock()
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, writer="w", clock=clock, fsync=False, segment_bytes=500)
    service = AuditService(journal, None, Upkeep(clock=clock, epoch_ms=1e9, retention_ms=1))
    running = asyncio.create_task(service.run())
    for _ in range(3):
        await service.record([event("caller_said", text="x" * 600)])
        journal.rotate()
    oldest = segments.closed(path)[0].path
    oldest.write_bytes(oldest.read_bytes()[:-5])
    await service.end_epoch()
    assert oldest.exists()
    assert (await service.record([event("agent_said")])).last_sequence == 3
    await service.end_epoch(last=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    journal.close()
