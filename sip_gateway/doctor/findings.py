"""What a check found: an answer, its evidence, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    PASS = "pass"
    WARN = "warn"  # it works, and something about it will trouble calls
    FAIL = "fail"
    SKIP = "skip"  # it could not be tried; `why` says what was missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report. `evidence` is what was seen; `why` and `remedy` explain the rest."""

    check: str
    status: Status
    evidence: str = ""
    why: str = ""
    remedy: str = ""


def passed(check: str, evidence: str) -> Finding:
    return Finding(check=check, status=Status.PASS, evidence=evidence)


def warned(check: str, evidence: str, *, why: str, remedy: str) -> Finding:
    return Finding(check=check, status=Status.WARN, evidence=evidence, why=why, remedy=remedy)


def failed(check: str, evidence: str, *, why: str, remedy: str) -> Finding:
    return Finding(check=check, status=Status.FAIL, evidence=evidence, why=why, remedy=remedy)


def skipped(check: str, why: str, *, remedy: str = "") -> Finding:
    return Finding(check=check, status=Status.SKIP, why=why, remedy=remedy)


def worst(findings: list[Finding]) -> Status:
    """What the whole report amounts to."""
    order = (Status.FAIL, Status.WARN, Status.PASS)
    found = {finding.status for finding in findings}
    return next((status for status in order if status in found), Status.SKIP)
