#!/usr/bin/env python
"""The audit: events put on record per second, and the time of a whole and of a partial check.

    scripts/bench/audit.py [--quick] [--json FILE]

Checks run on one core: every record's hash, place and JSON, every seal, the whole Merkle tree with
its tiles, and the checkpoint's signature; `with_form` adds that each line is canonical JSON. The
baseline reads each line with `json`, writes it again with `rfc8785` and hashes it: what a plain
reading of the format would do, without seals and tree.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import rfc8785
from report import arguments, percentile, publish

from services.audit import keys, selftest
from services.audit.check import Check
from services.audit.journal import Journal
from services.audit.layout import AuditFolder
from services.audit.notes import parse_verifier_key
from services.audit.records import Event
from services.audit.report import Evidence, Report
from services.audit.sealer import Sealer
from services.audit.service import AuditService
from services.common.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_ORIGIN = "landline.local/bench"
_NEW = 10_000
_TEXTS = (
    "I would like to come on Tuesday at ten",
    "yes please",
    "can you tell me what your opening hours are in December",
)


def event(number: int) -> Event:
    """What a caller said, about as long as most records are."""
    fields = {
        "text": _TEXTS[number % 3],
        "confidence": 0.5 + number % 49 / 100,
        "turn": number % 20,
        "rejected": False,
    }
    return Event(
        type="caller_said",
        time_unix_ms=1_795_248_000_000 + number,
        call_id=f"c{number // 40:07d}",
        fields=fields,
        id=f"ab12cd34-{number}",
    )


class Bench:
    """A log in a folder that grows."""

    def __init__(self, root: Path) -> None:
        self.folder = AuditFolder(root / "audit")
        clock = SystemClock()
        sealer = Sealer(self.folder.keys, "bench", clock)
        self.journal = Journal(self.folder.journal, writer="bench", clock=clock, sealer=sealer)
        self.log = self.folder.open_log(_ORIGIN)
        self.records = 0

    def grow(self, count: int) -> None:
        """Records in groups of 2,000, a seal and a checkpoint for each 20,000."""
        for start in range(self.records, self.records + count, 2_000):
            self.journal.append([event(number) for number in range(start, start + 2_000)])
            if start % 20_000 == 18_000:
                self.journal.seal()
                self.journal.rotate()
                self.log.update()
        self.records += count
        self.journal.seal()
        self.log.update()

    def evidence(self) -> Evidence:
        return Evidence(
            journals=[self.folder.journal],
            log=self.folder.log,
            log_key=self.folder.verifier,
            verifier=parse_verifier_key(self.folder.verifier.read_text()),
            seal_key=self.folder.seal_key,
            verification_keys=keys.load_verification_keys([self.folder.verification_key]),
        )

    def bytes_per_record(self) -> float:
        files = self.folder.path.glob("journal*.jsonl")
        return sum(path.stat().st_size for path in files) / self.journal.records


def timed(
    evidence: Evidence, state: Mapping[str, Any] | None = None, *, form: bool = False
) -> tuple[float, float, Check, Report]:
    """A check, with its seconds by the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    check = Check(evidence, state=state, form=form)
    report = check.run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not report.ok:
        raise SystemExit(f"the check failed: {report.findings}")
    return wall, cpu, check, report


def baseline(path: Path, count: int = 4_000) -> float:
    """Seconds for a million records, read and written plainly."""
    with path.open("rb") as file:
        lines = [line for line, _ in zip(file, range(count), strict=False)]
    started = time.perf_counter()
    for line in lines:
        record = json.loads(line)
        claimed = record.pop("~hash")
        if sha256(b"\0" + rfc8785.dumps(record)).hexdigest() != claimed:
            raise SystemExit("the baseline found a wrong hash")
    return (time.perf_counter() - started) / count * 1e6


async def events_per_second(root: Path, *, senders: int, seconds: float) -> tuple[float, float]:
    """Events acknowledged after fsync, and the median wait of one in ms; 8 events a request."""
    clock = SystemClock()
    journal = Journal(root / "journal.jsonl", writer="bench", clock=clock)
    service = AuditService(journal, None)
    running = asyncio.create_task(service.run())
    waits: list[float] = []
    ends = time.perf_counter() + seconds

    async def send(sender: int) -> None:
        number = sender * 10_000_000
        while (started := time.perf_counter()) < ends:
            await service.record([event(number + offset) for offset in range(8)])
            waits.append((time.perf_counter() - started) * 1000)
            number += 8

    started = time.perf_counter()
    await asyncio.gather(*(send(sender) for sender in range(senders)))
    took = time.perf_counter() - started
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    journal.close()
    return len(waits) * 8 / took, percentile(waits, 50) or 0.0


def main() -> None:
    options = arguments(__doc__ or "")
    count, rounds = (200_000, 3) if options.quick else (1_000_000, 3)
    with tempfile.TemporaryDirectory(prefix="landline-bench-") as name:
        root = Path(name)
        (root / "events").mkdir()
        rate, wait = asyncio.run(events_per_second(root / "events", senders=200, seconds=5.0))
        (root / "one").mkdir()
        alone, alone_ms = asyncio.run(events_per_second(root / "one", senders=1, seconds=2.0))
        bench = Bench(root)
        started = time.perf_counter()
        bench.grow(count)
        grow_s = time.perf_counter() - started
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        runs = [timed(bench.evidence()) for _ in range(rounds)]
        after_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        form_wall, _, _, _ = timed(bench.evidence(), form=True)
        wall, cpu, check, report = min(runs, key=lambda run: run[0])
        state = json.loads(json.dumps(check.state()))
        plain = baseline(next(iter(sorted(bench.folder.path.glob("journal*.jsonl")))))
        bench.grow(_NEW)
        new_wall, _, _, new = timed(bench.evidence(), state)
        length = bench.bytes_per_record()
        bench.journal.close()
        result = selftest.run()
    scale = 1e6 / report.records_checked
    publish(
        {
            "peer": "json + rfc8785 + sha256 for each line, no seals, no tree",
            "records": report.records_checked,
            "bytes_per_record": round(length),
            "events_per_second": round(rate),
            "event_wait_p50_ms": wait,
            "events_per_second_one_sender": round(alone),
            "event_wait_one_sender_p50_ms": alone_ms,
            "records_per_second_with_log": round(count / grow_s),
            "verify_seconds_per_million": round(wall * scale, 2),
            "verify_cpu_seconds_per_million": round(cpu * scale, 2),
            "verify_with_form_seconds_per_million": round(form_wall * scale, 2),
            "verify_memory_growth_mb": round(after_mb - before_mb, 1),
            "incremental_records": new.records_checked,
            "incremental_seconds": round(new_wall, 3),
            "incremental_seconds_per_million": round(new_wall / new.records_checked * 1e6, 2),
            "peer_seconds_per_million": round(plain, 2),
            "ratio_to_peer": round(wall * scale / plain, 3),
            "selftest_detected": result.detected,
            "selftest_classes": result.classes,
        },
        options.json,
    )


if __name__ == "__main__":
    main()
