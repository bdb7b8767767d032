"""The Merkle log's hashes on disk, in the layout of https://c2sp.org/tlog-tiles.

tile/LEVEL/NUMBER holds 256 hashes; tile/LEVEL/NUMBER.p/COUNT the first ones of a tile that is not
full yet. Entry bundles are left out on purpose: the entries are the journal's lines, which hold
what callers said and stay where they are.
"""

from __future__ import annotations

import shutil
from functools import lru_cache
from typing import TYPE_CHECKING

from services.audit.merkle import TILE, edge_lengths, root_of
from services.audit.segments import write_whole
from services.common.errors import LandlineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


_TRIES = 3


class TileError(LandlineError):
    """A tile that is not there or not whole."""


def tile_path(level: int, number: int, count: int = TILE) -> str:
    """tile/0/x001/x234/067 or, with fewer than 256 hashes, tile/0/x001/x234/067.p/COUNT."""
    parts = [f"{number % 1000:03d}"]
    while number := number // 1000:
        parts.append(f"x{number % 1000:03d}")
    path = f"tile/{level}/{'/'.join(reversed(parts))}"
    return path if count == TILE else f"{path}.p/{count}"


class Tiles:
    """Reads and writes the tiles of one log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cached = lru_cache(maxsize=256)(self._read)

    def write(self, level: int, number: int, hashes: Sequence[bytes]) -> None:
        """Write a tile and make it durable. OSError when the disk refuses."""
        path = self._folder / tile_path(level, number, len(hashes))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, b"".join(hashes))
        if len(hashes) == TILE:
            shutil.rmtree(path.with_name(f"{path.name}.p"), ignore_errors=True)

    def read(self, level: int, number: int, count: int = TILE) -> list[bytes]:
        """The first `count` hashes of a tile; TileError when they are not there."""
        return self._cached(level, number, count)

    def _read(self, level: int, number: int, count: int) -> list[bytes]:
        path = self._folder / tile_path(level, number, count)
        for _ in range(_TRIES):
            for held in self._held(level, number, count):
                path = self._folder / tile_path(level, number, held)
                try:
                    data = path.read_bytes()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise TileError(f"the tile {path} cannot be read: {error.strerror}") from error
                if len(data) != held * 32:
                    raise TileError(f"the tile {path} is not whole")
                return [data[at : at + 32] for at in range(0, count * 32, 32)]
        raise TileError(f"the tile {path} cannot be read: it is not there")

    def _held(self, level: int, number: int, count: int) -> list[int]:
        """How many hashes the tile may hold now: while the log grows, longer ones replace it."""
        part = (self._folder / tile_path(level, number, 1)).parent
        found = [int(path.name) for path in part.glob("*") if path.name.isdecimal()]
        return [TILE, count, *sorted(held for held in found if held > count)]

    def edges(self, size: int) -> list[list[bytes]]:
        """The unfinished tile of each level in a tree of this size."""
        return [
            self.read(level, size >> (8 * (level + 1)), count) if count else []
            for level, count in enumerate(edge_lengths(size))
        ]

    def drop(self, level: int, number: int, count: int) -> None:
        """Remove an unfinished tile that a longer one has replaced."""
        (self._folder / tile_path(level, number, count)).unlink(missing_ok=True)


class TreeReader:
    """Roots over ranges of leaves in a stored tree of a certain size."""

    def __init__(self, tiles: Tiles, size: int) -> None:
        self._tiles = tiles
        self._size = size

    def range_hash(self, low: int, high: int) -> bytes:
        """Root over the leaves from `low` to before `high`, a subtree of RFC 6962."""
        count = high - low
        if count & (count - 1) == 0 and low % count == 0:
            return self._full(low, count)
        middle = low + (1 << (count - 1).bit_length() - 1)
        return root_of([self.range_hash(low, middle), self.range_hash(middle, high)])

    def _full(self, low: int, count: int) -> bytes:
        """Root of a complete subtree: a hash of some tile, or a few of them together."""
        depth = count.bit_length() - 1
        level, wide = depth // 8, 1 << depth % 8
        place = low >> (8 * level)
        number, offset = place // TILE, place % TILE
        known = min(TILE, (self._size >> (8 * level)) - number * TILE)
        return root_of(self._tiles.read(level, number, known)[offset : offset + wide])
