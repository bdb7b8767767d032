"""Begins new series of keys, after a theft or as a habit, and puts that on record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import keys
from services.audit.chain import LOG_KEY_ROTATED
from services.audit.journal import Journal
from services.audit.log import MerkleLog
from services.audit.notes import VerifierKey, parse_verifier_key, verifier_of
from services.audit.records import Event
from services.audit.sealer import Sealer
from services.audit.seals import ROTATED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.audit.layout import AuditFolder
    from services.common.clock import Clock


def rotate(
    folder: AuditFolder, *, writer: str, origin: str, also: Sequence[Path], clock: Clock
) -> VerifierKey:
    """New keys for seals and checkpoints; the log's new verifier key.

    The audit service must not be running: JournalError. The journal says from which epoch the new
    seal key holds, and both verifier keys of the log.
    """
    journal = Journal(folder.journal, writer=writer, clock=clock)
    try:
        sealer = Sealer(folder.keys, writer, clock)
        announced = sealer.rotate(journal.next_epoch)
        old = parse_verifier_key(folder.verifier.read_text()) if folder.verifier.exists() else None
        key = Ed25519PrivateKey.generate()
        new = verifier_of(origin, key)
        now_ms = clock.wall_ms()
        fields = {"old": str(old) if old else None, "new": str(new)}
        journal.append(
            [
                Event(type=ROTATED, time_unix_ms=now_ms, fields=announced),
                Event(type=LOG_KEY_ROTATED, time_unix_ms=now_ms, fields=fields),
            ]
        )
    finally:
        journal.close()
    journals = [folder.journal, *(other / folder.journal.name for other in also)]
    log = MerkleLog(folder.log, origin=origin, key=key, journals=journals, signed_by=old)
    keys.save_signing_key(folder.signing_key, key)
    log.update()  # the next start publishes the key of a checkpoint that is there
    folder.publish(origin, key)
    return new
