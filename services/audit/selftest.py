"""Attacks a copy of a log in every way that is claimed to be found, and tells what was found."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.audit import attacks, keys, reader
from services.audit.check import Check
from services.audit.journal import Journal
from services.audit.layout import AuditFolder
from services.audit.notes import VerifierKey, parse_verifier_key
from services.audit.records import Event
from services.audit.report import Evidence, Kind, Report
from services.audit.sealer import Sealer
from services.audit.verify_evidence import EvidenceFailedError
from services.common.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.audit.attacks import Attack
    from services.audit.report import Witnessed
    from services.audit.seals import VerificationKeys

_SAMPLE = 400
_EPOCHS = 6
_ORIGIN = "landline.local/selftest"
NOT_TRIED = (
    "reviving an erased personal key and planting spoken card numbers or secrets, "
    "for there is no vault and no redaction yet"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One attack. `expected` is False for what is said to be beyond detection."""

    name: str
    expected: bool
    detected: bool
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All attacks. `classes` counts those that must be found."""

    classes: int
    detected: int
    untouched_passes: bool
    passed: bool
    attacks: list[Outcome]
    not_tried: str = NOT_TRIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What honest people keep on other machines."""

    verifier: VerifierKey
    verification_keys: VerificationKeys
    witness: Witnessed


def run(sample: Path | None = None) -> Result:
    """Attack a log made of the events of `sample`, or of invented ones; the sample is only read."""
    with tempfile.TemporaryDirectory(prefix="landline-selftest-") as name:
        root = Path(name)
        outside = build(root / "now", root / "earlier", _events(sample))
        untouched = _look(root / "now", outside, with_witness=True)
        outcomes = [_try(attack, root, outside) for attack in attacks.ALL]
    wanted = [item for item in outcomes if item.expected]
    detected = sum(item.detected for item in wanted)
    honest = not any(item.detected for item in outcomes if not item.expected)
    return Result(
        classes=len(wanted),
        detected=detected,
        untouched_passes=untouched.ok,
        passed=untouched.ok and detected == len(wanted) and honest,
        attacks=outcomes,
    )


def build(now: Path, earlier: Path, events: Sequence[Event]) -> Outside:
    """A log of two writers in several epochs and files, and a copy of it as it was before."""
    clock = ManualClock()
    first, second = AuditFolder(now / "first"), AuditFolder(now / "second")
    share = max(1, len(events) // _EPOCHS)
    size = max(2_000, sum(len(str(event.fields)) + 350 for event in events[:share]))
    journals = [
        Journal(
            folder.journal,
            writer=writer,
            clock=clock,
            fsync=False,
            sealer=Sealer(folder.keys, writer, clock),
            segment_bytes=size,
        )
        for folder, writer in ((first, "first"), (second, "second"))
    ]
    log = first.open_log(_ORIGIN, [second.path])
    outside_keys = keys.load_verification_keys([first.verification_key, second.verification_key])
    checkpoint = log.update()
    for epoch in range(_EPOCHS):
        if epoch == _EPOCHS - 2:
            shutil.copytree(now, earlier)
        part = events[epoch * share : (epoch + 1) * share]
        for journal in journals:
            journal.append(part)
            journal.seal()
            journal.rotate()
        clock.advance(60_000)
        checkpoint = log.update()
    for journal in journals:
        journal.append(events[-5:])
    checkpoint = log.update()
    for journal in journals:
        journal.close()
    return Outside(
        verifier=parse_verifier_key(first.verifier.read_text()),
        verification_keys=outside_keys,
        witness=attacks.seen(checkpoint),
    )


def _try(attack: Attack, root: Path, outside: Outside) -> Outcome:
    """Attack a fresh copy and look at it as an auditor would."""
    with tempfile.TemporaryDirectory(dir=root) as name:
        copy = Path(name) / "copy"
        shutil.copytree(root / "now", copy)
        try:
            attack.do(attacks.Site(copy, root / "earlier", _ORIGIN))
        except EvidenceFailedError as error:
            return Outcome(name=attack.name, expected=True, detected=True, by=str(error))
        report = _look(copy, outside, with_witness=attack.witness)
    found = [item for item in report.findings if item.kind is Kind.TAMPERED]
    by = found[0].what if found else attack.why_hidden or "nothing was found"
    return Outcome(name=attack.name, expected=not attack.why_hidden, detected=bool(found), by=by)


def _look(root: Path, outside: Outside, *, with_witness: bool) -> Report:
    first, second = AuditFolder(root / "first"), AuditFolder(root / "second")
    evidence = Evidence(
        journals=[first.journal, second.journal],
        log=first.log,
        log_key=first.verifier,
        verifier=outside.verifier,
        seal_key=first.seal_key,
        verification_keys=outside.verification_keys,
        witnesses=[outside.witness] if with_witness else [],
    )
    return Check(evidence).run()


def _events(sample: Path | None) -> list[Event]:
    """The last events of a journal, or some of an invented call."""
    found: list[Event] = []
    if sample is not None:
        found = list(reader.events(sample))[-_SAMPLE:]
    wanted = [event for event in found if event.call_id]
    return wanted if len(wanted) >= _EPOCHS * 4 else invented()


def invented() -> list[Event]:
    """Events as calls leave them."""
    made = []
    for number in range(60):
        call_id = f"selftest-{number // 6}"
        fields: dict[str, object] = {"text": f"I said {number}", "confidence": 0.75, "turn": number}
        kind = {0: "call_started", 5: "call_ended"}.get(number % 6, "caller_said")
        made.append(
            Event(type=kind, time_unix_ms=1_700_000_000_000, call_id=call_id, fields=fields)
        )
    return made
