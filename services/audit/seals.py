"""Seals: every epoch of the journal ends with one, under a key that is then erased.

The key of the next epoch is derived from the key of this one and cannot be turned back, so that
whoever takes the machine can forge seals from now on but none of before (forward security after
Schneier and Kelsey, "Secure Audit Logs to Support Computer Forensics", 1999). Seals are checked
with the first key, the verification key, which belongs on another machine.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from services.audit import canonical

KEY_BYTES = 32
SEAL = "epoch_sealed"
ROTATED = "seal_key_rotated"


@dataclass(frozen=True, slots=True)
class SealKey:
    """The key of one epoch."""

    epoch: int
    key: bytes = field(repr=False)

    def next(self) -> SealKey:
        """The key of the epoch after; there is no way back."""
        derive = HKDFExpand(SHA256(), KEY_BYTES, b"landline audit seal ratchet")
        return SealKey(self.epoch + 1, derive.derive(self.key))

    def at(self, epoch: int) -> SealKey:
        """The key of a later epoch."""
        key = self
        while key.epoch < epoch:
            key = key.next()
        return key

    def commitment(self) -> str:
        """Says which key it is without telling it."""
        return hashlib.sha256(b"landline audit seal key\n" + self.key).hexdigest()


def new_key(epoch: int) -> SealKey:
    return SealKey(epoch, secrets.token_bytes(KEY_BYTES))


def seal_fields(
    key: SealKey, *, writer: str, count: int, head: str, started_ms: int, ended_ms: int
) -> dict[str, Any]:
    """The fields of the record that ends an epoch; times are Unix times of the writer's clock."""
    fields = {
        "epoch": key.epoch,
        "count": count,
        "head": head,
        "started_unix_ms": started_ms,
        "ended_unix_ms": ended_ms,
    }
    return {**fields, "mac": _mac(key, fields, writer)}


def retirement_fields(key: SealKey, fields: Mapping[str, Any], *, writer: str) -> dict[str, Any]:
    """The fields of a record that retires files, which nobody can write without the key."""
    signed = {**fields, "epoch": key.epoch}
    return {**signed, "mac": _mac(key, signed, writer, _RETIREMENT)}


_SEAL = b"landline audit seal\n"
_RETIREMENT = b"landline audit retirement\n"


def _mac(key: SealKey, fields: Mapping[str, Any], writer: str, purpose: bytes = _SEAL) -> str:
    body = {name: value for name, value in fields.items() if name != "mac"}
    text = purpose + canonical.dumps({**body, "writer": writer})
    return hmac.new(key.key, text, hashlib.sha256).hexdigest()


VerificationKeys: TypeAlias = Mapping[str, Mapping[int, SealKey]]


class SealCheck:
    """Follows the seals of one journal: their order always, their codes where there are keys.

    `checked` and `unchecked` count seals; `next_epoch` is the number that the next must have, None
    before the first that is seen. `keys` are the first keys of each series, by writer and epoch.
    """

    def __init__(self, keys: VerificationKeys | None = None, next_epoch: int | None = None) -> None:
        self._keys = keys or {}
        self._key: SealKey | None = None
        self.next_epoch = next_epoch
        self.checked = 0
        self.unchecked = 0
        self.clock_set_back = 0
        self.last_ended_ms = 0
        self.last_count = 0
        self._unknown_series: int | None = None

    def seal(self, fields: Mapping[str, Any], *, writer: str, count: int, head: str) -> str:
        """What is wrong with a seal that stands behind `count` records; empty when nothing is."""
        epoch, mac, ended = fields.get("epoch"), fields.get("mac"), fields.get("ended_unix_ms")
        if not isinstance(epoch, int) or not isinstance(mac, str) or not isinstance(ended, int):
            return "it is no seal"
        if self.next_epoch not in (None, epoch):
            return f"it seals epoch {epoch} where epoch {self.next_epoch} is due"
        if fields.get("count") != count or fields.get("head") != head:
            return f"the seal of epoch {epoch} was made for other records"
        key = self.key_of(writer, epoch)
        if key is None:
            self.unchecked += 1
        elif not hmac.compare_digest(_mac(key, fields, writer), mac):
            wrong = f"the seal of epoch {epoch} was not made with that epoch's key"
            if self._unknown_series is not None and epoch >= self._unknown_series:
                wrong += (
                    f"; the journal says that a new series began at epoch {self._unknown_series}: "
                    "give its verification key, too"
                )
            return wrong
        else:
            self.checked += 1
        self.clock_set_back += ended < self.last_ended_ms
        self.last_ended_ms, self.last_count = ended, count + 1
        self.next_epoch = epoch + 1
        return ""

    def retirement(self, fields: Mapping[str, Any], *, writer: str) -> str:
        """Why a record that retires files is not to be believed; empty when it is."""
        if not self._keys.get(writer):
            return ""
        epoch, mac = fields.get("epoch"), fields.get("mac")
        if not isinstance(epoch, int) or not isinstance(mac, str):
            return "it carries no code"
        if self.next_epoch not in (None, epoch):
            return f"it is of epoch {epoch} and stands in epoch {self.next_epoch}"
        key = self.key_of(writer, epoch)
        if key is not None and not hmac.compare_digest(_mac(key, fields, writer, _RETIREMENT), mac):
            return f"it was not made with the key of epoch {epoch}"
        return ""

    def rotated(self, fields: Mapping[str, Any], *, writer: str) -> str:
        """What is wrong with the record that announces a new series of keys."""
        epoch, commitment = fields.get("epoch"), fields.get("commitment")
        key = self._keys.get(writer, {}).get(epoch) if isinstance(epoch, int) else None
        if key is not None and key.commitment() != commitment:
            return f"the verification key from epoch {epoch} is another than the one announced"
        if key is None and isinstance(epoch, int):
            self._unknown_series = epoch
        self._key = None
        return ""

    def key_of(self, writer: str, epoch: int) -> SealKey | None:
        """The key of an epoch, where a verification key reaches it."""
        own = self._keys.get(writer, {})
        starts = [start for start in own if start <= epoch]
        if not starts:
            return None
        start = own[max(starts)]
        if self._key is None or not start.epoch <= self._key.epoch <= epoch:
            self._key = start
        self._key = self._key.at(epoch)
        return self._key
