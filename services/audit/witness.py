"""A witness: keeps the newest checkpoint it has seen, on another machine, and lets none go back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.audit.merkle import consistency_holds, consistency_proof
from services.audit.notes import (
    Checkpoint,
    NoteError,
    cosign,
    open_checkpoint,
    parse_checkpoint,
    parse_verifier_key,
    witness_of,
)
from services.audit.report import Witnessed
from services.audit.segments import write_whole
from services.audit.tiles import TileError, Tiles, TreeReader
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_VERSION = 1


class RolledBackError(LandlineError):
    """The log is not a continuation of what this witness has seen."""


class WitnessError(LandlineError):
    """The witness cannot tell; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessState:
    """What a witness remembers. `note` is the checkpoint with the log's and its own signature."""

    log_key: str
    note: str
    witness_key: str = ""

    @property
    def checkpoint(self) -> Checkpoint:
        return parse_checkpoint(self.note)


def load(path: Path) -> WitnessState | None:
    """The state of earlier visits; None at the first."""
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != _VERSION:
            raise WitnessError(f"{path} is of another version of the witness")
        state = WitnessState(
            log_key=data["log_key"], note=data["note"], witness_key=data["witness_key"]
        )
        open_checkpoint(state.note, parse_verifier_key(state.log_key))
        if state.witness_key:
            open_checkpoint(state.note, parse_verifier_key(state.witness_key))
    except (OSError, ValueError, KeyError, TypeError, NoteError) as error:
        raise WitnessError(f"{path} is no witness's state: {error}") from error
    return state


def save(path: Path, state: WitnessState) -> None:
    data = {
        "version": _VERSION,
        "log_key": state.log_key,
        "note": state.note,
        "witness_key": state.witness_key,
    }
    write_whole(path, json.dumps(data, indent=1).encode() + b"\n", 0o644)


def visit(
    log: Path,
    before: WitnessState | None,
    *,
    log_key: str | None,
    time_s: int,
    name: str = "witness",
    key: Ed25519PrivateKey | None = None,
) -> WitnessState:
    """Look at the log and remember it. RolledBackError when it does not continue what was seen.

    `log_key` is the verifier key from elsewhere; without it the first visit believes the log's own
    and later ones keep to it.
    """
    try:
        note = (log / "checkpoint").read_text(encoding="utf-8")
        trusted = log_key or (before.log_key if before else (log / "log.pub").read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        raise WitnessError(f"cannot read the log {log}: {error}") from error
    try:
        checkpoint = open_checkpoint(note, parse_verifier_key(trusted))
    except NoteError as error:
        raise RolledBackError(
            f"{error}; if its key was rotated, compare the new one and give it with --log-key"
        ) from error
    if before is not None:
        _require_continuation(log, before.checkpoint, checkpoint)
    if key is not None:
        note = cosign(note, name, key, time_s)
    witness_key = str(witness_of(name, key)) if key is not None else ""
    return WitnessState(log_key=trusted, note=note, witness_key=witness_key)


def _require_continuation(log: Path, old: Checkpoint, new: Checkpoint) -> None:
    if new.origin != old.origin:
        raise RolledBackError(f"this is the log {new.origin}, not {old.origin}")
    if new.size < old.size:
        raise RolledBackError(
            f"the log had {old.size} records, now it has {new.size}: it was rolled back"
        )
    if old.size == 0:
        return
    tree = TreeReader(Tiles(log), new.size)
    try:
        proof = consistency_proof(tree.range_hash, old.size, new.size)
    except TileError as error:
        raise WitnessError(str(error)) from error
    if not consistency_holds(old.size, old.root, new.size, new.root, proof):
        raise RolledBackError(
            f"the log's {new.size} records do not contain the {old.size} that were seen before: "
            "it was changed or made anew"
        )


def witnessed(path: Path) -> Witnessed:
    """A witness's state as something to compare a log with."""
    state = load(path)
    if state is None:
        raise WitnessError(f"there is no witness's state at {path}")
    found = state.checkpoint
    return Witnessed(where=str(path), size=found.size, root=found.root, origin=found.origin)


def printed(text: str) -> Witnessed:
    """A printed root, such as 1200-ABCD-EFGH-IJKL-MNOP; WitnessError when it is none."""
    size, _, letters = text.strip().upper().partition("-")
    short = f"{size}-{letters}"
    shape = [len(part) for part in letters.split("-")]
    if not size.isdecimal() or shape != [4, 4, 4, 4]:
        raise WitnessError(f"{text!r} is no printed root: it looks like 1200-ABCD-EFGH-IJKL-MNOP")
    return Witnessed(where=f"the printed root {short}", size=int(size), short=short)
