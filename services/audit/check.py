"""The whole check of a region's evidence: journals, seals, Merkle log, checkpoint and witnesses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from services.audit import keys
from services.audit.log import LogError, Run, read_index, read_state
from services.audit.merkle import Tree, edge_lengths
from services.audit.notes import (
    Checkpoint,
    NoteError,
    VerifierKey,
    open_checkpoint,
    parse_checkpoint,
    parse_verifier_key,
)
from services.audit.seals import SealCheck, VerificationKeys
from services.audit.segments import write_whole
from services.audit.tiles import TileError, Tiles
from services.audit.verify import Chain, walk, writer_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_STATE_VERSION = 1
_TAKEN = 16_384  # leaves held at a time


class Kind(StrEnum):
    """How bad a finding is."""

    TAMPERED = "tampered"
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it should be. `line` counts from 1."""

    kind: Kind
    where: str
    what: str
    line: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessed:
    """A checkpoint that somebody else has kept: a witness's state or a printed root."""

    where: str
    size: int
    root: bytes | None = None
    short: str = ""

    def agrees(self, checkpoint: Checkpoint) -> bool:
        if self.root is not None:
            return self.root == checkpoint.root
        return self.short == checkpoint.short()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What there is to check, and what the checker brings along.

    `journals` are live files; `log` is the log's folder, None to leave it out; `seal_key` the key
    file of the running epoch, None where it cannot be seen. `verifier` is the log's verifier key
    from somewhere else; without it the one beside the log is believed. `key_here` is the seals'
    verification key where it has not been moved to another machine.
    """

    journals: Sequence[Path]
    log: Path | None = None
    log_key: Path | None = None
    verifier: VerifierKey | None = None
    seal_key: Path | None = None
    verification_keys: VerificationKeys = field(default_factory=dict)
    key_here: Path | None = None
    witnesses: Sequence[Witnessed] = ()


@dataclass(slots=True, kw_only=True)
class Report:
    """What the check found, and what it could not have found."""

    findings: list[Finding] = field(default_factory=list)
    journals: list[dict[str, Any]] = field(default_factory=list)
    records: int = 0
    records_checked: int = 0
    seals_checked: int = 0
    seals_unchecked: int = 0
    checkpoint: Checkpoint | None = None
    leaves_checked: int = 0
    witnesses: int = 0
    not_under_checkpoint: int = 0
    cannot_detect: list[str] = field(default_factory=list)

    @property
    def tampered(self) -> bool:
        return any(item.kind is Kind.TAMPERED for item in self.findings)

    @property
    def ok(self) -> bool:
        """Nothing worse than a warning."""
        return all(item.kind is Kind.WARNING for item in self.findings)

    def add(self, kind: Kind, where: object, what: str, line: int | None = None) -> None:
        self.findings.append(Finding(kind=kind, where=str(where), what=what, line=line))


class _Stream:
    """The leaves of one journal, checked as they are taken."""

    def __init__(self, live: Path, chain: Chain, on_bytes: Callable[[int], None]) -> None:
        self.live = live
        self.chain = chain
        self.waiting: list[bytes] = []
        self._blocks: Iterator[list[bytes]] = walk(live, chain, on_bytes)

    @property
    def position(self) -> int:
        """The number of the record whose leaf is taken next."""
        return self.chain.sequence - len(self.waiting)

    def take(self, count: int) -> list[bytes]:
        """The next leaves: `count` of them, or fewer at the journal's end or first break."""
        while len(self.waiting) < count:
            block = next(self._blocks, None)
            if block is None:
                break
            self.waiting += block
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def more(self) -> bool:
        """Read on by a block; False at the end."""
        block = next(self._blocks, None)
        self.waiting += block or ()
        return block is not None


class Check:
    """One check. `state` is what an earlier check of the same evidence returned with `state()`.

    `form` adds whether every line is canonical JSON; its hash holds or not without that.
    """

    def __init__(
        self,
        evidence: Evidence,
        *,
        state: Mapping[str, Any] | None = None,
        form: bool = False,
        on_bytes: Callable[[int], None] = lambda _count: None,
    ) -> None:
        self._evidence = evidence
        self._form = form
        self._report = Report()
        self._tree = Tree(self._compare_tile)
        self._tiles = Tiles(evidence.log) if evidence.log is not None else None
        self._note = ""
        self._index_bytes = 0
        self._streams = [self._open(live, state, on_bytes) for live in evidence.journals]
        self._started = [stream.chain.sequence for stream in self._streams]
        if state is not None and "tree" in state:
            edges = [[bytes.fromhex(item) for item in edge] for edge in state["tree"]["edges"]]
            self._tree.resume(state["tree"]["size"], edges)
        self._before = self._tree.size

    def run(self) -> Report:
        """Check everything once."""
        report = self._report
        checkpoint = self._open_checkpoint()
        if checkpoint is not None:
            self._check_log(checkpoint)
        for stream in self._streams:
            under = stream.position
            while stream.more():
                if self._tiles is None:
                    stream.waiting.clear()
            if self._tiles is not None and checkpoint is not None:
                report.not_under_checkpoint += stream.chain.sequence - under
        for stream, started in zip(self._streams, self._started, strict=True):
            self._conclude(stream, started)
        self._check_seal_key()
        self._check_writers()
        report.cannot_detect = cannot_detect(self._evidence, report)
        return report

    def state(self) -> dict[str, Any]:
        """Where to go on next time; to be kept only after a check that found nothing."""
        return {
            "version": _STATE_VERSION,
            "journals": [
                {**stream.chain.state(), "waiting": [leaf.hex() for leaf in stream.waiting]}
                for stream in self._streams
            ],
            "tree": {
                "size": self._tree.size,
                "edges": [[item.hex() for item in edge] for edge in self._tree.edges],
            },
        }

    def _open(
        self, live: Path, state: Mapping[str, Any] | None, on_bytes: Callable[[int], None]
    ) -> _Stream:
        seals = SealCheck(self._evidence.verification_keys)
        known: dict[str, Any] = {}
        if state is not None:
            writer = writer_of(live)
            known = next((item for item in state["journals"] if item["writer"] == writer), {})
        form = self._form
        fresh = Chain(seal_check=seals, form=form)
        chain = Chain.from_state(known, seals, form=form) if known else fresh
        stream = _Stream(live, chain, on_bytes)
        stream.waiting = [bytes.fromhex(leaf) for leaf in known.get("waiting", ())]
        return stream

    # The Merkle log

    def _open_checkpoint(self) -> Checkpoint | None:
        """The log's checkpoint, with its signature checked."""
        folder, report = self._evidence.log, self._report
        if folder is None:
            return None
        path = folder / "checkpoint"
        if not path.exists():
            if self._evidence.witnesses or self._tree.size:
                report.add(Kind.TAMPERED, path, "there is no checkpoint, but there was one before")
            else:
                report.add(Kind.WARNING, path, "there is no checkpoint yet")
            return None
        try:
            self._note = path.read_text(encoding="utf-8")
            report.checkpoint = parse_checkpoint(self._note)
            verifier = self._evidence.verifier
            if verifier is None and self._evidence.log_key is not None:
                verifier = parse_verifier_key(self._evidence.log_key.read_text(encoding="utf-8"))
            if verifier is None:
                report.add(Kind.ERROR, path, "there is no key to check its signature with")
                return report.checkpoint
            report.checkpoint = open_checkpoint(self._note, verifier)
        except (NoteError, UnicodeDecodeError) as error:
            report.add(Kind.TAMPERED, path, str(error))
        except OSError as error:
            report.add(Kind.ERROR, path, f"cannot be read: {error.strerror}")
        return report.checkpoint

    def _check_log(self, checkpoint: Checkpoint) -> None:
        """Build the tree anew from the journals and compare it with everything that is known."""
        report, folder = self._report, self._evidence.log
        if folder is None:
            return
        marks = self._marks(checkpoint, folder)
        if checkpoint.size < self._tree.size:
            report.add(
                Kind.TAMPERED,
                folder,
                f"the log has {checkpoint.size} records; {self._tree.size} were verified before",
            )
            return
        try:
            for run in read_index(folder, checkpoint.size):
                if run.start + run.count > self._tree.size and not self._add(run, marks):
                    return
        except (LogError, TileError) as error:
            report.add(Kind.TAMPERED, folder, str(error))
            return
        self._compare(marks)
        if self._tree.size != checkpoint.size:
            report.add(
                Kind.TAMPERED,
                folder / "index.jsonl",
                f"it tells of {self._tree.size} records, the checkpoint of {checkpoint.size}",
            )
            return
        report.leaves_checked = self._tree.size - self._before
        self._compare_edges()

    def _marks(self, checkpoint: Checkpoint, folder: Path) -> dict[int, list[Witnessed]]:
        """Sizes at which the root is known from elsewhere."""
        marks: dict[int, list[Witnessed]] = {}
        where = str(folder / "checkpoint")
        own = Witnessed(where=where, size=checkpoint.size, root=checkpoint.root)
        for item in (own, *self._evidence.witnesses):
            if item.size > checkpoint.size:
                self._report.add(
                    Kind.TAMPERED,
                    item.where,
                    f"it has seen {item.size} records, and the log has {checkpoint.size}: "
                    "the log was rolled back",
                )
            elif item.size < self._tree.size:
                self._report.add(
                    Kind.WARNING, item.where, "it is older than this check's state: not compared"
                )
            else:
                marks.setdefault(item.size, []).append(item)
                self._report.witnesses += item is not own
        return marks

    def _add(self, run: Run, marks: dict[int, list[Witnessed]]) -> bool:
        """Add the leaves of a run; False when the journal does not have them."""
        skip = self._tree.size - run.start
        if skip < 0:
            self._missing(run, "the index leaves out records of the log")
            return False
        left, sequence = run.count - skip, run.first + skip
        stream = next((s for s in self._streams if self._writer(s) == run.writer), None)
        if stream is None:
            self._missing(run, f"the journal of the writer {run.writer!r} is not here")
            return False
        while left:
            stops = [size for size in marks if size > self._tree.size]
            count = min([left, _TAKEN, *(size - self._tree.size for size in stops)])
            leaves = self._leaves(stream, sequence, count)
            if not leaves:
                if stream.chain.broken is None:
                    self._missing(
                        run,
                        f"the log holds records of {run.writer!r} up to "
                        f"{run.first + run.count - 1}, the journal ends before {sequence}: records "
                        "were removed from its end",
                    )
                return False
            self._tree.extend(leaves)
            left, sequence = left - len(leaves), sequence + len(leaves)
            self._compare(marks)
        return True

    def _leaves(self, stream: _Stream, sequence: int, count: int) -> list[bytes]:
        if not stream.waiting and not stream.chain.broken:
            stream.more()
        first = stream.chain.retirements.first
        if sequence < first and self._tiles is not None:
            count = min(count, first - sequence)
            return self._stored(self._tree.size, count)
        if stream.position != sequence:
            return []
        return stream.take(count)

    def _stored(self, start: int, count: int) -> list[bytes]:
        """Leaves of records that were retired: their hashes stay in the log."""
        if self._tiles is None or self._report.checkpoint is None:
            return []
        number, offset = start // 256, start % 256
        known = min(256, self._report.checkpoint.size - number * 256)
        return self._tiles.read(0, number, known)[offset : offset + count]

    def _writer(self, stream: _Stream) -> str | None:
        if stream.chain.writer is None and not stream.chain.broken:
            stream.more()
        return stream.chain.writer

    def _missing(self, run: Run, what: str) -> None:
        self._report.add(Kind.TAMPERED, f"log leaf {run.start}", what)

    def _compare(self, marks: dict[int, list[Witnessed]]) -> None:
        due = marks.pop(self._tree.size, None)
        if due is None:
            return
        found = Checkpoint("", self._tree.size, self._tree.root())
        for item in due:
            if not item.agrees(found):
                self._report.add(
                    Kind.TAMPERED,
                    item.where,
                    f"its root over {item.size} records is not the one that the journals give",
                )

    def _compare_tile(self, level: int, number: int, hashes: Sequence[bytes]) -> None:
        if self._tiles is None:
            return
        try:
            same = self._tiles.read(level, number, len(hashes)) == list(hashes)
        except TileError as error:
            self._report.add(Kind.TAMPERED, self._evidence.log, str(error))
            return
        if not same:
            self._report.add(
                Kind.TAMPERED,
                self._evidence.log,
                f"tile {number} of level {level} does not hold what the journals give",
            )

    def _compare_edges(self) -> None:
        for level, count in enumerate(edge_lengths(self._tree.size)):
            if count:
                number = self._tree.size >> (8 * (level + 1))
                self._compare_tile(level, number, self._tree.edges[level])

    # The journals and their seals

    def _conclude(self, stream: _Stream, started: int) -> None:
        """What the chain and the seals of one journal have come to."""
        chain, report = stream.chain, self._report
        verdict = chain.verdict()
        if not verdict.ok:
            kind = Kind.ERROR if verdict.future else Kind.TAMPERED
            report.add(kind, stream.live.parent / verdict.file, verdict.reason, verdict.line)
        seals = chain.seals
        report.records += chain.sequence
        report.records_checked += chain.sequence - max(started, chain.retirements.first)
        report.seals_checked += seals.checked
        report.seals_unchecked += seals.unchecked
        if seals.clock_set_back:
            report.add(
                Kind.WARNING,
                stream.live,
                f"the writer's clock was set back {seals.clock_set_back} times: times are not "
                "proof of order, numbers are",
            )
        report.journals.append(
            {
                "journal": str(stream.live),
                "writer": chain.writer,
                "records": chain.sequence,
                "first": chain.retirements.first,
                "head": chain.head,
                "next_epoch": seals.next_epoch,
                "sealed_until_unix_ms": seals.last_ended_ms or None,
                "not_sealed_yet": chain.sequence - seals.last_count,
            }
        )

    def _check_writers(self) -> None:
        """A name has one journal: two of one name are two versions of one history."""
        seen: dict[str, Path] = {}
        for stream in self._streams:
            writer = stream.chain.writer
            if writer is not None and writer in seen:
                what = f"the writer {writer!r} has another journal: {seen[writer]}"
                self._report.add(Kind.TAMPERED, stream.live, what)
            seen[writer or ""] = stream.live
        if self._evidence.key_here is not None:
            self._report.add(
                Kind.WARNING,
                self._evidence.key_here,
                "the verification key lies on the machine whose seals it checks: whoever takes the "
                "machine can forge them all; move it away with landline audit keys export FILE",
            )

    def _check_seal_key(self) -> None:
        """The key of the running epoch must be the one that the verification key leads to."""
        path = self._evidence.seal_key
        if path is None or not path.exists() or not self._streams:
            return
        chain, report = self._streams[0].chain, self._report
        if chain.broken:
            return
        try:
            key = keys.load_seal_key(path)
        except keys.KeyFileError as error:
            report.add(Kind.ERROR, path, str(error))
            return
        due = chain.seals.next_epoch or 0
        if key.epoch > due:
            report.add(
                Kind.TAMPERED,
                self._streams[0].live,
                f"the seal key stands at epoch {key.epoch}, the journal's next seal is that of "
                f"epoch {due}: records were removed from the journal's end",
            )
        right = chain.seals.key_of(chain.writer or "", key.epoch) if key.epoch >= due - 1 else None
        if right is not None and right.key != key.key:
            report.add(Kind.TAMPERED, path, f"it is not the key that epoch {key.epoch} must have")


def cannot_detect(evidence: Evidence, report: Report) -> list[str]:
    """What no check of this kind, or this one with what it was given, can find."""
    limits = []
    if not report.witnesses:
        limits.append(
            "A rollback: journal, log and keys put back together to an earlier state look sound. "
            "Only a witness on another machine or a printed root shows it; none was given."
        )
    else:
        limits.append(
            "A rollback to a state after the newest checkpoint that the witness or the print holds."
        )
    if report.seals_checked:
        limits.append(
            "Changes after the last seal by whoever has stolen the keys: seals protect what was "
            "sealed before the theft."
        )
    else:
        limits.append(
            "Changes by whoever can write all files and holds the log's signing key: no seal was "
            "checked, because no verification key was given or none of its epochs has ended."
        )
    if evidence.log is not None and evidence.verifier is None:
        limits.append(
            "A log signed anew with another key: the verifier key was taken from beside the log. "
            "Give the one you have noted elsewhere."
        )
    limits.append(
        "A lying writer: what the writing process itself records wrongly or leaves out is sealed "
        "and logged like the truth."
    )
    return limits


def load_check_state(path: Path) -> dict[str, Any] | None:
    """The state of an earlier check; None when there was none. LogError when it is damaged."""
    if not path.exists():
        return None
    state = read_state(path)
    if state.get("version") != _STATE_VERSION:
        raise LogError(f"{path} is of another version: remove it and verify the whole")
    return state


def save_check_state(path: Path, state: Mapping[str, Any]) -> None:
    """Keep the state of a check that found nothing."""
    write_whole(path, json.dumps(state).encode(), 0o600)
