"""One call's evidence as one file: its records, each with the proof that the log contains it."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from services.audit import segments
from services.audit.log import leaf_of, read_index, runs_by_writer
from services.audit.merkle import inclusion_proof
from services.audit.notes import parse_checkpoint
from services.audit.records import RecordError, parse
from services.audit.tiles import Tiles, TreeReader
from services.audit.verify_evidence import CANNOT_SHOW, FORMAT
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class EvidenceError(LandlineError):
    """There is no evidence to give; the message says why."""


def collect(journals: Sequence[Path], log: Path, call_id: str) -> dict[str, Any]:
    """The evidence of a call, as verify_evidence.py reads it."""
    try:
        note = (log / "checkpoint").read_text(encoding="utf-8")
        key = (log / "log.pub").read_text(encoding="utf-8").strip()
    except OSError as error:
        raise EvidenceError(f"the log has no checkpoint yet: {error.strerror}") from error
    checkpoint = parse_checkpoint(note)
    runs = runs_by_writer(read_index(log, checkpoint.size))
    tree = TreeReader(Tiles(log), checkpoint.size)
    records = []
    for line in (line for live in journals for line in _lines(live, call_id)):
        record = parse(line)
        if record.version == 1:
            raise EvidenceError(
                f"call {call_id} was recorded by the first version of the journal, whose records "
                "have no place in the log; landline audit verify checks them"
            )
        leaf = leaf_of(runs, record.writer, record.sequence)
        if leaf is None:
            raise EvidenceError(
                f"record {record.sequence} of call {call_id} is not under a checkpoint yet: try "
                "again after the epoch (audit.epoch_s), or once the audit service has stopped"
            )
        proof = inclusion_proof(tree.range_hash, leaf, checkpoint.size)
        records.append(
            {
                "leaf": leaf,
                "line": line.decode().removesuffix("\n"),
                "proof": [base64.b64encode(item).decode() for item in proof],
            }
        )
    if not records:
        raise EvidenceError(f"there is no call {call_id} on record")
    return {
        "format": FORMAT,
        "call_id": call_id,
        "verifier_key": key,
        "checkpoint": note,
        "records": records,
        "cannot_show": list(CANNOT_SHOW),
    }


def _lines(live: Path, call_id: str) -> Iterator[bytes]:
    """The lines of a call, in order; a line that is being written is left out."""
    needle = b'"call_id":"%b"' % call_id.encode()
    for segment, file in segments.opened(live):
        for number, line in enumerate(file, start=1):
            if needle not in line or not line.endswith(b"\n"):
                continue
            try:
                found = parse(line).event.call_id
            except RecordError as error:
                raise EvidenceError(f"{segment.path} line {number}: {error}") from error
            if found == call_id:
                yield line
