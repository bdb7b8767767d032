"""Signed notes, checkpoints and cosignatures as C2SP defines them.

https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.common.errors import LandlineError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ED25519 = b"\x01"
_COSIGNATURE = b"\x04"
_DASH = "\N{EM DASH} "


class NoteError(LandlineError):
    """A note that is none, or whose signature does not hold."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with its name. `kind` is the signature type: a log's or a witness's."""

    name: str
    public: bytes
    kind: bytes = _ED25519

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + self.kind + self.public).digest()[:4]

    def __str__(self) -> str:
        """name+hash+key, as in log.pub."""
        key = base64.b64encode(self.kind + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{key}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree's size and root, as the log named `origin` stated it."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def short(self) -> str:
        """The size and the first 80 bits of the root, to print, read aloud and compare."""
        letters = base64.b32encode(self.root[:10]).decode()
        return "-".join([str(self.size), *(letters[at : at + 4] for at in range(0, 16, 4))])


def parse_verifier_key(text: str) -> VerifierKey:
    """Read name+hash+key; NoteError when it is none."""
    try:
        name, found, key = text.strip().split("+", 2)
        data = base64.b64decode(key, validate=True)
        parsed = VerifierKey(name, data[1:], data[:1])
    except ValueError:
        raise NoteError("a verifier key is written as name+hash+key") from None
    right = len(parsed.public) == 32 and parsed.kind in (_ED25519, _COSIGNATURE)
    if not right or parsed.id.hex() != found:
        raise NoteError("the verifier key is damaged: its hash does not fit")
    return parsed


def verifier_of(name: str, key: Ed25519PrivateKey) -> VerifierKey:
    """The log's verifier key that belongs to a private key."""
    return VerifierKey(name, key.public_key().public_bytes_raw())


def witness_of(name: str, key: Ed25519PrivateKey) -> VerifierKey:
    """The witness's verifier key that belongs to a private key."""
    return VerifierKey(name, key.public_key().public_bytes_raw(), _COSIGNATURE)


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """The checkpoint as a note with the log's signature."""
    text = checkpoint.text()
    verifier = verifier_of(checkpoint.origin, key)
    return f"{text}\n{_line(verifier, key.sign(text.encode()))}"


def cosign(note: str, name: str, key: Ed25519PrivateKey, time_s: int) -> str:
    """The note with a witness's signature added: seen at `time_s` (Unix), nothing went back."""
    text = note.partition("\n\n")[0] + "\n"
    signature = key.sign(f"cosignature/v1\ntime {time_s}\n{text}".encode())
    verifier = witness_of(name, key)
    return note + _line(verifier, time_s.to_bytes(8, "big") + signature)


def _line(verifier: VerifierKey, signature: bytes) -> str:
    return f"{_DASH}{verifier.name} {base64.b64encode(verifier.id + signature).decode()}\n"


def open_checkpoint(note: str, verifier: VerifierKey) -> Checkpoint:
    """The checkpoint of a note that this key signed; NoteError otherwise."""
    checkpoint = parse_checkpoint(note)
    text, _, signatures = note.partition("\n\n")
    for line in signatures.splitlines():
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        if not line.startswith(_DASH) or name != verifier.name:
            continue
        try:
            data = base64.b64decode(encoded, validate=True)
        except ValueError:
            continue
        if data[:4] == verifier.id and _holds(verifier, text + "\n", data[4:]):
            return checkpoint
    raise NoteError(f"the checkpoint carries no good signature of {verifier.name}")


def _holds(verifier: VerifierKey, text: str, signature: bytes) -> bool:
    signed = text
    if verifier.kind == _COSIGNATURE:
        time_s = int.from_bytes(signature[:8], "big")
        signed, signature = f"cosignature/v1\ntime {time_s}\n{text}", signature[8:]
    try:
        Ed25519PublicKey.from_public_bytes(verifier.public).verify(signature, signed.encode())
    except InvalidSignature:
        return False
    return True


def parse_checkpoint(note: str) -> Checkpoint:
    """The checkpoint of a note, its signatures unread; NoteError when it is none."""
    text, separator, _ = note.partition("\n\n")
    lines = text.split("\n")
    try:
        origin, size, root = lines[0], lines[1], base64.b64decode(lines[2], validate=True)
        number = int(size)
    except (IndexError, ValueError):
        raise NoteError("this is no checkpoint") from None
    if not separator or not origin or str(number) != size or number < 0 or len(root) != 32:
        raise NoteError("this is no checkpoint")
    return Checkpoint(origin, number, root)
