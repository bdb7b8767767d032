"""The Merkle log of a region: every record of every writer is a leaf, and checkpoints are signed.

    log/checkpoint     the newest signed checkpoint
    log/tile/          the tree's hashes
    log/index.jsonl    which records stand where: runs of one writer's records
    log/state.json     where each journal has been read to; written before the checkpoint

The journals are the truth: a log that is lost is built again from them.
"""

from __future__ import annotations

import bisect
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.audit.chain import Chain
from services.audit.merkle import Tree, edge_lengths
from services.audit.notes import (
    Checkpoint,
    NoteError,
    VerifierKey,
    open_checkpoint,
    parse_checkpoint,
    sign,
    verifier_of,
)
from services.audit.segments import write_whole
from services.audit.tiles import TileError, Tiles
from services.audit.verify import walk
from services.audit.verify import writer_of as journal_writer
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class LogError(LandlineError):
    """The log cannot go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Run:
    """`count` records of one writer from record `first` on are the leaves from `start` on."""

    start: int
    count: int
    writer: str
    first: int


class MerkleLog:
    """Takes what is new in the journals and signs a checkpoint over it.

    `journals` are the live files of all writers of the region; `signed_by` is the key of the newest
    checkpoint, where it is not this one. Nothing is written before `update`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        origin: str,
        key: Ed25519PrivateKey,
        journals: Sequence[Path],
        signed_by: VerifierKey | None = None,
    ) -> None:
        self._folder = folder
        self._origin = origin
        self._key = key
        self._signed_by = signed_by or verifier_of(origin, key)
        self._journals = list(journals)
        self._tiles = Tiles(folder)
        self._tree = Tree(self._tiles.write)
        self._chains = {path: Chain() for path in journals}
        self._absent: list[dict[str, Any]] = []  # journals that are in the log but not here now
        self._index_bytes = 0
        self._size = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._load()

    @property
    def size(self) -> int:
        """Leaves under the newest checkpoint."""
        return self._size

    @property
    def verifier(self) -> VerifierKey:
        return verifier_of(self._origin, self._key)

    def update(self, end: int | None = None) -> Checkpoint:
        """Add every new record and sign. LogError when a journal is broken; nothing is added.

        `end` is how many bytes of the first journal's live file are sure to stay: what a disk may
        still lose or refuse must not come under a checkpoint.
        """
        before = {path: chain.state() for path, chain in self._chains.items()}
        edges = [list(edge) for edge in self._tree.edges]
        try:
            runs = [run for path in self._journals for run in self._read(path, end)]
            checkpoint = Checkpoint(self._origin, self._tree.size, self._tree.root())
            self._write(runs, checkpoint)
        except (LandlineError, OSError) as error:
            self._chains = {path: Chain.from_state(state) for path, state in before.items()}
            self._tree.resume(self._size, edges)
            if isinstance(error, LandlineError):
                raise
            raise LogError(f"cannot write the log {self._folder}: {error.strerror}") from error
        return checkpoint

    def _read(self, path: Path, end: int | None) -> Iterator[Run]:
        """Add what is new in one journal to the tree."""
        chain = self._chains[path]
        try:
            own = path == self._journals[0]
            for leaves in walk(path, chain, end=end if own else None):
                if leaves:
                    start = self._tree.size
                    self._tree.extend(leaves)
                    first = chain.sequence - len(leaves)
                    yield Run(start, len(leaves), chain.writer or "", first)
        except FileNotFoundError:
            if chain.sequence:
                raise LogError(f"the journal {path} is gone; the log holds its records") from None
            return
        broken = chain.broken
        if broken is not None and broken.torn_bytes and broken.file == path.name:
            chain.broken = None  # its writer is in the middle of a line
        if chain.broken is not None:
            found = chain.broken
            raise LogError(
                f"the journal {path.parent / found.file} is broken at line {found.line}: "
                f"{found.reason}; nothing more of the region is put under a checkpoint"
            )
        for other, known in self._chains.items():
            if other != path and chain.writer is not None and known.writer == chain.writer:
                raise LogError(
                    f"two journals, {path} and {other}, are both written by {chain.writer!r}; "
                    "every writer needs a name of its own (audit.writer)"
                )

    def _write(self, runs: Iterable[Run], checkpoint: Checkpoint) -> None:
        """Tiles and index first, then the state that counts, then the checkpoint to be read."""
        for level, edge in enumerate(self._tree.edges):
            if edge:
                self._tiles.write(level, self._tree.size >> (8 * (level + 1)), edge)
        index = self._folder / "index.jsonl"
        with index.open("ab") as file:
            file.truncate(self._index_bytes)
            for run in joined(runs):
                file.write(json.dumps([run.start, run.count, run.writer, run.first]).encode())
                file.write(b"\n")
            file.flush()
            os.fsync(file.fileno())
            index_bytes = file.tell()
        note = sign(checkpoint, self._key)
        state = {
            "checkpoint": note,
            "index_bytes": index_bytes,
            "chains": [*self._absent, *(chain.state() for chain in self._chains.values())],
        }
        write_whole(self._folder / "state.json", json.dumps(state).encode())
        write_whole(self._folder / "checkpoint", note.encode())
        if self._size and edge_lengths(self._size) != edge_lengths(checkpoint.size):
            self._drop_old_tiles(checkpoint.size)
        self._size, self._index_bytes = checkpoint.size, index_bytes

    def _drop_old_tiles(self, size: int) -> None:
        """Unfinished tiles of the checkpoint before, unless this one needs the same."""
        for level, count in enumerate(edge_lengths(self._size)):
            now = edge_lengths(size)
            number = self._size >> (8 * (level + 1))
            same = level < len(now) and now[level] == count and size >> (8 * (level + 1)) == number
            if count and not same:
                self._tiles.drop(level, number, count)

    def _load(self) -> None:
        path = self._folder / "state.json"
        if not path.exists():
            if (self._folder / "checkpoint").exists():
                raise LogError(self._damaged("its state.json is gone"))
            return
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            checkpoint = parse_checkpoint(state["checkpoint"])
            if checkpoint.origin != self._signed_by.name:
                raise LogError(
                    f"the log {self._folder} is {checkpoint.origin}, the settings say "
                    f"{self._origin}: set audit.log_name to {checkpoint.origin}, or begin a log of "
                    "the new name with landline audit keys rotate"
                )
            open_checkpoint(state["checkpoint"], self._signed_by)
            self._index_bytes = state["index_bytes"]
            writers = {journal_writer(path): path for path in self._journals}
            for data in state["chains"]:
                if data["writer"] in writers:
                    self._chains[writers[data["writer"]]] = Chain.from_state(data)
                elif data["writer"] is not None:
                    self._absent.append(data)
            self._tree.resume(checkpoint.size, self._tiles.edges(checkpoint.size))
        except (OSError, ValueError, KeyError, TypeError, TileError, NoteError) as error:
            raise LogError(self._damaged(str(error))) from error
        if self._tree.root() != checkpoint.root:
            raise LogError(self._damaged("its tiles do not give the root of its checkpoint"))
        self._size = checkpoint.size
        write_whole(self._folder / "checkpoint", state["checkpoint"].encode())

    def _damaged(self, why: str) -> str:
        return (
            f"the log {self._folder} cannot be continued: {why}; if a rotation of the keys was cut "
            "short, run landline audit keys rotate again; else keep it as evidence under another "
            "name, and it is built again from the journals (witnesses then begin anew)"
        )


def joined(runs: Iterable[Run]) -> list[Run]:
    """Runs with those that follow each other made one."""
    result: list[Run] = []
    for run in runs:
        last = result[-1] if result else None
        if (
            last is not None
            and last.writer == run.writer
            and last.first + last.count == run.first
            and last.start + last.count == run.start
        ):
            result[-1] = Run(last.start, last.count + run.count, last.writer, last.first)
        else:
            result.append(run)
    return result


def read_index(folder: Path, size: int, skip_bytes: int = 0) -> Iterator[Run]:
    """The runs of a log's index, up to the leaf `size`; LogError when it is damaged."""
    try:
        with (folder / "index.jsonl").open("rb") as file:
            file.seek(skip_bytes)
            for line in file:
                start, count, writer, first = json.loads(line)
                if not isinstance(writer, str) or not all(
                    type(number) is int and number >= 0 for number in (start, count, first)
                ):
                    raise ValueError(f"{line!r} is no run of records")
                if start >= size:
                    return
                yield Run(start, count, writer, first)
    except (OSError, ValueError, TypeError) as error:
        raise LogError(f"the index of the log {folder} cannot be read: {error}") from error


def runs_by_writer(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each writer, in order."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.writer, []).append(run)
    return found


def leaf_of(runs: Mapping[str, Sequence[Run]], writer: str, sequence: int) -> int | None:
    """Where a record stands in the log; None when it is not under the checkpoint."""
    own = runs.get(writer, [])
    at = bisect.bisect_right(own, sequence, key=lambda run: run.first) - 1
    if at < 0 or sequence >= own[at].first + own[at].count:
        return None
    return own[at].start + sequence - own[at].first


def read_state(path: Path) -> dict[str, Any]:
    """A JSON object from a file; LogError when it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LogError(f"cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise LogError(f"{path} holds no state")
    return data
