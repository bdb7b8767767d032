"""The Merkle log against the journals: index, tiles, roots and what witnesses have seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.audit.log import LogError, Run, read_index
from services.audit.merkle import Tree, edge_lengths
from services.audit.notes import Checkpoint
from services.audit.report import Kind, Report, Witnessed
from services.audit.tiles import TileError, Tiles
from services.audit.verify import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from services.audit.chain import Chain

_TAKEN = 16_384  # leaves held at a time


class Stream:
    """The leaves of one journal, checked as they are taken."""

    def __init__(self, live: Path, chain: Chain, on_bytes: Callable[[int], None]) -> None:
        self.live = live
        self.chain = chain
        self.waiting: list[bytes] = []
        self.unreadable = ""
        self._blocks: Iterator[list[bytes]] = walk(live, chain, on_bytes)

    @property
    def position(self) -> int:
        """The number of the record whose leaf is taken next."""
        return self.chain.sequence - len(self.waiting)

    def take(self, count: int) -> list[bytes]:
        """The next leaves: `count` of them, or fewer at the journal's end or first break."""
        while len(self.waiting) < count and self.more():
            pass
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def more(self) -> bool:
        """Read on by a block; False at the end, or where the disk refuses (see `unreadable`)."""
        before = self.chain.sequence
        try:
            block = next(self._blocks, None)
        except OSError as error:
            self.unreadable = f"cannot be read: {error.strerror}"
            return False
        if block is None:
            return False
        if block and self.chain.sequence - len(block) != before:
            self.waiting.clear()  # those in between were retired since the last check
        self.waiting += block
        return True


class LogCheck:
    """Builds the tree anew from the journals' leaves, from the size that `tree` has on."""

    def __init__(
        self,
        folder: Path,
        *,
        streams: Sequence[Stream],
        witnesses: Sequence[Witnessed],
        report: Report,
    ) -> None:
        self._folder = folder
        self._streams = streams
        self._witnesses = witnesses
        self._report = report
        self._tiles = Tiles(folder)
        self._size = 0
        self.tree = Tree(self._compare_tile)

    def run(self, checkpoint: Checkpoint) -> None:
        """Build the tree anew from the journals and compare it with everything that is known."""
        report, folder = self._report, self._folder
        self._size = checkpoint.size
        marks = self._marks(checkpoint, folder)
        if checkpoint.size < self.tree.size:
            report.add(
                Kind.TAMPERED,
                folder,
                f"the log has {checkpoint.size} records; {self.tree.size} were verified before",
            )
            return
        before = self.tree.size
        self._compare(marks)
        try:
            for run in read_index(folder, checkpoint.size):
                if run.start + run.count > self.tree.size and not self._add(run, marks):
                    return
        except (LogError, TileError) as error:
            report.add(Kind.TAMPERED, folder, str(error))
            return
        self._compare(marks)
        if self.tree.size != checkpoint.size:
            report.add(
                Kind.TAMPERED,
                folder / "index.jsonl",
                f"it tells of {self.tree.size} records, the checkpoint of {checkpoint.size}",
            )
            return
        report.leaves_checked = self.tree.size - before
        self._compare_edges()

    def _marks(self, checkpoint: Checkpoint, folder: Path) -> dict[int, list[Witnessed]]:
        """Sizes at which the root is known from elsewhere."""
        marks: dict[int, list[Witnessed]] = {}
        where = str(folder / "checkpoint")
        own = Witnessed(where=where, size=checkpoint.size, root=checkpoint.root)
        for item in (own, *self._witnesses):
            if item.origin not in ("", checkpoint.origin):
                self._report.add(
                    Kind.ERROR,
                    item.where,
                    f"it has seen the log {item.origin}, this one is {checkpoint.origin}",
                )
            elif item.size > checkpoint.size:
                self._report.add(
                    Kind.TAMPERED,
                    item.where,
                    f"it has seen {item.size} records, and the log has {checkpoint.size}: "
                    "the log was rolled back",
                )
            elif item.size < self.tree.size:
                self._report.add(
                    Kind.WARNING, item.where, "it is older than this check's state: not compared"
                )
            else:
                marks.setdefault(item.size, []).append(item)
                self._report.witnesses += item is not own
        return marks

    def _add(self, run: Run, marks: dict[int, list[Witnessed]]) -> bool:
        """Add the leaves of a run; False when the journal does not have them."""
        skip = self.tree.size - run.start
        if skip < 0:
            self._missing(run, "the index leaves out records of the log")
            return False
        left, sequence = run.count - skip, run.first + skip
        stream = next((s for s in self._streams if self._writer(s) == run.writer), None)
        if stream is None:
            self._missing(run, f"the journal of the writer {run.writer!r} is not here")
            return False
        while left:
            stops = [size for size in marks if size > self.tree.size]
            count = min([left, _TAKEN, *(size - self.tree.size for size in stops)])
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
            self.tree.extend(leaves)
            left, sequence = left - len(leaves), sequence + len(leaves)
            self._compare(marks)
        return True

    def _leaves(self, stream: Stream, sequence: int, count: int) -> list[bytes]:
        while not stream.waiting and not stream.chain.broken and stream.more():
            pass  # records of the journal's first version have no leaves
        first = stream.chain.retirements.first
        if sequence < first:
            count = min(count, first - sequence)
            return self._stored(self.tree.size, count)
        if stream.position != sequence:
            return []
        return stream.take(count)

    def _stored(self, start: int, count: int) -> list[bytes]:
        """Leaves of records that were retired: their hashes stay in the log."""
        number, offset = start // 256, start % 256
        known = min(256, self._size - number * 256)
        return self._tiles.read(0, number, known)[offset : offset + count]

    def _writer(self, stream: Stream) -> str | None:
        while stream.chain.writer is None and not stream.chain.broken and stream.more():
            pass
        return stream.chain.writer

    def _missing(self, run: Run, what: str) -> None:
        self._report.add(Kind.TAMPERED, f"log leaf {run.start}", what)

    def _compare(self, marks: dict[int, list[Witnessed]]) -> None:
        due = marks.pop(self.tree.size, None)
        if due is None:
            return
        found = Checkpoint("", self.tree.size, self.tree.root())
        for item in due:
            if not item.agrees(found):
                self._report.add(
                    Kind.TAMPERED,
                    item.where,
                    f"its root over {item.size} records is not the one that the journals give",
                )

    def _compare_tile(self, level: int, number: int, hashes: Sequence[bytes]) -> None:
        try:
            same = self._tiles.read(level, number, len(hashes)) == list(hashes)
        except TileError as error:
            self._report.add(Kind.TAMPERED, self._folder, str(error))
            return
        if not same:
            self._report.add(
                Kind.TAMPERED,
                self._folder,
                f"tile {number} of level {level} does not hold what the journals give",
            )

    def _compare_edges(self) -> None:
        for level, count in enumerate(edge_lengths(self.tree.size)):
            if count:
                number = self.tree.size >> (8 * (level + 1))
                self._compare_tile(level, number, self.tree.edges[level])
