"""Key files: private to their owner, written whole or not at all, and refused when others can read
them.

    seal.key           the key of the running epoch; replaced at each seal
    verification.key   the first keys of the seals: move it to another machine
    log.key            the Ed25519 key that signs checkpoints
    log.pub            its public part, as a verifier key of C2SP signed notes
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.audit.seals import KEY_BYTES, SealKey
from services.audit.segments import write_whole
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from services.audit.seals import VerificationKeys


class KeyFileError(LandlineError):
    """A key file that must not be used; the message says what to do."""


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read; whole or not at all, and on disk afterwards."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, data, mode=0o600)


def read_private(path: Path) -> bytes:
    """Read a key file; KeyFileError when it cannot be read or others can."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & 0o077:
                raise KeyFileError(
                    f"{path} can be read by others (mode {found.st_mode & 0o777:03o}), who may "
                    "have copied it: chmod 600 it, then landline audit keys rotate"
                )
            return file.read()
    except OSError as error:
        raise KeyFileError(f"cannot read {path}: {error.strerror}") from error


def erase(path: Path) -> None:
    """Overwrite and remove a key file.

    A journalling file system or a flash disk may keep a copy all the same.
    """
    with path.open("r+b", buffering=0) as file:
        file.write(os.urandom(os.fstat(file.fileno()).st_size))
        os.fsync(file.fileno())
    path.unlink()


def overwrite(path: Path, data: bytes) -> None:
    """Replace a key, erasing the old one first."""
    if path.exists():
        erase(path)
    write_private(path, data)


def load_seal_key(path: Path) -> SealKey:
    """The key of the running epoch."""
    try:
        data = json.loads(read_private(path))
        key = SealKey(int(data["epoch"]), bytes.fromhex(data["key"]))
    except (ValueError, KeyError, TypeError) as error:
        raise KeyFileError(f"{path} holds no seal key") from error
    if len(key.key) != KEY_BYTES or key.epoch < 0:
        raise KeyFileError(f"{path} holds no seal key")
    return key


def save_seal_key(path: Path, key: SealKey) -> None:
    """Replace the key. The old file stays whole until the new one is there: a crash loses none."""
    data = {"epoch": key.epoch, "key": key.key.hex()}
    write_private(path, json.dumps(data).encode() + b"\n")


def add_verification_key(path: Path, writer: str, key: SealKey) -> None:
    """Add the first key of a series to the file, which is made if it has been moved away."""
    before = path.read_bytes() if path.exists() else b""
    line = {"writer": writer, "epoch": key.epoch, "key": key.key.hex()}
    write_private(path, before + json.dumps(line).encode() + b"\n")


def load_verification_keys(paths: Iterable[Path]) -> VerificationKeys:
    """The first keys of all series, by writer and the epoch they begin with."""
    keys: dict[str, dict[int, SealKey]] = {}
    for path in paths:
        for line in read_private(path).splitlines():
            try:
                data = json.loads(line)
                key = SealKey(int(data["epoch"]), bytes.fromhex(data["key"]))
                keys.setdefault(str(data["writer"]), {})[key.epoch] = key
            except (ValueError, KeyError, TypeError) as error:
                raise KeyFileError(f"{path} holds no verification keys") from error
    return keys


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 key in PEM (PKCS #8)."""
    try:
        key = serialization.load_pem_private_key(read_private(path), None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} holds no Ed25519 key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} holds another kind of key than Ed25519")
    return key


def save_signing_key(path: Path, key: Ed25519PrivateKey) -> None:
    overwrite(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
