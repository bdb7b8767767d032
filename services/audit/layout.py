"""Where everything of an audit folder lies, and how its parts are opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit import keys
from services.audit.log import MerkleLog
from services.audit.notes import verifier_of
from services.audit.segments import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LIVE = "journal.jsonl"


@dataclass(frozen=True, slots=True)
class AuditFolder:
    """data_dir/audit of one writer."""

    path: Path

    @property
    def journal(self) -> Path:
        return self.path / LIVE

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def seal_key(self) -> Path:
        return self.keys / "seal.key"

    @property
    def verification_key(self) -> Path:
        return self.keys / "verification.key"

    @property
    def signing_key(self) -> Path:
        return self.keys / "log.key"

    @property
    def verifier(self) -> Path:
        """The log's public key; it may be read by everybody."""
        return self.log / "log.pub"

    def load_signing_key(self, origin: str) -> Ed25519PrivateKey:
        """The key that signs checkpoints; made when the log has none yet."""
        if self.signing_key.exists():
            return keys.load_signing_key(self.signing_key)
        if self.verifier.exists():
            raise keys.KeyFileError(
                f"{self.signing_key} is missing, but the log has been signed before; begin a new "
                "series with landline audit keys rotate"
            )
        key = Ed25519PrivateKey.generate()
        keys.save_signing_key(self.signing_key, key)
        self.publish(origin, key)
        return key

    def publish(self, origin: str, key: Ed25519PrivateKey) -> None:
        """Write the public key beside the log."""
        self.log.mkdir(parents=True, exist_ok=True)
        write_whole(self.verifier, f"{verifier_of(origin, key)}\n".encode())

    def open_log(self, origin: str, also: Sequence[Path] = ()) -> MerkleLog:
        """The log over this writer's journal and those in the other folders."""
        journals = [self.journal, *(folder / LIVE for folder in also)]
        key = self.load_signing_key(origin)
        log = MerkleLog(self.log, origin=origin, key=key, journals=journals)
        wanted = f"{verifier_of(origin, key)}\n".encode()
        if not self.verifier.exists() or self.verifier.read_bytes() != wanted:
            self.publish(origin, key)  # a crash came between the key and this
        return log
