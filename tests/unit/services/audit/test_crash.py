"""The power goes at every single step of sealing, rotating, retiring and signing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.audit import keys, segments
from services.audit.check import Check
from services.audit.journal import Journal
from services.audit.layout import AuditFolder
from services.audit.records import Event
from services.audit.report import Evidence
from services.audit.sealer import Sealer
from services.common.clock import ManualClock

_STEPS = (
    ("os.write", os.write),
    ("os.fsync", os.fsync),
    ("os.ftruncate", os.ftruncate),
    ("pathlib.Path.replace", Path.replace),
    ("pathlib.Path.rename", Path.rename),
    ("pathlib.Path.unlink", Path.unlink),
    ("pathlib.Path.mkdir", Path.mkdir),
)


class PowerCutError(BaseException):
    """Nothing more happens in this process."""


def work(folder: AuditFolder, number: int) -> None:
    """What the service does in an epoch that ends with a full file and retires another."""
    clock = ManualClock()
    sealer = Sealer(folder.keys, "w", clock)
    journal = Journal(folder.journal, writer="w", clock=clock, sealer=sealer, segment_bytes=1)
    try:
        log = folder.open_log("landline.local/test")
        event = Event(type="call_started", time_unix_ms=1, fields={"number": number})
        journal.append([event])
        journal.seal()
        journal.rotate()
        journal.retire(2**52)
        log.update(journal.sync())
    finally:
        journal.close()


def check(folder: AuditFolder) -> list[Any]:
    evidence = Evidence(
        journals=[folder.journal],
        log=folder.log,
        log_key=folder.verifier,
        seal_key=folder.seal_key,
        verification_keys=keys.load_verification_keys([folder.verification_key]),
    )
    return Check(evidence).run().findings


def dying(after: list[int], step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, done as long as there is power."""

    def do(*arguments: Any, **options: Any) -> Any:
        if after[0] == 0:
            raise PowerCutError
        after[0] -= 1
        return step(*arguments, **options)

    return do


@pytest.mark.parametrize("epochs", [0, 3], ids=["the first start", "a later epoch"])
def test_whenever_the_power_goes_the_next_start_goes_on_and_all_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    steps = 0
    while True:
        folder = AuditFolder(tmp_path / f"after-{steps}")
        for number in range(epochs):
            work(folder, number)
        after = [steps]
        with monkeypatch.context() as patch:
            for name, step in _STEPS:
                patch.setattr(name, dying(after, step))
            try:
                work(folder, 97)
            except PowerCutError:
                died = True
            else:
                died = False
        for number in (98, 99):
            work(folder, number)
        assert check(folder) == [], f"after {steps} steps"
        assert segments.closed(folder.journal)
        if not died:
            break
        steps += 1
    assert steps > 30
