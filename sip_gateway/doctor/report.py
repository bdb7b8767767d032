"""The examination as a person reads it and as a machine does."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.text import Text

from sip_gateway.doctor.findings import Finding, Status, worst

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sip_gateway.doctor.ladder import SipMessage

_COLOURS = {
    Status.PASS: "green",
    Status.WARN: "yellow",
    Status.FAIL: "red",
    Status.SKIP: "dim",
}


def line(finding: Finding) -> Text:
    """One check: its answer and evidence, then why and what to do."""
    text = Text.assemble(
        (f"{finding.status.value:<5}", _COLOURS[finding.status]),
        (f"{finding.check:<19}", "bold"),
        finding.evidence or finding.why,
    )
    if finding.evidence and finding.why:
        text.append(f"\n{'':24}why: {finding.why}")
    if finding.remedy:
        text.append(f"\n{'':24}do:  {finding.remedy}")
    return text


def summary(findings: Sequence[Finding]) -> Text:
    """The last line: how many of each."""
    counts = [(status, sum(f.status is status for f in findings)) for status in Status]
    words = ", ".join(f"{count} {status.value}" for status, count in counts if count)
    return Text(words, style=_COLOURS[worst(list(findings))])


def report(
    trunk: str, findings: Sequence[Finding], messages: Iterable[SipMessage]
) -> dict[str, Any]:
    """For machines; the messages are without secrets."""
    return {
        "trunk": trunk,
        "result": worst(list(findings)).value,
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "messages": [dataclasses.asdict(message) for message in messages],
    }
