"""What a check of the evidence is given, what it finds, and what no such check can find."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from services.audit.log import LogError, read_state
from services.audit.segments import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from services.audit.notes import Checkpoint, VerifierKey
    from services.audit.seals import VerificationKeys

STATE_VERSION = 1


class Kind(StrEnum):
    """How bad a finding is."""

    TAMPERED = "tampered"
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be. `line` counts from 1."""

    kind: Kind
    where: str
    what: str
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessed:
    """A checkpoint that somebody else has kept: a witness's state or a printed root."""

    where: str
    size: int
    root: bytes | None = None
    short: str = ""
    origin: str = ""

    def agrees(self, checkpoint: Checkpoint) -> bool:
        if self.root is not None:
            return self.root == checkpoint.root
        return self.short == checkpoint.short()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What there is to check, and what the checker brings along.

    `journals` are live files; `log` is the log's folder, None to leave it out; `seal_key` the key
    file of the running epoch, None where it cannot be seen. `verifier` is the log's verifier key
    from somewhere else; without it the one beside the log is believed. `key_here` is the seals'
    verification key where it has not been moved to another machine.
    """

    journals: Sequence[Path]
    log: Path | None = None
    log_key: Path | None = None
    verifier: VerifierKey | None = None
    seal_key: Path | None = None
    verification_keys: VerificationKeys = field(default_factory=dict)
    key_here: Path | None = None
    witnesses: Sequence[Witnessed] = ()


@dataclass(slots=True, kw_only=True)
class Report:
    """What the check found, and what it could not have found."""

    findings: list[Finding] = field(default_factory=list)
    journals: list[dict[str, Any]] = field(default_factory=list)
    records: int = 0
    records_checked: int = 0
    seals_checked: int = 0
    seals_unchecked: int = 0
    checkpoint: Checkpoint | None = None
    leaves_checked: int = 0
    witnesses: int = 0
    not_under_checkpoint: int = 0
    cannot_detect: list[str] = field(default_factory=list)

    @property
    def tampered(self) -> bool:
        return any(item.kind is Kind.TAMPERED for item in self.findings)

    @property
    def ok(self) -> bool:
        """Nothing worse than a warning."""
        return all(item.kind is Kind.WARNING for item in self.findings)

    def add(self, kind: Kind, where: object, what: str, line: int | None = None) -> None:
        self.findings.append(Finding(kind=kind, where=str(where), what=what, line=line))


def cannot_detect(evidence: Evidence, report: Report) -> list[str]:
    """What no check of this kind, or this one with what it was given, can find."""
    limits = []
    if not report.witnesses:
        limits.append(
            "A rollback: journal, log and keys put back together to an earlier state look sound. "
            "Only a witness on another machine or a printed root shows it; none was given."
        )
    else:
        limits.append(
            "A rollback to a state after the newest checkpoint that the witness or the print holds."
        )
    limits.append(
        "Changes to what is neither sealed nor under a checkpoint, by whoever can stop the writing "
        "process and write its files: no key is needed for that."
    )
    if report.seals_checked:
        limits.append(
            "Changes after the last seal by whoever has stolen the keys: seals protect what was "
            "sealed before the theft."
        )
    else:
        limits.append(
            "Changes by whoever can write all files and holds the log's signing key: no seal was "
            "checked, because no verification key was given or none of its epochs has ended."
        )
    if any(journal["first"] for journal in report.journals):
        limits.append(
            "Whether the oldest records were retired or taken away: whoever has stolen the keys "
            "can write the record that says so."
        )
    if evidence.log is not None and evidence.verifier is None:
        limits.append(
            "A log signed anew with another key: the verifier key was taken from beside the log. "
            "Give the one you have noted elsewhere."
        )
    limits.append(
        "A lying writer: what the writing process itself records wrongly or leaves out is sealed "
        "and logged like the truth."
    )
    return limits


def load_check_state(path: Path) -> dict[str, Any] | None:
    """The state of an earlier check; None when there was none. LogError when it is damaged."""
    if not path.exists():
        return None
    state = read_state(path)
    if state.get("version") != STATE_VERSION:
        raise LogError(f"{path} is of another version: remove it and verify the whole")
    return state


def save_check_state(path: Path, state: Mapping[str, Any]) -> None:
    """Keep the state of a check that found nothing."""
    write_whole(path, json.dumps(state).encode(), 0o600)
